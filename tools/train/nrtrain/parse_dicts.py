"""Readers of the dictionaries and epigrams: WordNet, GCIDE, FOLDOC and Jargon, fortunes."""

import gzip
import re
from collections import defaultdict

from . import sources
from .textutil import mostly_prose, sentences, shorten, squeeze


def wordnet():
    """Synsets as dicts: lemmas, gloss, examples, frequency (of the commonest lemma in tagged text)."""
    base = sources.PKG / "wordnet-base/usr/share/wordnet"
    count = defaultdict(int)
    for line in open(base / "cntlist.rev"):
        key, _, n = line.split()
        count[key.split("%")[0]] += int(n)
    result = []
    for pos in ("noun", "verb", "adj", "adv"):
        for line in open(base / f"data.{pos}", errors="replace"):
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            parts = head.split()
            lemmas = [w.split("(")[0].replace("_", " ") for w in parts[4:4 + 2 * int(parts[3], 16):2]]
            pieces = re.split(r';\s*(?=")', gloss.strip())
            definition = squeeze(pieces[0])
            examples = [squeeze(p.strip(' "')) for p in pieces[1:]]
            if len(definition) < 8:
                continue
            freq = max(count[w.lower().replace(" ", "_")] for w in lemmas)
            result.append(dict(pos=pos, lemmas=lemmas, gloss=definition, freq=freq,
                               examples=[e for e in examples if len(e.split()) >= 4]))
    return result


def gcide():
    """(headword, first definition) of the Collaborative International Dictionary of English."""
    text = gzip.open(sources.PKG / "dict-gcide/usr/share/dictd/gcide.dict.dz", "rt", errors="replace").read()
    for entry in re.split(r"\n\n(?=\S)", text):
        head, sep, body = entry.partition("\\")
        word = squeeze(head)
        if not sep or not re.fullmatch(r"[A-Za-z][a-z' -]{2,24}", word):
            continue
        body = "\\".join(entry.split("\n")[0].split("\\")[2:]) + "\n" + "\n".join(entry.split("\n")[1:])
        body = re.sub(r"\[[^\]]*\]", " ", body)
        body = re.sub(r"\{|\}|--[A-Z][\w. ]+", " ", body)
        first = re.split(r"\n\s*(?:2\.|Syn:|Note:)", body)[0]
        first = squeeze(re.sub(r"^[^A-Z]*?\b(?:n|a|v|adv|pl|t|i|p|imp)\.[^A-Z(]*(?=\(|[A-Z]|1\.)", " ", first, count=1))
        first = squeeze(re.sub(r"^1\.|\([A-Z][A-Za-z. &]+\)|;\s*--\s*$", " ", first))
        first = shorten(re.sub(r"\s+([.,;:])", r"\1", first), 260)
        if mostly_prose(first) and len(first.split()) >= 6 and first[0].isupper():
            yield word.lower(), first


def computing():
    """(term, explanation) of FOLDOC and the Jargon File."""
    for name in ("foldoc", "jargon"):
        path = sources.PKG / f"dict-{name}/usr/share/dictd/{name}.dict.dz"
        text = gzip.open(path, "rt", errors="replace").read()
        for entry in re.split(r"\n\n?(?=[^\s\[])", text):
            head, _, body = entry.partition("\n")
            body = squeeze(re.sub(r"[{}]|<[^>]*>|\(\d{4}-\d\d-\d\d\)", "", body))
            body = shorten(body, 420)
            if 2 < len(head) < 40 and mostly_prose(body) and len(body.split()) > 12:
                yield squeeze(head), body


def devil():
    path = sources.PKG / "dict-devil/usr/share/dictd/devil.dict.dz"
    text = gzip.open(path, "rt", errors="replace").read()
    for entry in re.split(r"\n\n(?=\S)", text):
        head, _, body = entry.partition(",")
        body = shorten(squeeze(re.sub(r"^\s*(?:n|adj|v\.[ti]|p\.p|adv)\.", "", squeeze(body))), 300)
        if head.isupper() and mostly_prose(body) and len(body.split()) > 8:
            yield squeeze(head).lower(), body


def fortunes():
    """Epigrams of the inoffensive sections, one text each."""
    skip = {"ascii-art", "perl", "debian", "translate-me", "disclaimer", "limerick"}
    for name in ("fortunes", "fortunes-min"):
        for path in sorted((sources.PKG / name / "usr/share/games/fortunes").iterdir()):
            if path.suffix or path.name in skip or not path.is_file():
                continue
            for piece in path.read_text(errors="replace").split("\n%\n"):
                piece = squeeze(re.sub(r"\s--\s.*", "", piece, flags=re.S))
                if 30 < len(piece) < 500 and mostly_prose(piece) and sentences(piece):
                    yield piece
