"""Small text helpers shared by the parsers."""

import re

SPACE = re.compile(r"\s+")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")


def squeeze(text):
    return SPACE.sub(" ", text).strip()


def sentences(text):
    return [s for s in SENTENCE.split(text) if s]


def shorten(text, limit):
    """Whole sentences up to `limit` characters; words if the first sentence is longer."""
    if len(text) <= limit:
        return text
    out = ""
    for s in sentences(text):
        if out and len(out) + len(s) + 1 > limit:
            break
        out = f"{out} {s}".strip()
    return out if len(out) <= limit else out[:limit].rsplit(" ", 1)[0]


def mostly_prose(text):
    """True for plain English: letters, few symbols, several words."""
    if not text or not text.isascii() and sum(ord(c) > 0x24F for c in text) > 4:
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    return letters / len(text) > 0.86 and "http" not in text


ENGLISH = frozenset("the of and to is for that you it with are be by on this an or as not from can your".split())


def english(text):
    """True if enough of the words are English function words (documentation comes in many languages)."""
    words = text.lower().split()
    return sum(w in ENGLISH for w in words) >= 0.1 * len(words)


def normal(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
