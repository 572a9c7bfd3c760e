"""Whether a training will fit into a device's memory; no torch.

The plan knows what autograd keeps for a patch, the dry run what a step took; both underestimate. On CPUs the
measurement misses memory that the process had freed, and the plan the workspaces of operators. So the larger counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from unetx_evaluators.evaluation import DeviceFailed, EvaluationEnded, Outcome
from unetx_evaluators.host_memory import MIB

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that a training needs beside its network's weights."""

    batch_size: int
    patch_bytes: int
    """Bytes that autograd keeps for a patch, by ``unetx_space.training_memory``."""
    parameter_values: int
    """Number of values kept beside all parameters: gradients, Adam's two moments, averages."""

    def n_bytes(self, *, measured: int = 0, measured_batch: int = 0) -> int:
        """Bytes for a batch, given that a step without an update took ``measured`` bytes for ``measured_batch``
        patches."""
        step = max(measured, measured_batch * self.patch_bytes)
        other_patches = max(0, self.batch_size - measured_batch) * self.patch_bytes
        return step + other_patches + self.parameter_values * FLOAT32_BYTES


def check_memory(needed: int, free: int | None, device: str, share: int | None = None) -> None:
    """Raise EvaluationEnded (out of memory) where a device has less than the ``needed`` bytes; None (unknown) passes.

    Where workers share the device, ``share`` is what is left of this worker's part, and a design is judged by that
    alone. Raises DeviceFailed where the design fits into the share, but others hold too much of it.
    """
    if share is not None and free is not None and needed <= share:
        if needed > free:
            raise _crowded(device, share, free)
        return
    has = free if share is None else share
    if has is not None and needed > has:
        whose = f"{device} has {has / MIB:,.0f} MiB free"
        if share is not None:
            whose = f"a worker's share of {device} has {has / MIB:,.0f} MiB left"
        raise EvaluationEnded(
            Outcome.OUT_OF_MEMORY,
            f"training needs about {needed / MIB:,.0f} MiB and {whose}; a smaller batch, patch or width factor needs "
            "less",
        )


def check_share(share: int | None, free: int | None, device: str) -> None:
    """Raise DeviceFailed if others hold a part of this worker's share, so that running out of memory does not count
    against the design."""
    if share is not None and free is not None and free < share:
        raise _crowded(device, share, free)


def _crowded(device: str, share: int, free: int) -> DeviceFailed:
    return DeviceFailed(
        f"{device} has {free / MIB:,.0f} MiB to give, of {share / MIB:,.0f} MiB left of this worker's share: other "
        "processes hold the rest (nvidia-smi lists them)"
    )
