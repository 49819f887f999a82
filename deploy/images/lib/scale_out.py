"""A fleet that grows under load: from one worker to four, each a container with a share of a core, watched from outside."""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple

import checks
from engine import Engine, Failed

WORKERS = 4
# Four of them fit into two cores and leave room for NATS and the callers.
CPUS = "0.35"
CALLERS = 16
# The callers ask all the time, and every so often a worker is added.
ADDED_EVERY_S = 20
LOAD_S = ADDED_EVERY_S * (WORKERS + 1)
SAMPLE_S = 0.5


class Watched(NamedTuple):
    """Answers counted so far of each worker over time, when each was started and ready, and the figures of the callers."""

    times_s: list[float]
    answers: list[list[float]]
    started_s: list[float]
    ready_s: list[float]
    figures: dict


def scored(address: str) -> float:
    text = checks.get(f"http://{address}:9464/metrics")[1]
    found = re.search(r'^rerank_requests_total\{[^}]*outcome="scored"[^}]*\} (\S+)$', text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def watch(engine: Engine, image: str) -> Watched:
    with checks.network(engine, "nats-rerank-scale") as net:
        addresses: list[str] = []

        def add() -> str:
            container = checks.start(engine, net, image, "--cpus", CPUS)
            addresses.append(checks.address(engine, container))
            return container

        checks.wait_ready(engine, add())
        bench = ["bench", "--callers", str(CALLERS), "--duration-s", str(LOAD_S), "--timeout-ms", "10000", "--format", "json"]
        callers = engine.run("run", "--detach", "--network", net, *checks.HARDENED, "--env", checks.NATS_URL, image, *bench).stdout.strip()
        began = time.monotonic()
        times, answers, started, ready = [], [], [0.0], [0.0]
        while engine.inspect(callers)["State"]["Running"]:
            now = time.monotonic() - began
            times.append(now)
            answers.append([scored(address) for address in addresses])
            if len(addresses) < WORKERS and now > ADDED_EVERY_S * len(addresses):
                started.append(now)
                add()
            elif len(ready) < len(addresses) and checks.get(f"http://{addresses[-1]}:9464/readyz")[0] == 200:
                ready.append(time.monotonic() - began)
            if now > LOAD_S + checks.PATIENCE_S:
                raise Failed("the bench does not end")
            time.sleep(max(0.0, began + len(times) * SAMPLE_S - time.monotonic()))
        printed = engine.run("logs", callers)
        try:
            return Watched(times, answers, started, ready, json.loads(printed.stdout))
        except ValueError as error:
            raise Failed(f"the bench's figures cannot be read ({error}): {printed.stdout[-500:]}{printed.stderr[-500:]}") from error


# --- the picture -----------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 74, 50
COLOURS = ["#1b6ca8", "#3fa7d6", "#59b38c", "#e0a03c"]
# A rate is taken over this long, so that single batches do not show.
SMOOTH_S = 2.0


def rates(watched: Watched) -> list[tuple[float, list[float]]]:
    """Answers a second of each worker, over the last SMOOTH_S seconds."""
    found, first = [], 0
    for last, now in enumerate(watched.times_s):
        while watched.times_s[first + 1 if first + 1 <= last else last] < now - SMOOTH_S:
            first += 1
        span = now - watched.times_s[first]
        if span >= SMOOTH_S / 2:
            before = watched.answers[first] + [0.0] * WORKERS
            after = watched.answers[last] + [0.0] * (WORKERS - len(watched.answers[last]))
            found.append((now, [max(0.0, after[index] - before[index]) / span for index in range(WORKERS)]))
    return found


def drawn(watched: Watched) -> str:
    points = [point for point in rates(watched) if point[0] <= LOAD_S]
    top = max(sum(values) for _, values in points) * 1.15
    step = next(step for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000) if top / step <= 7)

    def x(seconds: float) -> float:
        return LEFT + seconds / LOAD_S * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    figures = watched.figures
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        '<text x="64" y="24" font-size="16">From one worker to four under load: answers a second, by worker</text>',
        f'<text x="64" y="44" fill="#555">{figures["callers"]} callers, {figures["requests"]:,} requests of 24 documents, {figures["failed"]:,} failed; '
        f"each worker a container with {CPUS} of a core; built-in model</text>",
    ]
    for index in range(int(top / step) + 1):
        at = y(index * step)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{index * step}</text>')
    for worker in range(WORKERS):
        upper = [f"{x(now):.1f},{y(sum(values[: worker + 1])):.1f}" for now, values in points]
        lower = [f"{x(now):.1f},{y(sum(values[:worker])):.1f}" for now, values in reversed(points)]
        out.append(f'<polygon points="{" ".join(upper + lower)}" fill="{COLOURS[worker]}"/>')
    for worker, (start, ready) in enumerate(zip(watched.started_s, watched.ready_s, strict=True)):
        if worker:
            out.append(f'<line x1="{x(start):.1f}" x2="{x(start):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#555" stroke-dasharray="3 3"/>')
            out.append(f'<text x="{x(start) + 5:.1f}" y="{TOP + 10}">worker {worker + 1} started,</text>')
            out.append(f'<text x="{x(start) + 5:.1f}" y="{TOP + 24}">ready after {ready - start:.1f} s</text>')
    for seconds in range(0, LOAD_S + 1, 10):
        out.append(f'<text x="{x(seconds):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{seconds}</text>')
    out.append(f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">seconds</text>')
    return "\n".join(out) + "\n</svg>\n"


def by_phase(watched: Watched) -> list[float]:
    """Answers a second while one, two, … workers were ready."""
    found = []
    for count, ready in enumerate(watched.ready_s, start=1):
        end = watched.started_s[count] if count < len(watched.started_s) else LOAD_S
        inside = [index for index, now in enumerate(watched.times_s) if ready <= now <= end]
        if len(inside) > 1:
            first, last = inside[0], inside[-1]
            found.append((sum(watched.answers[last]) - sum(watched.answers[first])) / (watched.times_s[last] - watched.times_s[first]))
    return found
