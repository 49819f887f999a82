"""The suite's requests: seeded English-like text whose length in BERT tokens is known without a tokenizer.

A word is drawn from BERT's vocabulary by its rank (Zipf: the vocabulary is ordered by frequency), so that texts have the repeated
small words and the rare long ones that real texts have; some get an ending that makes them two or three tokens, and sentences have
capitals, commas and full stops. A request has a topic: its query names it, and its candidates speak of it more or less, as what a
search brings does. No two requests are alike, and each holds every length of its mix once, shuffled:

| mix | tokens of a candidate's text | tokens of 24 pairs | longest pair |
|---|---|---|---|
| mixed | 10 to 170 in even steps | 2,376 | 179 |
| short | 5 to 40 in even steps | 756 | 49 |
| long | 150 to 350 in even steps | 6,216 | 359 |
| one-long | 10 to 40 in even steps, the last one 400 | 1,176 | 409 |
| passages | 20 to 80 in even steps | 1,416 | 89 |
| equal | 90 each | 2,376 | 99 |

The query has 6 tokens, a pair 3 special ones. Padded to its longest pair, a mixed request would be 4,296 token slots.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
from pathlib import Path

CANDIDATES = 24
QUERY_TOKENS = 6
SPECIAL_TOKENS = 3
MIXES = {"mixed": (10, 170), "short": (5, 40), "long": (150, 350), "one-long": (10, 40), "passages": (20, 80), "equal": (90, 90)}
ONE_LONG_TOKENS = 400
SEED = 7

# Of a topic's words, the most common is of this rank among all words: the very common ones belong to every topic.
TOPIC_RANKS = (250, 6000)
TOPIC_WORDS = 16
# The largest share of its words that a candidate takes from its topic.
TOPIC_SHARE_MAX = 0.4
ENDING_SHARE = 0.06
SENTENCE_TOKENS = (7, 24)
COMMA_SHARE = 0.07


def lengths(mix: str, candidates: int = CANDIDATES) -> list[int]:
    """Tokens of each candidate's text, shortest first."""
    least, most = MIXES[mix]
    steps = [round(least + place * (most - least) / max(1, candidates - 1)) for place in range(candidates)]
    return [*steps[:-1], ONE_LONG_TOKENS] if mix == "one-long" else steps


def tokens(mix: str, candidates: int = CANDIDATES) -> int:
    """Tokens of a request's pairs, special ones counted."""
    return sum(lengths(mix, candidates)) + candidates * (QUERY_TOKENS + SPECIAL_TOKENS)


class Vocabulary:
    """A BERT vocabulary: whole words by rank, endings, and how a text is cut into them."""

    def __init__(self, file: Path) -> None:
        listed = file.read_text("utf-8").split("\n")
        self.known = set(listed)
        self.words = [piece for piece in listed if piece.isascii() and piece.isalpha() and len(piece) >= 2]
        self.endings = [piece[2:] for piece in listed if piece.startswith("##") and len(piece) >= 5 and piece[2:].isascii() and piece[2:].isalpha()]
        # Mandelbrot's form of Zipf's law, with the constants that are usual for English.
        self.upto = list(itertools.accumulate(1.0 / (rank + 2.7) for rank in range(len(self.words))))

    def common(self, generator: random.Random) -> str:
        """A word as often as its rank says."""
        place = bisect.bisect(self.upto, generator.random() * self.upto[-1])
        return self.words[min(place, len(self.words) - 1)]

    def pieces(self, word: str) -> int:
        """Tokens of a lower-case word: the longest pieces first, as WordPiece does it. 0: it cannot be cut so."""
        start, count = 0, 0
        while start < len(word):
            end = next((end for end in range(len(word), start, -1) if ("##" if start else "") + word[start:end] in self.known), 0)
            if not end:
                return 0
            start, count = end, count + 1
        return count

    def count(self, text: str) -> int:
        """Tokens of a text made here: words, and the marks that end or divide its sentences."""
        marks = sum(text.count(mark) for mark in ".,")
        return marks + sum(self.pieces(word) for word in text.lower().replace(".", " ").replace(",", " ").split())


def write_text(known: Vocabulary, generator: random.Random, length: int, topic: list[str], share: float) -> str:
    """Sentences of exactly `length` tokens, `share` of whose words are the topic's."""
    text: list[str] = []
    left, sentence, first = length, generator.randint(*SENTENCE_TOKENS), True
    while left:
        if text and not first and (left == 1 or sentence <= 0):
            text[-1] += "."
            left, sentence, first = left - 1, generator.randint(*SENTENCE_TOKENS), True
            continue
        word, cost = (generator.choice(topic) if generator.random() < share else known.common(generator)), 1
        if generator.random() < ENDING_SHARE and left > 4:
            longer = word + generator.choice(known.endings)
            if 0 < known.pieces(longer) < left:
                word, cost = longer, known.pieces(longer)
        text.append(word.capitalize() if first else word)
        left, sentence, first = left - cost, sentence - cost, False
        if left > 2 and sentence > 2 and generator.random() < COMMA_SHARE:
            text[-1] += ","
            left, sentence = left - 1, sentence - 1
    return " ".join(text)


def requests(vocab: Path, count: int, mix: str = "mixed", candidates: int = CANDIDATES) -> list[dict]:
    """`count` request bodies, as the protocol has them."""
    known, generator, made = Vocabulary(vocab), random.Random(f"{SEED} {mix} {candidates}"), []
    about = known.words[slice(*TOPIC_RANKS)]
    for _ in range(count):
        topic = generator.sample(about, TOPIC_WORDS)
        query = topic[:4] + [known.common(generator) for _ in range(QUERY_TOKENS - 4)]
        shuffled = generator.sample(lengths(mix, candidates), candidates)
        documents = [write_text(known, generator, length, topic, TOPIC_SHARE_MAX * generator.random()) for length in shuffled]
        made.append({"query": " ".join(query), "documents": documents})
    return made


def write(vocab: Path, count: int, path: Path, mix: str = "mixed", candidates: int = CANDIDATES) -> None:
    """One request a line."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests(vocab, count, mix, candidates)), "utf-8")
