"""sentence-transformers' CrossEncoder as its users call it. It sorts by length by itself."""

import sentence_transformers
import torch
from lines import Peer, pairs
from sentence_transformers import CrossEncoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class CrossEncoderPeer(Peer):
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = CrossEncoder(folder, device="cpu", local_files_only=True, model_kwargs={"dtype": DTYPES[precision]})
        self.about = {"version": sentence_transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": 32}

    def score(self, request: dict) -> list:
        return self.model.predict(pairs(request), batch_size=32, show_progress_bar=False).tolist()
