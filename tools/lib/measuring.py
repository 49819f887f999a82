"""What benchmarks share: the machine and the source that figures belong to, and the checkpoints they are measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import checkpoints
from cache import ROOT, cache_folder
from processes import Failed


def machine() -> dict:
    """What the figures were measured on."""
    cpu, flags = platform.processor() or "unknown", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            cpu = value.strip()
        elif name.strip() == "flags":
            flags = value
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    load = os.getloadavg()[0]
    return {"cpu": cpu, "cores": cores, "flags": fast, "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1), "load_before": round(load, 2)}


def revision() -> str:
    result = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def checkpoint(shape: str) -> Path:
    """The shape's checkpoint in the cache, made on the first use."""
    folder = cache_folder() / "checkpoints" / f"bench-{shape}-{checkpoints.RECIPE}"
    if not (folder / "vocab.txt").is_file():  # written last
        tokenizer_from = ROOT / ".checkpoints" / checkpoints.SEEDED_NAME
        if not tokenizer_from.is_dir():
            raise Failed("the test checkpoint is missing: run `make setup`")
        print(f"making {folder}", flush=True)
        checkpoints.make_random(shape, "fp32", tokenizer_from, folder)
    return folder
