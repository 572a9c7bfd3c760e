"""Jobs without Slurm, as processes of this machine that submitit starts in the same way; and a Slurm of one node."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("submitit", reason='needs submitit: pip install "unetx-search[slurm]"')

import submitit
from submitit.core.core import Executor

from unetx_search.executors.slurm.connection import CoordinatorAddress
from unetx_search.executors.slurm.jobs import SlurmJobs
from unetx_search.executors.slurm.queue import JobState, SlurmQueue


class LocalQueue(SlurmQueue):
    """A queue whose jobs begin at once, as long as it is open."""

    def __init__(self, folder: Path, n_tasks: int = 1) -> None:
        super().__init__(folder, n_tasks, 1, {})
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.states_told: dict[str, JobState] = {}
        """In place of what the processes say."""

    def _submitter(self, n_jobs: int) -> Executor:
        executor = submitit.LocalExecutor(self.folder)
        executor.update_parameters(tasks_per_node=self.n_tasks, timeout_min=30)
        return executor

    def submit(self, n_jobs: int, coordinator: CoordinatorAddress) -> list[str]:
        jobs = super().submit(n_jobs, coordinator)
        self.submitted += jobs
        return jobs

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState] | None:
        state = {job: "RUNNING" if psutil.pid_exists(int(job)) else "FAILED" for job in ids}
        return {job: self.states_told.get(job, JobState(state[job], "None")) for job in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        """SIGTERM to the job's processes, as Slurm has it."""
        self.cancelled += ids
        for job in ids:
            for process in processes(job):
                with suppress(psutil.NoSuchProcess):
                    process.terminate()


def processes(job: str) -> list[psutil.Process]:
    """Of a job of the local queue: the holders' first."""
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        found += psutil.Process(int(job)).children(recursive=True)
    return found


@contextmanager
def local_jobs(folder: Path, n_tasks: int = 1) -> Iterator[tuple[SlurmJobs, LocalQueue]]:
    """Jobs as processes of this machine, which find the modules of the tests."""
    here = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(here))
        queue = LocalQueue(folder, n_tasks)
        with SlurmJobs(queue) as jobs:
            yield jobs, queue


PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=3 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_of_one_node(folder: Path) -> Iterator[None]:
    """A Slurm of three pretended cores and two pretended GPUs on this machine, which SLURM_CONF names meanwhile; skips
    where it cannot be had."""
    sbin = os.pathsep.join(filter(None, [os.environ.get("PATH"), "/usr/sbin", "/usr/local/sbin"]))
    missing = [name for name in PROGRAMS if shutil.which(name, path=sbin) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs {', '.join(missing) or 'root'}: Debian's slurm-wlm and munge, and root to start them")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    ports = {"ctld_port": free_port(), "d_port": free_port()}
    told = CONFIGURATION.format(host=socket.gethostname(), folder=folder, user="root", **ports)
    (folder / "slurm.conf").write_text(told)
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    running: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", sbin)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            for words in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
                with (folder / f"{words[0]}.out").open("wb") as out:
                    running.append(subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True))
                time.sleep(1.0)
            wait_for_node()
            yield
        finally:
            subprocess.run(["scancel", "--quiet", "--user=root"], capture_output=True, timeout=30)
            for process in reversed(running):
                process.terminate()
                process.wait(30)


def wait_for_node() -> None:
    deadline_s = time.monotonic() + 60
    while "idle" not in (told := subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)).stdout:
        assert time.monotonic() < deadline_s, told
        time.sleep(0.5)


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
