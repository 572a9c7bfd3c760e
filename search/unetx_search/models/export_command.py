"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unetx_search.converters import voxels

if TYPE_CHECKING:
    from unetx_studies.export import Exported


def export(
    architecture: Path,
    target: Path,
    *,
    format: Literal["torch", "onnx", "pt2", "monai-bundle", "nnunet", "json", "svg", "dot", "graphml"] | None = None,
    weights: Path | None = None,
    patch: Annotated[tuple[int, ...] | None, Parameter(converter=voxels, n_tokens=1)] = None,
    seed: int = 0,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write an architecture and its network for use elsewhere.

    Parameters
    ----------
    architecture
        A JSON file such as runs/NAME/best.json, or the folder of a model that train made, with its weights.
    target
        What to write; its ending gives the format unless --format does.
    format
        torch (a .py file that needs torch alone), onnx (for ONNX Runtime and others), pt2 (torch.export), monai-bundle
        or nnunet (a folder), json (the document), svg (the drawing), dot or graphml (the graph).
    weights
        Trained weights as safetensors, such as MODEL/weights-fold1.safetensors where a model has several folds. Fresh
        initial values without them.
    patch
        Input size in voxels per axis, such as 96x96x48. The patch of the search, or the model's training, by default.
    seed
        Seed of the initial values where no weights are given.
    force
        Replace what is there already.
    """
    from unetx_search.models.exporting import with_weights
    from unetx_search.progress import StageDisplay, stderr_console
    from unetx_studies.export import export

    found, trained = with_weights(architecture, weights)
    with StageDisplay(stderr_console()) as steps:
        done = export(
            found,
            target,
            format=format,
            weights=trained,
            patch=patch,
            seed=seed,
            force=force,
            tell=steps.begin,
        )
    print(_text(done))


def _text(done: Exported) -> str:
    lines = [f"wrote {done.path} ({done.format})"]
    if done.patch is not None:
        sizes = [f"a multiple of {n}" if n else f"{size}" for n, size in zip(done.multiples, done.patch, strict=True)]
        lines.append(f"  patch {'x'.join(map(str, done.patch))}; any batch; size of an image: {', '.join(sizes)}")
    if done.max_difference is not None:
        lines.append(f"  differs from torch by at most {done.max_difference:.1e}")
    if done.runner is not None:
        lines.append(f"  segments images: python {done.runner} IMAGES -o FOLDER")
    return "\n".join(lines)
