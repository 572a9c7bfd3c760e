"""Whether a training fits into a device's memory, told before it is tried; no torch.

The plan says what autograd keeps for a patch, the dry run what a step really took; neither is the whole truth. On CPUs
the measurement misses what the process had to hand, and the plan what the operators work on. So the larger one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from unetx_evaluators.evaluation import DeviceFailed, EvaluationEnded, Outcome

MIB = 2**20
FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """What a training needs beside its network's weights."""

    batch_size: int
    patch_bytes: int
    """That autograd keeps for a patch: ``unetx_space.training_memory``."""
    parameter_values: int
    """Numbers kept for all parameters: gradients, Adam's two moments, averages."""

    def n_bytes(self, *, measured: int = 0, measured_batch: int = 0) -> int:
        """For a whole batch, where a step without an update took ``measured`` bytes for ``measured_batch`` patches."""
        tried = max(measured, measured_batch * self.patch_bytes)
        patches = max(0, self.batch_size - measured_batch) * self.patch_bytes
        return tried + patches + self.parameter_values * FLOAT32_BYTES


def check_memory(needed: int, free: int | None, device: str, share: int | None = None) -> None:
    """Ends the evaluation as out of memory when a device has less than is needed; None is not known, and passes.

    Where workers divide the device, ``share`` is what is left of this worker's part, and a design is judged by that
    alone. Raises DeviceFailed when others hold so much that a design which deserves its memory cannot have it.
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
    """After a lack of memory: raises DeviceFailed when others held a part of this worker's share, so that nothing is
    known of the design."""
    if share is not None and free is not None and free < share:
        raise _crowded(device, share, free)


def _crowded(device: str, share: int, free: int) -> DeviceFailed:
    return DeviceFailed(
        f"{device} has {free / MIB:,.0f} MiB to give, of {share / MIB:,.0f} MiB left of this worker's share: other "
        "processes hold the rest (nvidia-smi lists them)"
    )
