"""Writes a checkpoint as ONNX, in fp32 and dynamically quantised to int8.

    python export.py CHECKPOINT FOLDER        # FOLDER/fp32.onnx, FOLDER/int8.onnx

The graph is the plain one: the runtime fuses what it can when it loads it. Its offline fusions for BERT
(`onnxruntime.transformers.optimizer`) were tried as well: no faster in fp32, slower in int8.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class Logits(torch.nn.Module):
    """The model as a function of three tensors."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def main() -> None:
    folder, out = sys.argv[1], Path(sys.argv[2])
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(5, 1000, (2, 16))
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        plain, int8 = Path(scratch, "plain.onnx"), Path(scratch, "int8.onnx")
        with torch.inference_mode():
            torch.onnx.export(
                Logits(model), example, str(plain), input_names=NAMES, output_names=["logits"], opset_version=17,
                dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in NAMES} | {"logits": {0: "pairs"}}, dynamo=False,
            )  # fmt: skip
        quantize_dynamic(str(plain), str(int8), weight_type=QuantType.QInt8)
        shutil.move(int8, out / "int8.onnx")
        shutil.move(plain, out / "fp32.onnx")  # last: it says that all is there


if __name__ == "__main__":
    main()
