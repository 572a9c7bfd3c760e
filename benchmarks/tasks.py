"""What preparing a dataset costs, and what it buys: speed with one and two processes, reading back, memory.

    python benchmarks/tasks.py > benchmarks/results/tasks-2cores.txt

The real datasets are looked for as the tests do (UNETX_TEST_DATA). Every preparation runs in a fresh process and a
fresh cache, the ways taking turns; times are the least of several turns and count from the opened source to the task,
with the start of workers and the import of readers. Reading is measured in CPU time of one process, from the page
cache: ``first`` opens, maps and copies an array, ``again`` copies one that is mapped already, as training does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.tasks import RawCase, TaskOptions, examine, open_source, prepare
from unetx_evaluators.tasks.preprocessing import prepare_case

TURNS = 3
DATASETS = ("hippocampus_msd", "nuclei_dsb2018")
FEW, SHAPE = 40, (64, 96, 96)
"""Synthetic cases: how many (and four times as many), and how large; 2.8 MiB each, prepared."""


@dataclass(frozen=True)
class Noise:
    """Volumes of noise with a block of foreground."""

    n_cases: int
    n_bytes: int = 0

    name: ClassVar[str] = "noise"
    layout: ClassVar[str] = "synthetic"
    origin: ClassVar[str] = "synthetic"
    dims: ClassVar[Literal[3]] = 3
    channels: ClassVar[tuple[str, ...]] = ("noise",)
    classes: ClassVar[tuple[str, ...]] = ("background", "block")
    problems: ClassVar[tuple[DataError, ...]] = ()

    @property
    def identity(self) -> str:
        return f"noise {self.n_cases}"

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(f"noise_{number:05d}" for number in range(self.n_cases))

    def read(self, name: str) -> RawCase:
        rng = np.random.default_rng(int(name[-5:]))
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[20:40, 20:60, 20:60] = 1
        return RawCase(rng.random((1, *SHAPE), dtype=np.float32), label, (1.0, 1.0, 1.0))


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("UNETX_TEST_DATA", default))


def prepared(what: str, n_workers: int) -> dict[str, float]:
    """Seconds and peak memory (of this process, workers not counted) of one preparation."""
    source: Any = Noise(int(what)) if what.isdigit() else open_source(data_folder() / what)
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        prepare(source, cache, TaskOptions(), n_workers=n_workers)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mib": peak_mib(), "n_cases": len(source.case_names)}


def peak_mib() -> float:
    """Peak memory of this process; that of getrusage would include the parent from which it was forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in status if line.startswith("VmHWM:"))) / 1024


def in_a_process(what: str, n_workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, what, str(n_workers)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


@dataclass(frozen=True)
class ReadBack:
    """CPU milliseconds per case."""

    files: float
    """Reading the files."""
    prepared: float
    """Reading the files and making the arrays of them, which is what the cache holds."""
    first: float
    """Opening the cache's arrays and copying every voxel."""
    again: float
    """Copying every voxel of arrays that are open, as training finds them."""


def read_back(dataset: str) -> ReadBack:
    source = open_source(data_folder() / dataset)
    basis = examine(source, TaskOptions()).basis
    assert basis is not None
    with tempfile.TemporaryDirectory() as cache:
        task = prepare(source, cache, TaskOptions())
        names = source.case_names
        mapped = {name: (task.image(name), task.label(name)) for name in names}

        def from_files(name: str) -> None:
            prepare_case(source.read(name), basis.facts[name], basis.preparation)

        def first(name: str) -> None:
            np.array(task.image(name))
            np.array(task.label(name))

        def again(name: str) -> None:
            for array in mapped[name]:
                np.array(array)

        return ReadBack(*(least_ms(read, names) for read in (source.read, from_files, first, again)))


def least_ms(read: Callable[[str], object], names: tuple[str, ...]) -> float:
    least = float("inf")
    for _ in range(TURNS):
        began = time.process_time()
        for name in names:
            read(name)
        least = min(least, time.process_time() - began)
    return 1000 * least / len(names)


def main() -> None:
    print(f"Preparing, least of {TURNS} turns, {usable_cores()} cores")
    print(f"{'dataset':<18}{'processes':>10}{'seconds':>10}{'cases/s':>10}")
    for dataset in DATASETS:
        turns = [{n: in_a_process(dataset, n) for n in (1, 2)} for _ in range(TURNS)]
        for n in (1, 2):
            least = min((turn[n] for turn in turns), key=lambda run: run["seconds"])
            print(f"{dataset:<18}{n:>10}{least['seconds']:>10.2f}{least['n_cases'] / least['seconds']:>10.1f}")
    for n in (1, 2):
        run = in_a_process(str(4 * FEW), n)
        print(f"{'noise, ' + str(4 * FEW):<18}{n:>10}{run['seconds']:>10.2f}{run['n_cases'] / run['seconds']:>10.1f}")

    print(f"\nThe arrays of every case, CPU ms a case, least of {TURNS} turns (aim: 20 times from files to first)")
    heads = f"{'files':>9}{'prepared':>11}{'first':>9}{'again':>9}   {'prepared/first':>14}{'files/again':>14}"
    print(f"{'dataset':<18}{heads}")
    for dataset in DATASETS:
        ms = read_back(dataset)
        print(
            f"{dataset:<18}{ms.files:>9.3f}{ms.prepared:>11.3f}{ms.first:>9.3f}{ms.again:>9.3f}   "
            f"{ms.prepared / ms.first:>14.1f}{ms.files / ms.again:>14.1f}"
        )

    print(f"\nPeak memory of the preparing process, synthetic cases of {'x'.join(map(str, SHAPE))}")
    print(f"{'cases':<10}{'1 process MiB':>15}{'2 processes MiB':>17}")
    for n_cases in (FEW, 4 * FEW):
        alone, parent = (in_a_process(str(n_cases), n)["peak_mib"] for n in (1, 2))
        print(f"{n_cases:<10}{alone:>15.0f}{parent:>17.0f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(prepared(sys.argv[1], int(sys.argv[2]))))
    elif multiprocessing.parent_process() is None:
        main()
