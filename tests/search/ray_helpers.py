"""A Ray cluster of two nodes on this machine, for the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MIB = 2**20
DRIVERS_FOLDER = Path(__file__).parent


@contextmanager
def cluster(head: dict[str, Any], *nodes: dict[str, Any]) -> Iterator[Any]:
    """A running cluster; skips where Ray is not installed. Nodes that die are missed within two seconds."""
    pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(DRIVERS_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]))
        shape = {"object_store_memory": 80 * MIB, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={**shape, **head})
        try:
            for node in nodes:
                made.add_node(**{**shape, **node})
            yield made
        finally:
            made.shutdown()
