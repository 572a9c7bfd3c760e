"""A Ray cluster of several nodes on this machine, for the tests of a module."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import DEADLINE_S

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
"""What every node here is told."""


@contextmanager
def cluster(head: dict[str, Any], *nodes: dict[str, Any]) -> Iterator[Any]:
    """A running cluster; skips where Ray is not installed. A node that dies is missed after two seconds."""
    pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')
    from ray.cluster_utils import Cluster

    here = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        patch.setenv("PYTHONPATH", os.pathsep.join(here))
        made = Cluster(initialize_head=True, head_node_args={**SMALL, **head})
        try:
            for node in nodes:
                made.add_node(**{**SMALL, **node})
            yield made
        finally:
            made.shutdown()


def kill_node(made: Any, node: Any) -> None:
    """As when the power fails: every process of the node is killed at once."""
    made.remove_node(node, allow_graceful=False)


def keepers() -> list[int]:
    """Process ids of the actors that keep seats, as Ray names them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"ray::SeatActor"):
                    found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    """Not even as a remainder that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def parent(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def wait_until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, "what the test waits for did not come"
        time.sleep(0.05)
