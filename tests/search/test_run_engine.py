"""A whole search as the engine runs it: one coordinator at a time, a stop in time, an end by the clock."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from kill_helpers import DEADLINE_S, check_whole, rows
from whole_searches import end, run, start, wait_until

from unetx_search.summary import summary_json, summary_text
from unetx_space.errors import RequestError
from unetx_studies.processes import this_process

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")]


def pids_of_workers(folder: Path) -> list[int]:
    """Of those that are at work."""
    query = "select json_extract(process, '$.pid') from unetx_trials where process is not null"
    return [pid for (pid,) in rows(folder, query)]


@pytest.mark.slow
def test_a_second_run_is_refused_with_the_identity_of_the_first_which_goes_on(tmp_path: Path) -> None:
    first = start(tmp_path, 6, 0.2)
    try:
        wait_until(lambda: pids_of_workers(tmp_path / "s") != [], first)
        before = sorted(path.name for path in (tmp_path / "s").iterdir())
        with pytest.raises(RequestError, match=rf"process {first.pid} on {this_process().host} has run it since"):
            run(tmp_path)
        assert set(before) <= {path.name for path in (tmp_path / "s").iterdir()}
    finally:
        end(first)
    run(tmp_path, trials=6, seed=0)
    check_whole(tmp_path / "s", 6)


@pytest.mark.slow
def test_of_two_runs_that_start_at_the_same_instant_one_does_all_the_work(
    tmp_path: Path, server_url: str | None
) -> None:
    more = [f"storage={server_url}"] if server_url else []
    both = [start(tmp_path, 6, 0.0, *more) for _ in range(2)]
    ends = [process.communicate(timeout=DEADLINE_S) for process in both]
    codes = sorted(process.returncode for process in both)
    refused = [err for process, (_, err) in zip(both, ends, strict=True) if process.returncode]
    assert codes == [0, 1] or all("was_complete" in out for out, _ in ends), ends
    assert all("has one coordinator at a time" in err for err in refused)
    check_whole(tmp_path / "s", 6, server_url)


@pytest.mark.slow
def test_sigterm_ends_a_run_in_30_s_even_when_its_workers_hang_and_nothing_is_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    process = start(tmp_path, 4, 0.0, "act=hang-in-c")
    wait_until(lambda: len(pids_of_workers(folder)) == 2, process)
    workers = pids_of_workers(folder)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert rows(folder, "select ending from unetx_runs") == [("ended",)]
    assert rows(folder, "select name from unetx_studies where holder is not null") == []
    run(tmp_path)
    check_whole(folder, 4)


@pytest.mark.slow
def test_a_worker_that_outlived_its_killed_coordinator_is_ended_before_its_trial_is_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    process = start(tmp_path, 4, 0.0, "act=hang-in-c")
    wait_until(lambda: len(pids_of_workers(folder)) == 2, process)
    orphans = pids_of_workers(folder)
    process.kill()
    process.wait(timeout=DEADLINE_S)
    assert all(Path(f"/proc/{pid}").exists() for pid in orphans), "a loop in C hears nobody"
    run(tmp_path)
    assert not [pid for pid in orphans if is_alive(pid)]
    process.communicate()
    check_whole(folder, 4)


def is_alive(pid: int) -> bool:
    """Not even as a remainder that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_when_the_time_is_up_the_run_ends_in_order_and_the_same_command_continues(tmp_path: Path) -> None:
    summary = run(tmp_path, max_hours=1e-9, trials=3)
    assert (summary.ran_out_of_time, summary.was_stopped, summary.was_complete) == (True, False, False)
    assert "the time is up: 0 of 3 trials are done" in summary_text(summary)
    assert "run the same command again" in summary_text(summary)
    assert json.loads(summary_json(summary))["ran_out_of_time"]
    again = run(tmp_path, max_hours=1.0, trials=3)
    assert (again.ran_out_of_time, len(again.evaluations)) == (False, 3)
    check_whole(tmp_path / "s", 3)


def test_a_deterministic_study_uses_no_more_workers_than_it_can_and_keeps_its_word(tmp_path: Path) -> None:
    one = run(tmp_path / "one", trials=8, deterministic=2, cpu_workers=1, pruner="hyperband")
    two = run(tmp_path / "two", trials=8, deterministic=2, cpu_workers=3, pruner="hyperband")
    facts = [[(e.number, e.key, e.outcome, e.score) for e in found.evaluations] for found in (one, two)]
    assert facts[0] == facts[1]
    assert set(rows(tmp_path / "two" / "s", "select worker from unetx_trials")) == {(0,), (1,)}
    with pytest.raises(RequestError, match="deterministic: begun with 2, now None"):
        run(tmp_path / "two", trials=9, pruner="hyperband")


def test_a_study_of_a_version_that_knew_no_lag_is_continued_without_one(tmp_path: Path) -> None:
    run(tmp_path, trials=2)
    config = tmp_path / "s" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    del settings["deterministic"]
    config.write_text(json.dumps(settings), encoding="utf-8")
    assert len(run(tmp_path, trials=3).evaluations) == 3


def test_a_refused_request_removes_its_own_folders_and_nothing_of_others(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "runs"
    wrong: dict[str, Any] = {"data": tmp_path, "labels": "="}
    with pytest.raises(RequestError, match="labels"):
        run(out, None, **wrong)
    assert not (tmp_path / "deep").exists()
    run(out, trials=1, study="kept")
    with pytest.raises(RequestError):
        run(out, None, **wrong)
    assert sorted(path.name for path in out.iterdir()) == [".cache", "kept"]
