"""Whole searches on a real Slurm of one node: every trial once, whatever Slurm or somebody ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import TASK, Recorder, job, poll_until, run_all
from kill_helpers import DEADLINE_S, check_whole, finished, rows
from rich.console import Console

from unetx_evaluators.evaluation import MEMORY_FRACTION
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.executors.slurm.engine import slurm_engine
from unetx_search.run import search

pytest.importorskip("submitit", reason='needs submitit: pip install "unetx-search[slurm]"')

from slurm_helpers import slurm_of_one_node

from unetx_search.executors.slurm.queue import SlurmQueue

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

SCRIPT = Path(__file__).with_name("slurm_search.py")
TINY = "--trials 4 --gpus 0 --cpu-workers 2 --deterministic 2 --steps 4 --batch-size 2 --width-factor 0.25"


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm_of_one_node(tmp_path_factory.mktemp("slurm")):
        yield


def squeue(*words: str) -> list[str]:
    told = subprocess.run(["squeue", "--noheader", "--array", *words], capture_output=True, text=True, check=True)
    return told.stdout.split()


def running() -> list[str]:
    """The jobs that run, by their ids."""
    return squeue("--states=running", "--format=%i")


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s, squeue("--states=all")
        time.sleep(0.2)


def story(folder: Path) -> list[Any]:
    """What must not depend on who was killed."""
    return rows(folder, "select number, key, seed, outcome, score from unetx_trials order by number")


def begun(out: Path) -> int:
    return len(list((out / "calls").glob("*.json")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The study of the script, on this machine."""
    out = tmp_path_factory.mktemp("undisturbed")
    config = SearchConfig(out=out, trials=8, study="s", gpus=0, cpu_workers=2, steps=12, pilot=False, deterministic=2)
    search(config, console=Console(quiet=True), evaluator=FakeEvaluator(), source=DemoSource(n_cases=6))
    return story(out / "s")


def test_a_real_search_on_the_demo_task_is_that_of_one_machine(tmp_path: Path) -> None:
    words = ["-m", "unetx_search.cli", *TINY.split(), "--no-pilot", "--json", "--cache", tmp_path / "cache"]
    there = start(*words, "--out", tmp_path / "there", "--engine", "slurm", "--slurm", "partition=main", "time=10")
    output, errors = there.communicate(timeout=DEADLINE_S)
    assert there.returncode == 0, errors
    assert json.loads(output)["n_finished"] == 4
    check_whole(tmp_path / "there" / "demo", 4)
    here = start(*words, "--out", tmp_path / "here")
    _, errors = here.communicate(timeout=DEADLINE_S)
    assert here.returncode == 0, errors
    assert story(tmp_path / "there" / "demo") == story(tmp_path / "here" / "demo")
    wait_for(lambda: running() == [])


@pytest.mark.parametrize("sharing", [1, 2])
def test_every_job_has_a_gpu_of_its_own_which_its_workers_share(tmp_path: Path, sharing: int) -> None:
    """The node's two GPUs are pretended."""
    told: dict[str, Any] = {"engine": "slurm", "gpus": 2 // sharing, "workers_per_gpu": sharing}
    request = SearchConfig(out=tmp_path, study="s", **told, slurm=("cpus-per-task=1",))
    evaluator = FakeEvaluator(shown_variables=("CUDA_VISIBLE_DEVICES", MEMORY_FRACTION), seconds_per_step=0.5)
    with slurm_engine(request, tuple) as engine, engine.executor(evaluator, TASK, engine.slots) as executor:
        poll_until(executor, Recorder(), lambda: executor.n_free() == 2)
        ended = run_all(executor, [job(trial) for trial in range(2)])
    seen = [ended.finished[trial].versions for trial in range(2)]
    assert sorted(facts["CUDA_VISIBLE_DEVICES"] for facts in seen) == [["0", "1"], ["0", "0"]][sharing - 1]
    assert {facts[MEMORY_FRACTION] for facts in seen} == {f"{0.9 / sharing:.4f}"}
    assert sorted(ended.workers.values()) == [0, 1]
    wait_for(lambda: running() == [])


@pytest.mark.parametrize("how", [["--signal=USR2"], []], ids=["its time is up", "cancelled"])
def test_a_job_that_is_ended_gives_its_trial_to_another_which_goes_on_from_the_checkpoint(
    tmp_path: Path, undisturbed: list[Any], how: list[str]
) -> None:
    process = start(SCRIPT, tmp_path, 8, 0.3)
    wait_for(lambda: any((tmp_path / "s" / "checkpoints").glob("trial-?")), process)
    before = running()
    subprocess.run(["scancel", *how, before[0]], check=True)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert "was told to end by SIG" in errors
    check_whole(tmp_path / "s", 8)
    assert story(tmp_path / "s") == undisturbed
    assert begun(tmp_path) == 9, "one evaluation was run again"
    assert rows(tmp_path / "s", "select sum(n_lost) from unetx_trials") == [(0,)]
    wait_for(lambda: running() == [])


def test_jobs_of_a_killed_coordinator_end_by_themselves_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: list[Any]
) -> None:
    process = start(SCRIPT, tmp_path, 8, 0.3)
    wait_for(lambda: begun(tmp_path) >= 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: running() == [])
    before = finished(tmp_path / "s")
    again = start(SCRIPT, tmp_path, 8, 0.0)
    _, errors = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, errors
    assert before.items() <= finished(tmp_path / "s").items()
    check_whole(tmp_path / "s", 8)
    assert story(tmp_path / "s") == undisturbed


def test_ctrl_c_ends_every_job_also_one_that_waits(tmp_path: Path) -> None:
    """The node has three cores, so of two jobs with two cores each one waits."""
    process = start(SCRIPT, tmp_path, 4, 1.0, "cpus-per-task=2")
    assert process.stderr is not None
    told = next(line for line in process.stderr if "Slurm's queue" in line)
    assert "1 of 2 jobs wait in Slurm's queue (Resources)" in told
    wait_for(lambda: begun(tmp_path) == 1, process)
    assert len(running()) == 1
    script = next((tmp_path / "s" / "slurm").glob("*_submission.sh"))
    stranger = SlurmQueue(tmp_path, 1, 1, {"job_name": "another"})
    stranger.cancel([script.name.partition("_")[0]])
    assert len(running()) == 1, "its name is another"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    wait_for(lambda: squeue("--states=running,pending", "--format=%i") == [])
