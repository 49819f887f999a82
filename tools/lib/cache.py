"""The cache folder: where it is, how a folder gets into it whole or not at all, and how wheels are fetched."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
STAMP = ".complete.json"
# The tags under which the pinned wheels were published.
MANYLINUX = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (5, 12, 17, 18, 25, 27, 28)))


class SetupError(Exception):
    """Something that the user must mend; the text says what and how."""


class Wheel(NamedTuple):
    """One line of tools/wheels.lock."""

    what: str
    cpu: str
    package: str
    version: str
    file: str
    sha256: str


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def cpu() -> str:
    """The CPU architecture, by the name that wheels have for it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def cache_folder() -> Path:
    """$NATS_RERANK_CACHE, else nats-rerank in the user's cache folder; made if missing."""
    given = os.environ.get("NATS_RERANK_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(given) if given else Path(home) / "nats-rerank"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make the cache folder {folder}: {error}. Set NATS_RERANK_CACHE to another.") from error
    return folder.resolve()


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One set-up at a time for a cache; also clears what a killed run left."""
    with open(cache / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob(".partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def locked_wheels(what: str, cpu: str) -> list[Wheel]:
    """The wheels of tools/wheels.lock for `what` on this CPU."""
    lines = (ROOT / "tools" / "wheels.lock").read_text("utf-8").splitlines()
    wheels = [Wheel(*line.split()) for line in lines if line.strip() and not line.startswith("#")]
    found = [wheel for wheel in wheels if wheel.what == what and wheel.cpu in (cpu, "any")]
    if not found:
        known = ", ".join(sorted({wheel.cpu for wheel in wheels if wheel.what == what}))
        raise SetupError(f"{what}: no wheels are pinned for the CPU architecture {cpu} (there are: {known})")
    return found


def fetch_wheels(wheels: list[Wheel], folder: Path) -> dict[str, Path]:
    """Download wheels into `folder` with the user's own pip settings; pip checks each against its checksum."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{w.package}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels))
    cpu = next((w.cpu for w in wheels if w.cpu != "any"), "x86_64")
    tags = [f"--platform={tag}_{cpu}" for tag in MANYLINUX]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--no-cache-dir", "--disable-pip-version-check", "--implementation=cp", "--python-version=3.12",
        "--abi=cp312", "--abi=none", *tags, "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    result = subprocess.run(command, env=os.environ | {"PIP_REQUIRE_VIRTUALENV": "0"}, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        names = ", ".join(f"{w.package} {w.version}" for w in wheels)
        raise SetupError(f"pip could not download {names}:\n{result.stderr.strip()}")
    paths = {}
    for wheel in wheels:
        path = folder / wheel.file
        if not path.is_file():
            raise SetupError(f"pip gave another file than {wheel.file} for {wheel.package} {wheel.version}")
        paths[wheel.package] = path
    return paths


def digest(wheels: list[Wheel], recipe: int) -> str:
    """Names what a folder was made from; `recipe` is counted up when the way of making it changes."""
    return hashlib.sha256(repr((recipe, sorted(wheels))).encode()).hexdigest()


def is_complete(folder: Path, made_from: str) -> bool:
    """Whether `folder` holds all that its stamp says, made from the same things."""
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
        return stamp["made_from"] == made_from and all((folder / name).stat().st_size == size for name, size in stamp["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def build_folder(folder: Path, made_from: str, bytes_needed: int, build: Callable[[Path, Path], None]) -> None:
    """Make `folder` by `build(new folder, scratch folder)`, and put it in its place only when it is whole."""
    cache = folder.parent
    while not cache.exists():
        cache = cache.parent
    free = shutil.disk_usage(cache).free
    if free < bytes_needed:
        raise SetupError(f"{folder} needs {bytes_needed / 1e9:.1f} GB while it is made; {free / 1e9:.1f} GB are free there")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache_folder()) as partial:
        new, scratch = Path(partial, "new"), Path(partial, "scratch")
        new.mkdir()
        scratch.mkdir()
        build(new, scratch)
        files = {str(p.relative_to(new)): p.stat().st_size for p in new.rglob("*") if p.is_file()}
        (new / STAMP).write_text(json.dumps({"made_from": made_from, "files": files}), "utf-8")
        if folder.exists() or folder.is_symlink():
            folder.rename(Path(partial, "old"))
        new.rename(folder)


def link(path: Path, target: Path) -> None:
    """Make the link `path` → `target`, in one step, unless it is already so."""
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    if path.exists() and not path.is_symlink():
        raise SetupError(f"{path} is in the way: it is not a link. Move it and run this again.")
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(path)
