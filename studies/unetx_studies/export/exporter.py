"""Exports an architecture: writes aside, compares what was written with torch, and only then puts it in its place."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from unetx_space import Architecture, RequestError, UnetxError, unknown_name, written_whole
from unetx_studies.export import runner
from unetx_studies.export.formats import FORMATS, Format
from unetx_studies.export.model import DOCUMENT, Model

TOLERANCE = 1e-5
"""Largest difference between torch's logits and those of what was written, as a share of the largest beyond 1."""
ROUNDINGS = 10.0
"""Multiple of torch's own rounding that is allowed, where that is more: normalising a few voxels enlarges it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, and how well it agrees with torch."""

    path: Path
    format: str
    runner: Path | None = None
    """The script beside it that applies it to images, where the format has one."""
    patch: tuple[int, ...] | None = None
    """Spatial size of the input or of the windows, where it is made for one; the batch size is free."""
    multiples: tuple[int | None, ...] = ()
    """What the size of such an input may be a multiple of, along every axis; None where only the patch's will do."""
    max_difference: float | None = None
    """Difference of its logits from torch's on a random image, as a share of the largest beyond 1; None without."""


def export(
    architecture: Architecture,
    target: Path,
    *,
    format: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    patch: tuple[int, ...] | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda words: None,
) -> Exported:
    """Write an architecture in one of FORMATS, by default as the target's ending says.

    Without ``weights`` (safetensors) its network has its initial values for ``seed``. ``patch`` is by default the one
    it was searched with. What holds a network is run on a random image and compared with torch before it takes its
    place, so that it is either right or not there; what was there stays without ``force``. ``tell`` is called with what
    is being done, as for some networks each step takes a minute.

    Raises RequestError for an unknown format, an operator that the format cannot hold, a patch that is missing or does
    not fit, weights that do not fit, a missing package and a place that cannot be written; UnetxError when the answer
    differs from torch's.
    """
    name = _format_name(format, target)
    chosen = FORMATS[name]
    beside = target.with_name(f"{target.stem}_run.py") if chosen.has_runner else None
    script = Path(runner.__file__).read_text(encoding="utf-8")
    _check_place(target, not chosen.suffix, force)
    if beside is not None and not (beside.is_file() and beside.read_text(encoding="utf-8") == script):
        _check_place(beside, False, force)
    model = Model(architecture, seed, weights, patch, tell)
    size, multiples = (model.patch, model.multiples) if chosen.has_patch else (None, ())
    if chosen.run is not None:
        _ = model.network  # whatever is wrong with the weights is said before anything is written
    try:
        with ExitStack() as stack:
            aside = stack.enter_context(written_whole(target) if chosen.suffix else _written_folder(target))
            if beside is not None:
                stack.enter_context(written_whole(beside)).write_text(script, encoding="utf-8")
            chosen.write(model, aside)
            difference = None if chosen.run is None else _difference(chosen, aside, model)
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from error
    return Exported(target, name, beside, size, multiples, difference)


def _format_name(name: str | None, target: Path) -> str:
    if name is None:
        by_suffix = {known.suffix: name for name, known in FORMATS.items() if known.suffix}
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


def _check_place(path: Path, is_folder: bool, force: bool) -> None:
    """Check that ``path`` may be written. Raises RequestError otherwise."""
    if not path.parent.is_dir():
        raise RequestError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() != is_folder or path.is_symlink():
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a file"
        raise RequestError(f"{path} is {kind}, which is not replaced; choose another name")
    if not force:
        raise RequestError(f"{path} is there already; replace it with --force, or choose another name")
    if is_folder and not (path / DOCUMENT).is_file():
        raise RequestError(f"{path} is no export of ours, as it holds no {DOCUMENT}; choose another name")


@contextmanager
def _written_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of ``path`` at the end, or vanishes after an error."""
    aside, old = (path.with_name(f"{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        aside.mkdir()
        yield aside
        if path.exists():
            _check_contents(path, aside)
            path.rename(old)
        aside.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_contents(path: Path, new: Path) -> None:
    """Check that a folder to be replaced holds no more than an export writes. Raises RequestError otherwise."""
    kept = {entry.name for entry in path.iterdir()} - {entry.name for entry in new.iterdir()} - {"__pycache__"}
    if kept:
        raise RequestError(f"{path} also holds {', '.join(sorted(kept))}; move that, or choose another name")


def _difference(chosen: Format, path: Path, model: Model) -> float:
    """The difference of the written network's logits from torch's. Raises UnetxError where it is more than rounding."""
    assert chosen.run is not None
    model.tell("running what was written, and torch beside it")
    image, network = model.image(), model.network
    with torch.no_grad():
        expected = network(image)
        scale = max(1.0, float(expected.abs().max()))
        difference = float((chosen.run(path, image, model) - expected).abs().max()) / scale
        limit = TOLERANCE
        if not difference <= limit:  # also when it is NaN
            exact = copy.deepcopy(network).double()(image.double())
            limit = max(limit, ROUNDINGS * float((exact - expected).abs().max()) / scale)
    if not difference <= limit:
        raise UnetxError(
            f"the exported logits differ from torch's by {difference:.2g}, more than {limit:.2g}, so nothing was kept; "
            "please report this with the architecture"
        )
    return difference
