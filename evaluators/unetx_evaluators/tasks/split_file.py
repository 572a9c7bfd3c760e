"""Split files: the user's own, or the one that a study keeps so that its split never changes unnoticed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.task import Splits
from unetx_space.errors import RequestError, command
from unetx_space.files import write_whole

PARTS = tuple(field.name for field in fields(Splits))


def read_splits(file: Path, names: Sequence[str]) -> Splits:
    """The split in ``file``. Raises DataError where it is not one of exactly the cases ``names``."""
    splits = _read(file)
    counts = Counter(name for part in PARTS for name in getattr(splits, part))
    wrong = {
        "named more than once": sorted(name for name, count in counts.items() if count > 1),
        "not in the dataset": sorted(set(counts) - set(names)),
        "in no part": sorted(set(names) - set(counts)),
    }
    faults = [f"{listed(cases, 'case')} {problem}" for problem, cases in wrong.items() if cases]
    if faults:
        raise DataError(f"{file}: a split names every case once; {'; '.join(faults)}; mend the file")
    return splits


def write_splits(file: Path, splits: Splits) -> None:
    """Write the split into ``file``; if it exists already, raise RequestError unless it holds this very split."""
    if file.exists():
        check_splits(file, splits)
        return
    write_whole(file, json.dumps(asdict(splits), indent=2) + "\n")


def check_splits(file: Path, splits: Splits) -> None:
    """Raise RequestError, naming the differences, unless ``file`` holds this very split or does not exist."""
    if not file.exists():
        return
    try:
        kept = _read(file)
    except DataError as error:
        remedy = "this is what a study keeps: restore it from a backup, or remove it, and the next run writes it anew"
        raise RequestError(f"{error}; {remedy} from its options, which config.json is held to") from error
    by_part = [_difference(part, getattr(kept, part), getattr(splits, part)) for part in PARTS]
    if differences := [text for text in by_part if text]:
        cases = [{name for part in PARTS for name in getattr(which, part)} for which in (kept, splits)]
        why = "this request would change it" if cases[0] == cases[1] else "these data have other cases"
        raise RequestError(
            f"{file}: a study keeps the split it began with; {why}: {'; '.join(differences)}; give "
            f"the options and data of the beginning (or {command('--split', file)}), or another --study"
        )


def _difference(part: str, kept: Sequence[str], now: Sequence[str]) -> str:
    new, gone = sorted(set(now) - set(kept)), sorted(set(kept) - set(now))
    changes = [f"{verb} {listed(names, 'case')}" for verb, names in (("gains", new), ("loses", gone)) if names]
    if not changes and tuple(kept) != tuple(now):
        changes = ["has another order"]
    return f"{part} {' and '.join(changes)}" if changes else ""


def _read(file: Path) -> Splits:
    way_out = 'it is a JSON object like {"train": ["a", ...], "validation": [...], "test": [...]}'
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as a split ({error}); {way_out}") from error
    if not isinstance(data, Mapping) or set(data) != set(PARTS):
        held = listed(sorted(data), "field") if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"{file}: a split has the fields {', '.join(PARTS)}, got {held}; {way_out}")
    for part in PARTS:
        names = data[part]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{file}: {part} needs a case at least, and is a list of case names; {way_out}")
    return Splits(**{part: tuple(data[part]) for part in PARTS})
