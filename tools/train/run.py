#!/usr/bin/env python3
"""Trains nats-rerank's built-in model: prepare, train, eval, or all of it in order.

  run.py all [--steps N]     everything; each stage keeps its result in the cache and is skipped next time
  run.py prepare             fetch and parse the text, encode it with the teacher, build the lists
  run.py train [--steps N] [--minutes M]   train (resumes from the last checkpoint) and export to models/builtin
  run.py eval                measure models/builtin, write eval.json and the model card
  run.py check               the pruned tokenizer against the full one, sizes, and that the files open

Cache: $XDG_CACHE_HOME/nats-rerank/train (default ~/.cache). Delete it to start afresh.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch  # noqa: E402
import transformers  # noqa: E402

from nrtrain import card, check, evaluate, lists, pool, settings as S, student, teacher, trainer  # noqa: E402

RUN = S.CACHE / "run.json"


def prepare():
    S.CACHE.mkdir(parents=True, exist_ok=True)
    p = pool.build()
    v = teacher.vectors(p)
    return p, v, lists.build(p, v)


def train(steps, end_by=None):
    p, v, data = prepare()
    model, kept, run = trainer.train(p, v, data, steps, on_export=student.export, end_by=end_by)
    student.export(model, kept)
    run |= dict(vocabulary=len(kept), parameters=sum(w.numel() for w in model.parameters()))
    RUN.write_text(json.dumps(run))


def measure():
    p = pool.build()
    result = evaluate.run(p)
    size = sum((S.MODEL_OUT / f).stat().st_size for f in ("model.safetensors", "tokenizer.json"))
    result["training"] = json.loads(RUN.read_text()) | dict(bytes=size, seed=S.SEED)
    evaluate.save(result)
    card.write(result, p)
    print(json.dumps({k: v for k, v in result.items() if k != "training"}, indent=1))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("stage", choices=["all", "prepare", "train", "eval", "check"])
    args.add_argument("--steps", type=int, default=S.STEPS)
    args.add_argument("--minutes", type=float, help="shorten the third part of training to end in about so many minutes")
    args.add_argument("--threads", type=int, default=os.cpu_count())
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    if a.stage == "prepare":
        prepare()
    if a.stage in ("train", "all"):
        train(a.steps, time.time() + 60 * a.minutes if a.minutes else None)
    if a.stage in ("eval", "all"):
        measure()
    if a.stage in ("check", "all"):
        check.run()


if __name__ == "__main__":
    main()
