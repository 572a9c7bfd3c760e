"""From a source to a task: it is examined, prepared once, and found in the cache by later requests.

    names and split          follow from the listing, and with them the folder's name
    a complete folder        is checked by sizes and checksums, and damaged cases are prepared again
    an unfinished folder     has finished cases, which are kept
    without a folder         every case is read once (``examination``); any problem ends it here, nothing is written
    then                     every case is read again, prepared, written; at last the folder gets its final name

It holds a lock: of two processes with the same request, one works and the other waits. Killed at any moment, the next
start continues.
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
from unetx_evaluators.tasks.basis import Basis, too_large
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
    intact_cases,
    is_in_use,
    is_ours,
    read_json,
    reporting_write_errors,
    write_case,
)
from unetx_evaluators.tasks.examination import Examination, Request, conclude, examine_request
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.parallel import FailedCase, Workers, n_workers_for
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import Source, check_case_name
from unetx_evaluators.tasks.task import Splits, Task
from unetx_evaluators.tasks.watching import NullWatcher, Phase, Watcher
from unetx_space.files import write_whole

BASIS = "basis.json"
"""File in an unfinished folder with the result of the survey."""

SPARE_BYTES = 4 * 2**20
"""Disk space required beside the arrays, for headers, manifest and partly filled blocks."""

UNSEEN = ("name", "source", "digest", "digests", "choices", "no_images", "originals", "max_steps", "alternatives")
"""Fields of a task that are not part of its digest: no network sees them, or they follow from the arrays."""

log = logging.getLogger(__name__)


def prepare(
    source: Source,
    cache: Path | str,
    options: TaskOptions,
    *,
    n_workers: int | None = None,
    watcher: Watcher | None = None,
) -> Task:
    """The task made of ``source`` as ``options`` say, with arrays in a folder of ``cache``, prepared now or earlier.

    ``n_workers`` processes work; None: as many as the amount of work justifies. Raises DataError (DataErrors for
    several), and then leaves no more than finished cases, with which the next start continues.
    """
    watcher = watcher or NullWatcher()
    request = Request.of(source, options)
    for warning in request.warnings:  # before hours of reading
        log.warning(warning)
    with Workers(n_workers or n_workers_for(source.n_bytes, len(source.case_names))) as workers:
        if request.problems:
            Problems(list(examine_request(request, workers, watcher).problems)).raise_all()
        key = _key(request)
        place = CacheFolder.of(Path(cache), source.name, key)
        with place.locked(watcher):
            manifest, examination = _PreparationRun(request, key, place, workers, watcher).run()
    for warning in examination.warnings[len(request.warnings) :]:
        log.warning(warning)
    return _task(place, manifest, examination, options)


@dataclass(frozen=True, slots=True)
class CachedTask:
    """A task that an earlier preparation has left in a cache."""

    task: Task
    examination: Examination


def cached_task(source: Source, cache: Path | str, options: TaskOptions) -> CachedTask | None:
    """The task that ``prepare`` would find in the cache, arrays unchecked; None where it would have to prepare cases.

    Only the listing and the manifest are read, and nothing is written.
    """
    request = Request.of(source, options)
    if request.problems:
        return None
    key = _key(request)
    place = CacheFolder.of(Path(cache), source.name, key)
    manifest = _complete(place, key)
    examination = None if manifest is None else conclude(request, manifest.basis)
    if manifest is None or examination is None or examination.problems:
        return None
    return CachedTask(_task(place, manifest, examination, options), examination)


def _complete(place: CacheFolder, key: str) -> Manifest | None:
    """The manifest of a folder that is complete and has this key; None otherwise."""
    manifest = Manifest.read(place.folder) if is_ours(place.folder) else None
    return manifest if manifest is not None and manifest.key == key else None


@dataclass(frozen=True, slots=True)
class _PreparationRun:
    """One preparation, which holds the lock of its folder."""

    request: Request
    key: str
    place: CacheFolder
    workers: Workers
    watcher: Watcher

    def run(self) -> tuple[Manifest, Examination]:
        folder = self.place.folder
        manifest = _complete(self.place, self.key)
        if manifest is not None:
            examination = conclude(self.request, manifest.basis)
            Problems(list(examination.problems)).raise_all()
            if self._repair(manifest):
                os.utime(folder / MANIFEST)  # last used
                return manifest, examination
        if is_in_use(folder):
            raise DataError(
                f"{folder}: has to be prepared anew, but a search that is running uses it; wait for it, or stop it"
            )
        discard(folder)
        return self._prepare()

    def _repair(self, manifest: Manifest) -> bool:
        """Prepare damaged cases again; False where that does not give the same arrays as before."""
        folder = self.place.folder
        _remove_temporary_files(folder)
        intact = intact_cases(folder, manifest.cases, self.watcher)
        damaged = [name for name in manifest.cases if name not in intact]
        for name in damaged:
            log.warning("%s: case %s is damaged; it is prepared anew", folder, name)
        for case in self._written(folder, manifest.basis, damaged):
            if case != manifest.cases[case.name]:
                log.warning("%s: case %s is prepared otherwise than before; all are prepared anew", folder, case.name)
                return False
        return True

    def _prepare(self) -> tuple[Manifest, Examination]:
        part = self.place.part
        basis, done = self._unfinished()
        if basis is not None:
            examination = conclude(self.request, basis)
        else:
            examination = examine_request(self.request, self.workers, self.watcher)
        Problems(list(examination.problems)).raise_all()
        basis = examination.basis
        assert basis is not None
        missing = [name for name in basis.facts if name not in done]
        Problems(too_large(self.request.source, basis, missing)).raise_all()
        self._check_space(basis, missing)
        with reporting_write_errors(part):
            self._begin(basis, done)
            with (part / WRITTEN).open("a", encoding="utf-8") as finished:
                for case in self._written(part, basis, missing, n_done=len(done)):
                    done[case.name] = case
                    finished.write(_line(case))
                    finished.flush()
            self._check_unchanged()
            return self._finish(basis, done), examination

    def _unfinished(self) -> tuple[Basis | None, dict[str, WrittenCase]]:
        """The basis and the written cases of an earlier preparation that did not finish."""
        part = self.place.part
        data = read_json(part / BASIS) if is_ours(part) else None
        if data is None or (data["format"], data["key"]) != (FORMAT, self.key):
            discard(part)
            return None, {}
        _remove_temporary_files(part)
        written: dict[str, WrittenCase] = {}
        lines = (part / WRITTEN).read_text(encoding="utf-8").splitlines() if (part / WRITTEN).is_file() else []
        with suppress(ValueError, KeyError, TypeError):  # the last line may be incomplete after a kill
            for line in lines:
                case = WrittenCase.from_json(json.loads(line))
                written[case.name] = case
        return Basis.from_json(data["basis"]), intact_cases(part, written, self.watcher) if written else {}

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
            if isinstance(case, FailedCase):
                raise case.errors[0]
            yield case
            self.watcher.on_case()

    def _check_unchanged(self) -> None:
        """Raise DataError if the source's files were changed since the key was computed."""
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


def _remove_temporary_files(folder: Path) -> None:
    """Remove files that a killed process was writing; the lock excludes living ones."""
    for left in folder.glob("*/*.tmp"):
        left.unlink(missing_ok=True)


def _line(case: WrittenCase) -> str:
    return json.dumps(asdict(case)) + "\n"


def _key(request: Request) -> str:
    """SHA-256 over all that the arrays depend on: with an equal key, preparation would give equal arrays."""
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
    # The digest covers what a network can see, and not the dataset's name and location.
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
    """The task with another split; its arrays stay those that were prepared for the first one."""
    if splits == task.splits:
        return task
    return replace(task, splits=splits, digest=_sha256([task.digest, asdict(splits)]))


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
