"""Does a worker on another node see the same files? Found out before its first job, not by a trial that fails.

The coordinator notes what it sees: the task's arrays by size, one of them by checksum, and a token in the folder of the
checkpoints. The worker looks for the same, and leaves the token there, too, which the coordinator must find.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_space.errors import UnetxError
from unetx_space.files import write_whole

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

VISIBLE_WITHIN_S = 10.0
"""Seconds for a file that one node has written to appear on another, as network filesystems look again after some."""


@dataclass(frozen=True, slots=True)
class SharedFilesCheck:
    """The files that every worker has to see as the coordinator sees them."""

    arrays: Path
    """The prepared task's folder."""
    sizes: Mapping[str, int]
    """The size in bytes of every array that a search reads, by its path below ``arrays``."""
    sample: str
    """The path below ``arrays`` of the array that is compared by checksum; empty where there is none."""
    checksum: str
    checkpoints: Path | None
    token: str
    """A random word of this run, so that no file of an earlier run is taken for an answer."""

    @classmethod
    def of(cls, task: Task, checkpoints: Path | None) -> SharedFilesCheck:
        """Note what this process sees, and leave its token in the folder of the checkpoints."""
        folder, checkpoints = task.folder.absolute(), checkpoints and checkpoints.absolute()
        cases = (*task.splits.train, *task.splits.validation)
        names = [f"{kind}/{case}.npy" for kind in ("images", "labels") for case in cases]
        names += [f"originals/{case}.npy" for case in task.splits.validation if case in task.originals]
        sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).exists()}
        sample = min(sizes, key=lambda name: (sizes[name], name), default="")
        checksum = _checksum(folder / sample) if sample else ""
        check = cls(folder, sizes, sample, checksum, checkpoints, uuid.uuid4().hex)
        if checkpoints is not None:
            checkpoints.mkdir(parents=True, exist_ok=True)
            _remove(checkpoints, "shared-files-*")  # of runs that were killed
            write_whole(check.question, check.token, durable=False)
        return check

    @property
    def question(self) -> Path:
        """The file with the coordinator's token."""
        assert self.checkpoints is not None
        return self.checkpoints / f"shared-files-{self.token}.asked"

    def answer(self, worker: int) -> Path:
        """Return the file in which a worker leaves the token."""
        assert self.checkpoints is not None
        return self.checkpoints / f"shared-files-{self.token}-{worker}.answered"

    def problem(self, worker: int, host: str) -> str:
        """Return, on the worker's node, what it cannot reach and what to do; empty when it reaches everything."""
        rule = f"every worker reads the prepared task in {self.arrays}; on {host}"
        way_out = "put the cache on a filesystem that all nodes share, and name it with --cache"
        name = ""
        try:
            for name, size in self.sizes.items():
                if (found := (self.arrays / name).stat().st_size) != size:
                    return f"{rule} {name} has {found} bytes, where the coordinator sees {size}: {way_out}"
            if (name := self.sample) and _checksum(self.arrays / name) != self.checksum:
                return f"{rule} {name} has other content than the coordinator sees: {way_out}"
        except OSError as error:
            return f"{rule} {name} is not to be had ({error.strerror}): {way_out}"
        if self.checkpoints is None:
            return ""
        rule = f"every worker writes checkpoints into {self.checkpoints}; on {host}"
        way_out = "put the studies on a filesystem that all nodes share and may write, and name it with --out"
        if not _appears(self.question, self.token):
            return f"{rule} that folder is not the coordinator's: {way_out}"
        try:
            write_whole(self.answer(worker), self.token, durable=False)
        except OSError as error:
            return f"{rule} it cannot be written ({error.strerror}): {way_out}"
        return ""

    def confirm(self, worker: int, device: str) -> None:
        """Check, on the coordinator's node, that the worker's token has arrived. Raises UnetxError where it has not."""
        if self.checkpoints is None:
            return
        if not _appears(self.answer(worker), self.token):
            raise UnetxError(
                f"the coordinator reads what workers write into {self.checkpoints}; what worker {worker} wrote on "
                f"{device} did not arrive: put the studies on a filesystem that all nodes share, and name it with --out"
            )
        self.answer(worker).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove every file of this run's check."""
        if self.checkpoints is not None:
            _remove(self.checkpoints, f"shared-files-{self.token}*")


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        with suppress(OSError):
            path.unlink()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _appears(path: Path, token: str) -> bool:
    """The file holds the token, now or before long."""
    deadline_s = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        with suppress(OSError):
            if path.read_text(encoding="ascii") == token:
                return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.1)
