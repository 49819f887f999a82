"""Prunes the teacher's vocabulary to English pieces that are in use, keeping its order.

Dropped: the unused entries, all non-Latin scripts, and the ASCII pieces that are rare in the
dictionaries and the training text, no English word themselves, and far back in the original list
(which runs from frequent to rare): years, names, endings of foreign words. Every single letter,
digit and ASCII sign stays, so every ASCII word can still be spelt.
"""

import json
from collections import Counter

from . import parse_dicts, settings as S, sources, teacher

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
EXTRA_CHARACTERS = set("αβγδεζηθικλμνξοπρστυφχψω°£€¥§±×÷½²³µß·™„–—‘’“”•…′″→−≤≥≈∞√")


def _bare(piece):
    return piece[2:] if piece.startswith("##") and len(piece) > 2 else piece


def _inflected(lemma):
    yield from (lemma, lemma + "s", lemma + "es", lemma + "ed", lemma + "ing")
    if lemma.endswith("e"):
        yield from (lemma + "d", lemma + "r", lemma[:-1] + "ing")
    if lemma.endswith("y"):
        yield from (lemma[:-1] + "ies", lemma[:-1] + "ied")
    yield from (lemma + lemma[-1] + "ed", lemma + lemma[-1] + "ing")


def choose(pool):
    """Kept (piece, original id) in the new order."""
    full = json.loads((sources.teacher_dir() / "tokenizer.json").read_text())["model"]["vocab"]
    tok, counts, words, plurals = teacher.tokenizer(), Counter(), set(), set()
    glosses = []
    for s in parse_dicts.wordnet():
        singles = [w.lower() for w in s["lemmas"] if w.isalpha()]
        words.update(f for w in singles for f in _inflected(w))
        plurals.update(w + "s" for w in singles if s["pos"] == "noun" and len(w) < 12)
        glosses += [s["gloss"], *s["lemmas"], *s["examples"]]
    glosses += [text for _, text in parse_dicts.gcide()]
    for e in tok.encode_batch(pool["texts"] + glosses):
        counts.update(e.ids)
    for e in tok.encode_batch(sorted(plurals)):
        counts.update(set(e.ids))
    must, may = [], []
    for piece, i in full.items():
        bare = _bare(piece)
        if piece in SPECIAL or piece.startswith("[unused"):
            continue
        if len(bare) == 1 and (bare.isascii() or bare in EXTRA_CHARACTERS):
            must.append((piece, i))
        elif bare.isascii():
            may.append((piece, i))
    # A word or a piece seen often is safe; otherwise its place in the original list decides.
    may.sort(key=lambda pi: pi[1] - 3000 * min(counts[pi[1]], 10) - 30_000 * (pi[0] in words))
    room = S.VOCAB_SIZE - len(SPECIAL) - len(must)
    kept = sorted(must + may[:room], key=lambda pi: pi[1])
    return [(p, full[p]) for p in SPECIAL] + kept


def tokenizer_json(kept):
    """A plain BERT WordPiece tokenizer.json over the kept pieces; no truncation, no padding."""
    base = json.loads((sources.teacher_dir() / "tokenizer.json").read_text())
    ids = {piece: n for n, (piece, _) in enumerate(kept)}
    base["truncation"] = base["padding"] = None
    base["added_tokens"] = [dict(id=ids[t], content=t, single_word=False, lstrip=False, rstrip=False,
                                 normalized=False, special=True) for t in SPECIAL]
    for t in ("[CLS]", "[SEP]"):
        base["post_processor"]["special_tokens"][t]["ids"] = [ids[t]]
    base["model"]["vocab"] = ids
    return json.dumps(base, ensure_ascii=False, separators=(",", ":"))
