"""SIGKILL at any moment: no finished trial is lost, none counts twice, the total is exact."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kill_helpers import DEADLINE_S, Result, check_whole, finished, search
from postgres_server import Server

SCRIPT = Path(__file__).with_name("killed_search.py")
FULL_SEARCH = Path(__file__).with_name("fake_search.py")
VICTIMS = ("coordinator", "worker", "both")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_study_killed_a_dozen_times_ends_as_if_it_had_not_been(tmp_path: Path, server_url: str | None) -> None:
    """Eight runs: in every second one a worker dies on the way, and each ends with its coordinator or with both."""
    rng = random.Random(0)
    place = server_url or "-"
    n_trials = 8 * 6 + 4  # a run comes to six new trials at most before it is killed
    before: dict[int, Result] = {}
    for number in range(8):
        plan = [f"{rng.choice(('coordinator', 'both'))}@{rng.randrange(50, 120)}"]
        if number % 2:
            plan.append(f"worker@{rng.randrange(2, 50)}")
        done = search(SCRIPT, tmp_path, n_trials, place, *plan)
        assert done.returncode == -signal.SIGKILL, done.stderr
        after = finished(server_url or tmp_path)
        assert before.items() <= after.items(), f"lost or changed by {plan}"
        before = after
    done = search(SCRIPT, tmp_path, len(before) + 4, place)
    assert done.returncode == 0, done.stderr
    assert before.items() <= finished(server_url or tmp_path).items()
    check_whole(tmp_path, len(before) + 4, server_url)


def children(pid: int) -> list[int]:
    """Worker processes, as the kernel lists them."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [child for child in map(int, words) if is_worker(child)]
    return []


def is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def kill_at_random(folder: Path, n_trials: int, victim: str, rng: random.Random, *words: str) -> None:
    """Start a whole search and kill while it works: some time after its first trial has begun."""
    words = (sys.executable, str(FULL_SEARCH), str(folder), str(n_trials), "0.01", *words)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + DEADLINE_S
    while process.poll() is None and not children(process.pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 3.0))
    workers = children(process.pid)
    if victim in ("worker", "both") and workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
    if victim in ("coordinator", "both"):
        process.kill()
    process.wait(timeout=DEADLINE_S)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_searches_killed_at_a_random_moment_and_continued(tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(100):
        out, victim = tmp_path / str(number), rng.choice(VICTIMS)
        kill_at_random(out, 12, victim, rng)
        before = finished(out / "s")
        done = search(FULL_SEARCH, out, 12, 0.0)
        assert done.returncode == 0, done.stderr
        assert before.items() <= finished(out / "s").items(), f"search {number}, {victim} killed"
        check_whole(out / "s", 12)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_searches_on_a_server_that_is_restarted_killed_at_a_random_moment_and_continued(
    tmp_path: Path, postgres: Server, postgres_url: str
) -> None:
    """The server is restarted or crashes while the search works, too."""
    rng = random.Random(2)
    for number in range(20):
        out, victim = tmp_path / str(number), rng.choice((*VICTIMS, "nobody"))
        with postgres.database() as url:
            restarts = threading.Timer(rng.uniform(2.0, 6.0), postgres.restart, [rng.choice(("fast", "immediate"))])
            restarts.start()
            kill_at_random(out, 12, victim, rng, f"storage={url}")
            restarts.join()
            before = finished(url)
            done = search(FULL_SEARCH, out, 12, 0.0)
            assert done.returncode == 0, done.stderr
            assert before.items() <= finished(url).items(), f"search {number}, {victim} killed"
            check_whole(out / "s", 12, url)
