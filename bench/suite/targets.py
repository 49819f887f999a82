"""The figures that were set as goals, computed from a run, each with whether it was reached."""

from __future__ import annotations

import figures

# shape: goal
AGAINST_LIBRARY = {"minilm-l6": 10.0, "tinybert-l2": 10.0}
AGAINST_BEST_PEER = {"minilm-l6": 4.0, "tinybert-l2": 5.0}
SHARE_OF_CEILING = {"minilm-l6": 0.60, "tinybert-l2": 0.30}
BESIDE_FORWARD_MAX = {"minilm-l6": 0.08, "tinybert-l2": 0.30}
AGAINST_FP32_PEER = {"minilm-l6": 2.0, "tinybert-l2": 3.0}
RSS_MAX_MB = {"minilm-l6": 280.0, "tinybert-l2": 200.0}
SAME_TOP_SHARE = 0.99
TAU_MEAN = 0.99
SHAPES = ("minilm-l6", "tinybert-l2")


def rows(report: dict) -> list[dict]:
    """One for each goal and shape: what was asked, what came out, whether it was reached (None: not measured)."""
    found = []
    shapes = {shape["shape"]: shape for shape in report["shapes"]}
    for name in SHAPES:
        found += of_shape(name, shapes[name]) if name in shapes and shapes[name]["mixes"].get("mixed") else []
    for one in report.get("quality", []):
        if one["precision"] == "bf16":
            what = f"bf16 ranks as fp32, {one['model']}, {one['requests']} requests"
            found.append(row(what, "", f"top document the same ≥ {SAME_TOP_SHARE:.0%}", f"{one['same_top_share']:.1%}", one["same_top_share"] >= SAME_TOP_SHARE))
            found.append(row(what, "", f"Kendall's τ ≥ {TAU_MEAN}", f"{one['tau_mean']:.4f}", one["tau_mean"] >= TAU_MEAN))
    return found


def row(what: str, shape: str, goal: str, got: str, reached: bool | None) -> dict:
    return {"what": what, "shape": shape, "goal": goal, "got": got, "reached": reached}


def of_shape(name: str, shape: dict) -> list[dict]:
    systems = shape["mixes"]["mixed"]["systems"]
    kinds = {system["key"]: system for system in shape["systems"]}
    labels = {key: kinds[key]["label"] for key in systems if key in kinds}
    of_kind = lambda kind, *precisions: {key: one for key, one in systems.items() if key in labels and kinds[key]["kind"] == kind and kinds[key]["precision"] in precisions}  # noqa: E731
    ours_key = fastest(of_kind("worker", "fp32", "bf16"))
    if ours_key is None:
        return []
    ours, precision = systems[ours_key], kinds[ours_key]["precision"]
    found = []

    def faster(what: str, peer: str | None, own: str, goal: float) -> None:
        if peer is None or own not in systems:
            found.append(row(what, name, f"≥ {goal:g} ×", "not measured", None))
            return
        got = figures.ratio(systems[peer]["rounds_ms"], systems[own]["rounds_ms"])
        shown = f"{got['ratio']:.2f} × ({got['q1']:.2f} to {got['q3']:.2f}; {labels[peer]}: {systems[peer]['p50_ms']:.1f} ms, ours {kinds[own]['precision']}: {systems[own]['p50_ms']:.1f} ms)"
        found.append(row(what, name, f"≥ {goal:g} ×", shown, got["ratio"] >= goal))

    faster("p50 over NATS, one caller, against sentence-transformers fp32", "cross-encoder-fp32" if "cross-encoder-fp32" in systems else None, ours_key, AGAINST_LIBRARY[name])
    faster("against the best configuration of any peer", fastest(of_kind("peer", "fp32", "bf16", "int8")), ours_key, AGAINST_BEST_PEER[name])
    found += of_ceiling(name, systems)
    engine = systems.get(f"engine-{precision}")
    goal = BESIDE_FORWARD_MAX[name]
    what = "everything but the forward pass, share of the request"
    if engine:
        apart = 1 - engine["p50_ms"] / ours["p50_ms"]
        told = beside_forward(ours)
        shown = f"{told:.1%} by the reply's own stages, {apart:.1%} against the engine alone ({ours['p50_ms']:.1f} and {engine['p50_ms']:.1f} ms, {precision})"
        # Below zero is noise; the worse of the two counts.
        found.append(row(what, name, f"≤ {goal:.0%}", shown, max(told, apart) <= goal))
    else:
        found.append(row(what, name, f"≤ {goal:.0%}", "not measured", None))
    faster("fp32 against the best fp32 peer", fastest(of_kind("peer", "fp32")), "worker-fp32", AGAINST_FP32_PEER[name])
    rss = kinds[ours_key]["rss_saturated_mb"]
    found.append(row(f"memory of the worker at saturation, {precision}", name, f"≤ {RSS_MAX_MB[name]:.0f} MB", f"{rss:.0f} MB", rss <= RSS_MAX_MB[name]))
    return found


def of_ceiling(name: str, systems: dict) -> list[dict]:
    what, goal = "engine alone, share of the measured bf16 matrix ceiling", SHARE_OF_CEILING[name]
    engine, ceiling = systems.get("engine-bf16"), systems.get("ceiling-bf16")
    if not (engine and ceiling):
        return [row(what, name, f"≥ {goal:.0%}", "not measured", None)]
    defined = figures.ratio(ceiling["rounds_ms"], engine["rounds_ms"])["ratio"]
    reduced = figures.ratio(ceiling["reduced"]["rounds_ms"], engine["rounds_ms"])["ratio"]
    shown = f"{defined:.1%} of the model as defined, {reduced:.1%} of the reduced form ({ceiling['p50_ms']:.1f} and {ceiling['reduced']['p50_ms']:.1f} of {engine['p50_ms']:.1f} ms)"
    return [row(what, name, f"≥ {goal:.0%}", shown, defined >= goal)]


def beside_forward(worker: dict) -> float:
    """The share of a request that is not inference, by what its own reply tells."""
    stages = worker["stages_ms"]
    return sum(ms for name, ms in stages.items() if name != "infer") / sum(stages.values())


def fastest(systems: dict) -> str | None:
    return min(systems, key=lambda key: systems[key]["p50_ms"], default=None)
