"""Segments images with a network that unetx-search exported and that lies beside this script.

    python NAME_run.py image.nii.gz picture.png array.npy -o segmented

NAME.onnx needs numpy and onnxruntime, NAME.pt2 numpy and torch. Arrays are read from .npy, as [channels, *size] or
[*size]; NIfTI where nibabel is installed, pictures where Pillow is. Each result is the class of every voxel,
on the grid of its image and in the same kind of file.

An image is cropped to what is not zero, normalised and brought to the voxel size of training (linearly, with nothing
but numpy; training itself resampled with splines). Windows of the training patch overlap by a half, and their logits
are averaged with a Gaussian weight that trusts the middle of a window most; the largest decides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
"""An array of numpy."""
Network = Callable[[Array], Array]
"""A network as a function: ``image[1, c, *patch] -> logits[1, k, *patch]``."""
SIGMA_SHARE = 0.125
"""Standard deviation of a window's weight, as a share of its edge."""
LEAST_WEIGHT = 1e-3
"""Weight in the corners of a window, at least, above the rounding of the sums."""
SCHEMES = ("case", "range", "rgb", "none")
"""Normalisations that need nothing of the training: of an image by itself, by 255, or none."""


class Model:
    """The network in a file, and what it says about its training."""

    def __init__(self, path: Path) -> None:
        self.network, notes = (_onnx if path.suffix == ".onnx" else _pt2)(path)
        document = json.loads(notes["unetx.architecture"])
        task = document["provenance"].get("task", {})
        self.channels: int = document["backbone"]["in_channels"]
        self.patch = tuple(int(n) for n in notes["unetx.patch"].split("x"))
        self.spacing: tuple[float, ...] = tuple(task.get("spacing") or [1.0] * len(self.patch))
        self.normalisation: list[dict[str, Any]] = task.get("normalisation") or [{"scheme": "case"}] * self.channels

    def segment(self, image: Array, spacing: Sequence[float], overlap: float = 0.5) -> Array:
        """The class of every voxel of ``image[c, *size]``: ``[*size]``, uint8."""
        if len(image) != self.channels:
            raise SystemExit(f"the network reads {self.channels} channels, the image has {len(image)}")
        if image.ndim == len(self.patch) + 2:  # a volume for a network of slices: those across its longest voxels
            axis = max(range(len(spacing)), key=lambda a: (spacing[a], a))
            slices, rest = np.moveaxis(image, axis + 1, 0), [mm for a, mm in enumerate(spacing) if a != axis]
            return np.stack([self.segment(one, rest, overlap) for one in slices], axis)
        if image.ndim != len(self.patch) + 1:
            raise SystemExit(f"the network reads {len(self.patch)}D images, this one has {image.ndim - 1} axes")
        result = np.zeros(image.shape[1:], np.uint8)
        box = _not_zero(image)
        cropped = image[(slice(None), *box)]
        wanted = [
            max(1, round(n * mm / new)) for n, mm, new in zip(cropped.shape[1:], spacing, self.spacing, strict=True)
        ]
        logits = self.logits(resampled(normalised(cropped, self.normalisation), wanted), overlap)
        result[box] = resampled(logits, cropped.shape[1:]).argmax(0)
        return result

    def logits(self, image: Array, overlap: float) -> Array:
        """The logits ``[k, *size]`` of a whole prepared image ``[c, *size]``, window by window."""
        missing = [max(0, p - n) for n, p in zip(image.shape[1:], self.patch, strict=True)]
        padded = np.pad(image, [(0, 0), *((n // 2, n - n // 2) for n in missing)])
        weight, total, weights = gaussian(self.patch), None, np.zeros(padded.shape[1:], np.float32)
        for corner in corners(padded.shape[1:], self.patch, overlap):
            window = tuple(slice(start, start + n) for start, n in zip(corner, self.patch, strict=True))
            logits = self.network(np.ascontiguousarray(padded[(None, slice(None), *window)]))[0]
            total = np.zeros((len(logits), *weights.shape), np.float32) if total is None else total
            total[(slice(None), *window)] += logits * weight
            weights[window] += weight
        assert total is not None
        inside = tuple(slice(n // 2, n // 2 + size) for n, size in zip(missing, image.shape[1:], strict=True))
        return (total / weights)[(slice(None), *inside)]


def _onnx(path: Path) -> tuple[Network, dict[str, str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    notes: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return lambda image: session.run(["logits"], {"image": image})[0], notes


def _pt2(path: Path) -> tuple[Network, dict[str, str]]:
    import torch

    notes: dict[str, Any] = {"unetx.architecture": "", "unetx.patch": ""}
    module = torch.export.load(path, extra_files=notes).module()

    def network(image: Array) -> Array:
        with torch.no_grad():
            return module(torch.from_numpy(image)).numpy()

    return network, notes


def _not_zero(image: Array) -> tuple[slice, ...]:
    """The smallest box that holds everything of ``image[c, *size]`` that is not zero; all of it where that is none."""
    found = np.nonzero((image != 0).any(0))
    if not len(found[0]):
        return tuple(slice(0, n) for n in image.shape[1:])
    return tuple(slice(int(at.min()), int(at.max()) + 1) for at in found)


def normalised(image: Array, channels: Sequence[dict[str, Any]]) -> Array:
    """Every channel of ``image[c, *size]`` as it was normalised for training, float32."""
    inside = (image != 0).any(0)
    return np.stack([_normalised(values, how, inside) for values, how in zip(image, channels, strict=True)])


def _normalised(values: Array, how: dict[str, Any], inside: Array) -> Array:
    values, scheme, masked = values.astype(np.float64), how["scheme"], how.get("masked", False)
    shift, scale = 0.0, 1.0
    region = values[inside] if masked and inside.any() else values
    if scheme == "ct":
        values = np.clip(values, how["low"], how["high"])
        shift, scale = how["mean"], how["std"]
    elif scheme == "case":
        shift, scale = region.mean(), region.std()
    elif scheme == "range":
        shift, scale = region.min(), region.max() - region.min()
    elif scheme == "rgb":
        scale = 255.0
    values = (values - shift) / (scale or 1.0)
    return np.where(inside, values, 0.0).astype(np.float32) if masked else values.astype(np.float32)


def resampled(image: Array, size: Sequence[int]) -> Array:
    """``image[c, *]`` brought to ``[c, *size]`` by linear interpolation between voxel centres."""
    for axis, m in enumerate(size, 1):
        n = image.shape[axis]
        if n == m:
            continue
        places = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
        lower = np.floor(places).astype(int)
        upper = np.minimum(lower + 1, n - 1)
        share = (places - lower).astype(np.float32).reshape(-1, *[1] * (image.ndim - axis - 1))
        image = image.take(lower, axis) * (1 - share) + image.take(upper, axis) * share
    return image


def corners(size: Sequence[int], patch: Sequence[int], overlap: float) -> Iterator[tuple[int, ...]]:
    """Lowest corners of windows that cover ``size`` evenly and share at least ``overlap`` of an edge."""
    starts = []
    for n, p in zip(size, patch, strict=True):
        n_steps = math.ceil((n - p) / max(1, math.floor(p * (1 - overlap))))
        starts.append([round((n - p) * step / n_steps) for step in range(n_steps + 1)] if n_steps else [0])
    return itertools.product(*starts)


def gaussian(patch: Sequence[int]) -> Array:
    """The weight of a window: ``[*patch]``, 1 in the middle and above zero everywhere."""
    weight = np.ones((), np.float32)
    for n in patch:
        distance = (np.arange(n, dtype=np.float32) - (n - 1) / 2) / max(n * SIGMA_SHARE, 1e-6)
        weight = weight[..., None] * np.exp(-0.5 * distance**2)
    return np.maximum(weight / weight.max(), LEAST_WEIGHT)


def read(path: Path) -> tuple[Array, tuple[float, ...], Callable[[Array, Path], None]]:
    """Read ``image[c, *size]`` and its mm per voxel; with them comes what writes classes ``[*size]`` as such a file."""
    if path.name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        return array, (1.0,) * (array.ndim - 1), lambda classes, to: np.save(to, classes)
    from PIL import Image

    picture = np.asarray(Image.open(path))
    image = picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)
    return image, (1.0,) * (image.ndim - 1), lambda classes, to: Image.fromarray(classes).save(to.with_suffix(".png"))


def _read_nifti(path: Path) -> tuple[Array, tuple[float, ...], Callable[[Array, Path], None]]:
    """Read a volume in the orientation of training: axis 0 to the right, 1 to the front, 2 to the head."""
    import nibabel as nib
    from nibabel.orientations import io_orientation, ornt_transform

    stored: Any = nib.load(path)
    turned: Any = nib.as_closest_canonical(stored)  # type: ignore[no-untyped-call]
    array = np.asarray(turned.dataobj)
    image = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)

    def write(classes: Array, to: Path) -> None:
        back = ornt_transform(io_orientation(turned.affine), io_orientation(stored.affine))  # type: ignore[no-untyped-call]
        nib.save(nib.Nifti1Image(classes, turned.affine).as_reoriented(back), to)  # type: ignore[no-untyped-call]

    return image, tuple(float(mm) for mm in turned.header.get_zooms()[:3]), write


def main() -> None:
    """Run the script with the options of its command line."""
    here = Path(__file__)
    beside = [here.with_name(here.stem.removesuffix("_run") + suffix) for suffix in (".onnx", ".pt2")]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", type=Path, default=next(filter(Path.is_file, beside), beside[0]))
    parser.add_argument("--overlap", type=float, default=0.5, help="share of a window that neighbours have in common")
    parser.add_argument("--normalisation", choices=SCHEMES, help="instead of the one of training")
    options = parser.parse_args()
    model = Model(options.model)
    if options.normalisation:
        model.normalisation = [{"scheme": options.normalisation}] * model.channels
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.images:
        image, spacing, write = read(path)
        if image.ndim == len(model.patch) and model.channels == 1:  # an array without an axis for its channel
            image, spacing = image[None], (1.0, *spacing)
        write(model.segment(image, spacing, options.overlap), options.out / path.name)
        print(f"{path} -> {options.out}")


if __name__ == "__main__":
    main()
