"""Parameters that a network inherits from a trained one of the same task, by name, where shapes agree.

A name states the place and kind of a parameter (see ``unetx_space.network``), so the encoder's are the same for all
designs of a study, and two designs that share a part of the decoder share its names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from unetx_evaluators.evaluation import DataError, Parent
from unetx_space.files import write_whole


def save_weights(network: nn.Module, file: Path) -> None:
    """Write the parameters and buffers of a network into ``file`` (safetensors); whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(tensors))


@torch.no_grad()
def inherit(network: nn.Module, parent: Parent, folder: Path) -> int:
    """Copy the parent's parameters of the same name and shape, with a prefix in ``parent.parts``, into ``network``.

    ``folder`` is the task's. Returns the number of values that were copied. Raises DataError where the file is missing
    or was changed.
    """
    file = folder / parent.file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: the weights that evaluations start from cannot be read ({error}); {_REMEDY}"
        ) from error
    if hashlib.sha256(content).hexdigest() != parent.sha256:
        raise DataError(f"{file}: the weights that evaluations start from were changed; {_REMEDY}")
    trained = load(content)
    n_inherited = 0
    for name, parameter in network.named_parameters():
        source = trained.get(name)
        if source is not None and source.shape == parameter.shape and name.startswith(parent.parts):
            parameter.copy_(source)
            n_inherited += parameter.numel()
    return n_inherited


_REMEDY = "start a new study, whose pilot trains them anew"
