"""sentence-transformers' CrossEncoder on the bench's requests; run by tools/bench in the reference's venv.

    python peer.py CHECKPOINT REQUESTS.jsonl fp32|bf16 COUNT
"""

import json
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from sentence_transformers import CrossEncoder

folder, requests_path, precision, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
requests = [json.loads(line) for line in open(requests_path, encoding="utf-8")]
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
model = CrossEncoder(folder, device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})
took_ms = []
for number in range(count + 2):
    request = requests[number % len(requests)]
    began = time.perf_counter()
    model.predict([(request["query"], document) for document in request["documents"]], batch_size=32, show_progress_bar=False)
    took_ms.append((time.perf_counter() - began) * 1e3)
took_ms = sorted(took_ms[2:])  # the first two warm it up
print(json.dumps({
    "p50_ms": statistics.median(took_ms), "p95_ms": took_ms[int(0.95 * (len(took_ms) - 1))],
    "requests_per_s": 1e3 * len(took_ms) / sum(took_ms), "threads": torch.get_num_threads(),
}))  # fmt: skip
