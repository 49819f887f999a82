"""Requests that come again, for measuring caches: a few are asked often and most seldom, as people search (Zipf's law). As files for
`nats-rerank bench --payload`; the same file each time."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from cache import ROOT

SEED = 20261121
SENT = 1000
DOCUMENTS = 24
QUERY_WORDS = 6
# Common words, each one token of BERT's English vocabulary: the bench's own.
WORDS = ROOT / "src" / "cli" / "bench" / "words.txt"


def text(generator: random.Random, words: list[str], length: int) -> str:
    return " ".join(generator.choices(words, k=length))


def popularity(number: int) -> list[float]:
    """Cumulative weights: the n-th is asked for 1/n as often as the first."""
    return list(itertools.accumulate(1 / rank for rank in range(1, number + 1)))


def searches(path: Path, different: int = 200) -> None:
    """The same questions of the same documents: 200 of them, 4,800 pairs of 10 to 170 words."""
    generator, words = random.Random(SEED), WORDS.read_text().split()
    lengths = [10 + round(160 * place / (DOCUMENTS - 1)) for place in range(DOCUMENTS)]
    requests = [{"query": text(generator, words, QUERY_WORDS), "documents": [text(generator, words, length) for length in lengths]} for _ in range(different)]
    write(path, generator.choices(requests, cum_weights=popularity(different), k=SENT))


def questions(path: Path, different: int = 2000) -> None:
    """Other questions of the same documents: 2,000 of them, of 5 to 40 words."""
    generator, words = random.Random(SEED), WORDS.read_text().split()
    documents = [text(generator, words, generator.randint(5, 40)) for _ in range(different)]
    weights = popularity(different)
    write(path, [{"query": text(generator, words, QUERY_WORDS), "documents": generator.choices(documents, cum_weights=weights, k=DOCUMENTS)} for _ in range(SENT)])


def write(path: Path, requests: list[dict]) -> None:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
