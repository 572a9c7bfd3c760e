"""Trained weights from a safetensors file: a format that holds numbers only, so reading it runs no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from unetx_space import RequestError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

STAMP = "unetx.model"
"""Key of the header's entry that names the model to which the numbers belong, with their digest."""
REMEDY = "train the model again, or copy its folder anew"
"""The way out for a damaged file of a trained model."""


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights in a file, cast to its own precision.

    Raises RequestError naming the file and the first parameter that does not fit; the network is then as before.
    """
    from safetensors.torch import load_file  # here, as it loads torch

    try:
        found = load_file(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise RequestError(f"{path} is no safetensors file: {error}") from error
    wanted = network.state_dict()
    if problem := _first_problem(wanted, found):
        raise RequestError(f"{path} does not fit this architecture: {problem}")
    network.load_state_dict(found)


def stamp_of(path: Path) -> dict[str, Any]:
    """The stamp in the header of a readable file; empty where the file is no trained model's."""
    with safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get(STAMP, "{}")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is damaged: its header is no JSON; {REMEDY}") from error


def check_stamp(path: Path, stamp: Mapping[str, Any], tensors: Mapping[str, Tensor], wanted: Mapping[str, str]) -> None:
    """Check that a file is undamaged and of the model that is ``wanted``. Raises RequestError, naming it, otherwise."""
    for what, value in wanted.items():
        if stamp.get(what) != value:
            raise RequestError(f"{path}: was trained with another {what} than the one beside it; {REMEDY}")
    if stamp.get("sha256") != digest(tensors):
        raise RequestError(f"{path} is damaged: its numbers are not those that were written; {REMEDY}")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and numbers: safetensors itself does not notice a changed bit."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        sha256.update(name.encode())
        sha256.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def _first_problem(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name, parameter in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name].shape != parameter.shape:
            return f"{name} has shape {list(found[name].shape)}, expected {list(parameter.shape)}"
        if not found[name].is_floating_point():
            return f"{name} holds {found[name].dtype}, expected floating-point numbers"
    extra = next((name for name in found if name not in wanted), None)
    return extra and unknown_name("parameter", extra, wanted)
