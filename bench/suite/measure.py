"""The measuring itself: systems of one shape, loaded side by side, take turns round by round; then load, rate and memory."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import checkpoints
import figures
import workload
from measuring import checkpoint
from processes import Failed, clean_environment, program
from systems import Machinery, Starting, System, memory_mb, offered_precisions, onnx_file

REQUESTS_DIFFERENT = 32
CALLERS_SATURATION = 8
SATURATION_ROUNDS = 2
# Times the saturation that was just measured.
SWEEP = (0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)
SWEEP_QUICK = (0.5, 0.8, 1.2)
DOCUMENTS = (1, 24, 96)


@dataclass(frozen=True)
class Plan:
    """What is measured of one shape."""

    mixes: dict[str, tuple[int, int]]  # rounds, and requests of each
    saturation: int = 0  # requests of each round; 0: left out
    sweep_s: float = 0.0  # seconds of each rate; 0: left out
    documents: tuple[int, int] = (0, 0)  # rounds and requests for each number of documents
    sweep: tuple[float, ...] = SWEEP
    warm_up: int = 2  # requests of each system before the first round of a mix


FULL = {
    "tinybert-l2": Plan({"mixed": (7, 30), "short": (5, 20), "long": (5, 8), "one-long": (5, 15)}, 200, 8.0, (5, 12)),
    "minilm-l6": Plan({"mixed": (7, 6), "short": (5, 4), "long": (3, 2), "one-long": (5, 3)}, 32, 15.0),
    "minilm-l12": Plan({"mixed": (5, 2)}, 16),
    "bge-base": Plan({"mixed": (3, 1)}, warm_up=1),
    "bge-v2-m3": Plan({"mixed": (2, 1)}, warm_up=1),
}
QUICK = {
    "tinybert-l2": Plan({"mixed": (3, 6), "one-long": (2, 3)}, 40, 3.0, (2, 4), SWEEP_QUICK),
    "minilm-l6": Plan({"mixed": (3, 1)}, 8, warm_up=1),
}


# On a GPU all times are small, and what a shape's systems take to start is most of its minutes.
CALLERS_SATURATION_GPU = 64
GPU = {
    "tinybert-l2": Plan({"mixed": (5, 100), "short": (3, 50), "long": (3, 50)}, 4000, 4.0),
    "minilm-l6": Plan({"mixed": (5, 100), "short": (3, 50), "long": (3, 50)}, 3000, 4.0),
    "minilm-l12": Plan({"mixed": (5, 50)}, 1500),
    "bge-base": Plan({"mixed": (5, 30)}, 1000),
    "bge-v2-m3": Plan({"mixed": (5, 20), "long": (3, 10)}, 500, 4.0),
}
# The same way, on any machine: tests what a GPU will run.
GPU_QUICK = dict.fromkeys(GPU, Plan({"mixed": (2, 2)}, 16, 1.0, sweep=SWEEP_QUICK, warm_up=1))


class Bench:
    """A run: its machinery, where its files lie, and what had to be left out."""

    def __init__(self, machinery: Machinery, out: Path, peers: bool, say: Callable[[str], None]) -> None:
        self.machinery, self.out, self.peers, self.say = machinery, out, peers, say
        self.left_out: list[dict] = []
        self.precisions = offered_precisions(("fp16", "bf16")) if machinery.gpu else offered_precisions()
        self.callers = CALLERS_SATURATION_GPU if machinery.gpu else CALLERS_SATURATION

    def leave_out(self, shape: str, label: str, why: object) -> None:
        self.left_out.append({"shape": shape, "label": label, "why": str(why)})
        self.say(f"LEFT OUT: {shape}: {label}: {why}")

    def payload(self, mix: str, candidates: int = workload.CANDIDATES, count: int = REQUESTS_DIFFERENT) -> Path:
        path = self.out / f"requests-{mix}-{candidates}.jsonl"
        workload.write(checkpoint("tinybert-l2") / "vocab.txt", count, path, mix, candidates)
        return path

    # --- starting ------------------------------------------------------------------------------------------------------

    def starters(self, shape: str) -> list[tuple[str, float, Callable[[], Starting]]]:
        """Label, how many times the weights it needs in memory, and how it is started."""
        if self.machinery.gpu:
            return self.starters_gpu(shape)
        made, machinery = checkpoint(shape), self.machinery
        found = [(f"nats-rerank over NATS, {p}", 2.5, lambda p=p: machinery.worker(shape, made, p)) for p in self.precisions]
        found += [(f"nats-rerank, engine alone, {p}", 2.5, lambda p=p: machinery.engine(shape, made, p)) for p in self.precisions]
        if not self.peers:
            return found
        label = "sentence-transformers CrossEncoder"
        found += [(f"{label}, {p}", 2.5, lambda p=p: machinery.peer(shape, made, "cross-encoder", p, label)) for p in ("fp32", "bf16")]
        runtime = "ONNX Runtime, sorted sub-batches"
        onnx = lambda p: machinery.peer(shape, made, "onnx", p, runtime, str(onnx_file(machinery, made, p)))  # noqa: E731
        found += [(f"{runtime}, {p}", 6.0, lambda p=p: onnx(p)) for p in ("fp32", "int8")]
        loop = "transformers, sorted sub-batches"
        found += [(f"{loop}, bf16", 2.0, lambda: machinery.peer(shape, made, "loop", "bf16", loop))]
        ceiling = "matrix products alone"
        return found + [(f"{ceiling}, {p}", 3.0, lambda p=p: machinery.peer(shape, made, "ceiling", p, ceiling)) for p in ("fp32", "bf16")]

    def starters_gpu(self, shape: str) -> list[tuple[str, float, Callable[[], Starting]]]:
        made, machinery = checkpoint(shape), self.machinery
        found = [(f"nats-rerank over NATS, {p}", 0.5, lambda p=p: machinery.worker(shape, made, p)) for p in self.precisions]
        found += [(f"nats-rerank, engine alone, {p}", 0.5, lambda p=p: machinery.engine(shape, made, p)) for p in self.precisions]
        if not self.peers:
            return found
        label, loop, compiled, ceiling = "sentence-transformers CrossEncoder", "transformers, sorted sub-batches", "the same with torch.compile", "matrix products alone"
        found += [(f"{label}, {p}", 1.5, lambda p=p: machinery.peer(shape, made, "cross-encoder", p, label)) for p in ("fp16", "bf16")]
        found += [(f"{loop}, fp16", 1.5, lambda: machinery.peer(shape, made, "loop", "fp16", loop))]
        found += [(f"{compiled}, fp16", 1.5, lambda: machinery.peer(shape, made, "compiled-loop", "fp16", compiled))]
        return found + [(f"{ceiling}, {p}", 0.5, lambda p=p: machinery.peer(shape, made, "ceiling", p, ceiling)) for p in ("fp16", "bf16")]

    def start(self, shape: str) -> list[System]:
        layers, hidden, _, between, positions = checkpoints.SHAPES[shape]
        weights_mb = 4 * (layers * (4 * hidden * hidden + 2 * hidden * between) + (checkpoints.VOCABULARY + positions) * hidden) / 2**20
        started, starting = [], []

        def wait() -> None:
            for label, ready in starting:
                try:
                    started.append(ready())
                except Failed as problem:
                    self.leave_out(shape, label, problem)
            starting.clear()

        for label, times, starter in self.starters(shape):
            needed, free = 400 + times * weights_mb, available_mb()
            if needed > free - 1024:
                self.leave_out(shape, label, f"it needs about {needed:.0f} MB, and {free:.0f} MB are free")
                continue
            starting.append((label, starter()))
            # On a GPU's machine, whose minutes count, all at once.
            if not self.machinery.gpu:
                wait()
        wait()
        return started

    # --- rounds --------------------------------------------------------------------------------------------------------

    def shape(self, shape: str, plan: Plan) -> dict:
        self.say(f"{shape}: starting its systems")
        systems = self.start(shape)
        for system in systems:
            system.rss_loaded_mb = memory_mb(system.pid)
        try:
            result = {"shape": shape, "mixes": {}}
            for mix, (rounds, count) in plan.mixes.items():
                self.say(f"{shape}: {mix}, {rounds} rounds of {count} requests, {len(systems)} systems in turn")
                result["mixes"][mix] = self.rounds(shape, systems, self.payload(mix), rounds, count, workload.tokens(mix), plan.warm_up)
            if plan.saturation:
                self.say(f"{shape}: {self.callers} callers")
                # A library alone has no callers; on a GPU it is given as many requests at once as a worker has.
                workers = [system for system in systems if system.kind == "worker" or self.machinery.gpu]
                self.rounds_ready(shape, workers, self.payload("mixed"), plan.warm_up)
                result["saturation"] = self.saturation(shape, workers, plan.saturation)
                systems = [system for system in systems if system in workers or (not self.machinery.gpu and system.kind != "worker")]
            for system in systems:
                system.rss_saturated_mb = memory_mb(system.pid)
            if plan.sweep_s and result.get("saturation"):
                result["sweep"] = self.sweep(shape, plan, result)
            if plan.documents[0]:
                result["documents"] = self.documents(shape, systems, *plan.documents)
            result["systems"] = [
                {"key": s.key, "label": s.label, "kind": s.kind, "precision": s.precision, "about": s.about, "start_s": s.start_s,
                 "rss_loaded_mb": s.rss_loaded_mb, "rss_saturated_mb": s.rss_saturated_mb}
                for s in systems
            ]  # fmt: skip
            return result
        finally:
            self.machinery.stage.stop(f"{shape}-")

    def rounds_ready(self, shape: str, systems: list[System], payload: Path, warm_up: int) -> dict[str, dict]:
        """Give every system the requests, and let it warm up. Those that fail are taken off the list."""
        told = {}
        for system in list(systems):
            try:
                told[system.key] = system.lines.tell(do="load", path=str(payload))
                system.lines.tell(do="round", count=warm_up)
            except Failed as problem:
                self.leave_out(shape, system.label, problem)
                systems.remove(system)
        return told

    def rounds(self, shape: str, systems: list[System], payload: Path, rounds: int, count: int, tokens: int, warm_up: int = 2) -> dict:
        """A B C A B C …, beginning elsewhere in each round."""
        told = self.rounds_ready(shape, systems, payload, warm_up)
        answers: dict[str, list[dict]] = {system.key: [] for system in systems}
        for number in range(rounds):
            start = number % max(1, len(systems))
            for system in systems[start:] + systems[:start]:
                try:
                    answers[system.key].append(system.lines.tell(do="round", count=count))
                except Failed as problem:
                    self.leave_out(shape, system.label, problem)
                    systems.remove(system)
        return {
            "tokens": tokens,
            "systems": {s.key: collected(answers[s.key]) | {"told": {k: v for k, v in told[s.key].items() if k != "tokens"}} for s in systems},
        }

    def saturation(self, shape: str, workers: list[System], count: int) -> dict:
        answers: dict[str, list[dict]] = {system.key: [] for system in workers}
        # On a GPU the first round is for shapes that were not seen yet (kernels are chosen, code is compiled), and not counted.
        unseen = int(self.machinery.gpu)
        for number in range(SATURATION_ROUNDS + unseen):
            for system in list(workers):
                try:
                    if number < unseen:
                        system.lines.tell(do="round", count=2 * self.callers, callers=self.callers)
                        continue
                    answers[system.key].append(system.lines.tell(do="round", count=count, callers=self.callers))
                except Failed as problem:
                    self.leave_out(shape, system.label, problem)
                    workers.remove(system)
                    del answers[system.key]
        found = {}
        for key, rounds in answers.items():
            rates = [len(one["ms"]) / one["seconds"] for one in rounds]
            found[key] = {"requests_per_s": figures.median(rates), "rates": rates} | figures.spread([ms for one in rounds for ms in one["ms"]])
        return found

    def sweep(self, shape: str, plan: Plan, result: dict) -> dict:
        """A worker's answers in time at rates of their own, which do not wait (`nats-rerank bench --sweep`)."""
        key, most = max(((key, one["requests_per_s"]) for key, one in result["saturation"].items() if key.startswith("worker-") and not key.endswith("int8")), key=lambda one: one[1])
        precision = key.removeprefix("worker-")
        p50 = result["mixes"]["mixed"]["systems"][key]["p50_ms"]
        # What the seeds ask for, and where a single request takes long, five times that.
        budget_ms = max(250, 50 * round(5 * p50 / 50))
        rates = [f"{share * most:.2f}" for share in plan.sweep]
        self.say(f"{shape}: sweep of {len(rates)} rates up to {rates[-1]}/s, {budget_ms} ms, {precision}")
        command = [str(program()), "bench", "--set", f"nats.url={self.machinery.url}", "--set", f"nats.subject={self.machinery.subject(shape, precision)}"]
        command += ["--payload", str(self.payload("mixed")), "--sweep", ",".join(rates), "--duration-s", str(plan.sweep_s)]
        command += ["--timeout-ms", str(budget_ms), "--warmup", "4", "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
        if done.returncode:
            self.leave_out(shape, "sweep", done.stderr.strip())
            return {}
        points = [
            {name: run[name] for name in ("rate_per_s", "requests", "answered", "answered_share", "requests_per_s", "p50_ms", "p99_ms")}
            | {"turned_away_p99_ms": turned_away(run), "sender_late_p99_ms": (run.get("sender_lag") or {}).get("p99_ms", 0.0)}
            for run in json.loads(done.stdout)
        ]
        return {"precision": precision, "budget_ms": budget_ms, "saturation_per_s": most, "points": points}

    def documents(self, shape: str, systems: list[System], rounds: int, count: int) -> dict:
        """What a request costs beside the forward pass, by the number of its documents: begins at … and rises by … each."""
        found = {}
        for precision in self.precisions:
            pair = [system for system in systems if system.ours and system.precision == precision]
            if len(pair) < 2:
                continue
            points = []
            for candidates in DOCUMENTS:
                self.say(f"{shape}: requests of {candidates} documents, {precision}")
                one = self.rounds(shape, pair, self.payload("equal", candidates), rounds, count, workload.tokens("equal", candidates))["systems"]
                if len(one) < 2:
                    break
                worker, engine = one[f"worker-{precision}"], one[f"engine-{precision}"]
                points.append({"documents": candidates, "over_nats_ms": worker["p50_ms"], "engine_ms": engine["p50_ms"], "rest_ms": worker["p50_ms"] - engine["p50_ms"], "stages_ms": worker["stages_ms"]})
            if len(points) == len(DOCUMENTS):
                start, rise = figures.line([(point["documents"], point["rest_ms"]) for point in points])
                found[precision] = {"points": points, "per_request_ms": start, "per_document_us": rise * 1e3}
        return found


def collected(rounds: list[dict]) -> dict:
    """A system's rounds of one mix: spread of all times, the times round by round, and whatever else it told."""
    if not rounds:
        return {}
    found = figures.spread([ms for one in rounds for ms in one["ms"]]) | {"rounds_ms": [one["ms"] for one in rounds]}
    if "total_ms" in rounds[0]:
        of = lambda name: [value for one in rounds for value in one[name]]  # noqa: E731
        stages = {name: figures.median(of(f"{name}_ms")) for name in ("queue", "tokenize", "infer")}
        # Decoding, ranking, encoding and hand-over: what the worker's own total holds beside the three.
        inner = [total - queue - tokenize - infer for total, queue, tokenize, infer in zip(of("total_ms"), of("queue_ms"), of("tokenize_ms"), of("infer_ms"))]
        outer = [ms - total for ms, total in zip(of("ms"), of("total_ms"))]
        found["stages_ms"] = stages | {"worker_rest": figures.median(inner), "nats_and_caller": figures.median(outer)}
        found["tokens_seen"] = figures.median(of("tokens"))
    if "reduced_ms" in rounds[0]:
        found["reduced"] = figures.spread([ms for one in rounds for ms in one["reduced_ms"]]) | {"rounds_ms": [one["reduced_ms"] for one in rounds]}
    return found


def turned_away(run: dict) -> float | None:
    """The slowest of the refusals that are meant to come at once (99th percentile)."""
    times = [kind["p99_ms"] for name, kind in run.get("refusals", {}).items() if name != "deadline_exceeded"]
    return max(times, default=None)


def available_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return float("inf")
