"""From a source to a task: looked at, checked, prepared once, and found again by everybody who asks for the same.

    names and split      known from the listing; with them the folder's name
    complete there?      checked by size and checksum; what is damaged is prepared again
    unfinished there?    its finished cases are taken over
    otherwise            every case is read once (``examination``); any problem ends it here, nothing is written
    then                 every case is read again, prepared, written; the folder takes its name

All of it under a lock: of two that ask together, one works and the other waits. Killed at any moment, the next start
goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.cache import (
    FORMAT,
    MANIFEST,
    NAMES,
    TAG,
    TAG_TEXT,
    WRITTEN,
    CacheFolder,
    Manifest,
    WrittenCase,
    array_files,
    discard,
    is_in_use,
    is_ours,
    read_json,
    sound_cases,
    usable,
    write_case,
)
from unetx_evaluators.tasks.examination import Basis, Examination, Request, concluded, examined, too_large
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.parallel import Failed, Workers, n_workers_for
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import Source, check_case_name
from unetx_evaluators.tasks.task import Splits, Task
from unetx_evaluators.tasks.watching import NullWatcher, Phase, Watcher
from unetx_space.files import write_whole

BASIS = "basis.json"
"""In an unfinished folder: what the survey found."""

SPARE_BYTES = 4 * 2**20
"""Asked of the disk beyond the arrays: headers, manifest, the blocks' last halves."""

UNSEEN = ("name", "source", "digest", "digests", "choices", "no_images", "originals", "max_steps", "alternatives")
"""Fields of a task that no network can see, or that its arrays tell."""

log = logging.getLogger(__name__)


def prepare(
    source: Source,
    cache: Path | str,
    options: TaskOptions,
    *,
    n_workers: int | None = None,
    watcher: Watcher | None = None,
) -> Task:
    """The task made of ``source`` as ``options`` say, its arrays in a folder of ``cache``; made now, or found there.

    ``n_workers`` processes work, None decides by the amount of work. Raises DataError (DataErrors for several), and
    then leaves behind no more than finished cases, which the next start takes over.
    """
    watcher = watcher or NullWatcher()
    request = Request.of(source, options)
    for warning in request.warnings:  # before hours of reading
        log.warning(warning)
    with Workers(n_workers or n_workers_for(source.n_bytes, len(source.case_names))) as workers:
        if request.problems:
            Problems(list(examined(request, workers, watcher).problems)).raise_all()
        key = _key(request)
        place = CacheFolder.of(Path(cache), source.name, key)
        with place.locked(watcher):
            manifest, examination = _Preparing(request, key, place, workers, watcher).run()
    for warning in examination.warnings[len(request.warnings) :]:
        log.warning(warning)
    return _task(place, manifest, examination, options)


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier preparation has left in a cache."""

    task: Task
    examination: Examination


def kept(source: Source, cache: Path | str, options: TaskOptions) -> Kept | None:
    """What ``prepare`` would find in the cache, arrays unchecked; None where it would have to work.

    Nothing is read but the listing and the manifest, and nothing is written.
    """
    request = Request.of(source, options)
    if request.problems:
        return None
    key = _key(request)
    place = CacheFolder.of(Path(cache), source.name, key)
    manifest = _complete(place, key)
    examination = None if manifest is None else concluded(request, manifest.basis)
    if manifest is None or examination is None or examination.problems:
        return None
    return Kept(_task(place, manifest, examination, options), examination)


def _complete(place: CacheFolder, key: str) -> Manifest | None:
    """The manifest of a folder that is complete and of that key."""
    manifest = Manifest.read(place.folder) if is_ours(place.folder) else None
    return manifest if manifest is not None and manifest.key == key else None


@dataclass(frozen=True, slots=True)
class _Preparing:
    """One preparation, alone with its folder."""

    request: Request
    key: str
    place: CacheFolder
    workers: Workers
    watcher: Watcher

    def run(self) -> tuple[Manifest, Examination]:
        folder = self.place.folder
        manifest = _complete(self.place, self.key)
        if manifest is not None:
            examination = concluded(self.request, manifest.basis)
            Problems(list(examination.problems)).raise_all()
            if self._mend(manifest):
                os.utime(folder / MANIFEST)  # last used
                return manifest, examination
        if is_in_use(folder):
            raise DataError(
                f"{folder}: has to be prepared anew, but a search that is running uses it; wait for it, or stop it"
            )
        discard(folder)
        return self._make()

    def _mend(self, manifest: Manifest) -> bool:
        """Prepare damaged cases again; False when that does not give the arrays that were there."""
        folder = self.place.folder
        _sweep(folder)
        sound = sound_cases(folder, manifest.cases, self.watcher)
        damaged = [name for name in manifest.cases if name not in sound]
        for name in damaged:
            log.warning("%s: case %s is damaged; it is prepared anew", folder, name)
        for case in self._written(folder, manifest.basis, damaged):
            if case != manifest.cases[case.name]:
                log.warning("%s: case %s is prepared otherwise than before; all are prepared anew", folder, case.name)
                return False
        return True

    def _make(self) -> tuple[Manifest, Examination]:
        part = self.place.part
        basis, done = self._left_over()
        if basis is not None:
            examination = concluded(self.request, basis)
        else:
            examination = examined(self.request, self.workers, self.watcher)
        Problems(list(examination.problems)).raise_all()
        basis = examination.basis
        assert basis is not None
        missing = [name for name in basis.facts if name not in done]
        Problems(too_large(self.request.source, basis, missing)).raise_all()
        self._check_space(basis, missing)
        with usable(part):
            self._begin(basis, done)
            with (part / WRITTEN).open("a", encoding="utf-8") as finished:
                for case in self._written(part, basis, missing, n_done=len(done)):
                    done[case.name] = case
                    finished.write(_line(case))
                    finished.flush()
            self._check_unchanged()
            return self._finish(basis, done), examination

    def _left_over(self) -> tuple[Basis | None, dict[str, WrittenCase]]:
        """What an earlier preparation that was ended on the way has found out and written."""
        part = self.place.part
        data = read_json(part / BASIS) if is_ours(part) else None
        if data is None or (data["format"], data["key"]) != (FORMAT, self.key):
            discard(part)
            return None, {}
        _sweep(part)
        written: dict[str, WrittenCase] = {}
        lines = (part / WRITTEN).read_text(encoding="utf-8").splitlines() if (part / WRITTEN).is_file() else []
        with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off ends them
            for line in lines:
                case = WrittenCase.from_json(json.loads(line))
                written[case.name] = case
        return Basis.from_json(data["basis"]), sound_cases(part, written, self.watcher) if written else {}

    def _check_space(self, basis: Basis, missing: list[str]) -> None:
        n_bytes = basis.n_bytes(missing, len(self.request.source.channels))
        cache = self.place.folder.parent
        free_bytes = shutil.disk_usage(cache).free
        self.watcher.on_size(n_bytes, free_bytes)
        if n_bytes + SPARE_BYTES > free_bytes:
            raise DataError(
                f"{cache}: the prepared arrays take {_mib(n_bytes + SPARE_BYTES)}, free are {_mib(free_bytes)}; free "
                "space there, or name another folder for the cache (--cache)"
            )

    def _begin(self, basis: Basis, done: Mapping[str, WrittenCase]) -> None:
        part, source = self.place.part, self.request.source
        part.mkdir(exist_ok=True)
        write_whole(part / TAG, TAG_TEXT)
        for array_file in array_files(part, "a"):
            array_file.parent.mkdir(exist_ok=True)
        if isinstance(source, Pseudonymous):
            write_whole(part / NAMES, json.dumps(source.real_names, indent=2) + "\n")
        write_whole(part / BASIS, json.dumps({"format": FORMAT, "key": self.key, "basis": basis.to_json()}))
        write_whole(part / WRITTEN, "".join(_line(case) for case in done.values()))

    def _written(self, folder: Path, basis: Basis, names: list[str], *, n_done: int = 0) -> Iterator[WrittenCase]:
        if not names:
            return
        self.watcher.on_phase(Phase.WRITE, n_done + len(names))
        for _ in range(n_done):
            self.watcher.on_case()
        write = partial(write_case, self.request.source, basis, folder)
        for _, case in self.workers.map(write, names):
            if isinstance(case, Failed):
                raise case.errors[0]
            yield case
            self.watcher.on_case()

    def _check_unchanged(self) -> None:
        """The arrays are those of the files as they were when the key was made."""
        try:
            changed = _key(self.request) != self.key
        except OSError:  # a file is gone
            changed = True
        if changed:
            discard(self.place.part)
            raise DataError(
                f"{self.request.source.origin}: files were changed while they were prepared; start again when nobody "
                "writes there"
            )

    def _finish(self, basis: Basis, done: Mapping[str, WrittenCase]) -> Manifest:
        source, part = self.request.source, self.place.part
        cases = {name: done[name] for name in basis.facts}
        manifest = Manifest(self.key, source.origin, source.identity, basis, cases)
        manifest.write(part)
        part.rename(self.place.folder)
        for name in (WRITTEN, BASIS):
            (self.place.folder / name).unlink()
        return manifest


def _sweep(folder: Path) -> None:
    """Remove files that somebody was writing when he was killed; under the lock there is nobody else."""
    for left in folder.glob("*/*.tmp"):
        left.unlink(missing_ok=True)


def _line(case: WrittenCase) -> str:
    return json.dumps(asdict(case)) + "\n"


def _key(request: Request) -> str:
    """SHA-256 over all that the arrays depend on: equal keys mean that preparing again would give the same."""
    assert request.splits is not None
    for name in request.source.case_names:
        check_case_name(name, Path(name))
    options = request.options
    what = [FORMAT, request.source.identity, sorted(request.splits.train)]
    how = [options.dims, options.spacing, options.normalisation]
    # The spacing depends on what the patch does, unless the user has set either.
    targets = [options.machine, options.seconds, options.memory_gib, options.levels, options.base_width]
    targets += [] if options.batch_size is None else [options.batch_size]
    is_set = options.spacing is not None or options.patch is not None
    return hashlib.sha256(json.dumps([what, how, "set by the user" if is_set else targets]).encode()).hexdigest()


def _task(place: CacheFolder, manifest: Manifest, examination: Examination, options: TaskOptions) -> Task:
    source, splits, network = examination.source, examination.splits, examination.plan
    assert splits is not None
    assert network is not None
    preparation = manifest.basis.preparation
    task = Task(
        folder=place.folder,
        name=source.name,
        source=source.origin,
        dims=preparation.dims,
        channels=source.channels,
        classes=source.classes,
        spacing=preparation.network_spacing,
        patch=network.patch,
        strides=network.strides,
        widths=network.widths,
        splits=splits,
        digest="",
        slice_spacing=preparation.slice_spacing,
        ignores=any(sum(facts.class_voxels) < math.prod(facts.shape) for facts in manifest.basis.facts.values()),
        choices=examination.choices,
        max_steps=network.max_steps,
        alternatives=preparation.alternatives,
        no_images=options.no_images,
        originals=manifest.basis.originals,
    )
    # What a network can see; the dataset's name and whereabouts do not count.
    facts = {field: value for field, value in task.to_json().items() if field not in UNSEEN}
    cases = sorted(manifest.cases.values(), key=lambda case: case.name)
    arrays = sorted([case.name, *(array.sha256 for array in case.arrays)] for case in cases)
    digests = {
        "images": _sha256([(case.name, case.image.sha256) for case in cases]),
        "masks": _sha256([(case.name, case.label.sha256) for case in cases]),
        "split": _sha256(asdict(splits)),
    }
    return replace(task, digest=_sha256([facts, arrays]), digests=digests)


def with_splits(task: Task, splits: Splits) -> Task:
    """The task with its cases divided otherwise; its arrays are those that were prepared for the first division."""
    if splits == task.splits:
        return task
    return replace(task, splits=splits, digest=_sha256([task.digest, asdict(splits)]))


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
