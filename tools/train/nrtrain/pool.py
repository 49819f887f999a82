"""The pool: every query and passage of training, and the sets kept out of it.

Writes pool.json: texts (unique), pairs (query, passage or none, source), held-out package pairs.
"""

import json
import random
import re
from collections import defaultdict

from . import parse_dicts, parse_docs, settings as S, sources, teacher
from .textutil import mostly_prose, normal, sentences, shorten, squeeze

POOL = S.CACHE / "pool.json"
SEED_QUERY = "machine learning algorithms"
SEED_DOCS = ["Deep learning uses neural networks", "Pizza recipes for beginners",
             "ML algorithms and optimization", "Sports statistics this season"]


def everyday():
    return [json.loads(line) for line in open(S.EVERYDAY)]


class Guard:
    """Refuses any text that the evaluation sets contain (or that contains one of their texts)."""

    def __init__(self):
        texts = [SEED_QUERY, *SEED_DOCS]
        for item in everyday():
            texts += [item["query"], item["relevant"], *item["others"]]
        self.exact = {normal(t) for t in texts}
        self.inside = {t for t in self.exact if len(t.split()) >= 3}

    def refuses(self, text):
        n = normal(text)
        return n in self.exact or any(t in n for t in self.inside)


def packages(rng):
    """Training pairs and held-out pairs of short and long package descriptions."""
    seen, train, held = set(), [], []
    for name, source, short, lines in sources.package_descriptions():
        if re.search(r"-(dev|dbg|dbgsym|locale|l10n|data|common|doc|udeb)$|^librust-|^libghc-|^golang-|^task-|-l10n-|^node-", name):
            continue
        long = squeeze(" ".join("" if x.strip() == "." else x for x in lines if not x.startswith(" ")))
        long, short = shorten(long, 500), squeeze(short)
        if len(long.split()) < 12 or len(short.split()) < 3 or normal(short) in seen or normal(long) in seen:
            continue
        seen |= {normal(short), normal(long)}
        digest = random.Random(f"{S.SEED}:{source}").random()
        (held if digest < S.PACKAGE_HELD_OUT else train).append((short, long))
    rng.shuffle(train)
    rng.shuffle(held)
    return train, held


def _word_query(rng, word, pos):
    forms = ["{}", "{}", "what does {} mean", "meaning of {}", "{} definition"]
    if pos == "noun":
        forms += ["what is {}", "what is {}"]
    if pos == "verb":
        forms += ["how to {}", "to {}"]
    return rng.choice(forms).format(word)


def dictionary_pairs(rng):
    synsets = parse_dicts.wordnet()
    rng.shuffle(synsets)
    synsets.sort(key=lambda s: not (s["freq"] > 0 or s["examples"]))  # the common ones first
    senses = defaultdict(list)
    for s in synsets:
        for w in s["lemmas"]:
            senses[w.lower()].append(s)
    pairs = {"wordnet": [], "gcide": [], "paraphrase": [], "foldoc": [], "sentence": []}
    for s in synsets[:60_000]:
        word = rng.choice(s["lemmas"])
        gloss = s["gloss"]
        if len(senses[word.lower()]) <= 3 and len(gloss.split()) >= 4:
            text = gloss if not s["examples"] or rng.random() < 0.5 else f"{gloss}; {rng.choice(s['examples'])}"
            pairs["wordnet"].append((_word_query(rng, word, s["pos"]), text))
        if s["examples"]:
            pairs["sentence"].append((rng.choice(s["examples"]), None))
    gcide = list(parse_dicts.gcide())
    rng.shuffle(gcide)
    gcide.sort(key=lambda wd: not any(s["freq"] > 0 for s in senses.get(wd[0], [])))
    for word, text in gcide:
        found = senses.get(word, [])
        if len(found) == 1 and len(found[0]["gloss"].split()) >= 5:
            pairs["paraphrase"].append((found[0]["gloss"], text))
        elif len(found) in (2, 3):
            pairs["gcide"].append((_word_query(rng, word, found[0]["pos"]), text))
    pairs["gcide"] += [(w, t) for w, t in parse_dicts.devil()][:400]
    terms = list(parse_dicts.computing())
    pairs["foldoc"] = [(_word_query(rng, w, "noun"), t) for w, t in terms]
    return pairs


def _heading_query(rng, heading):
    h = heading.rstrip("?").strip()
    first, _, rest = h.partition(" ")
    if first.endswith("ing") and rest and rng.random() < 0.5 and not first.lower().startswith(("thing", "string", "king")):
        return f"how to go about {first.lower()} {rest}"
    return h if rng.random() < 0.5 else h.lower()


def prose_pairs(rng):
    headings, paragraphs = parse_docs.heading_pairs()
    rng.shuffle(headings)
    rng.shuffle(paragraphs)
    taken, docs = defaultdict(int), []
    for package, heading, text in headings:
        taken[package] += 1
        if taken[package] <= 2200:
            docs.append((_heading_query(rng, heading), text))
    first, sentence = [], []
    for package, text in paragraphs:
        parts = sentences(text)
        taken[package + "/p"] += 1
        if taken[package + "/p"] > 1500:
            continue
        if len(parts) >= 3 and 6 <= len(parts[0].split()) <= 25 and rng.random() < 0.5:
            first.append((parts[0], " ".join(parts[1:])))
        elif 6 <= len(parts[0].split()) <= 30:
            sentence.append((parts[0], None))
    return docs + first[: len(docs) // 2], sentence


def fortune_pairs(rng):
    pairs, single = [], []
    for text in parse_dicts.fortunes():
        parts = sentences(text)
        if len(parts) >= 2 and len(parts[0].split()) >= 5:
            pairs.append((parts[0], " ".join(parts[1:])))
        else:
            single.append((text, None))
    rng.shuffle(pairs)
    rng.shuffle(single)
    return pairs, single


def without_long(texts, pairs):
    """Leaves out the pairs with a text over the token limit: they cost the most and teach no more."""
    lengths = [len(e.ids) for e in teacher.tokenizer().encode_batch(texts)]
    pairs = [p for p in pairs if all(i < 0 or lengths[i] <= S.MAX_TEXT_TOKENS for i in p[:2])]
    used = sorted({i for p in pairs for i in p[:2] if i >= 0})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    return [texts[i] for i in used], [[place[q], place[d], source] for q, d, source in pairs]


def build():
    """Write pool.json unless it exists."""
    if POOL.exists():
        return json.loads(POOL.read_text())
    rng = random.Random(S.SEED)
    manifest = sources.fetch_packages()
    groups = dictionary_pairs(rng)
    groups["package"], held = packages(rng)
    groups["docs"], sentence = prose_pairs(rng)
    groups["fortunes"], single = fortune_pairs(rng)
    groups["sentence"] += sentence + single
    groups["man"] = list(parse_docs.manual_pages())
    guard, texts, index, pairs, refused = Guard(), [], {}, [], 0

    def number(text):
        if text not in index:
            index[text] = len(texts)
            texts.append(text)
        return index[text]

    for source, items in sorted(groups.items()):
        rng.shuffle(items)
        kept = 0
        for query, passage in items:
            if kept == S.LIMITS[source]:
                break
            if guard.refuses(query) or passage and guard.refuses(passage):
                refused += 1
                continue
            if source == "sentence" and not mostly_prose(query):
                continue
            kept += 1
            pairs.append([number(query), number(passage) if passage else -1, source])
    texts, pairs = without_long(texts, pairs)
    pool = dict(manifest=manifest, texts=texts, pairs=pairs, refused=refused,
                held=[h for h in held if not guard.refuses(h[0])])
    POOL.write_text(json.dumps(pool))
    return pool
