"""The figures that were set as goals on a GPU, computed from a run, each with whether it was reached."""

from __future__ import annotations

from targets import row

# Over NATS at saturation, mixed lengths, against sentence-transformers in half precision.
AGAINST_LIBRARY = {"minilm-l6": 8.0, "bge-v2-m3": 3.0}
SHARE_OF_PRODUCTS = {"bge-v2-m3": 0.60}
ONE_CALLER_MAX_MS = {"minilm-l6": (4.0, 8.0)}
REQUESTS_MIN = {"tinybert-l2": 1500.0, "minilm-l6": 600.0}


def rows(report: dict) -> list[dict]:
    """One for each goal and shape: what was asked, what came out, whether it was reached (None: not measured)."""
    found = []
    for shape in report["shapes"]:
        found += of_shape(shape, report.get("ceiling", {}))
    return found


def of_shape(shape: dict, ceiling: dict) -> list[dict]:
    name, found = shape["shape"], []
    rates = {key: one["requests_per_s"] for key, one in shape.get("saturation", {}).items()}
    ours, library = best(rates, "worker-"), best(rates, "cross-encoder-")
    if name in AGAINST_LIBRARY:
        goal, what = AGAINST_LIBRARY[name], "requests a second at saturation, over NATS, against sentence-transformers in half precision"
        if ours and library:
            times = rates[ours] / rates[library]
            found.append(row(what, name, f"≥ {goal:g} ×", f"{times:.2f} × ({rates[ours]:.0f} and {rates[library]:.0f} a second)", times >= goal))
        else:
            found.append(row(what, name, f"≥ {goal:g} ×", "not measured", None))
    if name in SHARE_OF_PRODUCTS:
        found.append(of_products(name, shape, ceiling, rates))
    if name in ONE_CALLER_MAX_MS:
        p50, p99 = ONE_CALLER_MAX_MS[name]
        measured = shape["mixes"].get("mixed", {}).get("systems", {})
        fastest = min((key for key in measured if key.startswith("worker-") and measured[key]), key=lambda key: measured[key]["p50_ms"], default=None)
        got = measured.get(fastest)
        shown = f"{got['p50_ms']:.2f} and {got['p99_ms']:.2f} ms" if got else "not measured"
        found.append(row("one caller over NATS, p50 and p99", name, f"< {p50:g} and < {p99:g} ms", shown, got and got["p50_ms"] < p50 and got["p99_ms"] < p99))
    if name in REQUESTS_MIN:
        goal = REQUESTS_MIN[name]
        shown = f"{rates[ours]:.0f}" if ours else "not measured"
        found.append(row("requests a second from one worker", name, f"≥ {goal:,.0f}", shown, rates[ours] >= goal if ours else None))
    return found


def of_products(name: str, shape: dict, ceiling: dict, rates: dict) -> dict:
    """The model's matrix products a second at saturation, as a share of the rate that one large product reaches."""
    what, goal = "engine alone at saturation, share of the measured dense matrix rate", SHARE_OF_PRODUCTS[name]
    engine = best(rates, "engine-")
    products = [one for one in ceiling.get("products", []) if engine and one["kind"] == {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}[engine.removeprefix("engine-")]]
    told = [one.get("told", {}) for key, one in shape["mixes"].get("mixed", {}).get("systems", {}).items() if key.startswith("ceiling-") and one]
    if not (engine and products and told):
        return row(what, name, f"≥ {goal:.0%}", "not measured", None)
    got, most = told[0]["gflop"] * rates[engine] / 1e3, max(one["tflops"] for one in products)
    return row(what, name, f"≥ {goal:.0%}", f"{got / most:.1%} ({got:.0f} of {most:.0f} TFLOP/s; products of the linear layers only)", got / most >= goal)


def best(rates: dict[str, float], prefix: str) -> str | None:
    return max((key for key in rates if key.startswith(prefix)), key=rates.get, default=None)
