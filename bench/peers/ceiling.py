"""The measured ceiling: the model's matrix products and nothing else, by the fastest way that torch has for them here.

What is counted are the products of the linear layers on `[tokens, K]`, all tokens of a request in one matrix without padding:
query, key and value as one, attention output, up, down, layer by layer with weights of their own, and the pooler on first tokens.
No attention products, no softmax, no norms, no activations, no embeddings.

`defined`: what the model as defined asks for. `reduced`: of the last layer only what reaches the head, which is keys and values of
all tokens, everything else of first tokens alone.

Each product is tried as `torch.mm` and as oneDNN's linear with packed weights; the faster way counts, product by product.
"""

import json
import time

import torch
from device import DEVICE, DTYPES, settle
from lines import Peer, pairs
from tokenizers import Tokenizer

TRIES = 5


class Product:
    """`rows × into` by `into × out`."""

    def __init__(self, rows: int, into: int, out: int, dtype: torch.dtype) -> None:
        self.rows, self.into, self.out, self.dtype = rows, into, out, dtype
        # Some numbers: zeros could be fast for the wrong reason. Not normal ones: drawing them takes long.
        weight = torch.rand(out, into, device=DEVICE).sub_(0.5).to(dtype)
        self.transposed = weight.t()
        self.packed = pack(weight, rows)
        self.way = self.plain

    def plain(self, given: torch.Tensor) -> None:
        torch.mm(given, self.transposed)

    def fast(self, given: torch.Tensor) -> None:
        torch.ops.mkldnn._linear_pointwise(given, self.packed, None, "none", [], "")

    @property
    def flop(self) -> int:
        return 2 * self.rows * self.into * self.out


def pack(weight: torch.Tensor, rows: int) -> torch.Tensor | None:
    """oneDNN's own layout; None where this torch or this CPU has none for the type."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        torch.ops.mkldnn._linear_pointwise(torch.zeros(8, weight.shape[1], dtype=weight.dtype), packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return None
    return packed


def seconds(work, given: torch.Tensor) -> float:
    work(given)
    settle()
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work(given)
        settle()
        took.append(time.perf_counter() - began)
    return min(took)


class Ceiling(Peer):
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        self.layers, self.hidden, self.between = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
        self.dtype = DTYPES[precision]
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.about = {"version": torch.__version__, "threads": torch.get_num_threads()}

    def load(self, requests: list[dict]) -> dict:
        rows = sum(len(one) for one in self.tokenizer.encode_batch(pairs(requests[0])))
        firsts = len(requests[0]["documents"])
        told = self.prepare(rows, firsts)
        self.one = (rows, firsts, 1)
        return told

    def prepare(self, rows: int, firsts: int) -> dict:
        hidden, between = self.hidden, self.between
        self.inputs = {}
        full = [(rows, hidden, 3 * hidden), (rows, hidden, hidden), (rows, hidden, between), (rows, between, hidden)]
        last = [(rows, hidden, 2 * hidden), (firsts, hidden, hidden), (firsts, hidden, hidden), (firsts, hidden, between), (firsts, between, hidden)]
        pooler = [(firsts, hidden, hidden)]
        chosen = {shape: self.faster(shape) for shape in {*full, *last, *pooler}}
        self.defined = self.products(full * self.layers + pooler, chosen)
        self.reduced = self.products(full * (self.layers - 1) + last + pooler, chosen)
        return {"rows": rows, "gflop": self.gflop(self.defined), "gflop_reduced": self.gflop(self.reduced), "packed": sum(chosen.values()), "shapes": len(chosen)}

    def faster(self, shape: tuple[int, int, int]) -> bool:
        """Whether packed weights are the faster way for this shape."""
        product = Product(*shape, self.dtype)
        if product.packed is None:
            return False
        given = self.given(product)
        return seconds(product.fast, given) < seconds(product.plain, given)

    def products(self, shapes: list[tuple[int, int, int]], packed: dict) -> list[Product]:
        made = []
        for shape in shapes:
            product = Product(*shape, self.dtype)
            if packed[shape]:
                product.way, product.transposed = product.fast, None
            else:
                product.packed = None
            made.append(product)
        return made

    def given(self, product: Product) -> torch.Tensor:
        key = (product.rows, product.into)
        if key not in self.inputs:
            self.inputs[key] = torch.rand(*key, device=DEVICE).sub_(0.5).to(self.dtype)
        return self.inputs[key]

    @staticmethod
    def gflop(products: list[Product]) -> float:
        return sum(product.flop for product in products) / 1e9

    def compute(self, products: list[Product]) -> float:
        began = time.perf_counter()
        for product in products:
            product.way(self.given(product))
        settle()
        return (time.perf_counter() - began) * 1e3

    def score(self, request: dict) -> dict:
        if self.one[2] != 1:
            self.score_many([request])
        return {"ms": self.compute(self.defined), "reduced_ms": self.compute(self.reduced)}

    def score_many(self, requests: list[dict]) -> dict:
        """The products of several requests in one go."""
        rows, firsts, prepared = self.one
        if prepared != len(requests):
            self.prepare(rows * len(requests), firsts * len(requests))
            self.one = (rows, firsts, len(requests))
            self.compute(self.defined)
        return {"ms": self.compute(self.defined), "reduced_ms": self.compute(self.reduced), "requests": len(requests)}

    def tell(self, outcomes: list) -> dict:
        # The round's own times are of both forms together.
        each = [outcome for outcome in outcomes for _ in range(outcome.get("requests", 1))]
        return {"seconds": sum(outcome["ms"] for outcome in outcomes) / 1e3} | {name: [outcome[name] for outcome in each] for name in ("ms", "reduced_ms")}
