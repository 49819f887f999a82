"""Measures an exported checkpoint, BM25 and the teacher on the sets kept out of training."""

import json
import math
import random
import re
from collections import Counter

import numpy as np

from . import pool as P, settings as S, teacher as T

QUERIES, CANDIDATES, NEAREST, POOL = 120, 20, 7, 1200


class BM25:
    """Okapi BM25 (k1 1.2, b 0.75) with the statistics of the given texts."""

    def __init__(self, texts):
        self.docs = [Counter(re.findall(r"[a-z0-9]+", t.lower())) for t in texts]
        self.lengths = np.array([sum(d.values()) for d in self.docs], float)
        df = Counter(w for d in self.docs for w in d)
        n = len(texts)
        self.idf = {w: math.log(1 + (n - k + 0.5) / (k + 0.5)) for w, k in df.items()}
        self.norm = 1.2 * (0.25 + 0.75 * self.lengths / self.lengths.mean())
        self.postings = {}
        for i, d in enumerate(self.docs):
            for w, c in d.items():
                self.postings.setdefault(w, []).append((i, c))

    def scores(self, query):
        out = np.zeros(len(self.docs))
        for w in re.findall(r"[a-z0-9]+", query.lower()):
            for i, c in self.postings.get(w, ()):
                out[i] += self.idf[w] * c * 2.2 / (c + self.norm[i])
        return out


def figures(score_lists):
    """MRR@10 and accuracy@1 where the relevant candidate is number 0; equal scores share their ranks."""
    mrr, hit = [], []
    for s in score_lists:
        s = np.asarray(s, float)
        rank = 1 + (s > s[0]).sum() + ((s == s[0]).sum() - 1) / 2
        mrr.append(1 / rank if rank <= 10 else 0.0)
        hit.append(float(rank == 1))
    return dict(mrr10=round(float(np.mean(mrr)), 4), stderr=round(float(np.std(mrr) / len(mrr) ** 0.5), 4), accuracy1=round(float(np.mean(hit)), 4))


def description_sets(pool, teacher):
    """Held-out descriptions: the hard set (the nearest by BM25, the nearest by the teacher, random ones) and a random one."""
    rng = random.Random(S.SEED + 2)
    held = pool["held"][:POOL]
    longs = [long for _, long in held]
    bm25, vectors = BM25(longs), teacher.encode(longs)
    chosen = rng.sample(range(len(held)), QUERIES)
    qv = teacher.encode([held[i][0] for i in chosen])
    hard, easy = [], []
    for n, i in enumerate(chosen):
        lexical = bm25.scores(held[i][0])
        semantic = vectors @ qv[n]
        picked = [i]
        for order, k in ((np.argsort(-lexical), NEAREST), (np.argsort(-semantic), NEAREST)):
            picked += [int(j) for j in order if int(j) not in picked][:k]
        while len(picked) < CANDIDATES:
            j = rng.randrange(len(held))
            if j not in picked:
                picked.append(j)
        others = rng.sample([j for j in range(len(held)) if j != i], CANDIDATES - 1)
        for out, ids in ((hard, picked), (easy, [i, *others])):
            out.append(dict(query=held[i][0], docs=[longs[j] for j in ids], bm25=lexical[ids], teacher=semantic[ids]))
    return dict(descriptions_hard=hard, descriptions_random=easy)


def everyday_sets(teacher):
    """The everyday queries with their own seven others, and with the answers to all other queries instead."""
    items = P.everyday()
    texts = [d for it in items for d in (it["relevant"], *it["others"])]
    bm25, v = BM25(texts), teacher.encode(texts)
    traps, plain = [], []
    for n, it in enumerate(items):
        lexical, semantic = bm25.scores(it["query"]), v @ teacher.encode([it["query"]])[0]
        answers = [8 * n] + [8 * m for m in range(len(items)) if m != n]
        for out, ids in ((traps, list(range(8 * n, 8 * n + 8))), (plain, answers)):
            out.append(dict(query=it["query"], docs=[texts[i] for i in ids], bm25=lexical[ids], teacher=semantic[ids]))
    return dict(everyday=traps, everyday_answers=plain)


def run(pool, folder=S.MODEL_OUT, only_everyday=False):
    """All figures of the checkpoint in `folder`, opened by sentence-transformers as it is."""
    from sentence_transformers import CrossEncoder

    teacher = T.Teacher()
    sets = {} if only_everyday else description_sets(pool, teacher)
    sets |= everyday_sets(teacher)
    model = CrossEncoder(str(folder), device="cpu")
    result = {}
    for name, items in sets.items():
        pairs = [(it["query"], d) for it in items for d in it["docs"]]
        flat, at, mine = model.predict(pairs, batch_size=32, show_progress_bar=False), 0, []
        for it in items:
            mine.append(flat[at:at + len(it["docs"])])
            at += len(it["docs"])
        result[name] = dict(queries=len(items), candidates=len(items[0]["docs"]),
                            bm25=figures([it["bm25"] for it in items]),
                            teacher=figures([it["teacher"] for it in items]), model=figures(mine))
        result[name]["chance"] = round(sum(1 / r for r in range(1, min(10, len(items[0]["docs"])) + 1)) / len(items[0]["docs"]), 4)
        if name == "everyday":
            result[name]["missed"] = [it["query"] for it, s in zip(items, mine) if max(s) > s[0]]
    scores = model.predict([(P.SEED_QUERY, d) for d in P.SEED_DOCS])
    ranked = sorted(zip(map(float, scores), P.SEED_DOCS), reverse=True)
    result["seed_example"] = [[round(s, 4), d] for s, d in ranked]
    return result


def save(result, folder=S.MODEL_OUT):
    (folder / "eval.json").write_text(json.dumps(result, indent=1) + "\n")
