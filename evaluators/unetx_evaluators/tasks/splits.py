"""Splits of cases into train, validation and test, and folds of cross-validation.

Order comes from SHA-256 over the seed and the name, not from a random generator: the split depends only on the set of
names (and groups) and the seed, on any machine and with any version of NumPy. All folds of a seed have the same test
cases.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.groups import groups_of
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.split_file import read_splits
from unetx_evaluators.tasks.task import Splits

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
MIN_GROUPS = 3


def choose_splits(names: Sequence[str], options: TaskOptions) -> Splits:
    """The user's own split, or one drawn by seed, groups and folds. Raises DataError where there can be none."""
    if options.split is not None:
        if options.group_by is not None or options.folds is not None:
            raise DataError(
                f"a split comes from a file or is drawn, got --split {options.split} together with --group-by or "
                "--folds; leave one of them out"
            )
        return read_splits(options.split, names)
    if options.fold != 0 and options.folds is None:
        raise DataError(f"a fold is one of several, got --fold {options.fold} without --folds; say how many there are")
    groups = None if options.group_by is None else groups_of(names, options.group_by)
    return split_cases(names, seed=options.split_seed, groups=groups, folds=options.folds, fold=options.fold)


def split_cases(
    names: Iterable[str],
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
    folds: int | None = None,
    fold: int = 0,
) -> Splits:
    """Split cases: test and validation get a fifth each, as near as groups allow, train the rest; none is empty.

    ``groups`` names the group of every case (a patient, say); cases of one group stay together. With ``folds``, all but
    the test cases are distributed over so many folds, of which number ``fold`` (from 0) validates. Inside each part the
    cases have a seeded order, so that its first n are a fair sample. Raises DataError below three groups.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        members[name if groups is None else groups[name]].append(name)
    what = "cases" if groups is None else "groups of cases"
    if len(members) < MIN_GROUPS:
        raise DataError(
            f"train, validation and test need at least {MIN_GROUPS} {what}, got {len(members)} "
            f"({', '.join(sorted(members)) or 'none'}); add data"
        )
    sizes = {group: len(cases) for group, cases in members.items()}
    waiting = _shuffled(members, f"{seed}/group")
    n_cases = sum(sizes.values())
    test = _take(waiting, sizes, max(1, round(TEST_SHARE * n_cases)), leave=2)
    waiting = [group for group in waiting if group not in test]
    if folds is None:
        validation = _take(waiting, sizes, max(1, round(VALIDATION_SHARE * n_cases)), leave=1)
    else:
        _check_folds(folds, fold, len(waiting), what)
        validation = _distributed(waiting, sizes, folds)[fold]
    train = [group for group in waiting if group not in validation]
    names_of = ([name for group in part for name in members[group]] for part in (train, validation, test))
    return Splits(*(tuple(_shuffled(part, f"{seed}/case")) for part in names_of))


def cross_validation(splits: Splits, groups: Mapping[str, str] | None, folds: int, fold: int) -> Splits:
    """One fold of cross-validation over all cases of a split, its test cases too; the other folds train.

    ``groups`` names the group of every case; cases of one group stay together. Raises DataError where there are fewer
    groups than folds.
    """
    names = (*splits.train, *splits.validation, *splits.test)
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[name if groups is None else groups[name]].append(name)
    _check_folds(folds, fold, len(members), "cases" if groups is None else "groups of cases")
    sizes = {group: len(cases) for group, cases in members.items()}
    in_fold = _distributed(_shuffled(members, "cross-validation"), sizes, folds)[fold]
    validation = tuple(name for name in names if (name if groups is None else groups[name]) in in_fold)
    return Splits(tuple(name for name in names if name not in validation), validation, ())


def _distributed(groups: Sequence[str], sizes: Mapping[str, int], n_parts: int) -> list[list[str]]:
    """The groups distributed over ``n_parts``, each to the part that has fewest cases so far."""
    parts: list[list[str]] = [[] for _ in range(n_parts)]
    for group in groups:
        min(parts, key=lambda part: sum(sizes[member] for member in part)).append(group)
    return parts


def _take(waiting: Sequence[str], sizes: Mapping[str, int], target: int, *, leave: int) -> list[str]:
    """The first groups, while each brings the number of cases nearer to ``target``; at least one, all but ``leave``."""
    taken: list[str] = []
    count = 0
    for group in waiting:
        nearer = abs(count + sizes[group] - target) < abs(count - target)
        if nearer and len(waiting) - len(taken) > leave:
            taken.append(group)
            count += sizes[group]
    return taken or [min(waiting, key=lambda group: sizes[group])]


def _check_folds(folds: int, fold: int, n_groups: int, what: str) -> None:
    if not 2 <= folds <= n_groups:
        raise DataError(
            f"there are at least 2 folds, and at most one for each of the {n_groups} {what} to be dealt; got "
            f"--folds {folds}"
        )
    if not 0 <= fold < folds:
        raise DataError(f"{folds} folds are numbered from 0 to {folds - 1}, got --fold {fold}")


def _shuffled(names: Iterable[str], key: str) -> list[str]:
    """The names, ordered by their hashes with ``key``."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}/{name}".encode()).digest())
