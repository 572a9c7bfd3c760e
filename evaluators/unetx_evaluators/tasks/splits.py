"""Which cases train, which a search may look at, and which it never sees.

Order comes from SHA-256 over the seed and the name, not from a random generator: the split depends on nothing but the
set of names (and groups) and the seed, on any machine and with any version of NumPy.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.task import Splits

HELD_OUT_SHARE = 0.2
SELECTION_SHARE = 0.2
MIN_GROUPS = 3


def split_cases(names: Iterable[str], *, seed: int, groups: Mapping[str, str] | None = None) -> Splits:
    """Held-out and selection get a fifth of the cases each, as near as groups allow, train the rest; none is empty.

    ``groups`` names the group of every case (a patient, say); cases of one group stay together. Inside each part the
    cases stand in a seeded order, so that its first n are a fair sample. Raises DataError below three groups.
    """
    members = _members(sorted(set(names)), groups)
    if len(members) < MIN_GROUPS:
        what = "cases" if groups is None else "groups of cases"
        raise DataError(
            f"train, selection and held-out need at least {MIN_GROUPS} {what}, got {len(members)} "
            f"({', '.join(sorted(members)) or 'none'}); add data"
        )
    sizes = {group: len(cases) for group, cases in members.items()}
    waiting = _shuffled(members, f"{seed}/group")
    n_cases = sum(sizes.values())
    held_out = _take(waiting, sizes, max(1, round(HELD_OUT_SHARE * n_cases)), leave=2)
    waiting = [group for group in waiting if group not in held_out]
    selection = _take(waiting, sizes, max(1, round(SELECTION_SHARE * n_cases)), leave=1)
    train = [group for group in waiting if group not in selection]
    return Splits(*(_cases(part, members, seed) for part in (train, selection, held_out)))


def _members(names: Sequence[str], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    if groups is None:
        return {name: [name] for name in names}
    missing = [name for name in names if name not in groups]
    if missing:
        raise DataError(f"every case needs a group, {len(missing)} have none, the first is {missing[0]!r}; name theirs")
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[groups[name]].append(name)
    return members


def _take(waiting: Sequence[str], sizes: Mapping[str, int], target: int, *, leave: int) -> list[str]:
    """Groups in their order while each brings the number of cases nearer to ``target``; at least one."""
    taken: list[str] = []
    count = 0
    for group in waiting:
        nearer = abs(count + sizes[group] - target) < abs(count - target)
        if nearer and len(waiting) - len(taken) > leave:
            taken.append(group)
            count += sizes[group]
    return taken or [min(waiting, key=lambda group: sizes[group])]


def _cases(part: Iterable[str], members: Mapping[str, Sequence[str]], seed: int) -> tuple[str, ...]:
    return tuple(_shuffled((name for group in part for name in members[group]), f"{seed}/case"))


def _shuffled(names: Iterable[str], key: str) -> list[str]:
    """A random order that each name's own hash decides."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}/{name}".encode()).digest())
