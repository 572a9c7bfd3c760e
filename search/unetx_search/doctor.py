"""What this machine offers a search, and whether a dataset can be used."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.evaluation import DataError
from unetx_search.executors.slots import GpuProbe, make_slots, nvidia_smi_probe

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Task

PACKAGES = ("unetx-search", "torch", "optuna", "optuna-dashboard", "monai", "sqlalchemy", "numpy", "nibabel")
OPTIONAL = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Findings:
    """All that ``doctor`` looked at."""

    machine: Mapping[str, str]
    workers: tuple[str, ...]
    """What ``--gpus all`` would use."""
    packages: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why the dataset cannot be used."""

    @property
    def is_fit(self) -> bool:
        """A search could start."""
        return not self.problem


def examine(*, data: Path | None, labels: str | None, console: Console, probe: GpuProbe = nvidia_smi_probe) -> Findings:
    """Look at the machine and, where one is named, at every case of a dataset; nothing is kept on disk."""
    slots = make_slots("all", probe=probe)
    facts: Mapping[str, Any] = {}
    problem = ""
    if data is not None:
        try:
            facts = _task_facts(data, labels, console)
        except DataError as error:
            problem = str(error)
    return Findings(_machine(), tuple(slot.label for slot in slots), _packages(), facts, problem)


def _machine() -> dict[str, str]:
    disk = shutil.disk_usage(Path.cwd())
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "free disk here": f"{disk.free / 2**30:.0f} GiB",
        "cpu": _cpu(),
    }


def _cpu() -> str:
    from unetx_evaluators.device import profile

    cpu = profile("cpu")
    precision = str(cpu.autocast_dtype or "torch.float32").removeprefix("torch.")
    return f"{cpu.name}, trains in {precision}"


def _packages() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'missing; pip install "unetx-search[export]"' if name in OPTIONAL else "missing"
    return found


def _task_facts(data: Path, labels: str | None, console: Console) -> dict[str, Any]:
    """Prepare the task in a temporary folder, which reads and checks every case."""
    from unetx_evaluators.budgets import default_budget
    from unetx_evaluators.tasks import open_source, parse_labels, prepare

    source = open_source(data, labels=parse_labels(labels) if labels is not None else None)
    with tempfile.TemporaryDirectory() as folder, console.status(f"reading every case of {source.name}"):
        task = prepare(source, Path(folder) / "task", split_seed=0)
        return {**_describe(task), "budget": asdict(default_budget(task))}


def _describe(task: Task) -> dict[str, Any]:
    splits = task.splits
    return {
        "name": task.name,
        "source": task.source,
        "dims": task.dims,
        "channels": list(task.channels),
        "classes": list(task.classes),
        "cases": {part: len(getattr(splits, part)) for part in ("train", "selection", "held_out")},
        "spacing_mm": list(task.spacing),
        "patch": list(task.patch),
        "strides": [list(stride) for stride in task.strides],
    }


def findings_text(findings: Findings) -> str:
    """One fact a line."""
    rows = [*findings.machine.items(), ("workers", "; ".join(findings.workers)), *findings.packages.items()]
    rows += [(name.replace("_", " "), _flat(value)) for name, value in findings.data.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if findings.problem:
        lines += ["", f"the data cannot be used: {findings.problem}"]
    return "\n".join(lines)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_flat(item) if not isinstance(item, list) else "x".join(map(str, item)) for item in value)
    return str(value)


def findings_json(findings: Findings) -> str:
    """The same facts."""
    return json.dumps({**asdict(findings), "is_fit": findings.is_fit}, indent=2)
