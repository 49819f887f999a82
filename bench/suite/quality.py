"""Whether a precision ranks as fp32 does: the same requests scored by both, on real weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import checkpoints
import figures
import workload
from cache import ROOT
from processes import program
from systems import Lines, Machinery, offered_precisions

REQUESTS = 1000
REQUESTS_QUICK = 40
MIX = "passages"
CHUNK = 20  # requests of one order, so that a run can tell how far it is
MODELS = {
    "builtin": ("the built-in model (3 layers, 384), trained for ranking", ROOT / "models" / "builtin"),
    checkpoints.SEEDED_NAME: ("the real all-MiniLM-L6-v2 encoder under a random head", ROOT / ".checkpoints" / checkpoints.SEEDED_NAME),
}


def compare(reference: list[list[float]], other: list[list[float]]) -> dict:
    """How far the second set of scores orders each request as the first does."""
    taus = [figures.kendall_tau(one, two) for one, two in zip(reference, other)]
    same = [figures.best(one) == figures.best(two) for one, two in zip(reference, other)]
    moved = [abs(a - b) for one, two in zip(reference, other) for a, b in zip(one, two)]
    widths = [max(one) - min(one) for one in reference]
    return {
        "requests": len(taus), "same_top_share": sum(same) / len(same), "tau_mean": sum(taus) / len(taus), "tau_worst": min(taus),
        "tau_p1": figures.percentile(taus, 0.01), "logit_error_mean": sum(moved) / len(moved), "logit_error_max": max(moved),
        "logit_range_median": figures.median(widths),
    }  # fmt: skip


def measure(machinery: Machinery, out: Path, requests: int, say: Callable[[str], None], precisions: list[str] | None = None) -> list[dict]:
    """Every model in every precision that this build offers, against fp32."""
    wanted = [precision for precision in precisions or offered_precisions() if precision != "fp32"]
    vocab = ROOT / ".checkpoints" / checkpoints.SEEDED_NAME / "vocab.txt"
    made = workload.requests(vocab, requests, MIX)
    results = []
    for name, (about, folder) in MODELS.items():
        reference = scores(machinery, name, folder, "fp32", made, out, say)
        for precision in wanted:
            found = compare(reference, scores(machinery, name, folder, precision, made, out, say))
            results.append({"model": name, "about": about, "precision": precision, "documents": workload.CANDIDATES, "mix": MIX, **found})
            say(f"quality: {name}, {precision}: {describe(found)}")
    return results


def scores(machinery: Machinery, name: str, folder: Path, precision: str, made: list[dict], out: Path, say: Callable[[str], None]) -> list[list[float]]:
    say(f"quality: {name}, {precision}: {len(made)} requests")
    command = [str(program()), "rounds", "engine", *machinery.settings(folder, precision)]
    lines = Lines(machinery.stage, f"quality-{name}-{precision}", command, machinery.environment)
    found: list[list[float]] = []
    path = out / "requests-quality.jsonl"
    for start in range(0, len(made), CHUNK):
        chunk = made[start : start + CHUNK]
        path.write_text("".join(json.dumps(request) + "\n" for request in chunk), "utf-8")
        lines.tell(do="load", path=str(path))
        found += lines.tell(do="scores", count=len(chunk))["scores"]
    machinery.stage.stop(f"quality-{name}-{precision}")
    return found


def describe(found: dict) -> str:
    return (
        f"the same top document in {found['same_top_share']:.1%} of {found['requests']}, Kendall's tau {found['tau_mean']:.4f} on average, "
        f"{found['tau_worst']:.3f} at worst; logits differ by {found['logit_error_mean']:.4f} on average (range of a request {found['logit_range_median']:.2f})"
    )
