"""The cache of prepared arrays: a folder for each dataset and preparation, shared by all searches and their workers.

    CACHE/liver-3f2a90c1d4e5/          complete; only a damaged file is ever written again
        CACHEDIR.TAG                   marks the folder as ours and reproducible (backups leave it out)
        manifest.json                  source, preparation, and every array's size and SHA-256
        images/*.npy  labels/*.npy
        originals/*.npy                label maps before resampling, of scored cases whose grid preparation changed
        names.json                     real names by pseudonym, with pseudonyms only
        users/*.lock                   one for every process that uses it, locked while that lives
    CACHE/liver-3f2a90c1d4e5.part/     unfinished; written.jsonl names the cases that are done
    CACHE/liver-3f2a90c1d4e5.lock      held by the process that prepares, checks or removes it

The folder's name holds a hash of all that its arrays depend on, so that another preparation has another folder. Arrays
are written to temporary files and renamed, but not synced to the disk: a checksum says whether they are complete. It is
SHA-256, which the task's digest needs anyway; one core computes 1.3 GB/s of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.basis import Basis, no_memory
from unetx_evaluators.tasks.preprocessing import original_label, prepare_case
from unetx_evaluators.tasks.sources.base import Source
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.tasks.watching import NullWatcher, Phase, Watcher
from unetx_space.files import write_whole, written_whole

FORMAT = 6
"""Raised whenever the same input would be prepared differently; also when a plan's constants change, since the patch
has a say in the spacing."""

TAG, MANIFEST, WRITTEN, NAMES, USERS = "CACHEDIR.TAG", "manifest.json", "written.jsonl", "names.json", "users"

TAG_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# Prepared arrays of unetx-search; they can be made again from the dataset. See https://bford.info/cachedir/
"""

KEY_DIGITS = 12
N_HASHERS = 4
N_TRIES = 20


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """Expected size and checksum of a file."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WrittenCase:
    """A case whose arrays are on disk."""

    name: str
    image: ArrayFile
    label: ArrayFile
    original: ArrayFile | None = None
    """The label map before resampling, where it is kept."""

    @property
    def arrays(self) -> tuple[ArrayFile, ...]:
        """Image, label map, and original label map where it is kept."""
        return (self.image, self.label) if self.original is None else (self.image, self.label, self.original)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The case of which ``data`` is the ``dataclasses.asdict``, read from JSON."""
        image, label = ArrayFile(**data["image"]), ArrayFile(**data["label"])
        return cls(data["name"], image, label, data["original"] and ArrayFile(**data["original"]))

    def files(self, folder: Path) -> tuple[tuple[Path, ArrayFile], ...]:
        """Paths of the case's arrays in a folder, with their expected size and checksum."""
        return tuple(zip(array_files(folder, self.name), self.arrays, strict=False))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a complete folder."""

    key: str
    origin: str
    identity: str
    """Identity of the source."""
    basis: Basis
    cases: Mapping[str, WrittenCase]

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``."""
        data = {
            "format": FORMAT,
            "key": self.key,
            "origin": self.origin,
            "identity": self.identity,
            "n_bytes": sum(array.n_bytes for case in self.cases.values() for array in case.arrays),
            "cases": [asdict(case) for case in self.cases.values()],
            "basis": self.basis.to_json(),
        }
        write_whole(folder / MANIFEST, json.dumps(data) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest in ``folder``; None where there is none that can be used."""
        data = read_json(folder / MANIFEST)
        if data is None or data.get("format") != FORMAT:
            return None
        try:
            cases = [WrittenCase.from_json(case) for case in data["cases"]]
            basis = Basis.from_json(data["basis"])
            return cls(data["key"], data["origin"], data["identity"], basis, {case.name: case for case in cases})
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """The folder of a dataset's arrays in a cache."""

    folder: Path

    @classmethod
    def of(cls, cache: Path, name: str, key: str) -> Self:
        """The folder for a dataset of this name and key, whose first digits are part of the folder's name."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "data"
        return cls(cache / f"{plain}-{key[:KEY_DIGITS]}")

    @property
    def part(self) -> Path:
        """The folder of an unfinished preparation."""
        return self.folder.with_name(f"{self.folder.name}.part")

    @property
    def lock_file(self) -> Path:
        """The file that a process locks while it prepares, checks or removes the folder."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    @contextmanager
    def locked(self, watcher: Watcher | None = None) -> Iterator[None]:
        """Inside, this process holds the folder's lock.

        Waits for another process that holds it, which ``watcher`` is notified of; raises DataError without a watcher.
        If there is no folder at the end, the lock file, and parents that were created for it, are removed.
        """
        created = [parent for parent in self.folder.parents if not parent.exists()]
        with reporting_write_errors(self.folder.parent):
            lock = self._acquired(watcher)
        try:
            yield
        finally:
            if not self.folder.exists() and not self.part.exists():
                self.lock_file.unlink(missing_ok=True)  # whoever waits for it takes a new one
            lock.release()
            for parent in created:
                with suppress(OSError):  # it is not empty any more
                    parent.rmdir()

    def _acquired(self, watcher: Watcher | None) -> FileLock:
        lock = FileLock(self.lock_file)
        blocking = False
        for _ in range(N_TRIES):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                return lock.acquire(blocking=blocking).lock
            except FileNotFoundError:  # another process has just removed the folder that it had created
                continue
            except Timeout:
                if watcher is None:
                    raise DataError(f"{self.folder}: is being prepared by another process; wait for it") from None
                watcher.on_wait(self.folder)
                blocking = True
        raise DataError(f"{self.folder.parent}: vanishes whenever it is made; name another folder for the cache")


def write_case(source: Source, basis: Basis, folder: Path, name: str) -> WrittenCase:
    """Read a case, prepare it, and write its arrays into ``folder``. Raises DataError."""
    facts = basis.facts[name]
    try:
        case = source.read(name)
        arrays: list[npt.NDArray[Any]] = [*prepare_case(case, facts, basis.preparation)]
        if basis.keeps_original(name):
            arrays.append(original_label(case, facts, basis.preparation))
    except MemoryError as error:
        raise no_memory(source, basis, name, f"it broke off: {error}") from error
    files = array_files(folder, name)
    with reporting_write_errors(folder):
        return WrittenCase(name, *(write_array(file, array) for file, array in zip(files, arrays, strict=False)))


def write_array(file: Path, array: npt.NDArray[Any]) -> ArrayFile:
    """Write an array atomically, and return the file's size and checksum."""
    with written_whole(file, durable=False) as temporary, temporary.open("wb") as stream:
        writer = _HashingWriter(stream)
        np.lib.format.write_array(writer, array, allow_pickle=False)
    return ArrayFile(writer.n_bytes, writer.sha256.hexdigest())


class _HashingWriter:
    """A binary file that computes the SHA-256 of what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        return int(self._stream.write(data))


def intact_cases(folder: Path, cases: Mapping[str, WrittenCase], watcher: Watcher) -> dict[str, WrittenCase]:
    """The cases whose files have the expected sizes and checksums."""
    watcher.on_phase(Phase.CHECK, len(cases))
    intact = {}
    with ThreadPoolExecutor(N_HASHERS) as threads:
        checks = threads.map(lambda case: all(_is_intact(*file) for file in case.files(folder)), cases.values())
        for case, is_intact in zip(cases.values(), checks, strict=True):
            if is_intact:
                intact[case.name] = case
            watcher.on_case()
    return intact


def _is_intact(file: Path, expected: ArrayFile) -> bool:
    try:
        if file.stat().st_size != expected.n_bytes:
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == expected.sha256
    except OSError:
        return False


def array_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Paths of a case's image, label map, and original label map, which not every case has."""
    image, label, original = (folder / part / f"{name}.npy" for part in ("images", "labels", "originals"))
    return image, label, original


def is_ours(folder: Path) -> bool:
    """Whether a folder has our tag."""
    try:
        return (folder / TAG).read_text(encoding="utf-8") == TAG_TEXT
    except (OSError, ValueError):
        return False


def discard(folder: Path) -> None:
    """Remove a folder of ours, if it exists. Raises DataError where it is not ours."""
    if not folder.exists():
        return
    if not is_ours(folder) and any(not entry.name.startswith(TAG) for entry in folder.iterdir()):
        raise DataError(
            f"{folder}: is there already and was not made by unetx-search; it is not touched: move it, or name another "
            "folder for the cache (--cache)"
        )
    with reporting_write_errors(folder):
        for entry in folder.iterdir():  # the tag is removed last: what a crash leaves is still marked as ours
            if entry.name != TAG:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.rmtree(folder)


@contextmanager
def task_in_use(task: Task) -> Iterator[None]:
    """Inside, no process removes the task's arrays. Raises DataError where they are gone already."""
    with CacheFolder(task.folder).locked(NullWatcher()), reporting_write_errors(task.folder):
        if not is_ours(task.folder):
            raise DataError(
                f"{task.folder}: the prepared arrays are gone; run the search again, which prepares them anew"
            )
        (task.folder / USERS).mkdir(exist_ok=True)
        lock = FileLock(task.folder / USERS / f"{os.getpid()}-{uuid.uuid4().hex}.lock")
        lock.acquire()
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Whether a living process uses the folder; lock files of dead processes are removed."""
    for file in (folder / USERS).glob("*.lock"):
        lock = FileLock(file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        file.unlink(missing_ok=True)
        lock.release()
    return False


@contextmanager
def reporting_write_errors(folder: Path) -> Iterator[None]:
    """Inside, an OSError becomes a DataError that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); free space there, or name another folder for the cache (--cache); "
            "what is done already is kept"
        ) from error


def read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file of ours; None where there is none, or it is damaged."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
