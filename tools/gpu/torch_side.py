"""What gpu-check needs of a Python with torch: runs in a process of its own, so that the check itself holds no device memory.

    python torch_side.py about DEVICE
    python torch_side.py ceiling DEVICE SECONDS             measured matrix products and memory copies
    python torch_side.py reference DEVICE CHECKPOINT REQUESTS    logits by transformers in fp32
    python torch_side.py hog DEVICE LEAVE_MB                hold all but so much of the device's memory until the input ends

Prints one line of JSON when it is done (hog: when it holds what it can).
"""

import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch

MIB = 1 << 20


def about(device: str) -> dict:
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda_of_torch": torch.version.cuda, "lib": f"{torch.__path__[0]}/lib"}
    if device == "cuda":
        found |= {"cuda_available": torch.cuda.is_available(), "devices": torch.cuda.device_count()}
    if found.get("cuda_available"):
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "memory_mb": properties.total_memory / MIB, "multiprocessors": properties.multi_processor_count, "capability": f"{properties.major}.{properties.minor}"}
    for package in ("transformers", "sentence_transformers"):
        try:
            found[package] = __import__(package).__version__
        except Exception as problem:  # whatever is wrong with it, it is not there for us
            found[package] = f"no: {problem}"
    return found


class Clock:
    """Seconds of the device, or of the wall where that is the same."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def median(self, work, seconds: float) -> float:
        for _ in range(3):
            work()
        took, until = [], time.monotonic() + seconds
        while len(took) < 5 or (time.monotonic() < until and len(took) < 200):
            took.append(self.once(work))
        return sorted(took)[len(took) // 2]

    def once(self, work) -> float:
        if not self.cuda:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def ceiling(device: str, seconds: float) -> dict:
    clock, found = Clock(device), {"products": []}
    sides = [(8192, 8192, 8192), (32768, 1024, 4096), (32768, 4096, 1024), (32768, 384, 1536)] if device == "cuda" else [(512, 512, 512), (2368, 384, 1536)]
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        for rows, into, out in sides:
            # Random: products of zeros are faster than any real ones.
            left, right = torch.randn(rows, into, device=device, dtype=kind), torch.randn(into, out, device=device, dtype=kind)
            took = clock.median(lambda: torch.mm(left, right), seconds / 12)  # noqa: B023
            found["products"].append({"kind": str(kind).split(".")[1], "rows": rows, "into": into, "out": out, "tflops": 2 * rows * into * out / took / 1e12})
    source = torch.empty((2 << 30) // 2 if device == "cuda" else (64 << 20), dtype=torch.float16, device=device).normal_()
    target = torch.empty_like(source)
    took = clock.median(lambda: target.copy_(source), seconds / 12)
    found["copy_gb_per_s"] = 2 * source.numel() * 2 / took / 1e9
    return found


def reference(device: str, checkpoint: str, requests: str) -> dict:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.backends.cuda.matmul.allow_tf32 = False
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").to(device).eval()
    logits = []
    with open(requests, encoding="utf-8") as file, torch.inference_mode():
        for request in map(json.loads, file):
            row = []
            for document in request["documents"]:
                # Each alone: no padding, so nothing depends on how padding is masked.
                encoded = tokenizer(request["query"], document, truncation="longest_first", max_length=min(512, tokenizer.model_max_length), return_tensors="pt").to(device)
                row.append(model(**encoded).logits[0, 0].float().item())
            logits.append(row)
    return {"logits": logits}


def hog(leave_mb: float) -> None:
    held, piece = [], 256 * MIB
    while piece >= 16 * MIB:
        free, _ = torch.cuda.mem_get_info()
        if free - piece < leave_mb * MIB:
            piece //= 2
            continue
        try:
            held.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            piece //= 2
    free, total = torch.cuda.mem_get_info()
    print(json.dumps({"held_mb": sum(one.numel() for one in held) / MIB, "free_mb": free / MIB, "total_mb": total / MIB}), flush=True)
    sys.stdin.read()


def main() -> None:
    torch.set_grad_enabled(False)
    what, device, *more = sys.argv[1:]
    if what == "hog":
        hog(float(more[0]))
        return
    found = {"about": lambda: about(device), "ceiling": lambda: ceiling(device, float(more[0])), "reference": lambda: reference(device, *more)}[what]()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
