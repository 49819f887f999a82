"""sentence-transformers' CrossEncoder as its users call it. It sorts by length by itself."""

import time

import sentence_transformers
import torch
from device import DEVICE, DTYPES
from lines import Peer, pairs
from sentence_transformers import CrossEncoder

# Its default on a CPU; on a GPU, where larger ones may be faster, the best of these.
BATCH = 32
BATCHES_TRIED = (32, 128, 512)
REQUESTS_TRIED = 16


class CrossEncoderPeer(Peer):
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = CrossEncoder(folder, device=DEVICE, local_files_only=True, model_kwargs={"dtype": DTYPES[precision]})
        attention = getattr(self.model.model.config, "_attn_implementation", "unknown")
        self.batch = BATCH
        self.about = {"version": sentence_transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": BATCH, "attention": attention}

    def load(self, requests: list[dict]) -> dict:
        if DEVICE == "cpu":
            return {}
        some = [requests[place % len(requests)] for place in range(REQUESTS_TRIED)]
        took = {}
        for batch in BATCHES_TRIED:
            self.batch = batch
            self.score_many(some)  # the first time of a shape also chooses kernels
            began = time.perf_counter()
            self.score_many(some)
            took[batch] = time.perf_counter() - began
        self.batch = min(took, key=took.get)
        return {"batch": self.batch}

    def score(self, request: dict) -> list:
        return self.model.predict(pairs(request), batch_size=self.batch, show_progress_bar=False).tolist()

    def score_many(self, requests: list[dict]) -> list:
        """All pairs of some requests in one call: what a library does under load at best."""
        together = [pair for request in requests for pair in pairs(request)]
        return self.model.predict(together, batch_size=self.batch, show_progress_bar=False).tolist()
