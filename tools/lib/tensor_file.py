"""Reading and writing safetensors files with the standard library: a header of JSON, then the tensors' bytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import BinaryIO, Callable, Iterable

BYTES = {"F32": 4, "F16": 2}


def read_header(file: BinaryIO) -> dict:
    """The header; the file is left standing at the first byte of the data."""
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length))


def header_bytes(header: dict) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return struct.pack("<Q", len(text)) + text


def write(path: Path, dtype: str, tensors: Iterable[tuple[str, list[int]]], data: Callable[[str, int], Iterable[bytes]]) -> int:
    """Write `tensors` (name, shape), the bytes of each from `data(name, count of elements)`. Returns the parameter count."""
    header, offset, sizes = {"__metadata__": {"format": "pt"}}, 0, []
    for name, shape in tensors:
        count = math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + count * BYTES[dtype]]}
        offset += count * BYTES[dtype]
        sizes.append((name, count))
    with open(path, "wb") as file:
        file.write(header_bytes(header))
        for name, count in sizes:
            for block in data(name, count):
                file.write(block)
        if file.tell() != len(header_bytes(header)) + offset:
            raise ValueError(f"{path}: the tensors' bytes do not add up")
    return sum(count for _, count in sizes)
