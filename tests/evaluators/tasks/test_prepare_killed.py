"""Whatever ends a preparation, and whoever else prepares the same: the next start is right."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from painted_source import PaintedSource, Recorder, check_whole, interrupted_after

from unetx_evaluators.tasks import Phase, TaskOptions, prepare
from unetx_evaluators.tasks.cache import CacheFolder

HERE = Path(__file__).parents[1]
SOURCE = PaintedSource()
OPTIONS = TaskOptions()


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def check_kills(folder: Path, start: str, n_samples: int | None) -> None:
    """Killed at so many seeded moments, or at every one."""
    moments = range(1, int(run("kill_driver.py", folder / "counted", start, "moments")) + 1)
    chosen = moments if n_samples is None else sorted(random.Random(0).sample(moments, n_samples))
    run("kill_driver.py", folder / "kills", start, "kill", *chosen)


def test_killed_at_a_dozen_moments_the_next_start_is_right(tmp_path: Path) -> None:
    check_kills(tmp_path, "nothing", 12)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["nothing", "complete", "damaged", "unreadable"])
def test_killed_at_any_moment_the_next_start_is_right(tmp_path: Path, start: str) -> None:
    check_kills(tmp_path, start, None)


SEVERAL = """
import os, signal, sys
from painted_source import PaintedSource, Recorder
from unetx_evaluators.tasks import TaskOptions, parallel, prepare

parallel.PRELOADED = ()  # nothing is read from files

class Deadly(Recorder):
    def on_case(self):
        super().on_case()
        if self.n_cases == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare(PaintedSource(n_cases=30, size=60), sys.argv[1], TaskOptions(), n_workers=2, watcher=Deadly())
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_cases", [5, 31, 38, 52, 59])
def test_killed_with_its_workers_the_next_start_is_right(tmp_path: Path, n_cases: int) -> None:
    (tmp_path / "several.py").write_text(f"import sys; sys.path.insert(0, {str(HERE)!r})\n{SEVERAL}", encoding="utf-8")
    command = [sys.executable, str(tmp_path / "several.py"), str(tmp_path / "cache"), str(n_cases)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    source = PaintedSource(n_cases=30, size=60)
    watcher = Recorder()
    check_whole(prepare(source, tmp_path / "cache", OPTIONS, watcher=watcher))
    finished = [n for phase, n in watcher.phases if phase is Phase.CHECK]
    assert finished == ([] if n_cases <= 30 else [n_cases - 30])


def test_two_that_start_together_prepare_once(tmp_path: Path) -> None:
    script = tmp_path / "prepare_it.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from pathlib import Path\n"
        "from painted_source import PaintedSource\n"
        "from unetx_evaluators.tasks import Phase, TaskOptions, prepare\n"
        "sys.stdin.readline()\n"
        f"source = PaintedSource(n_cases=60, reads=Path({str(tmp_path / 'reads')!r}))\n"
        f"print(prepare(source, {str(tmp_path / 'cache')!r}, TaskOptions()).digest)\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    digests = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(digests) == 1
    assert PaintedSource(reads=tmp_path / "reads").n_reads() == 120


def test_the_second_is_told_that_it_waits_and_then_finds_everything_done(tmp_path: Path) -> None:
    folder = prepare(SOURCE, tmp_path, OPTIONS).folder
    held, wanted = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(CacheFolder(folder).lock_file):
            held.set()
            wanted.wait()

    class Waiting(Recorder):
        def on_wait(self, folder: Path) -> None:
            super().on_wait(folder)
            wanted.set()

    watcher = Waiting()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    task = prepare(replace(SOURCE, broken=SOURCE.case_names), tmp_path, OPTIONS, watcher=watcher)
    holder.join()
    assert watcher.n_waits == 1
    check_whole(task)


def test_two_threads_of_one_process_prepare_once(tmp_path: Path) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    threads = [threading.Thread(target=prepare, args=(source, tmp_path / "cache", OPTIONS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.n_reads() == 16


def test_a_line_that_was_cut_off_costs_its_case_alone(tmp_path: Path) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    interrupted_after(8 + 5, source, tmp_path / "cache")
    [written] = (tmp_path / "cache").glob("*.part/written.jsonl")
    text = written.read_text(encoding="utf-8")
    written.write_text(text[:-20], encoding="utf-8")
    task = prepare(source, tmp_path / "cache", OPTIONS)
    assert source.n_reads() == 8 + 5 + 4
    check_whole(task)


@pytest.mark.parametrize("damage", ["basis.json", "written.jsonl", "CACHEDIR.TAG"])
def test_an_unfinished_folder_without_its_papers_is_begun_anew(tmp_path: Path, damage: str) -> None:
    interrupted_after(8 + 1, SOURCE, tmp_path)
    [part] = tmp_path.glob("*.part")
    if damage == "CACHEDIR.TAG":  # killed before anything else was made
        for entry in ("images", "labels", "originals"):
            for file in (part / entry).iterdir():
                file.unlink()
            (part / entry).rmdir()
        for entry in ("basis.json", "written.jsonl"):
            (part / entry).unlink()
    (part / damage).write_text("{", encoding="utf-8")
    check_whole(prepare(SOURCE, tmp_path, OPTIONS))
