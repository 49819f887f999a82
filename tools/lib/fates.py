"""Names the fate of each request from what its caller, its worker and its NATS servers wrote down. Pure: no clock, no I/O.

All times are seconds of one clock (of one machine). `tools/ledger` makes the records; `classify` says why a request was not
answered in time, by the first stage of its way that it did not leave, or by the stage that took the time.
"""

from __future__ import annotations

import bisect
import json
import re
import statistics
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

# Causes, with what they mean. A run whose requests all have one explains itself.
CAUSES = {
    "held by a killed worker": "sent to a worker that was killed before its answer had left; also before the server had noticed",
    "worker paused": "its worker was stopped (SIGSTOP) meanwhile",
    "worker without CPU": "its worker waited for a processor, by the kernel's own count, for most of what was late",
    "server without CPU": "the NATS server waited for a processor for most of what was late",
    "caller without CPU": "the caller's own process waited for a processor, or its loop was held up",
    "caller's server in lame duck": "the caller's NATS server closed the connection (lame duck mode) while the request was under way",
    "worker's connection lost": "handed to a worker whose connection broke before it was read, or before its answer had left",
    "lost on a route": "passed on to another NATS server, whose last member had left",
    "answer dropped by its worker": "its worker says so in its log: the caller had given up before the connection was back",
    "expired in the worker's queue": "computed or refused too late, and no lack of CPU explains it: the worker's prediction was wrong",
    "unexplained": "none of these",
}
UNEXPLAINED = "unexplained"
# A stage is explained by a wait for a processor when that wait is this share of what the stage took beyond its usual time.
WAIT_SHARE = 0.5
# How far what two processes wrote down may be apart in time.
SLACK = 0.02
# A worker that reports the loss of its connection does so within this of it.
LOSS_SECONDS = 1.0
STAGES = ("send", "hand", "deliver", "work", "reply", "read")


@dataclass
class Request:
    """What its caller knows. `replied` is None where nothing came; `kind` is scored, refused:<kind>, no responders or empty."""

    number: int
    due: float
    deadline: float
    sent: float | None = None
    server: str = ""
    replied: float | None = None
    kind: str = ""

    @property
    def in_time(self) -> bool:
        return self.replied is not None and self.replied <= self.deadline


@dataclass
class Trail:
    """What servers and workers know of one request."""

    taken: float | None = None
    handed: float | None = None
    worker: str = ""  # whom it was handed to, or who received it
    routed: bool = False
    received: float | None = None
    answered: float | None = None
    outcome: str = ""
    refusal: str = ""
    reply_taken: float | None = None
    reply_handed: float | None = None


@dataclass
class Facts:
    """What happened meanwhile."""

    # By the name of a process, which one that is started in its place does not bear.
    killed: dict[str, float] = field(default_factory=dict)
    paused: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    # Of workers' connections, from the loss to the next one. async-nats keeps the old socket open until the new one stands, so
    # that the server goes on sending into it.
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    caller_losses: list[float] = field(default_factory=list)
    lame_ducks: list[tuple[float, float]] = field(default_factory=list)
    # For each process: (time, seconds waited for a processor since its start), in order of time.
    waits: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)

    def waited(self, who: str, begin: float, end: float) -> float:
        """Seconds that `who` waited for a processor between the samples around `begin` and `end`."""
        samples = self.waits.get(who, [])
        if not samples:
            return 0.0
        times = [time for time, _ in samples]
        first = max(0, bisect.bisect_right(times, begin) - 1)
        # One more: the kernel counts a wait when it is over.
        last = min(len(samples) - 1, bisect.bisect_left(times, end) + 1)
        return max(0.0, samples[last][1] - samples[first][1])


def any_within(times: list[float], begin: float, end: float) -> bool:
    return any(begin <= time <= end for time in times)


def overlaps(windows: list[tuple[float, float]], begin: float, end: float) -> bool:
    return any(first <= end and begin <= last for first, last in windows)


def stages(request: Request, trail: Trail) -> dict[str, tuple[float, float]]:
    """The stages of a request's way that it went through, each from when to when."""
    points = [trail.taken, trail.handed, trail.received, trail.answered, trail.reply_taken, request.replied]
    found, begin = {}, request.due
    for name, end in zip(STAGES, points):
        # A server's own answer (no responders) has no stages in between.
        if end is not None:
            # What two processes write down of one moment may stand the wrong way round.
            begin, found[name] = max(begin, end), (begin, max(begin, end))
    return found


def usual(requests: list[Request], trails: dict[int, Trail]) -> dict[str, float]:
    """The median of each stage over what was answered in time."""
    spans: dict[str, list[float]] = {name: [] for name in STAGES}
    for request in requests:
        if request.in_time:
            for name, (begin, end) in stages(request, trails.get(request.number, Trail())).items():
                spans[name].append(end - begin)
    return {name: statistics.median(values) if values else 0.0 for name, values in spans.items()}


def classify(request: Request, trail: Trail, facts: Facts, until: float) -> str:
    """Why a request was not answered in time; empty if it was. `until`: when the caller stopped listening for late answers."""
    if request.in_time:
        return ""
    return late(request, trail, facts) if request.replied is not None else missing(request, trail, facts, until)


def missing(request: Request, trail: Trail, facts: Facts, until: float) -> str:
    """Nothing came: where on its way did it end?"""
    worker, since = trail.worker, request.sent or request.due
    callers = facts.caller_losses
    if trail.taken is None:
        gone = any_within(callers, since - LOSS_SECONDS, until)
        return "caller's server in lame duck" if gone and facts.lame_ducks else UNEXPLAINED
    if trail.handed is None:
        return "lost on a route" if trail.routed else UNEXPLAINED
    if facts.killed.get(worker, until) < until and trail.reply_taken is None:
        return "held by a killed worker"
    if trail.outcome == "dropped" and (trail.answered or 0.0) >= request.deadline - SLACK:
        # It was too late already: what took the time is the cause.
        return late(replace(request, replied=trail.answered), trail, facts)
    if trail.outcome == "dropped":
        return "answer dropped by its worker"
    if trail.reply_taken is None:
        if overlaps(facts.losses.get(worker, []), trail.handed - SLACK, max(trail.handed, trail.answered or 0.0) + LOSS_SECONDS):
            return "worker's connection lost"
        if overlaps(facts.paused.get(worker, []), trail.handed, until):
            return "worker paused"
        return UNEXPLAINED
    if any_within(callers, since, until) and facts.lame_ducks:
        return "caller's server in lame duck"
    if trail.reply_handed is None and trail.routed:
        return "lost on a route"
    return UNEXPLAINED


def late(request: Request, trail: Trail, facts: Facts) -> str:
    """It came too late: which stage took the time, and why?"""
    found = stages(request, trail)
    if not found:
        return UNEXPLAINED
    beyond = {name: end - begin - facts.usual.get(name, 0.0) for name, (begin, end) in found.items()}
    for name in sorted(beyond, key=beyond.get, reverse=True):
        begin, end = found[name]
        actors = {"send": ["caller", request.server], "hand": [request.server], "deliver": [trail.worker, request.server], "work": [trail.worker],
                  "reply": [trail.worker, request.server], "read": ["caller", request.server]}[name]  # fmt: skip
        if name in ("deliver", "work", "reply") and overlaps(facts.paused.get(trail.worker, []), begin, end):
            return "worker paused"
        if name in ("send", "read") and any_within(facts.caller_losses, begin - LOSS_SECONDS, end) and facts.lame_ducks:
            return "caller's server in lame duck"
        for actor in actors:
            if facts.waited(actor, begin, end) >= WAIT_SHARE * beyond[name] > 0:
                return {"caller": "caller without CPU", trail.worker: "worker without CPU"}.get(actor, "server without CPU")
        if name == "deliver" and overlaps(facts.losses.get(trail.worker, []), begin, end + LOSS_SECONDS):
            return "worker's connection lost"
        if name == "work":
            return "expired in the worker's queue"
        # Less than half of what was late: the largest stage is the cause, or none is.
        break
    return UNEXPLAINED


# What servers and workers wrote down.
TRACE = re.compile(r'\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}) \[(TRC|DBG)\] \S+ - (cid|rid):(\d+)(?: - (?:"([^"]*)"))? - (<<-|->>) \[(\w+) ([^\]]*)\]')
REQUEST_NUMBER = re.compile(r"\b_INBOX\.ledger\.\w+\.(\d+)\b")


def server_time(text: str) -> float:
    return datetime.strptime(text, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp()


def read_server(lines, subject: str, trails: dict[int, Trail]) -> None:
    """What a server's trace (`-DV`, in UTC) says of requests, into `trails`."""
    for line in lines:
        found = TRACE.search(line)
        number = REQUEST_NUMBER.search(line) if found else None
        if not number:
            continue
        at, _, kind, _, name, way, verb, text = found.groups()
        trail = trails.setdefault(int(number.group(1)), Trail())
        at, client = server_time(at), kind == "cid"
        if subject in text:
            if way == "<<-" and client:
                trail.taken = trail.taken or at
            elif way == "->>" and client:
                trail.handed, trail.worker = at, (name or "").rsplit(":", 1)[-1]
            elif way == "->>":
                trail.routed = True
        elif way == "<<-" and client and verb in ("PUB", "HPUB"):
            trail.reply_taken = trail.reply_taken or at
        elif way == "->>" and client:
            trail.reply_handed = at


def read_worker(name: str, lines, trails: dict[int, Trail], losses: list[tuple[float, float]]) -> None:
    """What a worker's log (JSON, `nats_rerank::traces=debug`) says of requests, into `trails`, and of its connection."""
    lost = None
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        at = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")).timestamp()
        message = entry.get("message", "")
        if message.startswith("the connection to NATS is lost"):
            lost = lost or at
        elif message == "connected to NATS" and lost:
            losses.append((lost, at))
            lost = None
        if message not in ("received", "answered") or not entry.get("trace_id"):
            continue
        trail = trails.setdefault(int(entry["trace_id"], 16), Trail())
        trail.worker = name
        if message == "received":
            trail.received = at
        else:
            span = entry.get("span", {})
            trail.answered, trail.outcome, trail.refusal = at, span.get("outcome", ""), span.get("kind", "")
    if lost:
        losses.append((lost, float("inf")))
