"""From a source to a prepared task on disk: checked, normalised, split, memory-mapped by every worker.

A prepared folder appears whole or not at all: it is written aside and renamed, and removed when anything fails. One
whose inputs have not changed since is used again as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import fingerprint
from unetx_evaluators.tasks.sources.base import Source, check_case_name
from unetx_evaluators.tasks.splits import split_cases
from unetx_evaluators.tasks.task import Image, Splits, Task

FORMAT = 1
"""Raised whenever the same input would be prepared differently: older prepared folders are then built anew."""

RECEIPT = "prepared.json"
"""Beside ``task.json``: what the folder was made from, and how many bytes its arrays take."""

SPACING_TOLERANCE = 0.05
"""Relative difference between cases from which on a warning is due."""

Progress = Callable[[int, int], None]
"""Told how many cases are done, and of how many."""

log = logging.getLogger(__name__)


def prepare(source: Source, folder: Path | str, *, split_seed: int, progress: Progress | None = None) -> Task:
    """The task made from ``source`` in ``folder``: prepared now or, if nothing has changed since, earlier.

    Intensities become z-scores per case and channel. Nothing is resampled; where spacings differ between cases, their
    median is recorded and a warning logged. Raises DataError, and then leaves nothing behind.
    """
    target = Path(folder)
    key = _key(source, split_seed)
    if _is_current(target, key):
        return Task.load(target)
    _check_replaceable(target)
    splits = split_cases(source.case_names, seed=split_seed)
    with _written_aside(target) as staging:
        cases = _write_cases(source, staging, progress)
        task = _described(source, cases, splits, split_seed, staging)
        task.save()
        receipt = {"key": key, "array_bytes": _array_bytes(staging)}
        (staging / RECEIPT).write_text(json.dumps(receipt) + "\n", encoding="utf-8")
    return Task.load(target)


def normalised(image: Image) -> Image:
    """``[c, *spatial]`` with mean 0 and standard deviation 1 in every channel; a constant channel becomes 0.

    Every case by itself, as nnU-Net does for everything but CT: MR and microscopy intensities are not calibrated.
    """
    result = np.zeros_like(image)
    for channel, scaled in zip(image, result, strict=True):
        if channel.min() < channel.max():
            values = channel.astype(np.float64)
            scaled[...] = (values - values.mean()) / values.std()
    return result


@dataclass(frozen=True, slots=True)
class _Written:
    """What is remembered of a case once its arrays are on disk."""

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    classes: frozenset[int]
    digest: str


def _write_cases(source: Source, folder: Path, progress: Progress | None) -> list[_Written]:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    written = []
    for name in source.case_names:
        written.append(_write_case(source, name, folder))
        if progress is not None:
            progress(len(written), len(source.case_names))
    return written


def _write_case(source: Source, name: str, folder: Path) -> _Written:
    check_case_name(name, Path(name))
    case = source.read(name)
    image = normalised(case.image)
    np.save(folder / "images" / f"{name}.npy", image)
    np.save(folder / "labels" / f"{name}.npy", case.label)
    digest = hashlib.sha256(repr((name, image.shape)).encode())
    digest.update(image.tobytes())
    digest.update(case.label.tobytes())
    classes = frozenset(np.unique(case.label).tolist())
    return _Written(name, case.label.shape, case.spacing, classes, digest.hexdigest())


def _described(source: Source, cases: Sequence[_Written], splits: Splits, split_seed: int, folder: Path) -> Task:
    """The task's metadata: the shapes and spacings of training cases alone decide."""
    training = [case for case in cases if case.name in set(splits.train)]
    _check_classes(source.classes, cases, training)
    _warn_of_spacings(cases)
    seen = fingerprint([case.shape for case in training], [case.spacing for case in training])
    task = Task(
        folder=folder,
        name=source.name,
        source=source.origin,
        dims=source.dims,
        channels=source.channels,
        classes=source.classes,
        spacing=seen.spacing,
        patch=seen.patch,
        strides=seen.strides,
        splits=splits,
        split_seed=split_seed,
        digest="",
    )
    return replace(task, digest=_digest(task, cases))


def _check_classes(names: Sequence[str], cases: Sequence[_Written], training: Sequence[_Written]) -> None:
    """Every class is there to be learnt."""
    for index, name in enumerate(names):
        if not any(index in case.classes for case in training):
            elsewhere = sum(index in case.classes for case in cases)
            remedy = "try another split seed" if elsewhere else "remove it from the labels"
            raise DataError(
                f"class {name!r} occurs in none of the {len(training)} training cases and in {elsewhere} of the other "
                f"{len(cases) - len(training)}, so it cannot be learnt; add cases that show it, or {remedy}"
            )


def _warn_of_spacings(cases: Sequence[_Written]) -> None:
    spacings = np.array([case.spacing for case in cases])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if (high > low * (1 + SPACING_TOLERANCE)).any():
        log.warning(
            "voxel spacing differs between cases, from %s to %s mm; images are used as they are, not resampled",
            *("x".join(f"{mm:.3g}" for mm in bound) for bound in (low, high)),
        )


def _digest(task: Task, cases: Sequence[_Written]) -> str:
    """SHA-256 over what a network can see; the dataset's name and whereabouts do not count."""
    facts = {field: value for field, value in task.to_json().items() if field not in ("name", "source", "digest")}
    arrays = sorted((case.name, case.digest) for case in cases)
    return hashlib.sha256(json.dumps([facts, arrays], sort_keys=True).encode()).hexdigest()


def _key(source: Source, split_seed: int) -> str:
    """Equal keys mean that preparing again would give the same folder."""
    return hashlib.sha256(json.dumps([FORMAT, source.identity, split_seed]).encode()).hexdigest()


def _is_current(folder: Path, key: str) -> bool:
    """Whether the folder was prepared from the same input and its arrays are still all there."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        return receipt == {"key": key, "array_bytes": _array_bytes(folder)} and (folder / "task.json").is_file()
    except (OSError, ValueError):
        return False


def _array_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for part in ("images", "labels") for file in (folder / part).glob("*.npy"))


def _check_replaceable(folder: Path) -> None:
    """Only what was prepared here is ever replaced."""
    if folder.exists() and not (folder / RECEIPT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already and no prepared task; it is not touched: name another folder")


@contextmanager
def _written_aside(target: Path) -> Iterator[Path]:
    """A new folder that takes the target's place at the end, or vanishes with every parent made for it."""
    new_parents = [parent for parent in target.parents if not parent.exists()]
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        staging.mkdir(parents=True)
        yield staging
        _replace(target, staging)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # somebody else uses it by now
                parent.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"{target}: cannot be written ({error}); free space, or name another folder") from error
        raise


def _replace(target: Path, staging: Path) -> None:
    outdated = staging.with_suffix(".old")
    if target.exists():
        target.rename(outdated)
    staging.rename(target)
    shutil.rmtree(outdated, ignore_errors=True)
