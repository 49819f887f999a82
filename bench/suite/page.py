"""docs/benchmarks/cpu.md from a report: pure, so that a page can be written again from its JSON."""

from __future__ import annotations

import targets
import targets_gpu
import workload

TITLES = {
    "tinybert-l2": "TinyBERT-L2-H128", "minilm-l6": "MiniLM-L6-H384", "minilm-l12": "MiniLM-L12-H384",
    "bge-base": "bge-base (12 layers, 768)", "bge-v2-m3": "bge-v2-m3 (24 layers, 1024; BERT's vocabulary)",
}  # fmt: skip


def table(head: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """The first columns are texts, the others numbers."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def provisional(report: dict) -> list[str]:
    """Why these figures are not to be quoted."""
    machine = report["machine"]
    why = []
    if report["quick"]:
        why.append("the quick form: few rounds")
    if machine["load_before"] > 0.5:
        why.append(f"the machine was busy with other work (load {machine['load_before']} before the run)")
    if report["revision"].endswith("-dirty"):
        why.append("the source had changes that were not committed")
    if "ONEDNN_MAX_CPU_ISA" in report["environment"]["peers"]:
        why.append("libtorch was kept from AMX, so peers and ceiling are far from what the CPU can do")
    return why


def page(report: dict, plots: list[str]) -> str:
    parts = ["# Figures on a GPU\n" if "device" in report else "# Figures on a CPU\n", f"This page is written by `{'bench/run --device cuda' if 'device' in report else 'make bench'}` (bench/README.md says what is measured and how). Do not edit it.\n"]
    why = provisional(report)
    if why:
        parts.append("**Provisional.** Not to be quoted: " + "; ".join(why) + ".\n")
    parts.append(machine(report))
    if "device" in report:
        parts.append(device(report))
    parts.append(goals(report))
    parts += [f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})\n" for name in plots]
    for shape in report["shapes"]:
        parts += of_shape(shape)
    if report.get("quality"):
        parts.append(quality(report["quality"]))
    if report["left_out"]:
        parts.append("## Left out\n")
        parts.append("\n".join(f"- {one['shape']}: {one['label']}: {one['why'].splitlines()[0]}" for one in report["left_out"]) + "\n")
    return "\n".join(parts)


def machine(report: dict) -> str:
    known = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "## The machine\n",
        f"- {known['cpu']}, {known['cores']} cores, {known['memory_gib']} GiB; {', '.join(known['flags']) or 'no vector extensions known'}",
        f"- threads of every system: {report['threads']}; system: {known.get('system', 'unknown')}",
        f"- {versions}",
        f"- revision {report['revision']}, {report['time'][:16].replace('T', ' ')} UTC, {report['minutes']:.0f} minutes, {'quick' if report['quick'] else 'full'} form",
    ]
    for whose, environment in report["environment"].items():
        if environment:
            shown = ", ".join(f"`{name}={value.rsplit('/', 1)[-1]}`" for name, value in environment.items())
            lines.append(f"- set for {'our program' if whose == 'ours' else 'the peers'}: {shown}")
    if "LD_PRELOAD" in report["environment"]["peers"]:
        lines.append("- this virtual machine has AMX and hides how it is made (CPUID leaf 0x1D); libtorch crashes on that, so the peers are shown it (bench/peers/amx_palettes.c)")
    if "ONEDNN_MAX_CPU_ISA" in report["environment"]["ours"]:
        lines.append("- for the same reason our program's libtorch goes without AMX here")
    return "\n".join(lines) + "\n"


def device(report: dict) -> str:
    """What the device does at most, measured in the same session."""
    found = report.get("ceiling") or {}
    rows = [[one["kind"], f"{one['rows']:,} × {one['into']:,} × {one['out']:,}", f"{one['tflops']:.0f}"] for one in found.get("products", [])]
    copy = f"A copy within its memory moves {found['copy_gb_per_s']:,.0f} GB/s, reads and writes counted.\n\n" if "copy_gb_per_s" in found else ""
    return "## The device\n\n" + copy + (table(["kind", "matrix product", "TFLOP/s"], rows, 2) if rows else "Its rates were not measured.\n")


def goals(report: dict) -> str:
    mark = {True: "reached", False: "**not reached**", None: "not measured"}
    found = targets_gpu.rows(report) if "device" in report else targets.rows(report)
    rows = [[one["what"], TITLES.get(one["shape"], ""), one["goal"], one["got"], mark[one["reached"]]] for one in found]
    return "## Goals\n\nRatios are medians over rounds of what both took in the same round (quartiles in parentheses).\n\n" + table(["figure", "shape", "goal", "this run", ""], rows, 5)


def of_shape(shape: dict) -> list[str]:
    parts = [f"## {TITLES[shape['shape']]}\n"]
    systems = {system["key"]: system for system in shape["systems"]}
    for mix, measured in shape["mixes"].items():
        parts.append(f"### One caller, {mix}: {workload.CANDIDATES} candidates, {measured['tokens']:,} tokens\n")
        parts.append(one_caller(measured, systems, shape, mix == "mixed"))
    parts += [ceilings(shape, systems), costs(shape, systems), saturation(shape, systems), sweep(shape), documents(shape), memory(shape)]
    return [part for part in parts if part]


def one_caller(measured: dict, systems: dict, shape: dict, with_rate: bool) -> str:
    rows = []
    for key, one in sorted(measured["systems"].items(), key=lambda item: item[1].get("p50_ms", 0)):
        if key not in systems or not one:
            continue
        batch = one["told"].get("batch") or systems[key]["about"].get("batch")
        label = systems[key]["label"] + (f" (of {batch})" if batch else "")
        label = f"**{label}**" if systems[key]["kind"] == "worker" else label
        rows.append([label, f"{one['p50_ms']:.1f}", f"{one['q1_ms']:.1f} to {one['q3_ms']:.1f}", f"{one['p95_ms']:.1f}", f"{one['p99_ms']:.1f}", f"{1e3 / one['mean_ms']:.1f}", str(one["count"])])
    return table(["system", "p50 ms", "quartiles", "p95 ms", "p99 ms", "a second", "requests"], rows)


def ceilings(shape: dict, systems: dict) -> str:
    rows = []
    for key, one in shape["mixes"].get("mixed", {}).get("systems", {}).items():
        if systems.get(key, {}).get("kind") != "ceiling" or not one:
            continue
        told, reduced = one["told"], one["reduced"]
        for form, gflop, ms in (("as defined", told["gflop"], one["p50_ms"]), ("reduced", told["gflop_reduced"], reduced["p50_ms"])):
            rows.append([systems[key]["precision"], form, f"{gflop:.1f}", f"{ms:.1f}", f"{gflop / ms * 1e3:.0f}"])
    if not rows:
        return ""
    note = "As defined: every layer's products for all tokens. Reduced: of the last layer only what reaches the head. No attention products.\n\n"
    return "### Matrix products alone, mixed\n\n" + note + table(["precision", "form", "GFLOP", "p50 ms", "GFLOP/s"], rows)


def costs(shape: dict, systems: dict) -> str:
    measured, rows = shape["mixes"].get("mixed", {}).get("systems", {}), []
    for key, one in measured.items():
        engine = measured.get(f"engine-{systems[key]['precision']}") if key in systems else None
        if not one or not engine or systems[key]["kind"] != "worker":
            continue
        stages, rest = one["stages_ms"], one["p50_ms"] - engine["p50_ms"]
        cells = [f"{stages[name]:.2f}" for name in ("queue", "tokenize", "infer", "worker_rest", "nats_and_caller")]
        told = targets.beside_forward(one)
        rows.append([systems[key]["precision"], f"{one['p50_ms']:.1f}", *cells, f"{told:.1%}", f"{engine['p50_ms']:.1f}", f"{rest:.2f}", f"{rest / one['p50_ms']:.1%}"])
    if not rows:
        return ""
    head = ["precision", "over NATS", "queue", "tokenize", "infer", "decode, rank, encode", "NATS and caller", "all but infer", "engine alone", "over NATS less engine alone", "share"]
    note = "Medians in ms, mixed, one caller; stages as the worker tells them in each reply, and their share; the last three columns compare with the engine alone, in the same rounds.\n\n"
    return "### Everything but the forward pass\n\n" + note + table(head, rows)


def saturation(shape: dict, systems: dict) -> str:
    rows = [[systems[key]["label"], f"{one['requests_per_s']:.1f}", f"{one['p50_ms']:.0f}", f"{one['p99_ms']:.0f}", str(one["count"])] for key, one in shape.get("saturation", {}).items() if key in systems]
    if not rows:
        return ""
    note = "Eight callers at once. Libraries have no callers: what they do a second, call after call, is in the first table.\n\n"
    if not all(key.startswith("worker-") for key in shape["saturation"]):
        note = "Many callers at once; engine, libraries and products are given as many requests in one call.\n\n"
    return "### Saturation, mixed\n\n" + note + table(["system", "requests/s", "p50 ms", "p99 ms", "requests"], rows)


def sweep(shape: dict) -> str:
    found = shape.get("sweep")
    if not found:
        return ""
    away = lambda point: f"{point['turned_away_p99_ms']:.1f}" if point["turned_away_p99_ms"] else ""  # noqa: E731
    rows = [
        [f"{p['rate_per_s']:.1f}", f"{p['rate_per_s'] / found['saturation_per_s']:.2f} ×", str(p["requests"]), f"{p['answered_share']:.1%}", f"{p['requests_per_s']:.1f}", f"{p['p50_ms']:.0f}", f"{p['p99_ms']:.0f}", away(p), f"{p['sender_late_p99_ms']:.1f}"]
        for p in found["points"]
    ]  # fmt: skip
    note = f"{found['precision']}, mixed; arrivals of their own (Poisson), timed from when they were due, {found['budget_ms']} ms each.\n\n"
    head = ["offered/s", "of saturation", "requests", "in time", "in time/s", "p50 ms", "p99 ms", "turned away p99 ms", "sender late p99 ms"]
    return "### Rate against p99\n\n" + note + table(head, rows)


def documents(shape: dict) -> str:
    rows = []
    for precision, found in shape.get("documents", {}).items():
        for point in found["points"]:
            rows.append([precision, str(point["documents"]), f"{point['over_nats_ms']:.2f}", f"{point['engine_ms']:.2f}", f"{point['rest_ms']:.2f}"])
    if not rows:
        return ""
    fits = "; ".join(f"{precision}: {found['per_request_ms']:.2f} ms a request and {found['per_document_us']:.0f} µs a document" for precision, found in shape["documents"].items())
    return f"### By the number of documents (99 tokens each)\n\nAll but the forward pass, as a line through these: {fits}.\n\n" + table(["precision", "documents", "over NATS ms", "engine alone ms", "rest ms"], rows)


def memory(shape: dict) -> str:
    rows = [[s["label"], f"{s['rss_loaded_mb']:.0f}", f"{s['rss_saturated_mb']:.0f}", f"{s['start_s']:.2f}" if s["start_s"] else ""] for s in shape["systems"] if s["kind"] != "ceiling"]
    return "### Memory (RSS, MB)\n\n" + table(["system", "loaded", "after the load", "start to ready, s"], rows) if rows else ""


def quality(found: list[dict]) -> str:
    rows = [
        [f"{q['model']}: {q['about']}", q["precision"], str(q["requests"]), f"{q['same_top_share']:.1%}", f"{q['tau_mean']:.4f}", f"{q['tau_p1']:.3f}", f"{q['tau_worst']:.3f}", f"{q['logit_error_mean']:.4f}", f"{q['logit_range_median']:.2f}"]
        for q in found
    ]  # fmt: skip
    head = ["model", "precision", "requests", "same top document", "Kendall's τ, mean", "1st percentile", "worst", "logit error, mean", "range of a request's logits"]
    return f"## Ranking against fp32\n\nRequests of {found[0]['documents']} candidates, real weights (`bench/quality`).\n\n" + table(head, rows)
