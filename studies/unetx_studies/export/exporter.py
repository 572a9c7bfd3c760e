"""Export: build, load weights, capture, write, run what was written, and only then put it in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unetx_space import Architecture, RequestError, UnetxError, build, faults, unknown_name, written_whole
from unetx_studies.export.formats import FORMATS, FREE_BATCH
from unetx_studies.export.weights import load_weights

TOLERANCE = 1e-4
"""Largest difference between torch's logits and those of the exported file, relative where logits exceed 1."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    format: str
    patch: tuple[int, ...]
    """Spatial size of the input; the batch size is free."""
    max_difference: float
    """Between the file's logits and torch's on a random image."""


def export(
    architecture: Architecture,
    target: Path,
    *,
    format: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    patch: tuple[int, ...] | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> Exported:
    """Write the network of an architecture as ``onnx`` or ``pt2``, by default as the target's ending says.

    Its input ``image[b, c, *patch]`` takes any batch size; ``patch`` is by default the one it was searched with.
    Without ``weights`` (safetensors) it has its initial values for ``seed``. The file is run on a random image and
    compared with torch before it takes its place, so that it is either right or not there. ``tell`` is called with what
    is being done, as for some networks each step takes a minute.

    Raises RequestError for an unknown format, a patch that is missing or does not fit, weights that do not fit, a
    missing package and a place that cannot be written; UnetxError when the file's answer differs from torch's.
    """
    name = _format_name(format, target)
    patch = _checked_patch(architecture, patch)
    if not target.parent.is_dir():
        raise RequestError(f"there is no folder {target.parent} to write {target.name} into; make it first")
    tell("building the network")
    network = build(architecture, seed=seed)
    if weights is not None:
        load_weights(network, weights)
    tell("tracing it, operation by operation")
    with torch.no_grad():  # a batch of two, as torch takes a one for a constant
        image = _image(architecture, patch, batch=2)
        program = torch.export.export(network.eval(), (image,), dynamic_shapes=FREE_BATCH)
    try:
        with written_whole(target) as aside:
            tell(f"writing its {len(program.graph.nodes)} operations as {FORMATS[name].title}")
            FORMATS[name].write(program, aside, architecture.dumps())
            tell("running the file, and torch beside it")
            difference = _difference(name, aside, network, architecture, patch)
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from error
    return Exported(target, name, patch, difference)


def _format_name(name: str | None, target: Path) -> str:
    if name is None:
        by_suffix = {known.suffix: name for name, known in FORMATS.items()}
        if target.suffix not in by_suffix:
            raise RequestError(
                f"{target} ends in none of {', '.join(by_suffix)}; rename it or choose --format {' or '.join(FORMATS)}"
            )
        name = by_suffix[target.suffix]
    if name not in FORMATS:
        raise RequestError(unknown_name("format", name, FORMATS))
    missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if missing:
        raise RequestError(
            f'{name} export needs {", ".join(missing)}, which is not installed: pip install "unetx-search[export]"'
        )
    return name


def _checked_patch(architecture: Architecture, patch: tuple[int, ...] | None) -> tuple[int, ...]:
    patch = patch or architecture.searched_patch
    if patch is None:
        raise RequestError("the architecture does not say which patch it was searched with; give its size by --patch")
    if min(patch) < 1:
        raise RequestError(f"a patch has at least one voxel along every axis, got {list(patch)}")
    for fault in faults(architecture, patch):
        raise RequestError(str(fault))
    return patch


def _image(architecture: Architecture, patch: tuple[int, ...], batch: int) -> Tensor:
    """A random image that is the same every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, architecture.backbone.in_channels, *patch, generator=generator)


def _difference(name: str, path: Path, network: nn.Module, architecture: Architecture, patch: tuple[int, ...]) -> float:
    image = _image(architecture, patch, batch=1)
    with torch.no_grad():
        expected = network(image)
    difference = float((FORMATS[name].run(path, image) - expected).abs().max())
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= limit:  # also when it is NaN
        raise UnetxError(
            f"the exported file's logits differ from torch's by {difference:.2g}, more than {limit:.2g}, so it was not "
            "kept; please report this with the architecture"
        )
    return difference
