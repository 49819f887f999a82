"""Draws the panels of a dashboard into one picture, from answers on standard input. Runs in a Python that has matplotlib."""

import json
import sys
from itertools import groupby

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

COLUMNS = 3


def figure_of(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "reqps":
        return f"{value:.3g}/s"
    return f"{value / 1000:.3g} k" if abs(value) >= 1000 else f"{value:.3g}"


def draw_stats(axes, panels: list[dict]) -> None:
    axes.axis("off")
    for place, panel in enumerate(panels):
        x = (place + 0.5) / len(panels)
        last = panel["lines"][0]["points"][-1][1] if panel["lines"] else None
        axes.text(x, 0.62, "–" if last is None else figure_of(last, panel["unit"]), ha="center", va="center", fontsize=19, transform=axes.transAxes)
        axes.text(x, 0.2, panel["title"], ha="center", va="center", fontsize=9, color="#555555", transform=axes.transAxes)


def draw_lines(axes, panel: dict) -> None:
    axes.set_title(panel["title"], loc="left", fontsize=9.5, fontweight="bold")
    # A legend names what was there; the rest is at zero.
    lines = [line for line in panel["lines"] if any(value for _, value in line["points"])]
    idle = len(panel["lines"]) - len(lines)
    if not panel["lines"]:
        axes.text(0.5, 0.5, "no data on this device", ha="center", va="center", color="#888888", fontsize=9, transform=axes.transAxes)
    if panel["stacked"] and lines:
        instants = sorted({at for line in lines for at, _ in line["points"]})
        values = [[dict(map(tuple, line["points"])).get(at, 0) for at in instants] for line in lines]
        axes.stackplot(instants, values, labels=[line["legend"] for line in lines], alpha=0.75, linewidth=0)
    else:
        for line in lines:
            axes.plot(*zip(*line["points"]), label=line["legend"], linewidth=1.4)
    if lines:
        axes.legend(fontsize=7, loc="upper left", frameon=True, framealpha=0.7, borderpad=0.3, labelspacing=0.25, ncols=2 if len(lines) > 4 else 1)
    if idle:
        axes.text(0.99, 0.03, "all at zero" if not lines else f"{idle} more at zero", ha="right", va="bottom", fontsize=7, color="#888888", transform=axes.transAxes)
    axes.set_ylim(bottom=0, top=panel["top"] * 1.05 if panel["top"] else None if lines else 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure_of(value, panel["unit"])))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    panels = json.load(sys.stdin)
    rows = [(title, list(of_row)) for title, of_row in groupby(panels, key=lambda panel: panel["row"])]
    until = max(at for panel in panels for line in panel["lines"] for at, _ in line["points"])
    heights, lines = [], []
    for title, of_row in rows:
        stats = [panel for panel in of_row if panel["kind"] == "stat"]
        drawn = [panel for panel in of_row if panel["kind"] != "stat"]
        chunks = [stats] * bool(stats) + [drawn[place : place + COLUMNS] for place in range(0, len(drawn), COLUMNS)]
        for number, chunk in enumerate(chunks):
            heights.append(0.8 if chunk is stats else 2.1)
            lines.append((title if number == 0 else "", chunk, chunk is stats))
    figure = plt.figure(figsize=(15, sum(heights) + 0.9), layout="constrained", dpi=80)
    figure.suptitle("nats-rerank: fleet. A load run: calm, past capacity, calm again with one worker less (seconds)", fontsize=12)
    parts = figure.subfigures(len(lines), 1, height_ratios=heights)
    for part, (title, chunk, stats) in zip(parts, lines):
        if title and not stats:
            part.suptitle(title, x=0.005, ha="left", fontsize=10.5, color="#225588")
        if stats:
            draw_stats(part.subplots(), chunk)
            continue
        axes = part.subplots(1, COLUMNS)
        for place in range(COLUMNS):
            if place >= len(chunk):
                axes[place].axis("off")
                continue
            draw_lines(axes[place], chunk[place])
            axes[place].set_xlim(0, until)
    figure.savefig(sys.argv[1])


main()
