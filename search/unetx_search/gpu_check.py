"""Before a search, and for ``doctor --gpu``: every chosen GPU is tried in a process of its own, within seconds.

What is wrong is told for all of them at once, each with its remedy: a search that would fail in an hour, or train
slowly for a night, ends before it has begun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unetx_evaluators.evaluation import MEMORY_FRACTION
from unetx_search.executors.engines import check_torch
from unetx_search.executors.gpus import GpuState, gpu_states
from unetx_search.executors.slots import Slot
from unetx_search.progress import say
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

SELF_TEST = (sys.executable, "-m", "unetx_evaluators.gpu_self_test")
TIMEOUT_S = 120.0
"""Seconds for a trial, most of which is the import of torch; a cold disk takes a minute for that."""
TOLERANCE = 0.05
"""Largest difference between losses of captured and of eager steps; a sound GPU stays far below in any precision."""

TryGpus = Callable[[Sequence[Slot]], Sequence[Mapping[str, Any]]]
"""Tests a GPU for each slot and returns what ``unetx_evaluators.gpu_self_test`` prints of it, or a ``trouble``
alone."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The facts of a GPU, and why a search cannot or should not use it."""

    label: str
    driver: str
    mode: str
    free_mib: int | None
    total_mib: int | None
    architecture: str
    precision: str
    steps: str
    problems: tuple[str, ...]
    """Why no search can use it, with the remedy for each reason."""
    warnings: tuple[str, ...]
    """Why a search on it is slower, or may fail later."""

    def row(self) -> tuple[str, ...]:
        """Return the GPU's row of a table whose columns are ``HEADS``."""
        free = "" if self.free_mib is None else f"{self.free_mib / 1024:.1f}"
        total = "" if self.total_mib is None else f" of {self.total_mib / 1024:.1f} GiB"
        verdict = "unfit" if self.problems else "fit, with a warning" if self.warnings else "fit"
        steps = self.steps.partition(":")[0]
        return (self.label, self.driver, self.mode, self.architecture, self.precision, steps, free + total, verdict)


HEADS = ("GPU", "driver", "mode", "built as", "trains in", "steps", "free", "verdict")


def check_gpus(
    slots: Sequence[Slot], *, try_gpus: TryGpus | None = None, states: Callable[[], Mapping[str, GpuState]] = gpu_states
) -> tuple[GpuFacts, ...]:
    """Check every GPU of the slots for as many workers as it has slots; CPU slots are left out.

    ``try_gpus`` and ``states`` take the machine's place in tests.
    """
    n_workers = Counter(slot.gpu for slot in slots if slot.gpu)
    first = {slot.gpu: slot for slot in reversed(slots) if slot.gpu}
    one_each = [first[gpu] for gpu in n_workers]
    known = states() if one_each else {}  # before ours are among the processes there
    tried = (try_gpus or try_in_processes)(one_each)
    unknown = GpuState("", "", None, None)
    return tuple(
        _facts(slot, known.get(slot.gpu, unknown), trial, n_workers[slot.gpu])
        for slot, trial in zip(one_each, tried, strict=True)
    )


def try_in_processes(slots: Sequence[Slot]) -> list[Mapping[str, Any]]:
    """Try the GPUs of the slots at the same time, in a process each; one that does not answer in time is killed."""
    running = [
        subprocess.Popen(
            SELF_TEST,
            env={**os.environ, **slot.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for slot in slots
    ]
    found: list[Mapping[str, Any]] = []
    try:
        for process in running:
            try:
                out, error = process.communicate(timeout=TIMEOUT_S)
                found.append(json.loads(out.splitlines()[-1]))
            except subprocess.TimeoutExpired:
                found.append({"trouble": f"it did not answer within {TIMEOUT_S:g} s"})
            except (ValueError, IndexError):
                last = (error.strip().splitlines() or ["nothing was said"])[-1]
                found.append({"trouble": f"its trial ended with exit code {process.returncode}: {last}"})
    finally:
        for process in running:
            process.kill()
    return found


def _facts(slot: Slot, state: GpuState, trial: Mapping[str, Any], n_workers: int) -> GpuFacts:
    free, total = trial.get("free_mib", state.free_mib), trial.get("total_mib", state.total_mib)
    return GpuFacts(
        label=slot.label,
        driver=state.driver,
        mode=state.mode,
        free_mib=free,
        total_mib=total,
        architecture=trial.get("architecture", ""),
        precision=trial.get("precision", ""),
        steps=trial.get("steps", ""),
        problems=tuple(_problems(slot, state, trial, n_workers)),
        warnings=tuple(_warnings(slot, state, trial, n_workers, free, total)),
    )


def _problems(slot: Slot, state: GpuState, trial: Mapping[str, Any], n_workers: int) -> Iterator[str]:
    if state.mode == "prohibited":
        yield f"{slot.label} admits no process (compute mode): nvidia-smi -i {slot.gpu} -c DEFAULT changes that"
    elif state.mode.startswith("exclusive") and n_workers > 1:
        yield (
            f"{slot.label} admits one process at a time (compute mode), and {n_workers} workers were asked for: use "
            f"--workers-per-gpu 1, or nvidia-smi -i {slot.gpu} -c DEFAULT"
        )
    elif trouble := trial["trouble"]:
        yield f"{slot.label} cannot be used: {trouble}; {_remedy(trouble, state, trial)}"
    elif (difference := trial["difference"]) is None or not difference <= TOLERANCE:
        yield (
            f"{slot.label} computes wrongly: losses of captured steps differ by {difference} from those of eager ones, "
            "which is a fault of the GPU, its driver or torch; try another driver, and leave this GPU out until then"
        )


def _remedy(trouble: str, state: GpuState, trial: Mapping[str, Any]) -> str:
    words = trouble.lower()
    if "driver" in words and ("old" in words or "insufficient" in words):
        return f"install a newer driver than {state.driver or 'this one'}, or a torch that was built for its CUDA"
    if "no kernel image" in words:
        return (
            f"the GPU is {trial.get('architecture', '')} and this torch was built for "
            f"{', '.join(trial.get('built_for', ()))}: install a build for it"
        )
    if "busy or unavailable" in words or "out of memory" in words:
        others = f" ({', '.join(state.others)})" if state.others else ""
        return f"other processes have it{others}: wait for their end, or take other GPUs with CUDA_VISIBLE_DEVICES"
    if "not compiled with cuda" in words:
        return "install a CUDA build of torch, or use --gpus 0 for CPU workers"
    return "leave it out with CUDA_VISIBLE_DEVICES, or reset it (nvidia-smi --gpu-reset) or restart the machine"


def _warnings(
    slot: Slot, state: GpuState, trial: Mapping[str, Any], n_workers: int, free: int | None, total: int | None
) -> Iterator[str]:
    if state.others:
        yield f"{slot.label} is used by other processes, too: {', '.join(state.others)}"
    share = float(slot.environment.get(MEMORY_FRACTION, "1")) * n_workers
    if free is not None and total is not None and free < share * total:
        yield (
            f"{slot.label} has {free / 1024:.1f} GiB free of the {share * total / 1024:.1f} GiB that its workers "
            "divide: a training that needs what others hold is put off, and after two in a row the GPU is given up"
        )
    if (steps := trial.get("steps", "")).startswith("eager: "):
        yield f"{slot.label} trains correctly but slowly: a step cannot be captured ({steps.removeprefix('eager: ')})"


def preflight(slots: Sequence[Slot], console: Console, *, try_gpus: TryGpus | None = None) -> None:
    """Try the GPUs that a search is to use, and print what makes it slower.

    Raises RequestError, which names everything that is wrong with any of them, or when torch was built for CPUs only.
    """
    check_torch(slots)
    facts = check_gpus(slots, try_gpus=try_gpus)
    for warning in (warning for gpu in facts for warning in gpu.warnings):
        say(console, f"Warning: {warning}")
    problems = [problem for gpu in facts for problem in gpu.problems]
    if problems:
        raise RequestError(
            "\n".join(["a search needs GPUs that work (unetx-search doctor --gpu tells more):", *problems])
        )
