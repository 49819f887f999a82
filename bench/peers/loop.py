"""What one writes by hand with transformers when CrossEncoder is too slow: sorted by length, small sub-batches; on a GPU sub-batches by
tokens, padded to few lengths, and compiled if that is asked for."""

import torch
import transformers
from device import DEVICE, DTYPES
from lines import Peer, pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SUB_BATCH = 8
# On a GPU: tokens of a sub-batch, padding counted, and what lengths are rounded to, so that shapes are few.
SUB_BATCH_TOKENS = 32768
LENGTH_STEP = 16


class LoopPeer(Peer):
    def __init__(self, folder: str, precision: str, threads: int, compiled: bool = False) -> None:
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=DTYPES[precision], attn_implementation="sdpa").eval().to(DEVICE)
        self.compute = torch.compile(self.model, dynamic=True) if compiled else self.model
        batch = SUB_BATCH if DEVICE == "cpu" else f"{SUB_BATCH_TOKENS} tokens"
        self.about = {"version": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": batch, "compiled": compiled}

    def score(self, request: dict) -> list:
        return self.score_many([request])

    @torch.inference_mode()
    def score_many(self, requests: list[dict]) -> list:
        queries, documents = zip(*[pair for request in requests for pair in pairs(request)])
        encoded = self.tokenizer(list(queries), list(documents), truncation=True, max_length=512)
        order = sorted(range(len(documents)), key=lambda place: len(encoded["input_ids"][place]), reverse=True)
        came, start = [], 0
        while start < len(order):
            longest = len(encoded["input_ids"][order[start]])
            padded = -(-longest // LENGTH_STEP) * LENGTH_STEP
            places = order[start : start + (SUB_BATCH if DEVICE == "cpu" else max(1, SUB_BATCH_TOKENS // padded))]
            start += len(places)
            step = None if DEVICE == "cpu" else LENGTH_STEP
            batch = self.tokenizer.pad({name: [values[place] for place in places] for name, values in encoded.items()}, return_tensors="pt", pad_to_multiple_of=step)
            # Nothing waits for the device before all is under way.
            came.append((places, self.compute(**batch.to(DEVICE)).logits[:, 0].float()))
        scores = [0.0] * len(documents)
        for places, logits in came:
            for place, logit in zip(places, logits.tolist()):
                scores[place] = logit
        return scores
