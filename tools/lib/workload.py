"""The bench's requests: seeded text whose length in BERT tokens is known without a tokenizer.

Every word is one token of BERT's vocabulary. A request has a query of 6 words and 24 candidates of 10 to 170 words in
even steps, shuffled: 24 × (6 + 3 special) + 24 × 90 = 2,376 tokens, the longest pair 179. Padded to its longest pair
such a request would be 4,296 token slots. No two requests have a candidate in common.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

CANDIDATES = 24
QUERY_WORDS = 6
WORDS_MIN, WORDS_MAX = 10, 170
SPECIAL_TOKENS = 3
LENGTHS = [round(WORDS_MIN + i * (WORDS_MAX - WORDS_MIN) / (CANDIDATES - 1)) for i in range(CANDIDATES)]
TOKENS = sum(LENGTHS) + CANDIDATES * (QUERY_WORDS + SPECIAL_TOKENS)
SEED = 7


def words(vocab: Path) -> list[str]:
    """Whole lower-case words of a BERT vocabulary file."""
    pieces = vocab.read_text("utf-8").split("\n")
    return [piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) >= 3]


def requests(vocab: Path, count: int) -> list[dict]:
    """`count` request bodies, as PROTOCOL has them."""
    known, generator, made = words(vocab), random.Random(SEED), []
    for _ in range(count):
        lengths = generator.sample(LENGTHS, len(LENGTHS))
        documents = [" ".join(generator.choices(known, k=length)) for length in lengths]
        made.append({"query": " ".join(generator.choices(known, k=QUERY_WORDS)), "documents": documents})
    return made


def write(vocab: Path, count: int, path: Path) -> None:
    """One request a line."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests(vocab, count)), "utf-8")
