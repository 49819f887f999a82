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


def third_part(pool, vectors, lists, dev, count, dev_count):
    """Word traps: lists of short texts, mined by shared words; returns (lists, the same for decisions).

    Each query has its known answer or a near passage, the nearest passage by the teacher that shares
    no telling word with it, another near one, four that share the most words (BM25) but that the
    teacher rates low, and a random one. A share of ordinary lists of package descriptions is mixed in.
    """
    rng = random.Random(S.SEED + 4)
    texts, pairs = pool["texts"], pool["pairs"]
    short = [i for i, t in enumerate(texts) if 12 <= len(t) <= S.SHORT_CHARS]
    words = {i: set(re.findall(r"[a-z0-9]+", texts[i].lower())) for i in short}
    postings = defaultdict(list)
    for place, i in enumerate(short):
        for w in words[i]:
            postings[w].append(place)
    idf = {w: float(np.log(len(short) / len(p))) for w, p in postings.items()}
    postings = {w: np.array(p) for w, p in postings.items()}
    norm = 1 / np.sqrt(np.array([3 + len(words[i]) for i in short], np.float32))
    answers, groups = defaultdict(set), defaultdict(list)
    for q, p, source in pairs:
        answers[q].add(p)
        if q in words and len(words[q]) >= 2 and (p < 0 or p in words):
            groups[source].append((q, p))
    picked, total = [], sum(S.THIRD_MIX.values())
    for source, share in S.THIRD_MIX.items():
        want = (count + dev_count) * share // total
        picked += rng.sample(groups[source], min(want, len(groups[source])))
    rng.shuffle(picked)
    near = teacher.neighbours(vectors[[q for q, _ in picked]], vectors[short], 60)
    rows = []
    for n, (q, gold) in enumerate(picked):
        allowed = lambda i: i != q and i not in answers[q]  # noqa: E731
        around = [short[j] for j in near[n] if allowed(short[j])]
        around = [i for i in around if texts[i].lower() != texts[q].lower()]
        telling = {w for w in words[q] if idf[w] > 4}
        apart = [i for i in around if not telling & words[i]]
        chosen = [gold] if gold >= 0 else [rng.choice(around[:4])]
        chosen += apart[:1] + [rng.choice(around)]
        lexical = np.zeros(len(short), np.float32)
        for w in words[q]:
            lexical[postings[w]] += idf[w]
        lexical *= norm
        top = np.argpartition(-lexical, 40)[:40]
        traps = [short[j] for j in top[np.argsort(-lexical[top])] if allowed(short[j]) and short[j] not in chosen][:20]
        cosine = vectors[traps].astype(np.float32) @ vectors[q].astype(np.float32)
        chosen += [traps[j] for j in np.argsort(cosine)[:12:3]]
        chosen = list(dict.fromkeys(chosen))[:S.LIST_SIZE]
        while len(chosen) < S.LIST_SIZE:
            i = rng.choice(short)
            if allowed(i) and i not in chosen:
                chosen.append(i)
        rows.append((q, chosen, gold >= 0))
    query, cands = np.array([r[0] for r in rows], np.int32), np.array([r[1] for r in rows], np.int32)
    cosines = np.einsum("nd,nkd->nk", vectors[query].astype(np.float32), vectors[cands].astype(np.float32))
    out = dict(query=query, cands=cands, cosines=cosines, gold=np.array([r[2] for r in rows], np.int8))
    decide = {k: v[:dev_count] for k, v in out.items()}
    out = {k: v[dev_count:] for k, v in out.items()}
    package = {(q, p) for q, p, s in pairs if s == "package"}
    plain = [r for r in range(S.SECOND_FROM * S.LISTS_PER_STEP, len(lists["query"]) - dev)
             if lists["gold"][r] and (int(lists["query"][r]), int(lists["cands"][r][0])) in package]
    plain = rng.sample(plain, min(len(plain), int(len(out["query"]) * S.THIRD_PLAIN_SHARE)))
    out = {k: np.concatenate([v, lists[k][plain]]) for k, v in out.items()}
    order = np.array(rng.sample(range(len(out["query"])), len(out["query"])))
    return {k: v[order] for k, v in out.items()}, decide
