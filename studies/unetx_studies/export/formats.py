"""The formats in which an architecture is exported, each with functions that write it and run the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unetx_studies.export import drawings, monai_bundle, nnunet, torch_file, traced
from unetx_studies.export.model import Model


@dataclass(frozen=True, slots=True)
class Format:
    """A format in which an architecture is exported."""

    suffix: str
    """The ending of its files; empty for a folder."""
    title: str
    write: Callable[[Model, Path], None]
    run: Callable[[Path, Tensor, Model], Tensor] | None = None
    """(what was written, ``image[b, c, *size]``, model) -> ``logits[b, k, *size]``, on the CPU; None where it holds no
    network."""
    packages: tuple[str, ...] = ()
    """Packages that it needs beyond the installation's own, all in the extra ``export``."""
    has_patch: bool = False
    """Whether it is made for images, or windows, of one size."""
    has_runner: bool = False
    """Whether a script is written beside it that applies it to images."""


_ONNX = ("onnx", "onnxscript", "onnxruntime")

FORMATS: Mapping[str, Format] = {
    "torch": Format(".py", "Python file that needs torch alone", torch_file.write, torch_file.run),
    "onnx": Format(
        ".onnx",
        f"ONNX, opset {traced.OPSET}",
        traced.write_onnx,
        traced.run_onnx,
        packages=_ONNX,
        has_patch=True,
        has_runner=True,
    ),
    "pt2": Format(".pt2", "torch.export program", traced.write_pt2, traced.run_pt2, has_patch=True, has_runner=True),
    "monai-bundle": Format("", "bundle of MONAI", monai_bundle.write, monai_bundle.run, packages=_ONNX, has_patch=True),
    "nnunet": Format("", "plans and class for nnU-Net", nnunet.write, nnunet.run),
    "json": Format(".json", "document of the architecture", drawings.write_json),
    "svg": Format(".svg", "drawing", drawings.write_svg),
    "dot": Format(".dot", "graph for Graphviz", drawings.write_dot),
    "graphml": Format(".graphml", "graph for networkx, yEd and Gephi", drawings.write_graphml),
}
