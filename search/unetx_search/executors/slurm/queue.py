"""Jobs as Slurm has them: submitted through submitit, looked at and cancelled with Slurm's own commands.

submitit would ask ``sacct``, which not every cluster keeps; ``squeue`` is there wherever ``sbatch`` is.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.core import Executor
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths

from unetx_search.executors.slurm.connection import CoordinatorAddress
from unetx_search.executors.slurm.job import hold_workers
from unetx_space.errors import RequestError

RUN_OPTIONS: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60.0}
"""How Slurm's commands are run: their answer is text, and a busy controller may take long for it."""
SIGNAL_BEFORE_END_S = 60
"""Seconds between Slurm's signal and the end of a job whose time is up."""
GONE = "GONE"
"""The state of a job that Slurm does not know any more."""
FAILED = ("FAILED", "OUT_OF_MEMORY", "COMPLETED", GONE)
"""States of a job that ended by itself: before its workers have joined, it could not do its work."""
ENDED_BY_OTHERS = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT")
"""States of a job that Slurm or somebody else ended."""


USER_VARIABLES = ("SLURM_CONF", "SBATCH_")
"""Beginnings of environment variables that say where Slurm is and what jobs need, not which job this process is in."""


class JobState(NamedTuple):
    """The state of a job in the queue."""

    state: str
    """Slurm's name of the state, such as PENDING."""
    reason: str
    """Slurm's reason why the job waits, such as Resources."""


class SlurmQueue:
    """Submits jobs of ``n_tasks`` tasks with ``n_threads`` CPUs each, asks for their states and cancels them.

    ``options`` are those of ``sbatch``, with underscores in their names; scripts and output go into ``folder``.
    """

    def __init__(self, folder: Path, n_tasks: int, n_threads: int, options: Mapping[str, str | bool]) -> None:
        self.folder = folder
        self.n_tasks = n_tasks
        own = {
            "ntasks_per_node": n_tasks,
            "cpus_per_task": n_threads,
            "signal": f"USR2@{SIGNAL_BEFORE_END_S}",
            "no_requeue": True,
        }
        self._options = {"job_name": "unetx-search", **own, **options}

    def check(self) -> None:
        """Ask Slurm whether it would take such a job. Raises RequestError when it would not."""
        told = ((name.replace("_", "-"), value) for name, value in self._options.items())
        flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in told]
        try:
            done = subprocess.run(("sbatch", "--test-only", *flags, "--wrap=true"), **RUN_OPTIONS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _refused(str(error)) from error
        if done.returncode != 0:
            raise _refused(done.stderr)

    def submit(self, n_jobs: int, coordinator: CoordinatorAddress) -> list[str]:
        """Submit jobs, several as an array, and return their ids. Raises RequestError when Slurm refuses them."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(USER_VARIABLES)}
        try:
            with submitit.helpers.clean_env():  # the coordinator may be a job itself
                os.environ.update(variables)
                jobs = self._submitter(n_jobs).map_array(hold_workers, [coordinator] * n_jobs)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise _refused(str(error)) from error
        return [job.job_id for job in jobs]

    def _submitter(self, n_jobs: int) -> Executor:
        executor = submitit.SlurmExecutor(self.folder)
        executor.update_parameters(
            time=None,  # the partition's own, where no option says more
            wckey=None,
            array_parallelism=n_jobs,
            additional_parameters=self._options,
            srun_args=[f"--cpus-per-task={self._options['cpus_per_task']}"],  # srun does not take it over from sbatch
        )
        return executor

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState] | None:
        """Return the states of jobs; None where Slurm does not answer. It forgets a job some minutes after its end."""
        jobs = ",".join(sorted({name.partition("_")[0] for name in ids}))
        words = ("squeue", "--array", "--noheader", "--states=all", f"--jobs={jobs}", "--format=%i|%T|%r")
        try:
            done = subprocess.run(words, **RUN_OPTIONS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        is_unknown = "Invalid job id" in done.stderr and "," not in jobs  # variables where one alone is asked for
        if done.returncode != 0 and not is_unknown:
            return None
        rows = (line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
        found = {name: JobState(state, reason) for name, state, reason in rows}
        return {name: found.get(name, JobState(GONE, "")) for name in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs that still exist. Their name must agree, too, as a cluster may number its jobs anew."""
        if ids:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(("scancel", "--quiet", f"--name={self._options['job_name']}", *ids), **RUN_OPTIONS)

    def log_tail(self, job: str, task: int = 0) -> str:
        """Say where the log of a job's task is, and what its last line says."""
        log = JobPaths(self.folder, job, task).stderr
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its log is {log}" + (f" and ends with: {last}" if last else "")


def _refused(answer: str) -> RequestError:
    """The error with what sbatch printed, without submitit's account of the call."""
    errors = re.findall(r"sbatch: (?:error: |fatal: )?(.*)", answer)
    return RequestError(
        f"--engine slurm submits its workers as jobs, and Slurm refuses them: {'; '.join(errors) or answer.strip()}\n"
        "say what they need with --slurm, such as --slurm partition=NAME account=NAME time=08:00:00 cpus-per-task=2; "
        "unetx-search doctor lists the partitions"
    )


def describe_cluster() -> str:
    """Return Slurm's version and partitions in a line of text."""
    words: Any = (("sbatch", "--version"), ("sinfo", "--noheader", "--format=%P (%a, at most %l, %D nodes, %G)"))
    try:
        version, told = (subprocess.run(each, **RUN_OPTIONS) for each in words)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer: {error}"
    if told.returncode != 0:
        return f"{version.stdout.strip()}, does not answer: {told.stderr.strip()}"
    partitions = told.stdout.strip().replace(", (null))", ")").replace("\n", "; ")
    return f"{version.stdout.strip()}; partitions: {partitions}"
