"""From a dataset to a prepared task, with a progress bar, and what a study keeps of the task in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from unetx_evaluators.tasks import prepare
from unetx_evaluators.tasks.examination import Request
from unetx_evaluators.tasks.groups import groups_of
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.split_file import check_splits, write_splits
from unetx_search.progress import say
from unetx_space.errors import Interrupted
from unetx_space.files import write_whole
from unetx_studies.sheet import size_words

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Source, Task
    from unetx_evaluators.tasks.options import TaskOptions
    from unetx_evaluators.tasks.watching import Phase
    from unetx_search.data_choices import DataChoices

SPLITS = "splits.json"
"""Name of the file in a study's folder with the split that it began with, by the names of the cases."""
TASK = "task.json"
"""Name of the file in a study's folder with its task but the arrays, so that it can be read without the cache."""
ARRAYS = "arrays"
"""The key in ``TASK`` of the folder that held the arrays."""


class PreparationBars:
    """Shows the progress of a preparation: bars on a terminal, a line for each phase elsewhere."""

    def __init__(self, name: str, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar: TaskID | None = None
        self._name = name
        self._console = console
        self._phase: Phase | None = None
        self._n_cases = self._n_done = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._bars.stop()
        if isinstance(error, KeyboardInterrupt) and self._phase is not None:
            done = f"{self._n_done} of {self._n_cases} cases done"
            raise Interrupted(f"stopped while {self._phase} {self._name}, {done}; {self._kept()}") from error

    def _kept(self) -> str:
        if self._phase == "preparing":
            return "they are kept, and the same command goes on from there"
        return "nothing was written; run the same command again"

    def on_wait(self, folder: Path) -> None:
        say(self._console, f"another process prepares the same data in {folder}; waiting for it")

    def on_phase(self, phase: Phase, n_cases: int) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = self._bars.add_task(f"{phase} {self._name}", total=n_cases)
        self._phase, self._n_cases, self._n_done = phase, n_cases, 0
        if not self._console.is_terminal:
            say(self._console, f"{phase} {n_cases} cases of {self._name}")

    def on_case(self) -> None:
        self._n_done += 1
        if self._bar is not None:
            self._bars.advance(self._bar)

    def on_size(self, n_bytes: int, free_bytes: int) -> None:
        say(
            self._console, f"the prepared arrays take {size_words(n_bytes)}; the disk has {size_words(free_bytes)} free"
        )


def prepared_task(study: Path, source: Source, cache: Path, options: TaskOptions, console: Console) -> Task:
    """Return the task of a source in the cache, which is prepared now unless it was before.

    Raises RequestError when the study was begun with another split, DataError when the data cannot be used.
    """
    request = Request.of(source, options)
    if request.splits is not None and not request.problems:  # else these are what is to be told
        check_splits(study / SPLITS, request.splits)
    with PreparationBars(source.name, console) as bars:
        return prepare(source, cache, options, watcher=bars)


def write_split_and_task(study: Path, task: Task) -> None:
    """Write a task's split, once and for all, and its description into a study's folder.

    Raises RequestError when the study was begun with another split."""
    study.mkdir(parents=True, exist_ok=True)
    write_splits(study / SPLITS, task.splits)
    write_whole(study / TASK, json.dumps({**task.to_json(), ARRAYS: str(task.folder.absolute())}, indent=2) + "\n")


def case_groups(source: Source, choices: DataChoices) -> dict[str, str]:
    """Return the group of every case, by the case's name in the task, as --group-by says; empty without that option."""
    if choices.group_by is None:
        return {}
    names = source.case_names
    real = Pseudonymous(source).real_names if choices.pseudonyms else dict(zip(names, names, strict=True))
    groups = groups_of(names, choices.group_by)
    return {name: groups[own] for name, own in real.items()}


def split_warnings(task: Task) -> tuple[str, ...]:
    """Return the warnings about a task's split that belong to every result."""
    warning = task.choices.get("split", {}).get("warning")
    return () if warning is None else (str(warning),)


@contextmanager
def no_empty_folders(*folders: Path) -> Iterator[None]:
    """When this ends in an error, remove those of the folders and their parents that are new and still empty."""
    new = {path for folder in folders for path in (folder, *folder.parents) if not path.exists()}
    try:
        yield
    except BaseException:
        for path in sorted(new, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # others have put something there, or it was never made
                path.rmdir()
        raise
