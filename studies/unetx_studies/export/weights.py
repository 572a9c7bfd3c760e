"""Trained weights from a safetensors file: a format that holds numbers only, so reading it runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unetx_space import RequestError, unknown_name


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights in a file, cast to its own precision.

    Raises RequestError naming the file and the first parameter that does not fit; the network is then as before.
    """
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
