"""A nats-server and workers for a while: started on free ports, logged to files, and always stopped."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15


class Failed(Exception):
    """Something did not start or did not answer; the text is for the user."""


def program() -> Path:
    """The release build of nats-rerank ($NATS_RERANK_BIN, a packed one (tools/gpu-check --pack), or in cargo's target folder)."""
    target, packed = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"), ROOT / "bin" / "nats-rerank"
    path = Path(os.environ.get("NATS_RERANK_BIN") or (packed if packed.is_file() else target / "release" / "nats-rerank"))
    if not path.is_file():
        raise Failed(f"{path} is missing: run `make build`")
    return path


def clean_environment() -> dict[str, str]:
    """The environment without settings of nats-rerank: what is started here is set by flags alone."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RERANK_")}


def die_with_parent() -> None:
    """Run in the child: have the kernel stop it if this script is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def bench(url: str, *flags: object, environment: dict[str, str] | None = None, seconds_max: float | None = None) -> dict:
    """One run of `nats-rerank bench`; its figures."""
    command = [str(program()), "bench", "--set", f"nats.url={url}", "--format", "json", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max, env=clean_environment() | (environment or {}))
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Failed(f"`nats-rerank bench` failed: {done.stderr.strip()[-1500:]}") from None


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Stage:
    """What was started, with a folder for its logs. Use it in a `with`: leaving it stops everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nats-rerank-"))
        self.running: list[tuple[str, subprocess.Popen]] = []
        self.kept = False

    def __enter__(self) -> Stage:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, kind, *_) -> None:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.stop()
        if kind is None and not self.kept:
            # Somebody may have tidied the temporary folder meanwhile: no reason to lose what was measured.
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a process in its own session (so that Ctrl-C reaches this script alone), its output in a log file."""
        with open(self.log(name), "wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder,
                env=clean_environment() | (environment or {}), start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.running.append((name, process))
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def text(self, name: str) -> str:
        """What it has logged so far, without colours."""
        return plain(self.log(name).read_text("utf-8", "replace"))

    def nats_server(self, *more: str) -> str:
        """Start nats-server on a free port, with further arguments; its URL."""
        found = subprocess.run([str(ROOT / "tools" / "nats-server-path")], capture_output=True, text=True)
        if found.returncode:
            raise Failed(found.stderr.strip())
        process = self.start("nats-server", [found.stdout.strip(), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(self.folder), *more])
        ports = self.folder / f"nats-server_{process.pid}.ports"

        def url() -> str | None:
            try:
                return json.loads(ports.read_text())["nats"][0]
            except (OSError, ValueError, KeyError, IndexError):
                return None

        return self.wait("nats-server", process, url)

    def worker(self, name: str, url: str, arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a worker; it is not ready yet (`wait_ready`)."""
        # Several on one machine: each on a free port.
        return self.start(name, [str(program()), "worker", "--nats-url", url, "--set", "health.listen=127.0.0.1:0", *arguments], environment)

    def health_address(self, name: str) -> str:
        """Where the health of a worker that is ready listens, as its log tells."""
        found = re.search(r"health: .*?address=(\S+)", self.text(name))
        if not found:
            raise Failed(f"no health address in {self.log(name)}")
        return found.group(1)

    def wait_ready(self, name: str, process: subprocess.Popen) -> None:
        self.wait(name, process, lambda: b"ready: joined the queue group" in self.log(name).read_bytes())

    def wait(self, name: str, process: subprocess.Popen, done):
        """Poll `done` until it gives something; fail with the end of the log if the process ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            result = done()
            if result:
                return result
            if process.poll() is not None:
                problem = f"{name} ended with exit code {process.returncode}"
            elif time.monotonic() > deadline:
                problem = f"{name} was not ready within {START_SECONDS_MAX} s"
            else:
                time.sleep(0.02)
                continue
            self.kept = True
            last = self.log(name).read_text("utf-8", "replace").strip().splitlines()[-12:]
            raise Failed("\n  ".join([f"{problem}. The end of {self.log(name)}:", *last]))

    def stop(self, prefix: str = "") -> None:
        """Stop what was started under names with this prefix, last first; kill what does not stop in time."""
        chosen = [(name, process) for name, process in reversed(self.running) if name.startswith(prefix)]
        for _, process in chosen:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for name, process in chosen:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{name} did not stop in {STOP_SECONDS_MAX} s and was killed", file=sys.stderr)
                process.kill()
                process.wait()
        self.running = [item for item in self.running if item not in chosen]
