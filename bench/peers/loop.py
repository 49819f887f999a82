"""What one writes by hand with transformers when CrossEncoder is too slow: sorted by length, small sub-batches."""

import torch
import transformers
from lines import Peer, pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SUB_BATCH = 8


class LoopPeer(Peer):
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=DTYPES[precision]).eval()
        self.about = {"version": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": SUB_BATCH}

    @torch.inference_mode()
    def score(self, request: dict) -> list:
        queries, documents = zip(*pairs(request))
        encoded = self.tokenizer(list(queries), list(documents), truncation=True, max_length=512)
        order = sorted(range(len(documents)), key=lambda place: len(encoded["input_ids"][place]), reverse=True)
        scores = [0.0] * len(documents)
        for start in range(0, len(order), SUB_BATCH):
            places = order[start : start + SUB_BATCH]
            batch = self.tokenizer.pad({name: [values[place] for place in places] for name, values in encoded.items()}, return_tensors="pt")
            for place, logit in zip(places, self.model(**batch).logits[:, 0].float().tolist()):
                scores[place] = logit
        return scores
