"""Workers of a run that died: they leave by themselves when their coordinator has gone, unless they hang."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from unetx_studies.processes import Presence, ProcessIdentity, presence, this_process
from unetx_studies.store import TrialRecord

PATIENCE_S = 5.0


def end_orphans(jobs: Iterable[TrialRecord], *, patience_s: float = PATIENCE_S) -> tuple[ProcessIdentity, ...]:
    """Wait until no worker that a job names is alive on this machine; kill those that stay, and name them.

    Two workers must never train the same trial: they would share its checkpoint and its device. To be called by the
    holder of the study's lease before it hands out a job.
    """
    own = this_process()  # where evaluations run in the coordinator itself
    orphans = [job.process for job in jobs if job.process is not None and job.process != own]
    deadline_s = time.monotonic() + patience_s
    while (orphans := [p for p in orphans if presence(p) is Presence.ALIVE]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for process in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return tuple(orphans)
