"""Run as a script: prepares a painted dataset in a child that is killed at a chosen moment, then once more.

    python kill_driver.py FOLDER START moments            prints how many moments there are
    python kill_driver.py FOLDER START kill K [K ...]     for each: killed at moment K, prepared again, checked

START says what the preparation finds: ``nothing``, a ``complete`` folder, one with a ``damaged`` array, or one whose
``unreadable`` manifest has everything made anew.

A moment is a system call that Python announces (audit events) on a path inside the folder: every file that is opened,
made, renamed or removed there is one, in the order of the preparation.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from painted_source import PaintedSource, Recorder, check_whole

from unetx_evaluators.tasks.cache import Manifest
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.prepare import prepare

EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime"})
OPTIONS = TaskOptions()


class Moments:
    """Counts the moments, and ends the process at one of them."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self.n = 0
        self._folder = str(folder)
        self._last = last

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(self._folder):
            self.n += 1
            if self.n == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def begin(folder: Path, start: str) -> None:
    if start != "nothing":
        task = prepare(PaintedSource(), folder / "cache", OPTIONS)
        if start == "damaged":
            (task.folder / "images" / "smith_03.npy").write_bytes(b"x")
        elif start == "unreadable":
            (task.folder / "manifest.json").write_text("{", encoding="utf-8")


def count(folder: Path, start: str) -> int:
    begin(folder, start)
    moments = Moments(folder)
    sys.addaudithook(moments)
    prepare(PaintedSource(), folder / "cache", OPTIONS)
    return moments.n


def kill(folder: Path, start: str, moment: int) -> None:
    """A preparation that ends at a moment, and the next one, which is right and reads nothing twice that was done."""
    begin(folder, start)
    child = os.fork()
    if child == 0:
        sys.addaudithook(Moments(folder, moment))
        prepare(PaintedSource(), folder / "cache", OPTIONS)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    reads, watcher = folder / "reads", Recorder()
    n_finished = len(list((folder / "cache").glob("*.part/labels/*.npy")))
    is_complete = any(Manifest.read(file.parent) for file in (folder / "cache").glob("*/manifest.json"))
    task = prepare(PaintedSource(reads=reads), folder / "cache", OPTIONS, watcher=watcher)
    check_whole(task)
    assert task.digest == prepare(PaintedSource(), folder.with_name("undisturbed"), OPTIONS).digest
    n_read = PaintedSource(reads=reads).n_reads()
    # At most the case it was at is written twice.
    assert n_read <= (1 if is_complete else 8 * (n_finished == 0) + 8 - n_finished + 1), (n_read, n_finished)


def main() -> None:
    folder, start, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    folder.mkdir()
    if what == "moments":
        print(count(folder, start))
        return
    for moment in sys.argv[4:]:
        place = folder / moment
        place.mkdir()
        kill(place, start, int(moment))


if __name__ == "__main__":
    main()
