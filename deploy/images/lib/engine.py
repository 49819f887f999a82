"""A container engine: the one that is there, else one of our own, started for a while from Debian's package."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools" / "lib"))

from cache import SetupError, cache_folder  # noqa: E402

START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 120


class Failed(Exception):
    """A step did not work; the text is for the user."""


def say(text: str) -> None:
    print(f"images: {text}", flush=True)


def client() -> str:
    """A docker command that can drive BuildKit: with buildx, or so old that it can by itself."""
    given = os.environ.get("DOCKER")
    names = [given] if given else [str(Path(folder, "docker")) for folder in os.environ.get("PATH", "").split(":")]
    for name in names:
        if not shutil.which(name):
            continue
        version = re.search(r"version (\d+)", subprocess.run([name, "--version"], capture_output=True, text=True).stdout)
        if version and (int(version.group(1)) < 23 or subprocess.run([name, "buildx", "version"], capture_output=True).returncode == 0):
            return name
    raise SetupError("no docker command that drives BuildKit. On Debian: apt-get install docker.io debootstrap iptables")


class Engine:
    """Use it in a `with`: an engine that was started here is stopped on leaving. What it has built is kept in the cache."""

    def __init__(self) -> None:
        self.docker = client()
        self.environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        self.process: subprocess.Popen | None = None
        self.own = False

    def __enter__(self) -> Engine:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        if self.answers():
            say("using the container engine that runs here")
            return self
        self.own = True
        folder = cache_folder() / "engine"
        folder.mkdir(exist_ok=True)
        socket = folder / "docker.sock"
        self.environment["DOCKER_HOST"] = f"unix://{socket}"
        if self.answers():
            say("using the engine that an earlier run has left running")
            return self
        if os.geteuid() or not shutil.which("dockerd"):
            raise SetupError("no container engine runs here, and one of our own needs root and dockerd (Debian's docker.io and iptables)")
        say(f"no container engine runs here: starting one of our own in {folder}")
        command = ["dockerd", "--host", f"unix://{socket}", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "dockerd.pid")]
        with open(folder / "dockerd.log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + START_SECONDS_MAX
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise SetupError(f"dockerd did not start: see {folder / 'dockerd.log'}")
            time.sleep(0.5)
        return self

    def answers(self) -> bool:
        return subprocess.run([self.docker, "info"], capture_output=True, env=self.environment).returncode == 0

    def __exit__(self, *_) -> None:
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def run(self, *arguments: str, show: bool = False, check: bool = True, stdin: str | None = None, timeout_s: float = 3600) -> subprocess.CompletedProcess:
        """`docker` with these arguments. Output is caught, or shown as it comes."""
        pipe = None if show else subprocess.PIPE
        result = subprocess.run([self.docker, *arguments], env=self.environment, stdout=pipe, stderr=pipe, input=stdin, text=True, timeout=timeout_s)
        if check and result.returncode:
            raise Failed(f"docker {' '.join(arguments[:4])} …: exit status {result.returncode}\n{'' if show else result.stdout + result.stderr}".strip())
        return result

    def inspect(self, what: str) -> dict | None:
        """What the engine knows of an image or container; None if it is not there."""
        result = self.run("inspect", what, check=False)
        return json.loads(result.stdout)[0] if result.returncode == 0 else None
