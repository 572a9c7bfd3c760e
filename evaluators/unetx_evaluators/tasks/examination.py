"""Examination of a dataset: its facts, the plan that follows from them, and everything that is wrong with it.

Nothing is written here. ``examine`` reads every case once; ``prepare`` continues with its result, doctor prints it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.basis import Basis, too_large
from unetx_evaluators.tasks.field_of_view import with_field_of_view
from unetx_evaluators.tasks.fingerprint import CaseFacts, fingerprint, survey
from unetx_evaluators.tasks.likely_mistakes import is_constant, suspicions
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.parallel import FailedCase, Workers, n_workers_for
from unetx_evaluators.tasks.patients import patients_of
from unetx_evaluators.tasks.planning import NetworkPlan, plan
from unetx_evaluators.tasks.preprocessing import (
    Preparation,
    choose_preparation,
)
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import Source, listed
from unetx_evaluators.tasks.splits import choose_splits
from unetx_evaluators.tasks.task import Splits
from unetx_evaluators.tasks.watching import NullWatcher, Phase, Watcher

MAX_SAMPLES = 200_000
"""Largest number of foreground intensities per channel that are kept of all cases together, to bound memory."""


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of examining a dataset; fields that could not be computed because of problems are None."""

    source: Source
    """The source with the case names used from here on, which are pseudonyms if the user wants them."""
    splits: Splits | None
    basis: Basis | None
    plan: NetworkPlan | None
    choices: Mapping[str, Any]
    """Value and reason of every choice, by its name; JSON values."""
    problems: tuple[DataError, ...]
    """Errors, each of which makes the dataset unusable."""
    warnings: tuple[str, ...]
    """Sentences on what may be a mistake."""

    @property
    def n_bytes(self) -> int | None:
        """Size of the prepared arrays on disk."""
        return None if self.basis is None else self.basis.n_bytes(self.basis.facts, len(self.source.channels))


@dataclass(frozen=True, slots=True)
class Request:
    """A request to make a task of a source, with names and split, which are known before any case is read."""

    source: Source
    options: TaskOptions
    splits: Splits | None
    problems: tuple[DataError, ...]
    warnings: tuple[str, ...] = ()
    """Sentences that follow from the listing alone."""
    leakage: str = ""
    """The warning on patients whose cases, by their names, lie in several parts of the split."""

    @classmethod
    def of(cls, source: Source, options: TaskOptions) -> Self:
        """The request for a source; the split is drawn from the real names, which pseudonyms then replace."""
        problems = Problems(list(source.problems))
        splits: Splits | None = None
        with problems.collecting():
            splits = choose_splits(source.case_names, options)
        grouping, leakage = _patient_warnings(source.case_names, splits, options)
        if options.pseudonyms:
            source = Pseudonymous(source)
            splits = None if splits is None else source.renamed(splits)
        warnings = (*source.warnings, *filter(None, (grouping, leakage)))
        return cls(source, options, splits, tuple(problems.found), warnings, leakage)


def examine(
    source: Source, options: TaskOptions, *, n_workers: int | None = None, watcher: Watcher | None = None
) -> Examination:
    """Read every case once, and return facts, plan and everything that is wrong. Writes nothing.

    ``n_workers`` processes read; None: as many as the amount of work justifies.
    """
    with Workers(n_workers or n_workers_for(source.n_bytes, len(source.case_names))) as workers:
        return examine_request(Request.of(source, options), workers, watcher or NullWatcher())


def examine_request(request: Request, workers: Workers, watcher: Watcher) -> Examination:
    """``examine`` by the workers of a preparation."""
    problems = Problems(list(request.problems))
    surveyed = _survey_cases(request, problems, workers, watcher)
    facts = {name: case.facts for name, case in surveyed.items()}
    result = Examination(request.source, request.splits, None, None, {}, (), request.warnings)
    if request.splits is not None and any(name in facts for name in request.splits.train):  # else there is a problem
        with problems.collecting():
            result = replace(result, basis=_basis(request, facts))
            assert result.basis is not None
            problems.found += too_large(request.source, result.basis, list(facts))
            result = conclude(request, result.basis)
        problems.found += [*result.problems, *_unlearnable(request.source.classes, facts, request.splits)]
    return replace(result, problems=tuple(problems.found), warnings=(*result.warnings, *_duplicate_images(surveyed)))


def conclude(request: Request, basis: Basis) -> Examination:
    """The examination that follows from a basis of this run or an earlier one. Raises DataError where no network
    fits."""
    splits, source = request.splits, request.source
    assert splits is not None
    network = plan(basis.fingerprint, basis.preparation, len(source.channels), len(source.classes), request.options)
    problems = _unrankable(basis.facts, splits)
    warnings = [*request.warnings, *suspicions(source.classes, source.channels, basis.facts)]
    warnings += _unscored(source.classes, basis.facts, splits, ("test",) if problems else ("validation", "test"))
    choices = _choices(request.options, splits, basis.preparation, network)
    if request.leakage:
        choices["split"]["warning"] = request.leakage
    return Examination(source, splits, basis, network, choices, tuple(problems), tuple(warnings))


def _choices(
    options: TaskOptions, splits: Splits, preparation: Preparation, network: NetworkPlan
) -> dict[str, dict[str, Any]]:
    """Value and reason of every choice, by its name."""
    values: dict[str, Any] = {
        "dims": preparation.dims,
        "spacing": preparation.spacing,
        **({"alternatives": preparation.alternatives} if preparation.alternatives else {}),
        "normalisation": [asdict(channel) for channel in preparation.channels],
        "patch": network.patch,
        "strides": network.strides,
        "levels": len(network.strides),
        "widths": network.widths,
        "memory": network.memory_gib,
        "seconds": network.seconds,
        "steps": network.max_steps,
        "split": {part: len(names) for part, names in asdict(splits).items()},
    }
    groups = "" if options.group_by is None else f", groups ({options.group_by}) kept together"
    fold = "" if options.folds is None else f", fold {options.fold} of {options.folds}"
    drawn = f"drawn with seed {options.split_seed}{groups}{fold}"
    why_split = drawn if options.split is None else f"as {options.split} says"
    reasons = {**preparation.reasons, **network.reasons, "split": why_split}
    return {name: {"value": values.get(name), "reason": reasons.get(name, "")} for name in {**values, **reasons}}


@dataclass(frozen=True, slots=True)
class _SurveyedCase:
    """A case after its survey."""

    facts: CaseFacts
    digest: str
    """SHA-256 of the image, by which duplicates are detected."""


def _survey_case(source: Source, in_slices: bool, n_samples: int, name: str) -> _SurveyedCase:
    case = source.read(name)
    real_name = source.real_names[name] if isinstance(source, Pseudonymous) else name  # for errors
    facts = replace(survey(case, real_name, len(source.classes), in_slices=in_slices), name=name)
    thinned = replace(facts, intensities=tuple(channel[:n_samples] for channel in facts.intensities))
    return _SurveyedCase(thinned, hashlib.sha256(repr(case.image.shape).encode() + case.image.tobytes()).hexdigest())


def _survey_cases(request: Request, problems: Problems, workers: Workers, watcher: Watcher) -> dict[str, _SurveyedCase]:
    source = request.source
    in_slices = request.options.dims == 2 and source.dims == 3
    names = source.case_names
    watcher.on_phase(Phase.SURVEY, len(names))
    surveyed = {}
    for name, case in workers.map(partial(_survey_case, source, in_slices, MAX_SAMPLES // max(1, len(names))), names):
        if isinstance(case, FailedCase):
            problems.found += case.errors
        else:
            surveyed[name] = case
        watcher.on_case()
    return surveyed


def _basis(request: Request, facts: Mapping[str, CaseFacts]) -> Basis:
    """The basis, computed from the training cases alone, in an order that does not depend on the split."""
    assert request.splits is not None
    training = fingerprint([facts[name] for name in sorted(request.splits.train) if name in facts])
    source, options = request.source, request.options
    by_rules = choose_preparation(training, source.dims, source.channels, options)
    preparation = with_field_of_view(training, by_rules, len(source.channels), source.classes, options)
    scored = tuple(sorted(name for name in facts if name not in request.splits.train))
    return Basis({name: replace(case, intensities=()) for name, case in facts.items()}, training, preparation, scored)


def _unlearnable(classes: Sequence[str], facts: Mapping[str, CaseFacts], splits: Splits) -> list[DataError]:
    """Errors on classes that no training case shows."""
    training = [facts[name] for name in splits.train if name in facts]
    errors = []
    for index, name in enumerate(classes):
        if training and not any(case.class_voxels[index] for case in training):
            elsewhere = sum(case.class_voxels[index] > 0 for case in facts.values())
            remedy = "try another split seed" if elsewhere else "remove it from the labels"
            errors.append(
                DataError(
                    f"class {name!r} occurs in none of the {len(training)} training cases and in {elsewhere} of the "
                    f"other {len(facts) - len(training)}, so it cannot be learnt; add cases that show it, or {remedy}"
                )
            )
    return errors


def _unrankable(facts: Mapping[str, CaseFacts], splits: Splits) -> list[DataError]:
    """An error where no validation case shows any foreground, so that all designs would score 0."""
    validation = [name for name in splits.validation if name in facts]
    if not validation or any(sum(facts[name].class_voxels[1:]) for name in validation):
        return []
    n_shown = sum(any(case.class_voxels[1:]) for case in facts.values())
    remedy = (
        "try another --split-seed, or name a --split of your own with one of them"
        if n_shown > 1
        else "add cases that show some"
    )
    return [
        DataError(
            f"none of the {len(validation)} validation cases shows any foreground, so that no design could be ranked; "
            f"{n_shown} of all {len(facts)} cases {'shows' if n_shown == 1 else 'show'} some: {remedy}"
        )
    ]


def _unscored(
    classes: Sequence[str], facts: Mapping[str, CaseFacts], splits: Splits, parts: Sequence[str]
) -> list[str]:
    """Warnings on classes that no case of a part of the split shows."""
    warnings = []
    for part in parts:
        cases = [facts[name] for name in getattr(splits, part) if name in facts]
        for index, name in enumerate(classes[1:], start=1):
            if cases and not any(case.class_voxels[index] for case in cases):
                warnings.append(
                    f"class {name!r} occurs in none of the {len(cases)} {part} cases, which cannot judge it; another "
                    "split seed may help"
                )
    return warnings


def _patient_warnings(names: Sequence[str], splits: Splits | None, options: TaskOptions) -> tuple[str, str]:
    """Warnings on names that look like several cases of one patient: that these should be grouped, or that the split
    separates them; empty where there is nothing to warn of."""
    patients = patients_of(names, spell=not options.pseudonyms)
    if patients is None:
        return "", ""
    shared = patients.shared
    stem, members = next(iter(shared.items()))
    example = (
        "" if options.pseudonyms else f", {stem} ({', '.join(members[:3])}{', ...' if members[3:] else ''}) for one"
    )
    warning = f"names look like {len(shared)} patients with several cases each{example}"
    separated = [] if splits is None else patients.separated((splits.train, splits.validation, splits.test))
    if separated:
        remedy = (
            f"keep them together with {patients.flag}"
            if options.split is None
            else f"keep each in one part of {options.split}"
        )
        return "", (
            f"{warning}; the split puts cases of {len(separated)} of them on several sides, where they flatter the "
            f"result: {remedy}"
        )
    if options.split is not None or options.group_by is not None:
        return "", ""
    return f"{warning}; that no split tears them apart is sure with {patients.flag}", ""


def _duplicate_images(surveyed: Mapping[str, _SurveyedCase]) -> list[str]:
    """Warnings on cases with the same image, which are mostly one case under two names."""
    same = defaultdict(list)
    for name, case in surveyed.items():
        if not is_constant(case.facts):  # constant images have a warning of their own
            same[case.digest].append(name)
    return [
        f"{listed(names, 'case')} hold the very same image; on both sides of a split they flatter the result: remove "
        "all but one, or group them"
        for names in same.values()
        if len(names) > 1
    ]
