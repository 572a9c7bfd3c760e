"""Where a search may run, by the names of ``--engine``; nothing is imported before one is opened."""

from __future__ import annotations

from collections.abc import Mapping

ENGINES: Mapping[str, str] = {
    "local": "unetx_search.executors.local:local_engine",
    "ray": "unetx_search.executors.ray.cluster:ray_engine",
    "slurm": "unetx_search.executors.slurm.engine:slurm_engine",
}
"""What opens each engine, ``module:function``: a function of the request and of what counts GPUs, which gives the
engine for the length of a ``with``. Raises RequestError when there are not the slots that the request asks for."""
