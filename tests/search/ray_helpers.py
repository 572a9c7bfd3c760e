"""A Ray cluster of several nodes on this machine, for the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

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


def actors() -> list[int]:
    """Process ids of the actors that hold workers in this process's clusters, as Ray names them.

    Other clusters of the machine are none of ours: tests run in several processes.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()).startswith("ray::WorkerHolder"):
                found.append(process.pid)
    return found
