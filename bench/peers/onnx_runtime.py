"""ONNX Runtime on a model that export.py has made: sorted by length, in sub-batches of the better of two sizes."""

import time

import numpy
import onnxruntime
from lines import Peer, pairs
from tokenizers import Tokenizer

SUB_BATCHES = (4, 8)
TRIED = 2  # requests for each size
SLOW_S = 0.5  # of a request from which on its first time is enough


class OnnxPeer(Peer):
    def __init__(self, folder: str, file: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(512)
        self.sub_batch = SUB_BATCHES[0]
        self.about = {"version": onnxruntime.__version__, "threads": threads}

    def load(self, requests: list[dict]) -> dict:
        took = {}
        for size in SUB_BATCHES:
            self.sub_batch = size
            took[size] = self.seconds(requests[:1])
            if took[size] < SLOW_S:
                took[size] = self.seconds(requests[:TRIED])
        self.sub_batch = min(took, key=took.get)
        return {"batch": self.sub_batch}

    def seconds(self, requests: list[dict]) -> float:
        began = time.perf_counter()
        for request in requests:
            self.score(request)
        return (time.perf_counter() - began) / len(requests)

    def score(self, request: dict) -> list:
        encoded = self.tokenizer.encode_batch(pairs(request))
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]), reverse=True)
        scores = [0.0] * len(encoded)
        for start in range(0, len(order), self.sub_batch):
            places = order[start : start + self.sub_batch]
            length = len(encoded[places[0]])
            feeds = {name: numpy.zeros((len(places), length), dtype=numpy.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
            for row, place in enumerate(places):
                one = encoded[place]
                feeds["input_ids"][row, : len(one)] = one.ids
                feeds["token_type_ids"][row, : len(one)] = one.type_ids
                feeds["attention_mask"][row, : len(one)] = 1
            (logits,) = self.session.run(None, feeds)
            for place, logit in zip(places, logits[:, 0].tolist()):
                scores[place] = logit
        return scores
