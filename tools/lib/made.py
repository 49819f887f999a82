"""Folders of the cache that are made from a list of pins: one for each list, so that two branches do not make each other's anew."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from cache import SetupError, cache_folder, locked

UNUSED_DAYS_MAX = 30


def made(name: str, pins: str, make: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """The folder of this name for these pins, by `make` if it is not there. Those of other pins go once nobody has used them for
    a month."""
    cache = cache_folder()
    folder = cache / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    stamp = folder / ".made"
    with locked(cache):
        if stamp.is_file():
            stamp.touch()
            return folder
        for other in cache.glob(f"{name}-" + "[0-9a-f]" * 12):
            if is_unused(other):
                shutil.rmtree(other, ignore_errors=True)
        say(f"making {folder}")
        folder.mkdir()
        make(folder)
        stamp.touch()
    return folder


def is_unused(folder: Path) -> bool:
    """Whether nobody has used it for long, or its making was cut off (the lock is ours, so nobody is at it)."""
    stamp = folder / ".made"
    return not stamp.is_file() or stamp.stat().st_mtime < time.time() - UNUSED_DAYS_MAX * 86400


def python_of(name: str, lock: Path, say: Callable[[str], None], *pip_options: str) -> Path:
    """A Python with what `lock` names."""

    def make(folder: Path) -> None:
        # Of the Python that the venv of this process was made from: a venv in a venv would go with it.
        base = getattr(sys, "_base_executable", sys.executable)
        if subprocess.run([base, "-m", "venv", str(folder)], capture_output=True).returncode:
            raise SetupError("python3 cannot make a venv. On Debian: apt-get install python3-venv")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pip_options, "--requirement", str(lock)]
        if subprocess.run(pip).returncode:
            raise SetupError(f"pip could not install what {lock} names")

    return made(name, f"{sys.version}\0{lock.read_text()}", make, say) / "bin" / "python"
