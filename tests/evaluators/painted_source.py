"""A dataset in memory for the tests of preparation, which says who reads it and how often."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.cache import Manifest, intact_cases
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.prepare import prepare
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.tasks.watching import NullWatcher, Phase


@dataclass(frozen=True)
class PaintedSource:
    """Grey noise with a bright and a dark square; every case has a size of its own."""

    n_cases: int = 8
    size: int = 20
    """Voxels of the shortest edge."""
    seed: int = 0
    reads: Path | None = None
    """Every reading appends a line to this file: the process and the case."""
    broken: tuple[str, ...] = ()
    """Cases that cannot be read."""
    fatal: tuple[str, ...] = ()
    """Cases that kill the worker process that reads them."""
    plain: tuple[str, ...] = ()
    """Cases without the second class."""
    n_bytes: int = 0
    problems: tuple[DataError, ...] = ()
    warnings: tuple[str, ...] = ()

    name: ClassVar[str] = "Painted, by hand"
    layout: ClassVar[str] = "painted"
    origin: ClassVar[str] = "painted by a test"
    dims: ClassVar[Literal[2]] = 2
    channels: ClassVar[tuple[str, ...]] = ("grey", "inverse")
    classes: ClassVar[tuple[str, ...]] = ("background", "bright", "dark")

    @property
    def identity(self) -> str:
        return json.dumps([self.layout, self.n_cases, self.size, self.seed])

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(f"smith_{number:02d}" for number in range(self.n_cases))

    def read(self, name: str) -> RawCase:
        if self.reads is not None:
            with self.reads.open("a", encoding="utf-8") as stream:
                stream.write(f"{os.getpid()} {name}\n")
        if name in self.broken:
            raise DataError(f"/files/{name}.png: cannot be read; copy it again")
        if name in self.fatal and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        height, width = (int(n) for n in self.size + rng.integers(0, 8, 2))
        label = np.zeros((height, width), dtype=np.uint8)
        label[3:9, 3:9] = 1
        if name not in self.plain:
            label[10:15, 10:15] = 2
        image = np.choose(label, (100, 150, 50)) + rng.normal(0, 5, label.shape)
        return RawCase(np.stack([image, 255 - image]).astype(np.float32), label, (1.0, 1.0))

    def n_reads(self) -> int:
        assert self.reads is not None
        return len(self.reads.read_text(encoding="utf-8").splitlines()) if self.reads.exists() else 0


class Recorder(NullWatcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.phases: list[tuple[Phase, int]] = []
        self.n_cases = 0
        self.sizes: list[tuple[int, int]] = []
        self.n_waits = 0

    def on_wait(self, folder: Path) -> None:
        self.n_waits += 1

    def on_phase(self, phase: Phase, n_cases: int) -> None:
        self.phases.append((phase, n_cases))

    def on_case(self) -> None:
        self.n_cases += 1

    def on_size(self, n_bytes: int, free_bytes: int) -> None:
        self.sizes.append((n_bytes, free_bytes))


def interrupted_after(n_cases: int, source: PaintedSource, root: Path) -> None:
    """Prepare, and press Ctrl-C when so many cases have been looked through or written."""

    class Impatient(Recorder):
        def on_case(self) -> None:
            super().on_case()
            if self.n_cases == n_cases:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, root, TaskOptions(), watcher=Impatient())


def check_whole(task: Task) -> None:
    """Every array of the task is there and what the manifest says, and nothing else lies beside them."""
    manifest = Manifest.read(task.folder)
    assert manifest is not None
    assert set(intact_cases(task.folder, manifest.cases, NullWatcher())) == set(manifest.cases)
    for part in ("images", "labels"):
        assert {file.stem for file in (task.folder / part).iterdir()} == set(manifest.cases)
    assert {file.stem for file in (task.folder / "originals").iterdir()} == set(task.originals)
    assert sorted(entry.name for entry in task.folder.parent.iterdir()) == [
        task.folder.name,
        f"{task.folder.name}.lock",
    ]
