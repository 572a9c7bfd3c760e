"""After a worker died: is its GPU's memory free again? A new worker on a device that is still full would only die, too.

A process on a CPU gives its memory back before its end can be seen. A GPU's driver may take seconds longer, and says
only how much is free in all. One that hangs never answers: so it is asked in a thread, which may be left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from unetx_search.executors.gpus import FreeMemoryProbe, free_memory_mib
from unetx_search.executors.slots import Slot

logger = logging.getLogger(__name__)

SLACK_MIB = 256
LOOK_EVERY_S = 0.5
TIMEOUT_S = 60.0
ANSWER_S = 0.2
"""Seconds that a look waits for the driver, which answers in milliseconds; a later answer counts at a later look."""
FIRST_ANSWER_S = 10.0


class MemoryWatch:
    """Notes how much memory was free on each GPU before the first worker, and tells when it is free again."""

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        probe: FreeMemoryProbe = free_memory_mib,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._n_workers = Counter(slot.gpu for slot in slots if slot.gpu)
        first = _Look(probe, FIRST_ANSWER_S) if self._n_workers else None
        self._at_first = dict(first.answer or {}) if first is not None else {}

    def wait_for(self, slot: Slot) -> Callable[[], bool]:
        """Return a function that tells whether a new worker may start in the slot, whose worker has just died.

        What was free at first has to be free again; where other workers share the GPU, no more memory may be coming
        free. After a minute the answer is yes, with a warning, as somebody else has the memory then. The driver is
        asked at most twice a second.
        """
        if slot.gpu not in self._at_first:
            return lambda: True
        enough_mib = self._at_first[slot.gpu] - SLACK_MIB if self._n_workers[slot.gpu] == 1 else None
        next_look_s = self._clock()
        until_s, last_mib = next_look_s + TIMEOUT_S, None
        look: _Look | None = None

        def is_free() -> bool:
            nonlocal next_look_s, last_mib, look
            now_s = self._clock()
            if look is None:
                if now_s < next_look_s:
                    return False
                next_look_s = now_s + LOOK_EVERY_S
                look = _Look(self._probe, ANSWER_S)
            if look.answer is None:
                if now_s >= until_s:
                    logger.warning("the driver of %s has not answered for a minute; using it all the same", slot.gpu)
                return now_s >= until_s
            before_mib, last_mib, look = last_mib, look.answer.get(slot.gpu), None
            if last_mib is None:
                return True
            if now_s >= until_s:
                words = "%s has %d MiB free a minute after its worker died; using it all the same"
                logger.warning(words, slot.gpu, last_mib)
                return True
            if enough_mib is not None:
                return last_mib >= enough_mib
            return before_mib is not None and last_mib <= before_mib

        return is_free


class _Look:
    """One question to the driver, in a thread of its own; waited for ``patience_s``, it may be answered later."""

    def __init__(self, probe: FreeMemoryProbe, patience_s: float) -> None:
        self.answer: Mapping[str, int] | None = None
        """None while the driver is silent."""
        self._probe = probe
        thread = threading.Thread(target=self._ask, name="driver", daemon=True)
        thread.start()
        thread.join(patience_s)

    def _ask(self) -> None:
        self.answer = self._probe()
