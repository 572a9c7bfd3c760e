"""What an examination of a dataset found, as facts to print and as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from unetx_evaluators.evaluation import distinct_messages
from unetx_evaluators.pilot import Pilot
from unetx_evaluators.tasks.basis import Basis
from unetx_evaluators.tasks.examination import Examination
from unetx_evaluators.tasks.fingerprint import coarsest_axis
from unetx_evaluators.tasks.preprocessing import in_mm, prepare_case
from unetx_studies.sheet import (
    PARTS,
    CaseGrid,
    ChannelIntensities,
    ClassSize,
    DatasetFacts,
    Decision,
    Part,
    Picture,
    PilotFacts,
    PilotTraining,
    make_picture,
)

N_PICTURES = 12
SLICES_FIRST = 0
"""The axis of a stacked task's arrays that counts its slices."""


def dataset_facts(found: Examination, pilot: PilotFacts | None = None) -> DatasetFacts:
    """Return the facts of an examined dataset: all but its voxels, and what its pilot has settled."""
    source, basis = found.source, found.basis
    part_of: Mapping[str, Part] = {name: part for part in PARTS for name in getattr(found.splits, part, ())}
    if basis is None:
        cases = [CaseGrid(name, (), (), part_of.get(name)) for name in source.case_names]
    else:
        cases = [CaseGrid(case.name, case.shape, case.spacing, part_of.get(case.name)) for case in basis.facts.values()]
    return DatasetFacts(
        name=source.name,
        source=source.origin,
        n_bytes=source.n_bytes,
        dims=basis.preparation.dims if basis else source.dims,
        channels=source.channels,
        classes=source.classes,
        cases=tuple(cases),
        class_sizes=_class_sizes(source.classes, basis) if basis else (),
        intensities=tuple(_intensities(source.channels, part_of, basis)) if basis else (),
        choices=tuple(_choices(found.choices)),
        problems=tuple(distinct_messages(found.problems)),
        warnings=found.warnings,
        cache_bytes=found.n_bytes,
        pilot=pilot,
    )


def pilot_facts(pilot: Pilot, *, was_kept: bool) -> PilotFacts:
    """Return the facts of a pilot: its trainings in their order, and what they settled."""
    trainings = [
        PilotTraining(
            round=run.job.round,
            steps=run.job.budget.steps,
            learning_rate=run.job.budget.recipe.learning_rate,
            background_weight=run.job.budget.recipe.background_weight,
            voxels="" if run.job.spacing is None else in_mm(run.job.spacing),
            outcome=str(run.outcome),
            dice=run.score,
            seconds=run.seconds,
            curve=tuple((step, score) for step, score, _ in run.curve),
        )
        for run in pilot.runs
    ]
    return PilotFacts(tuple(trainings), tuple(_choices(pilot.choices({}))), pilot.still_gaining, was_kept)


def _class_sizes(classes: tuple[str, ...], basis: Basis) -> tuple[ClassSize, ...]:
    voxels, n_cases = basis.fingerprint.class_voxels, basis.fingerprint.class_cases
    total = sum(voxels) or 1
    return tuple(ClassSize(name, voxels[i] / total, n_cases[i]) for i, name in enumerate(classes) if i > 0)


def _intensities(channels: tuple[str, ...], part_of: Mapping[str, Part], basis: Basis) -> Iterator[ChannelIntensities]:
    training = [case for case in basis.facts.values() if part_of.get(case.name) == "train"]
    for index, (name, seen) in enumerate(zip(channels, basis.fingerprint.intensities, strict=True)):
        ranges = [case.ranges[index] for case in training]
        yield ChannelIntensities(
            channel=name,
            mean=seen.mean,
            std=seen.std,
            low=seen.low,
            median=seen.median,
            high=seen.high,
            lowest=min(low for low, _ in ranges),
            highest=max(high for _, high in ranges),
        )


def _choices(choices: Mapping[str, Mapping[str, Any]]) -> Iterator[Decision]:
    """A reason is a sentence; it mostly begins with the value: ``1x1x1 mm: median of 156 training cases``."""
    for name, chosen in choices.items():
        what = name.replace("_", " ")
        value, colon, why = str(chosen["reason"]).partition(": ")
        is_value = bool(colon) and value[0].isdigit()
        yield Decision(what, value, why) if is_value else Decision(what, "", str(chosen["reason"]))


def pictures(found: Examination) -> Iterator[Picture]:
    """Yield pictures of a dozen training cases, drawn at random but always the same, as a network would get them."""
    if found.splits is None or found.basis is None:
        return
    source, facts, preparation = found.source, found.basis.facts, found.basis.preparation
    readable = [name for name in found.splits.train if name in facts]
    drawn = sorted(readable, key=lambda name: hashlib.sha256(f"sheet/{name}".encode()).digest())[:N_PICTURES]
    spacing = preparation.network_spacing
    axis = coarsest_axis(spacing) if preparation.dims == 3 else None
    if preparation.slice_spacing is not None:
        spacing, axis = (preparation.slice_spacing, *spacing), SLICES_FIRST
    for name in sorted(drawn):
        image, label = prepare_case(source.read(name), facts[name], preparation)
        yield make_picture(name, image, label, spacing, source.channels, slice_axis=axis)
