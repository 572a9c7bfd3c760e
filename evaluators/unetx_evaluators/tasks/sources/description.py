"""``dataset.json``: read as data from a stranger, under a cap on its size, every path kept inside the folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import check_inside

DESCRIPTION = "dataset.json"
_MAX_BYTES = 50_000_000


def read_description(folder: Path) -> dict[str, Any]:
    """The description of the dataset in ``folder``. Raises DataError."""
    file = check_inside(folder / DESCRIPTION, folder)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file}: a description of more than {_MAX_BYTES} bytes is not read")
        description = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_key_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); correct it after its layout's form") from error
    if not isinstance(description, dict):
        raise DataError(f"{file}: a JSON object is expected, this is a {type(description).__name__}")
    return description


def numbered(description: dict[str, Any], field: str, file: Path) -> dict[int, str]:
    """``{"0": "MRI", "1": ...}`` by number, ascending. Raises DataError."""
    stated = description.get(field)
    if not isinstance(stated, dict) or not stated or not all(str(key).isdecimal() for key in stated):
        raise DataError(
            f'{file}: \'{field}\' maps numbers to names, like {{"0": "..."}}; got {json.dumps(stated)[:80]}'
        )
    names = {int(key): str(name) for key, name in stated.items()}
    if len(names) < len(stated):
        raise DataError(f"{file}: '{field}' names each number once, and differently; got {json.dumps(stated)[:200]}")
    return dict(sorted(names.items()))


def channel_names(description: dict[str, Any], field: str, file: Path) -> tuple[str, ...]:
    """The channels in order of their numbers. Raises DataError."""
    names = numbered(description, field, file)
    if list(names) != list(range(len(names))):
        raise DataError(f"{file}: '{field}' counts from \"0\" without gaps, got {list(names)}")
    return tuple(names.values())


def stated_file(stated: object, endings: tuple[str, ...], what: str, folder: Path) -> Path:
    """The file that a path of the description names, without leaving the folder. Raises DataError."""
    if not isinstance(stated, str) or not stated.endswith(endings) or "\0" in stated:
        raise DataError(
            f"{folder / DESCRIPTION}: {what} is a path that ends in {' or '.join(endings)}, got {str(stated)[:200]!r}"
        )
    return check_inside(folder / stated, folder)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it names {twice!r} twice")
    return fields
