"""NVIDIA's multi-process service (MPS): the workers of a GPU compute at the same time, and not in turns.

Every GPU has a daemon and folders of its own, so that what happens on one, or in another user's service, is felt on no
other (NVIDIA, "Multi-Process Service", control daemon and environment variables). A process whose environment names a
folder without a daemon computes without the service and says nothing; so the daemon is asked whom it has served.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from unetx_search.executors.slots import MPS_PIPES, Slot
from unetx_search.gpu_check import TryGpus, try_in_processes
from unetx_space.errors import UnetxError

CONTROL = "nvidia-cuda-mps-control"
MPS_LOGS = "CUDA_MPS_LOG_DIRECTORY"
START_S = 20.0
"""Seconds for a daemon to listen."""
END_S = 20.0
"""Seconds for a daemon to end, and its server with it."""
GUARD = """read gone
echo quit | "$0"
n=0
while kill -0 "$2" 2>/dev/null && [ $n -lt 200 ]; do sleep 0.1; n=$((n + 1)); done
rm -rf "$1"
"""
"""Waits for the end of its input, which comes with the process that holds the other end, then ends the daemon."""

logger = logging.getLogger(__name__)


class MpsUnavailable(UnetxError):
    """NVIDIA's multi-process service cannot be used, for this reason."""


class MpsDaemon:
    """The multi-process service of one GPU, which ends with this process even where it is killed.

    The constructor starts it; raises MpsUnavailable.
    """

    def __init__(self, gpu: str) -> None:
        """``gpu`` is its UUID."""
        self._folder = Path(tempfile.mkdtemp(prefix="unetx-mps-"))  # private, and short as the paths of sockets must be
        folders = {MPS_PIPES: self._folder / "pipes", MPS_LOGS: self._folder / "logs"}
        for folder in folders.values():
            folder.mkdir()
        self.environment = {name: str(folder) for name, folder in folders.items()}
        """Environment variables of the processes that it is to serve."""
        self._own = {**os.environ, **self.environment, "CUDA_VISIBLE_DEVICES": gpu}
        try:
            self._process = subprocess.Popen(
                [CONTROL, "-f"],
                env=self._own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it: workers compute on to their next step
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise MpsUnavailable(f"{CONTROL} cannot be started ({error.strerror})") from error
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, CONTROL, self._folder, str(self._process.pid)],
            env=self._own,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._await_start()
        except MpsUnavailable:
            self.end()
            raise

    def _await_start(self) -> None:
        ends_s = time.monotonic() + START_S
        while not Path(self.environment[MPS_PIPES], "control").exists():
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                said = self._process.stderr.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise MpsUnavailable(f"{CONTROL} ended at once: {said[-1]}")
            if time.monotonic() > ends_s:
                raise MpsUnavailable(f"{CONTROL} did not listen within {START_S:g} s")
            time.sleep(0.05)

    def servers(self) -> list[str]:
        """Return the service's server processes; there are none before somebody has computed through it."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [CONTROL], input="get_server_list\n", env=self._own, capture_output=True, text=True, timeout=END_S
            )
            return done.stdout.split() if done.returncode == 0 else []
        return []

    def end(self) -> None:
        """End the service and remove its folders."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        for process in (self._process, self._guard):
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def mps_enabled(
    slots: Sequence[Slot], *, start: Callable[[str], MpsDaemon] = MpsDaemon, try_gpus: TryGpus = try_in_processes
) -> Iterator[tuple[Slot, ...]]:
    """Give the slots, of which those that share a GPU use its multi-process service, after a trial on each GPU.

    Raises MpsUnavailable when the service does not work on one of them; nothing is left running then.
    """
    shared = [gpu for gpu, n in Counter(slot.gpu for slot in slots).items() if gpu and n > 1]
    with ExitStack() as stack:
        daemons: dict[str, MpsDaemon] = {}
        for gpu in shared:
            daemons[gpu] = start(gpu)
            stack.callback(daemons[gpu].end)
        ready = tuple(
            replace(slot, environment={**slot.environment, **daemons[slot.gpu].environment})
            if slot.gpu in daemons
            else slot
            for slot in slots
        )
        first = {slot.gpu: slot for slot in reversed(ready) if slot.uses_mps}
        for (gpu, slot), trial in zip(first.items(), try_gpus([*first.values()]), strict=True):
            if trial["trouble"]:
                raise MpsUnavailable(f"{slot.label} cannot be used through it: {trial['trouble']}")
            if not daemons[gpu].servers():
                raise MpsUnavailable(f"{slot.label} was used past it")
        yield ready
