"""Observers that tests watch evaluations with."""

from __future__ import annotations

from dataclasses import replace

from unetx_evaluators.evaluation import CurvePoint, Evaluation, EvaluationInterrupted


class Recorder:
    """Notes what it is told; stops at a rung when asked, or breaks off at a step as a signal does."""

    def __init__(self, *, stop_at: int | None = None, break_off_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.points: list[CurvePoint] = []
        self._stop_at = stop_at
        self._break_off_at = break_off_at

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        if step == self._break_off_at:
            raise EvaluationInterrupted

    def on_rung(self, point: CurvePoint) -> bool:
        self.points.append(point)
        return point.step == self._stop_at


def without_clocks(evaluation: Evaluation) -> Evaluation:
    """What must be equal between two evaluations of the same inputs."""
    curve = tuple(replace(point, seconds=0.0) for point in evaluation.curve)
    return replace(evaluation, curve=curve, seconds=0.0, peak_mem_mib=None)
