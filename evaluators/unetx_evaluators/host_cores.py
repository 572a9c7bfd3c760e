"""The number of usable CPU cores, counted here for readers, workers and threads alike."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may keep busy: its affinity, and the CPU quota of its control group (a container's limit)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(int(quota) for quota in _cgroup_quotas(root))]))


def _cgroup_quotas(root: Path) -> list[float]:
    """CPU limits in cores of the own control group and those above it, in both versions of the interface."""
    groups = root / "sys/fs/cgroup"
    try:
        membership = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return []  # no such thing on this system
    quotas = []
    for line in membership.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            quotas += [_ratio(folder / "cpu.max") for folder in _upwards(groups, path)]
        elif "cpu" in controllers.split(","):
            for top in {groups / "cpu", groups / controllers}:  # the first is a link to the second, most often
                quotas += [_ratio(f / "cpu.cfs_quota_us", f / "cpu.cfs_period_us") for f in _upwards(top, path)]
    return [quota for quota in quotas if quota is not None]


def _upwards(top: Path, path: str) -> list[Path]:
    """The folder of a control group and those above it up to ``top``."""
    own = top / path.strip("/")
    return [own, *(folder for folder in own.parents if folder.is_relative_to(top))]


def _ratio(*files: Path) -> float | None:
    """Quota over period in microseconds, from one file (``"200000 100000"``) or two; None where there is no limit."""
    try:
        quota, period = " ".join(file.read_text(encoding="utf-8") for file in files).split()
    except (OSError, ValueError):
        return None  # the root group has no such file
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None
