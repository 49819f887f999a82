"""What the steps of gpu-check share: the device that is asked for, workers and engines on it, callers, and what they say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

import workload
from cache import ROOT
from measuring import checkpoint
from processes import Failed, Stage, bench, clean_environment, plain, program
from systems import Lines

TORCH_SIDE = Path(__file__).resolve().with_name("torch_side.py")


@dataclass
class Rig:
    """One run's machinery."""

    stage: Stage
    device: str
    quick: bool
    python: str
    out: Path
    environment: dict[str, str] = field(default_factory=dict)
    url: str = ""
    started: int = 0

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def number(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def name(self, what: str) -> str:
        self.started += 1
        return f"{self.started:02}-{what}"

    # --- Python with torch ---------------------------------------------------------------------------------------------

    def torch(self, *arguments: object, seconds_max: float = 120) -> dict:
        command = [self.python, str(TORCH_SIDE), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max, env=clean_environment())
        if done.returncode:
            raise Failed(f"{' '.join(command[1:])}: {done.stderr.strip()[-1500:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    @contextmanager
    def hog(self, leave_mb: float) -> Iterator[dict]:
        """Another process that holds the device's memory."""
        command = [self.python, str(TORCH_SIDE), "hog", self.device, str(leave_mb)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())
        try:
            line = process.stdout.readline()
            if not line:
                raise Failed("the process that should hold the device's memory has ended")
            yield json.loads(line)
        finally:
            process.kill()
            process.wait()

    # --- ours ----------------------------------------------------------------------------------------------------------

    def settings(self, model: Path, precision: str, **more: object) -> list[str]:
        chosen = {"model.id": model, "model.device": self.device, "model.precision": precision}
        if not self.cuda:
            # libtorch's path, which is what a GPU runs.
            chosen["model.kernels"] = "libtorch"
        chosen |= {key.replace("__", "."): value for key, value in more.items()}
        return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]

    @contextmanager
    def engine(self, model: Path, precision: str, **more: object) -> Iterator[Lines]:
        """The engine alone."""
        name = self.name(f"engine-{model.name}-{precision}")
        try:
            yield Lines(self.stage, name, [str(program()), "rounds", "engine", *self.settings(model, precision, **more)], self.environment)
        finally:
            self.stage.stop(name)

    @contextmanager
    def engines(self, model: Path, precisions: list[str]) -> Iterator[dict[str, Lines]]:
        """One for each precision, started side by side: most of a start is loading libraries."""
        name = self.name(f"engines-{model.name}")
        try:
            command = [str(program()), "rounds", "engine"]
            started = {p: Lines(self.stage, f"{name}-{p}", [*command, *self.settings(model, p)], self.environment, wait=False) for p in precisions}
            yield {precision: lines.wait() for precision, lines in started.items()}
        finally:
            self.stage.stop(name)

    @contextmanager
    def worker(self, model: Path, precision: str, environment: dict[str, str] | None = None, **more: object) -> Iterator[Worker]:
        """A worker that is ready."""
        if not self.url:
            self.url = self.stage.nats_server()
        name = self.name(f"worker-{model.name}-{precision}")
        defaults = {"limits__default_timeout_ms": 60000, "limits__timeout_ms_max": 120000}
        began = time.monotonic()
        process = self.stage.worker(name, self.url, self.settings(model, precision, **(defaults | more)), self.environment | (environment or {}))
        try:
            self.stage.wait_ready(name, process)
            yield Worker(self, name, process, time.monotonic() - began)
        finally:
            self.stage.stop(name)

    def bench(self, *flags: object, seconds_max: float = 300) -> dict:
        """One run of `nats-rerank bench`; its figures."""
        return bench(self.url, *flags, environment=self.environment, seconds_max=seconds_max)

    def fails(self, arguments: list[str], environment: dict[str, str], seconds_max: float = 90) -> tuple[int, str]:
        """Exit code and output of a start that should fail."""
        done = subprocess.run([str(program()), *arguments], capture_output=True, text=True, timeout=seconds_max, stdin=subprocess.DEVNULL, env=clean_environment() | self.environment | environment)
        return done.returncode, plain(done.stdout + done.stderr)

    # --- what is asked -------------------------------------------------------------------------------------------------

    def checkpoint(self, shape: str) -> Path:
        return checkpoint(shape)

    def requests(self, mix: str, count: int, candidates: int = workload.CANDIDATES) -> Path:
        path = self.stage.folder / f"requests-{mix}-{count}-{candidates}.jsonl"
        if not path.is_file():
            workload.write(checkpoint("tinybert-l2") / "vocab.txt", count, path, mix, candidates)
        return path

    def write_requests(self, name: str, requests: list[dict]) -> Path:
        path = self.stage.folder / f"requests-{name}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in requests), "utf-8")
        return path


@dataclass
class Worker:
    """A worker under way."""

    rig: Rig
    name: str
    process: subprocess.Popen
    start_s: float

    def log(self) -> str:
        return self.rig.stage.text(self.name)

    def stats(self) -> dict:
        with urllib.request.urlopen(f"http://{self.rig.stage.health_address(self.name)}/stats", timeout=20) as answer:
            return json.load(answer)

    def loaded(self) -> dict:
        """What it said when its model was loaded."""
        found = re.search(r"model loaded (.*)", self.log())
        return dict(re.findall(r"(\w+)=\"?([^\s\"]+)", found.group(1))) if found else {}

    def memory(self) -> dict:
        """Megabytes."""
        stats = self.stats()
        device = stats.get("device_memory_mb") or {}
        return {"rss": stats["memory_mb"]["rss"], **{f"device_{key}": value for key, value in device.items()}}


class Sampler(threading.Thread):
    """Reads a worker's memory once a second."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(daemon=True)
        self.worker, self.rows, self.ended = worker, [], threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1.0):
            try:
                stats = self.worker.stats()
            except OSError:
                continue
            device = stats.get("device_memory_mb") or {}
            self.rows.append({"requests": stats["requests"]["received"], "rss": stats["memory_mb"]["rss"], **{f"device_{key}": value for key, value in device.items()}})

    def stop(self) -> list[dict]:
        self.ended.set()
        self.join()
        return self.rows


class TooLong(Exception):
    """A step took longer than it may."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises TooLong in this thread once the time is over, whatever it waits for."""

    def over(number: int, frame: object) -> None:
        raise TooLong(f"not through after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peers_python() -> Path | None:
    """That of tools/venv, if it was made."""
    found = subprocess.run([str(ROOT / "tools" / "venv"), "--only-if-there"], capture_output=True, text=True)
    return Path(found.stdout.strip()) / "bin" / "python" if found.returncode == 0 else None


def torch_python(given: str | None) -> str:
    """A Python that has torch: the given one, this one, or that of tools/venv."""
    has = lambda python: subprocess.run([python, "-c", "import torch"], capture_output=True, timeout=300).returncode == 0  # noqa: E731
    if given or has(sys.executable):
        return given or sys.executable
    if made := peers_python():
        return str(made)
    raise Failed("no Python with torch: give one with --python, or run `make peers`")


def library_path(lib: Path) -> dict[str, str]:
    """What makes our program run with the libtorch of a Python."""
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{lib}:{before}" if before else str(lib)}
