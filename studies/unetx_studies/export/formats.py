"""The formats an architecture can leave in, each as one function that writes a file and one that runs it.

Both start from one ``torch.export`` program, whose batch size is free and whose spatial size is the patch: pooling,
padding and interpolation depend on it, and sliding-window inference feeds patches of one size anyway. Every operator
of the catalogue goes through, deformable upsampling in 3D too (GridSample of opset 20 reads volumes); it takes
minutes there, because each of 27 taps per node becomes nodes of its own in the graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from unetx_space import RequestError

if TYPE_CHECKING:
    from onnx_ir import Model

INPUT, OUTPUT = "image", "logits"
DOCUMENT = "unetx.architecture"
"""Under this name every exported file carries its architecture's JSON document."""
OPSET = 20
"""The first ONNX opset whose GridSample reads volumes."""
FREE_BATCH = ({0: Dim("batch")},)
"""The axes of the image whose size is left open, by the name that a file gives them."""
WITHOUT_BIAS = 2
"""Inputs of a convolution: the map and the weights."""
MAX_ONNX_BYTES = 2_000_000_000
"""A protocol buffer holds less than 2 GiB."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way out."""

    suffix: str
    title: str
    packages: tuple[str, ...]
    """What it needs beyond the installation's own, all in the extra ``export``."""
    write: Callable[[ExportedProgram, Path, str], None]
    """(program, file, architecture document)"""
    run: Callable[[Path, Tensor], Tensor]
    """(file, image [b, c, *patch]) -> logits [b, k, *patch], on the CPU"""


def _write_pt2(program: ExportedProgram, path: Path, document: str) -> None:
    with path.open("wb") as file:  # given a path, torch would insist on its ending
        torch.export.save(program, file, extra_files={DOCUMENT: document})


def _run_pt2(path: Path, image: Tensor) -> Tensor:
    with path.open("rb") as file:
        program = torch.export.load(file)
    with torch.no_grad():
        return program.module()(image)  # type: ignore[no-any-return]


def _write_onnx(program: ExportedProgram, path: Path, document: str) -> None:
    n_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if n_bytes > MAX_ONNX_BYTES:
        raise RequestError(f"an ONNX file holds at most 2 GB, these weights are {n_bytes / 1e9:.1f} GB; use pt2")
    with _quiet("torch.onnx", "onnxscript"):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=FREE_BATCH,  # gives the axis its name
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        _simplify(exported.model)
    exported.model.metadata_props[DOCUMENT] = document
    exported.save(path)


def _simplify(model: Model) -> None:
    """What does not depend on the image is computed now, and what nobody reads goes.

    torch would also look for patterns to rewrite, which takes three quarters of the whole export where deformable
    upsampling makes ten thousand nodes, and finds little that ONNX Runtime does not find when it loads the file. One of
    them is needed: a convolution without bias gets one of zeros, whose shape is wrong in 3D.
    """
    import onnx_ir  # extras
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    for node in model.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) <= WITHOUT_BIAS:
            continue
        bias = node.inputs[WITHOUT_BIAS]
        values = None if bias is None else onnx_ir.convenience.get_const_tensor(bias)
        if values is not None and not values.numpy().any():
            node.resize_inputs(WITHOUT_BIAS)
    optimizer.remove_unused_nodes(model)


def _run_onnx(path: Path, image: Tensor) -> Tensor:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Without the exporter's own warnings; they are about packages and idioms that do not concern the user."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        ".onnx", f"ONNX, opset {OPSET}", ("onnx", "onnxscript", "onnxruntime"), write=_write_onnx, run=_run_onnx
    ),
    "pt2": Format(".pt2", "torch.export program", (), write=_write_pt2, run=_run_pt2),
}
