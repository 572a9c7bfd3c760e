"""Workers that outlived their coordinator: waited for, then killed, and nobody else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from narrowing import there
from trial_records import ASKED

from unetx_search.executors.stale_workers import end_stale_workers
from unetx_studies.processes import ProcessIdentity, this_process
from unetx_studies.store import TrialRecord

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when it began")

CHILD = "import sys; from unetx_studies.processes import this_process; print(this_process().began, flush=True); input()"


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], ProcessIdentity]]:
    """A process that leaves when its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process, replace(this_process(), pid=process.pid, began=int(there(process.stdout).readline()))
        process.kill()


def held_by(process: ProcessIdentity | None) -> TrialRecord:
    return replace(ASKED, process=process)


def test_one_that_stays_is_killed_and_named(child: tuple[subprocess.Popen[str], ProcessIdentity]) -> None:
    process, identity = child
    assert end_stale_workers([held_by(None), held_by(identity)], patience_s=0.0) == (identity,)
    assert process.wait() == -9


def test_one_that_leaves_by_itself_is_only_waited_for(child: tuple[subprocess.Popen[str], ProcessIdentity]) -> None:
    process, identity = child
    there(process.stdin).close()
    assert end_stale_workers([held_by(identity)], patience_s=60.0) == ()
    assert process.wait() == 1, "it ended by its own error, not by a signal"


def test_a_process_that_was_given_the_same_number_is_left_alone(
    child: tuple[subprocess.Popen[str], ProcessIdentity],
) -> None:
    process, identity = child
    strangers = [replace(identity, began=identity.began - 1), replace(identity, host="elsewhere"), this_process()]
    assert end_stale_workers(map(held_by, strangers), patience_s=0.0) == ()
    assert process.poll() is None
