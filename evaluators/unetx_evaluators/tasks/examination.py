"""A look at the whole dataset: what it is like, what follows from it, and everything that is wrong, in one go.

Nothing is written here. ``examine`` reads every case once; ``prepare`` goes on from its result, doctor prints it.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.host_memory import available_bytes
from unetx_evaluators.tasks.field_of_view import with_field_of_view
from unetx_evaluators.tasks.fingerprint import CaseFacts, Fingerprint, fingerprint, survey
from unetx_evaluators.tasks.likely_mistakes import is_constant, suspicions
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.parallel import Failed, Workers, n_workers_for
from unetx_evaluators.tasks.patients import patients_of
from unetx_evaluators.tasks.planning import NetworkPlan, plan
from unetx_evaluators.tasks.preprocessing import (
    Preparation,
    changes_grid,
    choose_preparation,
    in_mm,
    original_shape,
    original_spacing,
    prepared_shape,
)
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import Source, by, listed
from unetx_evaluators.tasks.splits import choose_splits
from unetx_evaluators.tasks.task import Splits
from unetx_evaluators.tasks.watching import NullWatcher, Phase, Watcher

MAX_SAMPLES = 200_000
"""Foreground intensities per channel that are kept of all cases together, so that many cases take no more memory."""


@dataclass(frozen=True, slots=True)
class Basis:
    """All that the prepared arrays depend on beside the files: found by reading every case once."""

    facts: Mapping[str, CaseFacts]
    """By case, intensities left out."""
    fingerprint: Fingerprint
    preparation: Preparation
    scored: tuple[str, ...]
    """The cases that no network trains on: validation and test."""

    @property
    def originals(self) -> dict[str, tuple[float, ...]]:
        """The cases whose original label maps are kept, with mm per voxel and axis of these."""
        kept = filter(self.keeps_original, self.scored)
        return {name: original_spacing(self.facts[name], self.preparation) for name in kept}

    def keeps_original(self, name: str) -> bool:
        """Whether the case is scored and preparing changes its grid."""
        return name in self.scored and changes_grid(self.facts[name], self.preparation)

    def n_bytes(self, names: Iterable[str], n_channels: int) -> int:
        """Of the cases' arrays: images (float32), label maps and originals (uint8), headers left out."""
        n_bytes = 0
        for name in names:
            n_bytes += math.prod(prepared_shape(self.facts[name], self.preparation)) * (4 * n_channels + 1)
            if self.keeps_original(name):
                n_bytes += math.prod(original_shape(self.facts[name], self.preparation))
        return n_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "facts": [asdict(facts) for facts in self.facts.values()],
            "fingerprint": asdict(self.fingerprint),
            "preparation": asdict(self.preparation),
            "scored": self.scored,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        facts = [CaseFacts.from_json(case) for case in data["facts"]]
        return cls(
            {case.name: case for case in facts},
            Fingerprint.from_json(data["fingerprint"]),
            Preparation.from_json(data["preparation"]),
            tuple(data["scored"]),
        )


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found. Where there are problems, whatever could not be found for them is None."""

    source: Source
    """The source with the names that everything else uses: pseudonyms, where the user wants them."""
    splits: Splits | None
    basis: Basis | None
    plan: NetworkPlan | None
    choices: Mapping[str, Any]
    """Everything that was chosen, with its reason; JSON values."""
    problems: tuple[DataError, ...]
    """Each forbids the use of the dataset."""
    warnings: tuple[str, ...]
    """Sentences on what may be meant, or may be wrong."""

    @property
    def n_bytes(self) -> int | None:
        """What the prepared arrays take on disk."""
        return None if self.basis is None else self.basis.n_bytes(self.basis.facts, len(self.source.channels))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a source: names and split are settled before anything is read."""

    source: Source
    options: TaskOptions
    splits: Splits | None
    problems: tuple[DataError, ...]
    warnings: tuple[str, ...] = ()
    """Sentences on what the listing alone tells."""
    torn: str = ""
    """The one of them that says which patients the split tears apart, as their names have it."""

    @classmethod
    def of(cls, source: Source, options: TaskOptions) -> Self:
        """Splits follow the real names, then take the pseudonyms."""
        problems = Problems(list(source.problems))
        splits: Splits | None = None
        with problems.collecting():
            splits = choose_splits(source.case_names, options)
        alike, torn = _patients(source.case_names, splits, options)
        if options.pseudonyms:
            source = Pseudonymous(source)
            splits = None if splits is None else source.renamed(splits)
        warnings = (*source.warnings, *filter(None, (alike, torn)))
        return cls(source, options, splits, tuple(problems.found), warnings, torn)


def examine(
    source: Source, options: TaskOptions, *, n_workers: int | None = None, watcher: Watcher | None = None
) -> Examination:
    """Read every case once and say what there is, what would be made of it, and all that is wrong. Writes nothing.

    ``n_workers`` processes read; None decides by the amount of work.
    """
    with Workers(n_workers or n_workers_for(source.n_bytes, len(source.case_names))) as workers:
        return examined(Request.of(source, options), workers, watcher or NullWatcher())


def examined(request: Request, workers: Workers, watcher: Watcher) -> Examination:
    """``examine`` with the workers of a preparation."""
    problems = Problems(list(request.problems))
    seen = _surveyed(request, problems, workers, watcher)
    facts = {name: case.facts for name, case in seen.items()}
    found = Examination(request.source, request.splits, None, None, {}, (), request.warnings)
    if request.splits is not None and any(name in facts for name in request.splits.train):  # else this is told
        with problems.collecting():
            found = replace(found, basis=_basis(request, facts))
            assert found.basis is not None
            problems.found += too_large(request.source, found.basis, list(facts))
            found = concluded(request, found.basis)
        problems.found += [*found.problems, *_unlearnable(request.source.classes, facts, request.splits)]
    return replace(found, problems=tuple(problems.found), warnings=(*found.warnings, *_twins(seen)))


def concluded(request: Request, basis: Basis) -> Examination:
    """What follows from a basis, found now or by an earlier run. Raises DataError where no network fits."""
    splits, source = request.splits, request.source
    assert splits is not None
    network = plan(basis.fingerprint, basis.preparation, len(source.channels), len(source.classes), request.options)
    problems = _unrankable(basis.facts, splits)
    warnings = [*request.warnings, *suspicions(source.classes, source.channels, basis.facts)]
    warnings += _unjudged(source.classes, basis.facts, splits, ("test",) if problems else ("validation", "test"))
    choices = _choices(request.options, splits, basis.preparation, network)
    if request.torn:
        choices["split"]["warning"] = request.torn
    return Examination(source, splits, basis, network, choices, tuple(problems), tuple(warnings))


def too_large(source: Source, basis: Basis, names: Sequence[str]) -> list[DataError]:
    """Cases that this machine has no memory to prepare."""
    free_bytes = available_bytes()
    if free_bytes is None:
        return []
    n_channels = len(source.channels)
    # In memory at once when a case is resampled: its channels twice, or once beside what the label map takes.
    bytes_per_voxel = max(8 * n_channels, 4 * n_channels + 14)
    needed = {name: math.prod(prepared_shape(basis.facts[name], basis.preparation)) * bytes_per_voxel for name in names}
    return [
        no_memory(source, basis, name, f"about {needed[name] / 2**30:.3g} GiB, {free_bytes / 2**30:.3g} GiB are free")
        for name in names
        if needed[name] > free_bytes
    ]


def no_memory(source: Source, basis: Basis, name: str, how_much: str) -> DataError:
    """A case that cannot be prepared for want of memory, of which ``how_much`` tells."""
    facts, preparation = basis.facts[name], basis.preparation
    told = source.real_names[name] if isinstance(source, Pseudonymous) else name
    return DataError(
        f"case {told}: its {by(facts.shape)} voxels of {in_mm(facts.spacing)} become "
        f"{by(prepared_shape(facts, preparation))} at the spacing {in_mm(preparation.spacing)}, and the memory does "
        f"not hold them ({how_much}); correct the spacing in its header if it is wrong, remove the case, choose a "
        "coarser --spacing, or free memory"
    )


def _choices(
    options: TaskOptions, splits: Splits, preparation: Preparation, network: NetworkPlan
) -> dict[str, dict[str, Any]]:
    """Name to value and reason."""
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
class _Seen:
    """A case after its survey."""

    facts: CaseFacts
    digest: str
    """Of the image's voxels, to tell twins."""


def _see(source: Source, in_slices: bool, n_samples: int, name: str) -> _Seen:
    case = source.read(name)
    told = source.real_names[name] if isinstance(source, Pseudonymous) else name  # in errors, which are for mending
    facts = replace(survey(case, told, len(source.classes), in_slices=in_slices), name=name)
    thinned = replace(facts, intensities=tuple(channel[:n_samples] for channel in facts.intensities))
    return _Seen(thinned, hashlib.sha256(repr(case.image.shape).encode() + case.image.tobytes()).hexdigest())


def _surveyed(request: Request, problems: Problems, workers: Workers, watcher: Watcher) -> dict[str, _Seen]:
    source = request.source
    in_slices = request.options.dims == 2 and source.dims == 3
    names = source.case_names
    watcher.on_phase(Phase.SURVEY, len(names))
    seen = {}
    for name, case in workers.map(partial(_see, source, in_slices, MAX_SAMPLES // max(1, len(names))), names):
        if isinstance(case, Failed):
            problems.found += case.errors
        else:
            seen[name] = case
        watcher.on_case()
    return seen


def _basis(request: Request, facts: Mapping[str, CaseFacts]) -> Basis:
    """From the training cases alone, in an order that no split decides."""
    assert request.splits is not None
    training = [facts[name] for name in sorted(request.splits.train) if name in facts]
    seen = fingerprint(training)
    source, options = request.source, request.options
    as_found = choose_preparation(seen, source.dims, source.channels, options)
    preparation = with_field_of_view(seen, as_found, len(source.channels), source.classes, options)
    scored = tuple(sorted(name for name in facts if name not in request.splits.train))
    return Basis({name: replace(case, intensities=()) for name, case in facts.items()}, seen, preparation, scored)


def _unlearnable(classes: Sequence[str], facts: Mapping[str, CaseFacts], splits: Splits) -> list[DataError]:
    """Every class is there to be learnt."""
    training = [facts[name] for name in splits.train if name in facts]
    found = []
    for index, name in enumerate(classes):
        if training and not any(case.class_voxels[index] for case in training):
            elsewhere = sum(case.class_voxels[index] > 0 for case in facts.values())
            remedy = "try another split seed" if elsewhere else "remove it from the labels"
            found.append(
                DataError(
                    f"class {name!r} occurs in none of the {len(training)} training cases and in {elsewhere} of the "
                    f"other {len(facts) - len(training)}, so it cannot be learnt; add cases that show it, or {remedy}"
                )
            )
    return found


def _unrankable(facts: Mapping[str, CaseFacts], splits: Splits) -> list[DataError]:
    """Validation cases without any foreground rank nothing: whatever a design predicts there, it scores 0."""
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


def _unjudged(
    classes: Sequence[str], facts: Mapping[str, CaseFacts], splits: Splits, parts: Sequence[str]
) -> list[str]:
    """Classes that validation or test cannot judge."""
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


def _patients(names: Sequence[str], splits: Splits | None, options: TaskOptions) -> tuple[str, str]:
    """Sentences on names that look like several cases of one patient: how to keep them together, or that they are torn
    apart."""
    patients = patients_of(names, spell=not options.pseudonyms)
    if patients is None:
        return "", ""
    shared = patients.shared
    stem, members = next(iter(shared.items()))
    example = (
        "" if options.pseudonyms else f", {stem} ({', '.join(members[:3])}{', ...' if members[3:] else ''}) for one"
    )
    told = f"names look like {len(shared)} patients with several cases each{example}"
    torn = [] if splits is None else patients.torn((splits.train, splits.validation, splits.test))
    if torn:
        remedy = (
            f"keep them together with {patients.flag}"
            if options.split is None
            else f"keep each in one part of {options.split}"
        )
        return "", (
            f"{told}; the split puts cases of {len(torn)} of them on several sides, where they flatter the result: "
            + remedy
        )
    if options.split is not None or options.group_by is not None:
        return "", ""
    return f"{told}; that no split tears them apart is sure with {patients.flag}", ""


def _twins(seen: Mapping[str, _Seen]) -> list[str]:
    """Cases with the same image: one case, most often, under two names."""
    same = defaultdict(list)
    for name, case in seen.items():
        if not is_constant(case.facts):  # which is told
            same[case.digest].append(name)
    return [
        f"{listed(names, 'case')} hold the very same image; on both sides of a split they flatter the result: remove "
        "all but one, or group them"
        for names in same.values()
        if len(names) > 1
    ]
