"""Training lists: one query and eight candidates each, with the teacher's cosines.

Candidates: the known answer if there is one, near and middling neighbours by the teacher, passages
that share a word with the query (so that shared words alone earn nothing), and random ones.
"""

import random
import re
from collections import defaultdict

import numpy as np

from . import settings as S, teacher

LISTS = S.CACHE / "lists.npz"
WORD = re.compile(r"[a-z]{3,}")
NEAR, MIDDLE = 24, 400


def build(pool, vectors):
    """Arrays: query [n], candidates [n, 8], cosines [n, 8], gold [n] (1 where candidate 0 is known)."""
    if LISTS.exists():
        return dict(np.load(LISTS))
    rng = random.Random(S.SEED + 1)
    texts, pairs = pool["texts"], pool["pairs"]
    # Passages are candidates; so are the bare sentences, for the queries without a known answer.
    passages = sorted({p if p >= 0 else q for q, p, _ in pairs})
    queries = np.array([q for q, _, _ in pairs])
    near = teacher.neighbours(vectors[queries], vectors[passages], MIDDLE)
    by_word = defaultdict(list)
    for p in passages:
        for w in set(WORD.findall(texts[p].lower())):
            by_word[w].append(p)
    answers = defaultdict(set)
    for q, p, _ in pairs:
        answers[q].add(p)
    rows = []
    for n, (q, gold, source) in enumerate(pairs):
        ranked = [passages[i] for i in near[n] if passages[i] != q and passages[i] not in answers[q]]
        chosen = [gold] if gold >= 0 else []
        plan = [(ranked[:NEAR], 3), (ranked[NEAR:], 1)] if gold >= 0 else [(ranked[:3], 2), (ranked[3:40], 2), (ranked[40:], 1)]
        for group, k in plan:
            chosen += rng.sample(group, min(k, len(group)))
        words = [w for w in WORD.findall(texts[q].lower()) if 2 <= len(by_word[w]) <= 4000]
        for _ in range(2):
            if words:
                chosen.append(rng.choice(by_word[rng.choice(words)]))
        chosen = [c for c in dict.fromkeys(chosen) if c != q and (c == gold or c not in answers[q])][:S.LIST_SIZE]
        while len(chosen) < S.LIST_SIZE:
            c = rng.choice(passages)
            if c != q and c not in chosen and c not in answers[q]:
                chosen.append(c)
        rows.append((q, chosen, gold >= 0))
    rng.shuffle(rows)
    query = np.array([r[0] for r in rows], np.int32)
    cands = np.array([r[1] for r in rows], np.int32)
    cosines = np.einsum("nd,nkd->nk", vectors[query].astype(np.float32), vectors[cands].astype(np.float32))
    out = dict(query=query, cands=cands, cosines=cosines.astype(np.float32), gold=np.array([r[2] for r in rows], np.int8))
    np.savez(LISTS, **out)
    return out


def second_part(pool, vectors, lists, dev, count):
    """Lists of the second part of training: other lists than the first part's, by SECOND_MIX.

    The last candidate of each is replaced by another *query* that shares a word with this one, so
    that being worded alike (how to ..., what is ...) earns only what the teacher gives it.
    """
    rng = random.Random(S.SEED + 3)
    texts = pool["texts"]
    source = {(q, p): s for q, p, s in pool["pairs"]}
    rows = defaultdict(list)
    for r in range(S.SECOND_FROM * S.LISTS_PER_STEP, len(lists["query"]) - dev):
        gold = int(lists["cands"][r][0]) if lists["gold"][r] else -1
        rows[source.get((int(lists["query"][r]), gold))].append(r)
    total = sum(S.SECOND_MIX.values())
    chosen = []
    for name, share in S.SECOND_MIX.items():
        group = rows[name]
        while len(group) < count * share // total + 1:
            group = group + group
        chosen += group[:count * share // total + 1]
    rng.shuffle(chosen)
    by_word = defaultdict(list)
    for q in sorted({q for q, _, _ in pool["pairs"]}):
        for w in set(re.findall(r"[a-z]+", texts[q].lower())):
            by_word[w].append(q)
    out = {k: v[chosen].copy() for k, v in lists.items()}
    for r, q in enumerate(out["query"]):
        words = sorted(w for w in set(re.findall(r"[a-z]+", texts[q].lower())) if len(by_word[w]) > 1)
        if words:
            other = rng.choice(by_word[rng.choice(words)])
            cosine = float(vectors[q].astype(np.float32) @ vectors[other].astype(np.float32))
            if other != q and other not in out["cands"][r] and cosine < 0.7:
                out["cands"][r, -1], out["cosines"][r, -1] = other, cosine
    return out
