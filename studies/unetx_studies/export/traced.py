"""A network as a graph of operations: an ONNX file, or a program of ``torch.export``.

Both start from one traced program, whose batch size is free, and along every axis where the patch is a multiple of the
network's total stride its size as well, in such multiples. Every operator of the catalogue goes through, deformable
upsampling in 3D too (GridSample of opset 20 reads volumes); it takes minutes there, because each of 27 taps per node
becomes nodes of its own in the graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import ExportedProgram

from unetx_space import RequestError
from unetx_studies.export.model import Model

if TYPE_CHECKING:
    import onnx_ir as ir

INPUT, OUTPUT = "image", "logits"
DOCUMENT_KEY = "unetx.architecture"
"""The metadata of an exported file that holds its architecture's JSON document."""
PATCH_KEY = "unetx.patch"
"""The metadata that holds the size of a window, such as ``96x96x48``."""
OPSET = 20
"""The first ONNX opset whose GridSample reads volumes."""
WITHOUT_BIAS = 2
"""Inputs of a convolution: the map and the weights."""
MAX_ONNX_BYTES = 2_000_000_000
"""A protocol buffer holds less than 2 GiB."""


def _metadata(model: Model) -> dict[str, str]:
    """The metadata that a file carries."""
    return {DOCUMENT_KEY: model.architecture.dumps(), PATCH_KEY: "x".join(map(str, model.patch))}


def _traced(model: Model) -> ExportedProgram:
    program = model.program
    model.tell(f"writing its {len(program.graph.nodes)} operations")
    return program


def write_pt2(model: Model, path: Path) -> None:
    """Write the network as a ``.pt2`` file, a program of ``torch.export``."""
    program = _traced(model)
    with path.open("wb") as file:  # given a path, torch would insist on its ending
        torch.export.save(program, file, extra_files=_metadata(model))


def run_pt2(path: Path, image: Tensor, model: Model) -> Tensor:
    """The logits of the program in a file for an image."""
    with path.open("rb") as file:
        program = torch.export.load(file)
    with torch.no_grad():
        return program.module()(image)  # type: ignore[no-any-return]


def write_onnx(model: Model, path: Path) -> None:
    """Write the network as an ``.onnx`` file. Raises RequestError where its weights are too large for one."""
    program = _traced(model)
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
            dynamic_shapes=(model.open_axes,),  # give the axes their names
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        _simplify(exported.model)
    exported.model.metadata_props.update(_metadata(model))
    exported.save(path)


def _simplify(graph_model: ir.Model) -> None:
    """Compute now what does not depend on the image, and remove what nobody reads.

    torch would also look for patterns to rewrite, which takes three quarters of the whole export where deformable
    upsampling makes ten thousand nodes, and finds little that ONNX Runtime does not find when it loads the file. One of
    them is needed: a convolution without bias gets one of zeros, whose shape is wrong in 3D.
    """
    import onnx_ir  # extras
    from onnxscript import optimizer

    optimizer.fold_constants(graph_model)
    for node in graph_model.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) <= WITHOUT_BIAS:
            continue
        bias = node.inputs[WITHOUT_BIAS]
        values = None if bias is None else onnx_ir.convenience.get_const_tensor(bias)
        if values is not None and not values.numpy().any():
            node.resize_inputs(WITHOUT_BIAS)
    optimizer.remove_unused_nodes(graph_model)


def run_onnx(path: Path, image: Tensor, model: Model) -> Tensor:
    """The logits that ONNX Runtime computes by a file for an image."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Suppress the exporter's own warnings, about packages and idioms that do not concern the user."""
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
