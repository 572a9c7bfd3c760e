"""What a request asks of Slurm, and what Slurm's commands are told; they are pretended here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unetx_search import doctor
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.executors.slurm.engine import sbatch_options, slurm_engine
from unetx_space.errors import RequestError

pytest.importorskip("submitit", reason='needs submitit: pip install "unetx-search[slurm]"')

from unetx_search.executors.slurm.queue import JobState, SlurmQueue, describe_cluster


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands at the head of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("sbatch", "srun"):
        pretend(folder, name, "echo Submitted batch job 12")
    return folder


def pretend(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/../said\n{script}\n')
    (folder / name).chmod(0o755)


def said(programs: Path) -> list[str]:
    return (programs.parent / "said").read_text().splitlines()


def request(tmp_path: Path, **changes: Any) -> SearchConfig:
    return SearchConfig(**{"out": tmp_path, "study": "s", "engine": "slurm", "gpus": 2, **changes})


def slots(config: SearchConfig) -> Any:
    with slurm_engine(config, tuple) as engine:
        return engine.slots


def test_a_job_for_each_gpu_is_asked_for_with_the_options_of_the_request(tmp_path: Path, programs: Path) -> None:
    told = ("partition=gpu", "--account=lab", "time=08:00:00", "exclusive")
    found = slots(request(tmp_path, slurm=told))
    assert [(slot.index, slot.device, slot.n_threads, dict(slot.environment)) for slot in found] == [
        (0, "cuda", 4, {}),
        (1, "cuda", 4, {}),
    ]
    [line] = said(programs)
    assert line == (
        "sbatch --test-only --job-name=unetx-search --ntasks-per-node=1 --cpus-per-task=4 --signal=USR2@60 "
        "--no-requeue --partition=gpu --account=lab --time=08:00:00 --exclusive --gpus-per-node=1 --wrap=true"
    )
    assert not (tmp_path / "s").exists(), "nothing is written or submitted before there is work"


def test_workers_that_share_a_gpu_share_a_job_and_a_gpu_may_be_named_in_other_ways(
    tmp_path: Path, programs: Path
) -> None:
    told = ("gres=gpu:a100:1", "cpus-per-task=12")
    found = slots(request(tmp_path, workers_per_gpu=3, slurm=told))
    assert [slot.n_threads for slot in found] == [4] * 6
    [line] = said(programs)
    assert "--ntasks-per-node=3 --cpus-per-task=12" in line
    assert "--gres=gpu:a100:1 --wrap" in line


def test_cpu_workers_have_the_cores_that_are_asked_for(tmp_path: Path, programs: Path) -> None:
    [one, two] = slots(request(tmp_path, gpus=0, cpu_workers=2, slurm=("cpus-per-task=3",)))
    assert (one.device, one.n_threads, two.index) == ("cpu", 3, 1)
    assert "gpus" not in said(programs)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": "all"}, "must be told how many: --gpus 8"),
        ({"gpus": 0}, "must be told how many: --cpu-workers N"),
        ({"slurm": ("partition=",)}, "options of sbatch by their long names.* got 'partition='"),
        ({"slurm": ("time=1\n#SBATCH --uid=0",)}, "options of sbatch by their long names"),
        ({"slurm": ("array=0-3",)}, "--slurm array: a search decides this itself"),
        ({"slurm": ("no-requeue",)}, "--slurm no-requeue: a search decides this itself"),
        ({"slurm": ("cpus-per-task=many",)}, "whole number of at least 1, got many"),
    ],
)
def test_a_request_that_no_job_can_meet_is_refused(
    tmp_path: Path, programs: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        slots(request(tmp_path, **changes))


def test_options_of_slurm_need_its_engine(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--slurm must be given with --engine slurm only, got partition=gpu"):
        request(tmp_path, engine="local", slurm=("partition=gpu",))


def test_a_machine_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="sbatch, which is not on this machine's PATH"):
        slots(request(tmp_path))
    assert "slurm" not in doctor.diagnose(DataChoices(out=tmp_path), console=Console(quiet=True), probe=tuple).machine


def test_what_slurm_refuses_is_told_in_its_words_before_anything_is_written(tmp_path: Path, programs: Path) -> None:
    pretend(programs, "sbatch", "echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    with pytest.raises(RequestError, match=r"Slurm refuses them: invalid partition specified: gpux\nsay what they"):
        slots(request(tmp_path, slurm=("partition=gpux",)))
    assert not (tmp_path / "s").exists()


def test_several_jobs_are_an_array_and_leave_the_job_they_are_submitted_from_behind(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    pretend(
        programs,
        "sbatch",
        f'echo "$SLURM_JOB_ID,$SLURM_CONF,$SBATCH_ACCOUNT" > {tmp_path}/env; echo Submitted batch job 12',
    )
    queue = SlurmQueue(tmp_path / "slurm", 1, 4, sbatch_options(["time=30", "gpus-per-node=1"]))
    assert queue.submit(3, None) == ["12_0", "12_1", "12_2"]  # type: ignore[arg-type]
    assert queue.submit(1, None) == ["12"]  # type: ignore[arg-type]
    assert (tmp_path / "env").read_text() == ",/etc/there,lab\n"
    [script] = (tmp_path / "slurm").glob("12_submission.sh")
    lines = script.read_text().splitlines()
    assert {"#SBATCH --time=30", "#SBATCH --gpus-per-node=1", "#SBATCH --no-requeue"} <= set(lines)
    assert not any("wckey" in line for line in lines)
    assert any(line.startswith("srun ") and "--cpus-per-task=4" in line for line in lines)


def test_states_are_those_of_squeue_and_a_job_it_does_not_know_is_gone(tmp_path: Path, programs: Path) -> None:
    queue = SlurmQueue(tmp_path, 1, 1, {})
    pretend(programs, "squeue", "echo '12_0|PENDING|Resources'; echo '12_1|RUNNING|None'")
    assert queue.states(["12_0", "12_1", "13"]) == {
        "12_0": JobState("PENDING", "Resources"),
        "12_1": JobState("RUNNING", "None"),
        "13": JobState("GONE", ""),
    }
    assert "--jobs=12,13" in said(programs)[-1]
    pretend(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert queue.states(["13"]) == {"13": JobState("GONE", "")}
    assert queue.states(["13", "14"]) is None, "the other may be there"
    pretend(programs, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert queue.states(["13"]) is None


def test_doctor_is_told_of_partitions_or_of_a_controller_that_is_silent(tmp_path: Path, programs: Path) -> None:
    pretend(programs, "sbatch", "echo slurm-wlm 22.05.8")
    pretend(programs, "sinfo", "echo 'gpu* (up, at most 1-00:00:00, 2 nodes, gpu:4)'; echo 'cpu (up, ..., (null))'")
    found = doctor.diagnose(DataChoices(out=tmp_path), console=Console(quiet=True), probe=tuple)
    assert found.machine["slurm"] == (
        "slurm-wlm 22.05.8; partitions: gpu* (up, at most 1-00:00:00, 2 nodes, gpu:4); cpu (up, ...)"
    )
    pretend(programs, "sinfo", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert describe_cluster() == "slurm-wlm 22.05.8, does not answer: Unable to contact slurm controller"
