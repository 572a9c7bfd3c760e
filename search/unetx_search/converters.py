"""Converters of what a user writes on the command line or in a TOML file: whole numbers, sizes, paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import CoercionError, Parameter, Token, convert

Json = Annotated[bool, Parameter(name="--json", negative=())]
"""The switch of every command that can print JSON."""

SIZES = ("--patch", "--spacing")
"""Options whose values may be written with spaces, too: ``--patch 40 56``."""
MAX_AXES = 3
MAX_NAME_BYTES = 255
"""The longest name of a file or folder on all usual file systems."""

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


def convert_strictly(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert as cyclopts does, but refuse 1.5 and 0x40 for a whole number, and paths with names that are too long."""
    try:
        return convert(kind, tokens, converter=_innermost)
    except CoercionError as error:
        wanted = " or ".join(_choices(kind))
        if not wanted or error.token is None:
            raise
        raise ValueError(f"must be {wanted}, got {error.token.value!r}") from None


def _innermost(kind: type, value: str) -> Any:
    if kind is Path and any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in Path(value).parts):
        raise ValueError(f"a name in a path has at most {MAX_NAME_BYTES} bytes")
    return _whole(value) if kind is int else convert(kind, [value])


def _choices(kind: Any) -> Iterator[str]:
    """What a number or a path may be; nothing for any other kind."""
    parts = get_args(kind) or (kind,)
    if int in parts:
        yield "a whole number"
        yield from (f'"{word}"' for part in parts for word in get_args(part))
    if Path in parts:
        yield f"a path whose names have at most {MAX_NAME_BYTES} bytes"


def _whole(value: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def mm(_kind: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    """Convert lengths, written ``1x1x2.5``, ``1,1,2.5``, ``"1 1 2.5"``, or as a TOML list."""
    return tuple(float(part) for part in _parts(tokens))


def voxels(_kind: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Convert numbers of voxels, written ``96x96x48``, ``96,96,48``, ``"96 96 48"``, or as a TOML list."""
    return tuple(_whole(part) for part in _parts(tokens))


def numbers(_kind: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Convert whole numbers, written ``0,1``, ``"0 1"``, or as a TOML list."""
    return tuple(_whole(part) for part in _parts(tokens))


def _parts(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        yield from re.split(r"\s*[x×,]\s*|\s+", token.value.strip().lower())


def join_sizes(words: Sequence[str]) -> list[str]:
    """Return the words with sizes that were written as several, ``--patch 40 56``, joined: ``--patch 40x56``."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] in SIZES:
            n_axes = next((at for at, word in enumerate(rest[:MAX_AXES]) if not _NUMBER.fullmatch(word)), MAX_AXES)
            size, rest = rest[:n_axes], rest[n_axes:]
            joined += ["x".join(size)] if size else []
    return joined
