"""Reads weights with torch alone: the part of a written network that does so, bundled with it as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Types of numbers by their names in a safetensors file."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in a state dict that ``torch.save`` wrote, by name.

    Neither runs code from the file: safetensors holds numbers only, and of a pickle torch reads nothing but tensors.
    """
    data = bytearray(Path(path).read_bytes())
    if data[:4] == b"PK\x03\x04":  # the zip archive of torch.save
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, entry) for name, entry in header.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is neither a safetensors file nor a state dict of torch") from error


def _tensor(data: bytearray, start: int, entry: dict[str, list[int]]) -> Tensor:
    """The tensor that an entry of the header describes, its bytes counted from ``start``."""
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES[str(entry["dtype"])], entry["shape"]
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data[start + begin : start + end], dtype=dtype).reshape(shape)
