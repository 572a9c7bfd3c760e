"""Does a worker on another node see the same files? Found out before its first job, not by a trial that fails.

The coordinator writes down what it sees: the task's arrays by size, one of them by checksum, and a word in the folder
of the checkpoints. The worker looks for the same, and answers with a word of its own, which the coordinator must find.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_space.errors import UnetxError
from unetx_space.files import write_whole

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

VISIBLE_WITHIN_S = 10.0
"""For a file that one node has written to appear on another; network filesystems look again after seconds."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What every worker has to see, as the coordinator sees it."""

    arrays: Path
    """The prepared task's folder."""
    sizes: Mapping[str, int]
    """Bytes of every array that a search reads, by its path below ``arrays``."""
    sample: str
    """The array that is compared by checksum; empty where there is none."""
    checksum: str
    checkpoints: Path | None
    word: str
    """Of this run alone, so that nothing an earlier one left is taken for an answer."""

    @classmethod
    def of(cls, task: Task, checkpoints: Path | None) -> Reach:
        """What this process sees; leaves its word in the folder of the checkpoints."""
        sizes = {name: path.stat().st_size for name, path in _arrays(task).items() if path.exists()}
        sample = min(sizes, key=lambda name: (sizes[name], name), default="")
        reach = cls(
            arrays=task.folder.absolute(),
            sizes=sizes,
            sample=sample,
            checksum=_checksum(task.folder / sample) if sample else "",
            checkpoints=None if checkpoints is None else checkpoints.absolute(),
            word=uuid.uuid4().hex,
        )
        if reach.checkpoints is not None:
            reach.checkpoints.mkdir(parents=True, exist_ok=True)
            _remove(reach.checkpoints.glob("reach-*"))  # of runs that were killed
            write_whole(reach.question, reach.word, durable=False)
        return reach

    @property
    def question(self) -> Path:
        """The coordinator's word."""
        assert self.checkpoints is not None
        return self.checkpoints / f"reach-{self.word}.asked"

    def answer(self, worker: int) -> Path:
        """The word of a worker."""
        assert self.checkpoints is not None
        return self.checkpoints / f"reach-{self.word}-{worker}.answered"

    def problem(self, worker: int, host: str) -> str:
        """On the worker's node: what it cannot reach, with the way out; empty when it reaches everything."""
        return self._problem_with_arrays(host) or self._problem_with_checkpoints(worker, host)

    def _problem_with_arrays(self, host: str) -> str:
        rule = f"every worker reads the prepared task in {self.arrays}"
        way_out = "put the cache on a filesystem that all nodes share, and name it with --cache"
        for name, size in self.sizes.items():
            try:
                found = (self.arrays / name).stat().st_size
            except OSError as error:
                return f"{rule}; on {host} {name} is not to be had ({error.strerror}): {way_out}"
            if found != size:
                return f"{rule}; on {host} {name} has {found} bytes, where the coordinator sees {size}: {way_out}"
        try:
            same = not self.sample or _checksum(self.arrays / self.sample) == self.checksum
        except OSError as error:
            return f"{rule}; on {host} {self.sample} cannot be read ({error.strerror}): {way_out}"
        return "" if same else f"{rule}; on {host} {self.sample} has other content than the coordinator sees: {way_out}"

    def _problem_with_checkpoints(self, worker: int, host: str) -> str:
        if self.checkpoints is None:
            return ""
        rule = f"every worker writes checkpoints into {self.checkpoints}"
        way_out = "put the studies on a filesystem that all nodes share and may write, and name it with --out"
        if not _appears(self.question, self.word):
            return f"{rule}; on {host} that folder is not the coordinator's: {way_out}"
        try:
            write_whole(self.answer(worker), self.word, durable=False)
        except OSError as error:
            return f"{rule}; on {host} it cannot be written ({error.strerror}): {way_out}"
        return ""

    def confirm(self, worker: int, host: str) -> None:
        """On the coordinator's: the worker's word has arrived. Raises UnetxError where it has not."""
        if self.checkpoints is None:
            return
        answer = self.answer(worker)
        if not _appears(answer, self.word):
            raise UnetxError(
                f"the coordinator reads what workers write into {self.checkpoints}; what worker {worker} wrote on "
                f"{host} did not arrive: put the studies on a filesystem that all nodes share, and name it with --out"
            )
        answer.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove every word of this run."""
        if self.checkpoints is not None:
            _remove(self.checkpoints.glob(f"reach-{self.word}*"))


def _arrays(task: Task) -> dict[str, Path]:
    """What a search reads, by its path below the task's folder."""
    cases = (*task.splits.train, *task.splits.validation)
    names = [f"{kind}/{case}.npy" for kind in ("images", "labels") for case in cases]
    names += [f"originals/{case}.npy" for case in task.splits.validation if case in task.originals]
    return {name: task.folder / name for name in names}


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _appears(path: Path, word: str) -> bool:
    """The file holds the word, now or before long."""
    deadline_s = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        with suppress(OSError):
            if path.read_text(encoding="ascii") == word:
                return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.1)
