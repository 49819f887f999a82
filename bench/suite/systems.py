"""The systems of a run: each stays loaded in processes of its own and computes only when it is told to."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from processes import Failed, Stage, clean_environment, die_with_parent, program

PEERS = Path(__file__).resolve().parents[1] / "peers"
START_SECONDS_MAX = 240
ORDER_SECONDS_MAX = 1200


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    """A field of the process's status in MB (2^20), as `ps` has it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Lines:
    """A process that takes orders as lines of JSON."""

    def __init__(self, stage: Stage, name: str, command: list[str], environment: dict[str, str], wait: bool = True) -> None:
        self.name, self.log = name, stage.log(name)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=stage.folder,
                env=clean_environment() | environment, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        # Stopped with the stage.
        stage.running.append((name, self.process))
        self.about: dict = {}
        if wait:
            self.wait()

    def wait(self) -> Lines:
        """Until it takes orders."""
        self.about = self.answer(START_SECONDS_MAX)["about"]
        return self

    def tell(self, **order) -> dict:
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come says why
        return self.answer(ORDER_SECONDS_MAX)

    def answer(self, seconds_max: float) -> dict:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds_max)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            code = self.process.poll() if ready else None
            if ready:
                self.process.wait(10)
                code = self.process.returncode
            last = self.log.read_text("utf-8", "replace").strip().splitlines()[-6:]
            why = f"ended with exit code {code}" if ready else f"said nothing for {seconds_max} s"
            raise Failed("\n  ".join([f"{self.name} {why}. The end of its log:", *last]))
        return json.loads(line)


@dataclass
class System:
    """One row of the tables."""

    key: str
    label: str
    kind: str  # worker, engine, peer or ceiling
    precision: str
    lines: Lines
    pid: int
    about: dict
    start_s: float = 0.0
    notes: dict = field(default_factory=dict)
    rss_loaded_mb: float = 0.0
    rss_saturated_mb: float = 0.0

    @property
    def ours(self) -> bool:
        return self.kind in ("worker", "engine")


Starting = Callable[[], System]


@dataclass
class Machinery:
    """What starting a system needs to know."""

    stage: Stage
    url: str
    threads: int
    python: Path | None
    device: str = "cpu"
    # The systems and the plan of a GPU.
    gpu: bool = False
    peers_environment: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def settings(self, checkpoint: Path, precision: str) -> list[str]:
        chosen = {"model.id": str(checkpoint), "model.precision": precision, "model.device": self.device, "model.threads": str(self.threads)}
        return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]

    def subject(self, shape: str, precision: str) -> str:
        return f"rerank.v1.bench.{shape}-{precision}"

    # Each of these starts a process and gives what waits until it is ready: several may be under way at once.

    def worker(self, shape: str, checkpoint: Path, precision: str) -> Starting:
        """A worker and the caller that asks it."""
        subject = self.subject(shape, precision)
        name = f"{shape}-worker-{precision}"
        began = time.monotonic()
        flags = ["--set", f"nats.subject={subject}", "--set", "limits.default_timeout_ms=300000", "--set", "limits.timeout_ms_max=600000", "--set", "model.hang_timeout_ms=600000"]
        worker = self.stage.worker(name, self.url, [*flags, *self.settings(checkpoint, precision), *self.for_device()], self.environment)

        def ready() -> System:
            self.stage.wait_ready(name, worker)
            took = time.monotonic() - began
            command = [str(program()), "rounds", "caller", "--set", f"nats.url={self.url}", "--set", f"nats.subject={subject}"]
            caller = Lines(self.stage, f"{shape}-caller-{precision}", command, self.environment)
            return System(f"worker-{precision}", f"nats-rerank over NATS, {precision}", "worker", precision, caller, worker.pid, {}, took)

        return ready

    def for_device(self) -> list[str]:
        """Settings of config/gpu.toml that matter here."""
        return ["--set", "batch.tokens_max=32768", "--set", "queue.requests_max=4096", "--set", "queue.pairs_max=262144", "--set", "queue.bytes_max=268435456"] if self.gpu else []

    def engine(self, shape: str, checkpoint: Path, precision: str) -> Starting:
        command = [str(program()), "rounds", "engine", *self.settings(checkpoint, precision), *self.for_device()]
        lines = Lines(self.stage, f"{shape}-engine-{precision}", command, self.environment, wait=False)
        return lambda: System(f"engine-{precision}", f"nats-rerank, engine alone, {precision}", "engine", precision, lines, lines.process.pid, lines.wait().about)

    def peer(self, shape: str, checkpoint: Path, name: str, precision: str, label: str, *more: str) -> Starting:
        if self.python is None:
            raise Failed("the peers' Python is not there")
        command = [str(self.python), str(PEERS / "run.py"), name, str(checkpoint), precision, str(self.threads), *more]
        lines = Lines(self.stage, f"{shape}-{name}-{precision}", command, self.peers_environment | {"BENCH_DEVICE": self.device}, wait=False)
        kind = "ceiling" if name == "ceiling" else "peer"
        return lambda: System(f"{name}-{precision}", f"{label}, {precision}", kind, precision, lines, lines.process.pid, lines.wait().about)


def onnx_file(machinery: Machinery, checkpoint: Path, precision: str) -> Path:
    """The checkpoint as ONNX, in the cache beside it; made on the first use."""
    folder = checkpoint.with_name(checkpoint.name + "-onnx")
    if not (folder / "fp32.onnx").is_file():
        print(f"bench: making {folder}", flush=True)
        result = subprocess.run([str(machinery.python), str(PEERS / "export.py"), str(checkpoint), str(folder)], capture_output=True, text=True)
        if result.returncode:
            raise Failed(f"the export to ONNX failed:\n{result.stderr[-2000:]}")
    return folder / f"{precision}.onnx"


def offered_precisions(wanted: tuple[str, ...] = ("fp32", "bf16", "int8")) -> list[str]:
    """Those of `wanted` that this build of ours knows."""
    command = [str(program()), "config", "print", "--set"]
    known = lambda precision: subprocess.run([*command, f"model.precision={precision}"], capture_output=True, env=clean_environment()).returncode == 0  # noqa: E731
    return [precision for precision in wanted if known(precision)]


# libgomp's threads spin for milliseconds before they sleep; several systems are loaded at once, and none should slow the next one's
# turn. Our own worker has the same setting (docs/benchmarks/log.md: one system alone is as fast with it as without).
PEERS_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
PROBE = "import torch; x = torch.rand(64, 64).to(torch.bfloat16); torch.nn.functional.linear(x, x)"
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}


def peers_environment(python: Path | None, out: Path) -> dict[str, str]:
    """What libtorch needs to survive here, and to be as fast as it can.

    Some virtual machines show AMX and hide what describes it; oneDNN then ends the process (bench/peers/amx_palettes.c). Whether
    that is so, a process of its own finds out.
    """
    if python is None:
        return {}

    def survives(environment: dict[str, str]) -> bool:
        return subprocess.run([str(python), "-c", PROBE], capture_output=True, env=clean_environment() | environment).returncode == 0

    if survives({}):
        return PEERS_ENVIRONMENT
    shim = out / "amx_palettes.so"
    built = subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", str(PEERS / "amx_palettes.c"), "-o", str(shim)], capture_output=True)
    if built.returncode == 0 and survives({"LD_PRELOAD": str(shim)}):
        return PEERS_ENVIRONMENT | {"LD_PRELOAD": str(shim)}
    return PEERS_ENVIRONMENT | WITHOUT_AMX


def own_environment(machinery: Machinery, checkpoint: Path) -> dict[str, str]:
    """Nothing, unless our own bf16 would crash for the same reason."""
    try:
        Lines(machinery.stage, "probe", [str(program()), "rounds", "engine", *machinery.settings(checkpoint, "bf16")], {})
        return {}  # it warmed up, which is what would have crashed
    except Failed:
        return WITHOUT_AMX
    finally:
        machinery.stage.stop("probe")
