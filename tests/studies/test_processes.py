"""A process is known by more than its number: a number that is used again, another boot, another machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unetx_studies import processes
from unetx_studies.processes import Presence, presence, this_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when it began")


def test_this_process_is_alive_and_always_the_same() -> None:
    assert presence(this_process()) is Presence.ALIVE
    assert this_process() == this_process()


def test_a_process_that_ended_is_gone_even_before_its_exit_code_was_read() -> None:
    command = [sys.executable, "-c", "from unetx_studies.processes import *; print(this_process().began); input()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdin is not None
    identity = replace(this_process(), pid=child.pid, began=int(child.stdout.readline()))
    assert presence(identity) is Presence.ALIVE
    child.stdin.close()
    while child.stdout.read():  # until its end of the pipe is closed, which it is as it ends
        pass
    while presence(identity) is Presence.ALIVE:  # the few instructions between that and its end
        pass
    assert presence(identity) is Presence.GONE
    assert child.wait() == 0 or child.returncode == 1
    assert presence(identity) is Presence.GONE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"began": 1}, Presence.GONE),  # its number was used again
        ({"pid": 2**22 + 5}, Presence.GONE),  # beyond what Linux gives out
        ({"boot": "another"}, Presence.GONE),
        ({"boot": ""}, Presence.UNKNOWN),
        ({"host": "elsewhere"}, Presence.UNKNOWN),
        ({"host": "elsewhere", "boot": "another"}, Presence.UNKNOWN),
        ({"namespace": "pid:[1]"}, Presence.UNKNOWN),  # a container on this machine
    ],
)
def test_what_can_be_told_of_another_process(changes: dict[str, str | int], expected: Presence) -> None:
    assert presence(replace(this_process(), **changes)) is expected  # type: ignore[arg-type]


def test_where_the_system_tells_nothing_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert presence(this_process()) is Presence.UNKNOWN
