"""After a worker died: is its memory free again? A new worker on a device that is still full would only die, too.

A process on a CPU gives its memory back before its end can be seen. A GPU's driver may take seconds longer, and says
only how much is free in all.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from unetx_search.executors.slots import Slot

logger = logging.getLogger(__name__)

SLACK_MIB = 256
LOOK_EVERY_S = 0.5
PATIENCE_S = 60.0


class FreeMemoryProbe(Protocol):
    """Says how much memory is free on each device in MiB, by the device's UUID. The default asks ``nvidia-smi``."""

    def __call__(self) -> Mapping[str, int]: ...


def nvidia_smi_free() -> Mapping[str, int]:
    """Free memory of every GPU; nothing where ``nvidia-smi`` does not answer. Slices (MIG) are not told."""
    command = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi did not say how much memory is free: %s", error)
        return {}
    pairs = (line.split(",") for line in answer.splitlines())
    return {uuid.strip(): int(free) for uuid, free in pairs if free.strip().isdigit()}


class MemoryWatch:
    """Knows how much was free on each device before the first worker, and when that is so again."""

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        probe: FreeMemoryProbe = nvidia_smi_free,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._workers = Counter(device_of(slot) for slot in slots if slot.device == "cuda")
        self._at_first = dict(probe()) if self._workers else {}

    def rest(self, slot: Slot) -> Rest | None:
        """What a seat whose worker died waits for; None where nothing is to be waited for."""
        device = device_of(slot)
        if slot.device != "cuda" or device not in self._at_first:
            return None
        is_alone = self._workers[device] == 1
        return Rest(device, self._at_first[device] - SLACK_MIB if is_alone else None, self._probe, self._clock)


class Rest:
    """A seat's wait for memory: until what was free at first is free again, or, on a shared device, until no more is
    coming. It ends after a minute with a warning, for then somebody else has it."""

    def __init__(self, device: str, enough_mib: int | None, probe: FreeMemoryProbe, clock: Callable[[], float]) -> None:
        self._device = device
        self._enough_mib = enough_mib
        self._probe = probe
        self._clock = clock
        self._until_s = clock() + PATIENCE_S
        self._next_look_s = clock()
        self._last_mib: int | None = None

    def is_over(self) -> bool:
        """Looks at most twice a second."""
        now_s = self._clock()
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + LOOK_EVERY_S
        free_mib = self._probe().get(self._device)
        before_mib, self._last_mib = self._last_mib, free_mib
        if free_mib is None:
            return True
        if now_s >= self._until_s:
            logger.warning(
                "%s has %d MiB free a minute after its worker died; using it all the same", self._device, free_mib
            )
            return True
        if self._enough_mib is not None:
            return free_mib >= self._enough_mib
        return before_mib is not None and free_mib <= before_mib


def device_of(slot: Slot) -> str:
    """The UUID of the slot's GPU; empty for a CPU."""
    return slot.environment.get("CUDA_VISIBLE_DEVICES", "") if slot.device == "cuda" else ""
