"""The steps of gpu-check. Each takes the rig and gives figures; it raises Wrong where something is not as it must be."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

from cache import ROOT
from processes import Failed
from rig import Rig, Sampler, Worker, library_path

REFERENCES = ("bert-small", "bert-perturbed", "bert-odd", "roberta-small", "xlmr-small", "xlmr-perturbed", "camembert-small")
# Of logits: fp32 is the contract's; the others as a share of what the checkpoint's logits span.
FP32_OFF_MAX, HALF_OFF_MAX = 1e-4, {"fp16": 0.02, "bf16": 0.10}
# Random weights of 12 layers and more make rounding errors larger than trained ones do.
FP32_OFF_MAX_LARGE = 2e-3
BATCH_OFF_MAX = {"fp32": 1e-5, "fp16": 0.02, "bf16": 0.10}
MIB = 1 << 20


class Wrong(Exception):
    """What was looked for is not so."""


class NotHere(Exception):
    """Cannot be looked for on this machine."""


def expect(so: bool, otherwise: str) -> None:
    if not so:
        raise Wrong(otherwise)


def precisions(rig: Rig) -> list[str]:
    return ["fp32", "fp16", "bf16"] if rig.cuda or not rig.quick else ["fp32", "bf16"]


# --- machine and device ------------------------------------------------------------------------------------------------


def machine(rig: Rig) -> dict:
    """What this is, and what it can do at most."""
    found = rig.torch("about", rig.device)
    if rig.cuda:
        said = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem", "--format=csv,noheader"], capture_output=True, text=True)
        found["nvidia_smi"] = said.stdout.strip()
    found["ceiling"] = rig.torch("ceiling", rig.device, rig.number(6, 1))
    return found


def found(rig: Rig) -> dict:
    """The device is found and loaded at run time, and attention goes in one call there."""
    with rig.engines(ROOT / "tests" / "reference" / "bert-small", precisions(rig)) as engines:
        said = {precision: engine.about for precision, engine in engines.items()}
    devices = {one["device"] for one in said.values()}
    expect(devices == {"cuda:0" if rig.cuda else "cpu"}, f"asked for {rig.device}, got {devices}")
    wanted = {"fp32": "efficient", "fp16": "flash", "bf16": "flash"} if rig.cuda else dict.fromkeys(said, "grouped")
    got = {precision: one["attention"] for precision, one in said.items()}
    expect(all(got[p] == wanted[p] for p in got), f"attention is {got}, and not {wanted}: the worker's log says why")
    return said


# --- scores --------------------------------------------------------------------------------------------------------------


def spread(logits: list[float]) -> float:
    return max(logits) - min(logits) or 1.0


def scores(rig: Rig) -> dict:
    """Reference scores of every architecture, in each precision."""
    worst = {}
    for name in REFERENCES:
        folder = ROOT / "tests" / "reference" / name
        cases = [case for case in json.loads((folder / "scores.json").read_text())["cases"] if case["documents"]]
        if rig.quick:
            cases = cases[:6]
        path = rig.write_requests(name, [{"query": case["query"], "documents": case["documents"]} for case in cases])
        expected = [case["logits"] for case in cases]
        span = spread([logit for row in expected for logit in row])
        got = {}
        with rig.engines(folder, precisions(rig)) as engines:
            for precision, engine in engines.items():
                engine.tell(do="load", path=str(path))
                got[precision] = engine.tell(do="scores", count=len(cases))["scores"]
        for precision in got:
            off = largest_off(expected, got[precision])
            worst[f"{name} {precision}"] = {"off": off, "span": span}
            bound = FP32_OFF_MAX if precision == "fp32" else HALF_OFF_MAX[precision] * span
            expect(off <= bound, f"{name} in {precision}: a logit is off by {off:.2g}, and {bound:.2g} is allowed (span {span:.2g})")
    return worst


def largest_off(expected: list[list[float]], got: list[list[float]]) -> float:
    expect([len(row) for row in expected] == [len(row) for row in got], "scores are missing")
    return max(abs(a - b) if b == b else float("inf") for left, right in zip(expected, got) for a, b in zip(left, right))


def large_scores(rig: Rig) -> dict:
    """Random checkpoints of real sizes against transformers on this machine."""
    off = {}
    for shape in ["minilm-l6"] if rig.quick or not rig.cuda else ["minilm-l6", "bge-base", "bge-v2-m3"]:
        path = rig.requests("mixed", rig.number(8, 2))
        expected = rig.torch("reference", rig.device, rig.checkpoint(shape), path, seconds_max=150)["logits"]
        span = spread([logit for row in expected for logit in row])
        got = {}
        with rig.engines(rig.checkpoint(shape), precisions(rig)) as engines:
            for precision, engine in engines.items():
                engine.tell(do="load", path=str(path))
                got[precision] = largest_off(expected, engine.tell(do="scores", count=len(expected))["scores"])
        for precision, one in got.items():
            off[f"{shape} {precision}"] = {"off": one, "span": span}
            bound = FP32_OFF_MAX_LARGE * max(1.0, span) if precision == "fp32" else HALF_OFF_MAX[precision] * 2 * span
            expect(one <= bound, f"{shape} in {precision}: a logit is off by {one:.2g}, and {bound:.2g} is allowed (span {span:.2g})")
    return off


def alone_or_in_company(rig: Rig) -> dict:
    """A pair's score does not depend on its batch."""
    off = {}
    for name in ("bert-perturbed", "xlmr-perturbed"):
        cases = json.loads((ROOT / "tests" / "reference" / name / "scores.json").read_text())["cases"]
        case = max(cases, key=lambda case: min(len(case["documents"]), 200))
        documents = case["documents"][: rig.number(200, 40)]
        together = rig.write_requests(f"{name}-together", [{"query": case["query"], "documents": documents}])
        alone = rig.write_requests(f"{name}-alone", [{"query": case["query"], "documents": [one]} for one in documents])
        got = {}
        with rig.engines(ROOT / "tests" / "reference" / name, precisions(rig)) as engines:
            for precision, engine in engines.items():
                engine.tell(do="load", path=str(together))
                (in_company,) = engine.tell(do="scores", count=1)["scores"]
                engine.tell(do="load", path=str(alone))
                got[precision] = ([row[0] for row in engine.tell(do="scores", count=len(documents))["scores"]], in_company)
        for precision, (by_itself, in_company) in got.items():
            one = largest_off([by_itself], [in_company])
            off[f"{name} {precision}"] = one
            bound = BATCH_OFF_MAX[precision] * (1.0 if precision == "fp32" else spread(by_itself))
            expect(one <= bound, f"{name} in {precision}: alone and in company differ by {one:.2g}, and {bound:.2g} is allowed")
    return off


# --- choosing a device -----------------------------------------------------------------------------------------------------


def choices(rig: Rig) -> dict:
    """Refusal where CUDA is demanded and absent, the CPU where it is allowed, and CUDA_VISIBLE_DEVICES."""
    model = ROOT / "tests" / "reference" / "bert-small"
    said = {}

    def refused(what: str, environment: dict[str, str], needle: str, **more: object) -> None:
        code, output = rig.fails(["rounds", "engine", "--set", f"model.id={model}", *[w for k, v in more.items() for w in ("--set", f"{k.replace('__', '.')}={v}")]], environment)
        said[what] = {"exit": code, "last": output.strip().splitlines()[-1:]}
        expect(code != 0, f"{what}: it started")
        expect(needle in output, f"{what}: the reason does not say {needle!r}: {output.strip()[-600:]}")

    refused("cuda demanded, no device visible", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES", model__device="cuda")
    refused("cuda demanded, its library missing", {}, "libno_such_cuda.so", model__device="cuda", model__cuda_library="libno_such_cuda.so")
    refused("an index that no machine has", {}, "devices" if rig.cuda else "cuda", model__device="cuda:63")
    for what, environment in (("auto, no device visible", {"CUDA_VISIBLE_DEVICES": ""}), ("cpu asked for", {})):
        before, rig.environment = rig.environment, rig.environment | environment
        try:
            with rig.engine(model, "fp32", model__device="auto" if "auto" in what else "cpu") as engine:
                said[what] = engine.about
        finally:
            rig.environment = before
        expect(said[what]["device"] == "cpu", f"{what}: it took {said[what]['device']}")
    if rig.cuda:
        rig.environment["CUDA_VISIBLE_DEVICES"] = "0"
        try:
            with rig.engine(model, "fp16", model__device="auto") as engine:
                said["auto, device 0 visible"] = engine.about
        finally:
            del rig.environment["CUDA_VISIBLE_DEVICES"]
        expect(engine.about["device"] == "cuda:0", f"auto took {engine.about['device']}")
    return said


# --- serving -------------------------------------------------------------------------------------------------------------


def half(rig: Rig) -> str:
    return "fp16" if rig.cuda else "fp32"


def loading(rig: Rig) -> dict:
    """Time from start to ready, and of loading alone; files are in the page cache."""
    took = {}
    for shape in ["minilm-l6"] if rig.quick or not rig.cuda else ["minilm-l6", "bge-v2-m3"]:
        rig.checkpoint(shape)
        for _ in range(2):
            with rig.worker(rig.checkpoint(shape), half(rig)) as worker:
                loaded = worker.loaded()
                took[shape] = {"start_to_ready_s": worker.start_s, "load_ms": int(loaded["load_ms"]), "warmup_ms": int(loaded["warmup_ms"]), "memory_mb": worker.memory()}
    return took


def serving(rig: Rig) -> dict:
    """MiniLM-L6 over NATS: one caller, many callers, memory."""
    path = rig.requests("mixed", 32)
    with rig.worker(rig.checkpoint("minilm-l6"), half(rig), queue__requests_max=4096, queue__leave_at_percent=0) as worker:
        before = worker.memory()
        one = rig.bench("--payload", path, "--requests", rig.number(500, 6), "--warmup", rig.number(100, 1), "--timeout-ms", 60000)
        many = rig.bench("--payload", path, "--requests", rig.number(6000, 16), "--callers", rig.number(64, 4), "--warmup", rig.number(200, 2), "--timeout-ms", 60000)
        for run in (one, many):
            expect(run["answered"] == run["requests"], f"{run['requests'] - run['answered']} of {run['requests']} were not answered: {run['reasons']}")
        keep = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms")
        stats = worker.stats()
        return {"one_caller": {key: one[key] for key in keep}, "saturation": {key: many[key] for key in keep}, "memory_mb_loaded": before, "memory_mb_serving": worker.memory(), "model": stats["model"], "latency_ms": stats["latency_ms"]}


def flat(rig: Rig) -> dict:
    """Memory of the device and of the process over many requests of mixed lengths."""
    total = rig.number(100_000, 300)
    requests = [json.loads(line) for mix in ("mixed", "short", "long", "one-long") for line in rig.requests(mix, 16).read_text().splitlines()]
    payload = rig.write_requests("all-mixes", [{**one, "documents": one["documents"][: 1 + place % 24]} for place, one in enumerate(requests)])
    with rig.worker(rig.checkpoint("tinybert-l2"), half(rig), queue__requests_max=4096, queue__leave_at_percent=0) as worker:
        rig.bench("--payload", payload, "--requests", max(64, total // 20), "--callers", 32, "--timeout-ms", 60000)
        began, sampler = time.monotonic(), Sampler(worker)
        sampler.start()
        run = rig.bench("--payload", payload, "--requests", total, "--callers", 32, "--warmup", 0, "--timeout-ms", 60000)
        rows = sampler.stop()
        figures = {"requests": total, "seconds": time.monotonic() - began, "answered": run["answered"], "requests_per_s": run["requests_per_s"], "end": worker.memory()}
        expect(run["answered"] == total, f"{total - run['answered']} of {total} were not answered: {run['reasons']}")
        # Whole batches of one load come and go: what grows for good lifts the lowest reading of the end.
        for what, allowed in (("device_used", 64.0), ("device_reserved", 64.0), ("rss", 64.0)):
            readings = [row[what] for row in rows if what in row]
            if len(readings) < 8:
                figures[what] = {"readings": len(readings)}
                expect(not rig.cuda, f"{len(readings)} readings of {what} are too few to judge by: send more requests")
                continue
            quarter = len(readings) // 4
            start, end = max(readings[quarter : 2 * quarter]), min(readings[-quarter:])
            figures[what] = {"readings": len(readings), "first": readings[0], "highest": max(readings), "second_quarter_max": start, "last_quarter_min": end, "median": statistics.median(readings)}
            expect(end <= start + allowed, f"{what} goes on growing: {start:.0f} to {end:.0f} MB")
    return figures


# --- faults ----------------------------------------------------------------------------------------------------------------


def out_of_memory(rig: Rig) -> dict:
    """Another process holds nearly all of the device; batches are too large for the rest: every request is answered, and right."""
    if not rig.cuda:
        raise NotHere("it takes a device with memory of its own")
    path, callers = rig.requests("long", 32), 128
    with rig.worker(rig.checkpoint("bge-base"), "fp16", batch__tokens_max=524288, batch__window_ms=50, queue__requests_max=4096, queue__leave_at_percent=0) as worker:
        budget = worker.stats()["model"]["batch_tokens_max"]
        with rig.hog(leave_mb=700) as held:
            run = rig.bench("--payload", path, "--requests", 768, "--callers", callers, "--timeout-ms", 60000, "--warmup", 0, seconds_max=120)
            load, memory = worker.stats(), worker.memory()
        figures = {"held": held, "answered": run["answered"], "reasons": run["reasons"], "memory_mb": memory, "batches": load.get("batches"), "load": load.get("engine") or load.get("queue"), "budget_first": budget}
        figures["out_of_memory"] = told(load, "out_of_memory")
        after = rig.bench("--payload", path, "--requests", 256, "--callers", callers, "--timeout-ms", 60000, "--warmup", 0, seconds_max=120)
        figures["after"] = {"answered": after["answered"], "requests_per_s": after["requests_per_s"]}
        expect(worker.process.poll() is None, "the worker has ended")
        expect(run["answered"] == run["requests"] and after["answered"] == after["requests"], f"not all were answered: {run['reasons']}, {after['reasons']}")
        expect((figures["out_of_memory"] or 0) > 0, "it never ran out of memory: hold more, or make batches larger")
    return figures


def told(stats: object, key: str) -> int | None:
    """A value somewhere in the statistics."""
    if isinstance(stats, dict):
        if key in stats:
            return stats[key]
        return next((value for one in stats.values() if (value := told(one, key)) is not None), None)
    return None


def lost_device(rig: Rig) -> dict:
    """A context that is lost for good: everybody is answered, and the worker ends with exit code 1."""
    library, file = rig.stage.folder / "lose_device.so", rig.stage.folder / "lose"
    source = Path(__file__).resolve().with_name("lose_device.c")
    carried = ROOT / "bin" / "lose_device.so"
    if carried.is_file():
        library = carried
    elif subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl", "-lpthread"]).returncode:
        raise NotHere("no C compiler, and none carried")
    file.unlink(missing_ok=True)
    path = rig.requests("mixed", 32)
    with rig.worker(rig.checkpoint("tinybert-l2"), half(rig), {"LD_PRELOAD": str(library), "LOSE_DEVICE_FILE": str(file)}) as worker:
        file.touch()
        if not rig.cuda:
            until = time.monotonic() + 20
            while "lose_device:" not in worker.log() and time.monotonic() < until:
                time.sleep(0.05)
            expect("lose_device:" in worker.log(), "the library that takes the device away was not loaded")
            raise NotHere("there is no device to lose; the library that takes it away was loaded")
        # Idle, its heart-beat would find out within five seconds; asked, the next batch does.
        time.sleep(0.5)
        run = rig.bench("--payload", path, "--requests", 64, "--callers", 8, "--timeout-ms", 3000, "--warmup", 0, seconds_max=60)
        try:
            code = worker.process.wait(30)
        except subprocess.TimeoutExpired:
            raise Wrong(f"the worker did not end: {worker.log()[-1500:]}") from None
        log = worker.log()
        figures = {"exit": code, "answered": run["answered"], "reasons": run["reasons"], "log": [line for line in log.splitlines() if "lose_device" in line or "lost" in line][-8:]}
        expect(code == 1, f"it ended with exit code {code}")
        expect("the device is lost" in log, f"its log does not say that the device is lost: {log[-1500:]}")
    return figures


# name: (step, seconds at most; quick)
STEPS = {
    "machine": (machine, 90),
    "found": (found, 120),
    "choices": (choices, 90),
    "scores": (scores, 150),
    "alone-or-in-company": (alone_or_in_company, 60),
    "loading": (loading, 90),
    "serving": (serving, 60),
    "lost-device": (lost_device, 60),
    "out-of-memory": (out_of_memory, 120),
    "flat": (flat, 180),
    "large-scores": (large_scores, 180),
}
__all__ = ["STEPS", "NotHere", "Wrong", "Failed", "Worker", "library_path"]
