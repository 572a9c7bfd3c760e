"""Several workers on a GPU through a multi-process service: started, tried, ended; and what its breaking means."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_helpers import TASK, Recorder, cpu_slots, job
from pretended_workers import DONE, Stage

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors.gpus import Gpu
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.messages import DeviceLost, Exited, Finished, Report
from unetx_search.executors.slots import MPS_PIPES, Slot, make_slots
from unetx_search.sharing import mps
from unetx_search.sharing.mps import MPS_LOGS, MpsUnavailable, mps_enabled

A, B = Gpu(0, "GPU-a", "Big"), Gpu(1, "GPU-b", "Big")
CONTROL = """#!/bin/sh
if [ "$1" = -f ]; then
    echo "$CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY $$" >> {told}
    {at_start}
    touch "$CUDA_MPS_PIPE_DIRECTORY/control"
    while [ ! -e "$CUDA_MPS_PIPE_DIRECTORY/over" ]; do sleep 0.02; done
else
    read word
    echo "$word" >> {told}
    case "$word" in
        get_server_list) cat "$CUDA_MPS_PIPE_DIRECTORY/servers" 2>/dev/null ;;
        quit) touch "$CUDA_MPS_PIPE_DIRECTORY/over" ;;
    esac
fi
true
"""


class Control:
    """A pretended ``nvidia-cuda-mps-control`` on the path, and what it was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, at_start: str = "") -> None:
        self._told = folder / "told"
        script = folder / mps.CONTROL
        script.write_text(CONTROL.format(told=self._told, at_start=at_start))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    @property
    def told(self) -> list[list[str]]:
        return [line.split() for line in self._told.read_text().splitlines()]


def computing(slots: Sequence[Slot]) -> list[Mapping[str, Any]]:
    """Trials that are served: the service notes its server then."""
    for slot in slots:
        Path(slot.environment[MPS_PIPES], "servers").write_text("4711\n")
    return [{"trouble": ""}] * len(slots)


def two_on_each(*gpus: Gpu) -> tuple[Slot, ...]:
    return make_slots("all", workers_per_gpu=2, probe=lambda: gpus, n_cores=8)


def is_alive(pid: str) -> bool:
    """Whether a process runs; one whose parent has died and whom nobody has waited for does not."""
    try:
        return bool(psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_every_shared_gpu_has_a_daemon_of_its_own_that_ends_with_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control(tmp_path, monkeypatch)
    slots = two_on_each(A, B)
    with mps_enabled(slots, try_gpus=computing) as ready:
        started = [words for words in control.told if len(words) == 4]
        assert [words[0] for words in started] == ["GPU-a", "GPU-b"]
        folders = {words[0]: words[1:3] for words in started}
        assert len({*folders["GPU-a"], *folders["GPU-b"]}) == 4
        for before, slot in zip(slots, ready, strict=True):
            assert [slot.environment[MPS_PIPES], slot.environment[MPS_LOGS]] == folders[slot.gpu]
            assert {**before.environment, **slot.environment} == slot.environment
            assert (slot.uses_mps, before.uses_mps) == (True, False)
        assert os.getpgid(int(started[0][3])) != os.getpgid(0), "Ctrl-C ends it only after its workers"
        for folder in folders["GPU-a"]:
            assert Path(folder).parent.stat().st_mode & 0o077 == 0, "no other user reads it"
    assert [words for words in control.told if words == ["quit"]] == [["quit"]] * 2
    assert not [words for words in started if is_alive(words[3]) or Path(words[1]).parent.exists()]


def test_a_daemon_ends_with_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control(tmp_path, monkeypatch)
    words = "from unetx_search.sharing.mps import MpsDaemon; d = MpsDaemon('GPU-a'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        [[_, pipes, _, daemon]] = control.told
        assert is_alive(daemon)
        owner.kill()
    ends = time.monotonic() + 60
    while (is_alive(daemon) or Path(pipes).parent.exists()) and time.monotonic() < ends:
        time.sleep(0.02)
    assert not is_alive(daemon)
    assert not Path(pipes).parent.exists()
    assert control.told[-1] == ["quit"]


def test_a_gpu_with_one_worker_and_cpus_need_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "CONTROL", "no-such-program")
    for slots in (make_slots("all", probe=lambda: (A, B), n_cores=8), cpu_slots(3)):
        with mps_enabled(slots, try_gpus=lambda slots: [] if not slots else pytest.fail("tried")) as ready:
            assert ready == tuple(slots)


@pytest.mark.parametrize(
    ("at_start", "trial", "reason"),
    [
        ("echo 'not supported on this platform' >&2; exit 1", "", "ended at once: not supported on this platform"),
        ("", "CUDA error: MPS client failed", "cannot be used through it: CUDA error: MPS client failed"),
        ("", "", "GPU 0: Big was used past it"),
    ],
)
def test_a_service_that_does_not_work_is_told_and_leaves_nothing_behind(
    at_start: str, trial: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control(tmp_path, monkeypatch, at_start)
    tried = [{"trouble": trial}]  # and none of them leaves a server
    with pytest.raises(MpsUnavailable, match=reason), mps_enabled(two_on_each(A), try_gpus=lambda slots: tried):
        pytest.fail("served")
    (started, *_) = control.told
    assert not is_alive(started[3])
    assert not Path(started[1]).parent.exists()


def test_without_the_program_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "CONTROL", "no-such-program")
    with pytest.raises(MpsUnavailable, match="no-such-program cannot be started"), mps_enabled(two_on_each(A)):
        pytest.fail("served")


@contextmanager
def no_service(slots: Sequence[Slot]) -> Iterator[tuple[Slot, ...]]:
    raise MpsUnavailable("it is not installed")
    yield tuple(slots)


def test_where_there_is_no_service_workers_compute_in_turns_unless_it_is_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Recorder()
    with (
        caplog.at_level(logging.WARNING),
        LocalExecutor(FakeEvaluator(), TASK, cpu_slots(2), mps_enabled=no_service) as one,
    ):
        one.submit(job(0))
        while not told.n_ended:
            one.poll(told, 1.0)
    assert told.finished[0].outcome is Outcome.COMPLETE
    assert "in turns" in caplog.text
    with pytest.raises(MpsUnavailable, match="it is not installed"):
        LocalExecutor(FakeEvaluator(), TASK, cpu_slots(2), mps_enabled=no_service, needs_mps=True)


class Served(Stage):
    """Two workers on GPU-a and one on GPU-b, each of which has a service; jobs 1 to 3 have begun."""

    def __init__(self) -> None:
        on_gpus = [
            Slot.on_gpu(number, f"GPU {gpu.index}: {gpu.name}", gpu.uuid, 1) for number, gpu in enumerate((A, A, B))
        ]
        super().__init__(
            slots=[replace(slot, environment={**slot.environment, MPS_PIPES: slot.gpu}) for slot in on_gpus]
        )
        for number in (1, 2, 3):
            self.begin(number, number)

    def says(self, worker: int, *reports: Report) -> None:
        self.workers[worker].reports.extend(reports)
        self.executor.poll(self.told, 1.0)

    def break_service(self) -> None:
        """An assertion on GPU-a takes both of its workers."""
        self.workers[1].reports.append(DeviceLost(2, "CUDA error: device-side assert", may_be_design=True))
        self.says(0, DeviceLost(1, "CUDA error: MPS client terminated", may_be_design=True))
        for worker in (0, 1):
            self.says(worker, Exited("was killed by SIGKILL"))


def test_what_breaks_a_service_restarts_all_of_its_gpu_and_blames_none() -> None:
    stage = Served()
    stage.break_service()
    assert [worker.ends for worker in stage.workers] == [["killed"], ["killed"], []]
    assert (stage.told.lost, sorted(stage.told.preempted)) == ({}, [1, 2])
    stage.says(2, Finished(3, DONE))
    assert (stage.told.finished, stage.executor.n_free()) == ({3: DONE}, 3), "no slot is given up"


def test_trials_that_ran_when_a_service_broke_run_alone_until_they_have_ended() -> None:
    """So the one that breaks it takes no other along a second time."""
    stage = Served()
    stage.break_service()
    stage.begin(2, 4)
    assert stage.told.started[2][0] == 0
    assert stage.executor.n_free() == 0, "GPU-a is its own, and GPU-b at work"
    assert not stage.executor.takes(1)
    stage.poll(DeviceLost(4, "CUDA error: device-side assert", may_be_design=True))
    assert stage.told.lost[2].reason == "worker 0 on device 0 lost its device: CUDA error: device-side assert"
    stage.poll(Exited("was killed by SIGKILL"))
    assert stage.executor.takes(1)
    stage.begin(1, 5)
    stage.poll(Finished(5, DONE))
    assert (stage.told.finished, stage.executor.n_free()) == ({1: DONE}, 2)


def test_a_served_worker_that_dies_is_to_blame_and_takes_the_others_of_its_gpu_along() -> None:
    """The service is in an unknown state when a process ends in the middle of its computations."""
    stage = Served()
    stage.says(0, Exited("was killed by SIGSEGV"))
    assert stage.told.lost.keys() == {1}
    assert stage.told.preempted[2] == "its GPU's workers start anew, for worker 0 on device 0 was killed by SIGSEGV"
    assert [worker.ends for worker in stage.workers] == [[], ["killed"], []]


def test_an_interrupted_neighbour_of_a_dead_worker_is_told_as_interrupted() -> None:
    stage = Served()
    stage.executor.interrupt()
    stage.says(0, Exited("was killed by SIGSEGV"))
    assert sorted(stage.told.interrupted) == [1, 2]
