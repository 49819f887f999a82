"""The suite's arithmetic: medians and spread, percentiles, ratios of what was measured in turn, rankings compared, a line fitted."""

from __future__ import annotations

import math
from typing import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def percentile(values: Sequence[float], share: float) -> float:
    """A value that was measured: the smallest that at least this share did not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def spread(values: Sequence[float]) -> dict:
    """Median, the quartiles around it, and the tail, of times in milliseconds."""
    return {
        "count": len(values), "p50_ms": median(values), "q1_ms": quantile(values, 0.25), "q3_ms": quantile(values, 0.75),
        "p95_ms": percentile(values, 0.95), "p99_ms": percentile(values, 0.99), "mean_ms": sum(values) / len(values), "min_ms": min(values),
    }  # fmt: skip


def ratio(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> dict:
    """How many times larger: the median over rounds of the ratio of their medians, with its quartiles.

    Both were measured round by round, in turn, so that what slowed one round down did so for both.
    """
    each = [median(one) / median(other) for one, other in zip(above, below)]
    return {"ratio": median(each), "q1": quantile(each, 0.25), "q3": quantile(each, 0.75), "rounds": len(each)}


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b of two lists of scores: 1 if they order alike, -1 if the other way round; ties are accounted for.

    1 if both are all ties, 0 if one of them is.
    """
    if len(one) != len(other):
        raise ValueError("lists of different lengths")
    agreeing = differing = tied_one = tied_other = 0
    for i in range(len(one)):
        for j in range(i):
            a, b = sign(one[i] - one[j]), sign(other[i] - other[j])
            if a * b > 0:
                agreeing += 1
            elif a * b < 0:
                differing += 1
            elif a or b:
                tied_one += not a
                tied_other += not b
    decided = math.sqrt((agreeing + differing + tied_other) * (agreeing + differing + tied_one))
    if not decided:
        return 1.0 if not (tied_one or tied_other) else 0.0
    return (agreeing - differing) / decided


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def best(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones the first, as in a ranking."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: where the line begins (x = 0) and how much it rises with each x."""
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs two places")
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points))
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - rise * mean_x, rise
