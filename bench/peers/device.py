"""Where a peer computes ($BENCH_DEVICE), and how its end is waited for."""

import os

import torch

DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def settle() -> None:
    """Until the device is through with what it was given."""
    if DEVICE != "cpu":
        torch.cuda.synchronize()
