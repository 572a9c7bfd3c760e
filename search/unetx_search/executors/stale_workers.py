"""Workers of a run that died: they leave by themselves when their coordinator has gone, unless they hang."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from unetx_studies.processes import Presence, ProcessIdentity, presence, this_process
from unetx_studies.store import TrialRecord

TIMEOUT_S = 5.0


def end_stale_workers(jobs: Iterable[TrialRecord], *, patience_s: float = TIMEOUT_S) -> tuple[ProcessIdentity, ...]:
    """Wait until no worker that a job names is alive on this machine; kill those that stay, and return them.

    Two workers must never train the same trial: they would share its checkpoint and its device. To be called by the
    holder of the study's lease before it hands out a job.
    """
    own = this_process()  # where evaluations run in the coordinator itself
    stale = [job.process for job in jobs if job.process is not None and job.process != own]
    deadline_s = time.monotonic() + patience_s
    while (stale := [p for p in stale if presence(p) is Presence.ALIVE]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for process in stale:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(process.pid).kill()
    return tuple(stale)
