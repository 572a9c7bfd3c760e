"""Reading of ``dataset.json`` and similar lists, which are not trusted: size is limited, and paths stay in the
folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import check_inside, listed
from unetx_evaluators.tasks.sources.formats import READ, conversion, ending_of

DESCRIPTION = "dataset.json"
_MAX_BYTES = 50_000_000


def read_description(file: Path) -> dict[str, Any]:
    """The JSON object in the file, which describes the dataset in its folder. Raises DataError."""
    check_inside(file, file.parent)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file}: a description of more than {_MAX_BYTES} bytes is not read")
        description = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_key_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); correct it after its layout's form") from error
    if not isinstance(description, dict):
        raise DataError(f"{file}: a JSON object is expected, this is a {type(description).__name__}")
    return description


def numbered_names(description: dict[str, Any], field: str, file: Path) -> dict[int, str]:
    """The names in a field like ``{"0": "MRI", "1": ...}`` by number, ascending. Raises DataError."""
    stated = description.get(field)
    if not isinstance(stated, dict) or not stated or not all(str(key).isdecimal() for key in stated):
        turned = {str(value): key for key, value in stated.items()} if isinstance(stated, dict) else {}
        is_meant = bool(turned) and all(number.isdecimal() for number in turned)
        example = json.dumps(turned if is_meant else {"0": "..."})[:200]
        raise DataError(f"{file}: '{field}' maps numbers to names, like {example}; got {json.dumps(stated)[:80]}")
    names = {int(key): str(name) for key, name in stated.items()}
    if len(names) < len(stated):
        raise DataError(f"{file}: '{field}' names each number once, and differently; got {json.dumps(stated)[:200]}")
    return dict(sorted(names.items()))


def channel_names(description: dict[str, Any], field: str, file: Path) -> tuple[str, ...]:
    """The names of the channels in order of their numbers. Raises DataError."""
    names = numbered_names(description, field, file)
    if list(names) != list(range(len(names))):
        raise DataError(f"{file}: '{field}' counts from \"0\" without gaps, got {list(names)}")
    return tuple(names.values())


def stated_file(stated: object, endings: tuple[str, ...], what: str, file: Path) -> Path:
    """The file of a path in the description. Raises DataError where it is outside of the folder, or no such path."""
    if not isinstance(stated, str) or not stated.lower().endswith(endings) or "\0" in stated:
        way = conversion(Path(stated.replace("\0", ""))) if isinstance(stated, str) else None
        raise DataError(
            f"{file}: {what} is a path that ends in {' or '.join(endings)}, got {str(stated)[:200]!r}"
            + (f"; {way}" if way else "")
        )
    return check_inside(file.parent / stated, file.parent)


def unlisted(listed_files: Iterable[Path], file: Path) -> tuple[str, ...]:
    """A warning on images and masks that lie beside those that ``file`` lists, and are not listed.

    Only folders with several of the listed files are searched: a folder for each case may hold other files.
    """
    known = {without_dots(entry) for entry in listed_files}
    folders = Counter(entry.parent for entry in known)
    strays = [
        entry.relative_to(without_dots(file.parent))
        for folder in sorted(folder for folder, count in folders.items() if count > 1)
        for entry in sorted(folder.iterdir())
        if ending_of(entry) in READ and not entry.name.startswith(".") and entry not in known
    ]
    if not strays:
        return ()
    return (
        f"{file}: does not list {listed(strays, 'file')}, so that nothing of {'it' if len(strays) == 1 else 'them'} is "
        "used; list what belongs to the dataset, or move it away",
    )


def without_dots(path: Path) -> Path:
    """The absolute path without ``..``; links, which may lead out of the folder, are not resolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def inverted_mapping(stated: object) -> str | None:
    """JSON of a mapping with keys and values exchanged, where it looks like exchanged by mistake; None otherwise."""
    if not isinstance(stated, dict) or not stated:
        return None
    names = all(isinstance(value, str) and not value.strip().isdecimal() for value in stated.values())
    if not names or not all(str(key).isdecimal() for key in stated):
        return None
    return json.dumps({value: int(key) for key, value in stated.items()})[:200]


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it names {twice!r} twice")
    return fields
