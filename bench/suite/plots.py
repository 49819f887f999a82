"""Draws a report: python plots.py REPORT.json FOLDER. Runs in the peers' Python, which has matplotlib.

Prints the names of the files, one a line.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page import TITLES

COLOURS = {"worker": "#1b6ca8", "engine": "#7fb3d8", "peer": "#b0b0b0", "ceiling": "#e0a458"}
KINDS = {"worker": "nats-rerank over NATS", "engine": "nats-rerank, engine alone", "peer": "peers, bare call", "ceiling": "matrix products alone"}
MIXES = {"mixed": "mixed", "short": "all short", "long": "all long", "one-long": "one long"}
PREFIX = "cpu"
# Neither the date nor random ids: the same report gives the same file.
plt.rcParams.update({"svg.hashsalt": "nats-rerank", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"})


def save(figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    if "--png" in sys.argv:
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(f"{name}.svg")


def latencies(report: dict, folder: Path) -> None:
    """One caller's p50 with quartiles, fastest on top, a panel a shape."""
    shapes = [shape for shape in report["shapes"] if shape["mixes"].get("mixed", {}).get("systems")]
    if not shapes:
        return
    counts = [len(shape["mixes"]["mixed"]["systems"]) for shape in shapes]
    figure, panels = plt.subplots(len(shapes), 1, figsize=(8.6, 0.27 * sum(counts) + 0.95 * len(shapes)), squeeze=False, gridspec_kw={"height_ratios": counts})
    for panel, shape in zip(panels[:, 0], shapes):
        systems = {system["key"]: system for system in shape["systems"]}
        measured = [(systems[key], one) for key, one in shape["mixes"]["mixed"]["systems"].items() if key in systems and one]
        measured.sort(key=lambda item: item[1]["p50_ms"])
        for place, (system, one) in enumerate(measured):
            around = [[one["p50_ms"] - one["q1_ms"]], [one["q3_ms"] - one["p50_ms"]]]
            panel.barh(place, one["p50_ms"], xerr=around, color=COLOURS[system["kind"]], height=0.72, error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"})
            panel.text(one["q3_ms"], place, f"  {one['p50_ms']:.1f}", va="center", fontsize=8)
        panel.set_yticks(range(len(measured)), [system["label"] for system, _ in measured], fontsize=8)
        panel.set_ylim(len(measured) - 0.4, -0.6)
        panel.set_xlim(0, 1.12 * max(one["q3_ms"] for _, one in measured))
        panel.set_title(f"{TITLES[shape['shape']]}: ms for 24 candidates, one caller (median, quartiles)", loc="left", fontsize=9, fontweight="bold")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in COLOURS]
    figure.tight_layout(rect=(0, 0.0, 1, 1), h_pad=1.2)
    figure.legend(handles, [KINDS[kind] for kind in COLOURS], ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, fontsize=8)
    save(figure, folder, f"{PREFIX}-latency")


def mixes(report: dict, folder: Path) -> None:
    """How much faster than the best peer ours is, mix by mix."""
    rows = []
    for shape in report["shapes"]:
        kinds = {system["key"]: system["kind"] for system in shape["systems"]}
        for mix, measured in shape["mixes"].items():
            fastest = lambda kind: min((one["p50_ms"] for key, one in measured["systems"].items() if kinds.get(key) == kind and one), default=None)  # noqa: B023, E731
            if fastest("worker") and fastest("peer"):
                rows.append((f"{TITLES[shape['shape']].split(' (')[0]}, {MIXES[mix]}", fastest("peer") / fastest("worker")))
    if not rows:
        return
    figure, panel = plt.subplots(figsize=(8.6, 0.3 * len(rows) + 0.8))
    for place, (_, times) in enumerate(rows):
        panel.barh(place, times, color=COLOURS["worker"], height=0.7)
        panel.text(times, place, f"  {times:.2f} ×", va="center", fontsize=8)
    panel.axvline(1, color="#333333", linewidth=1)
    panel.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, 1.12 * max(times for _, times in rows))
    panel.set_title("Our p50 over NATS against the fastest peer's bare call: times faster", loc="left", fontsize=9, fontweight="bold")
    figure.tight_layout()
    save(figure, folder, f"{PREFIX}-mixes")


def sweeps(report: dict, folder: Path) -> None:
    """p99 and answers in time by the rate offered."""
    shapes = [shape for shape in report["shapes"] if shape.get("sweep")]
    if not shapes:
        return
    figure, panels = plt.subplots(2, len(shapes), figsize=(4.3 * len(shapes), 5.2), squeeze=False, sharex="col")
    for (upper, lower), shape in zip(panels.T, shapes):
        found = shape["sweep"]
        rates = [point["rate_per_s"] for point in found["points"]]
        upper.plot(rates, [point["p99_ms"] for point in found["points"]], "o-", color=COLOURS["worker"], label="p99 of answers in time")
        upper.plot(rates, [point["p50_ms"] for point in found["points"]], "o--", color=COLOURS["engine"], label="p50")
        upper.axhline(found["budget_ms"], color="#b03030", linewidth=1, linestyle=":", label=f"budget, {found['budget_ms']} ms")
        upper.set_ylim(0, 1.5 * found["budget_ms"])
        upper.set_ylabel("ms")
        upper.set_title(f"{TITLES[shape['shape']]}, {found['precision']}", loc="left", fontsize=9, fontweight="bold")
        upper.legend(frameon=False, fontsize=7, loc="upper left")
        lower.plot(rates, [point["requests_per_s"] for point in found["points"]], "o-", color=COLOURS["worker"], label="answered in time")
        lower.plot(rates, rates, color="#999999", linewidth=1, linestyle="--", label="offered")
        lower.axhline(found["saturation_per_s"], color=COLOURS["ceiling"], linewidth=1, linestyle=":", label="callers that wait")
        lower.set_ylim(0, 1.1 * max(rates))
        lower.set_xlim(0, 1.05 * max(rates))
        lower.set_xlabel("requests offered a second")
        lower.set_ylabel("requests a second")
        lower.legend(frameon=False, fontsize=7, loc="upper left")
    figure.tight_layout()
    save(figure, folder, f"{PREFIX}-sweep")


def main() -> None:
    global PREFIX
    report, folder = json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2])
    PREFIX = "gpu" if "device" in report else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    latencies(report, folder)
    mixes(report, folder)
    sweeps(report, folder)


if __name__ == "__main__":
    main()
