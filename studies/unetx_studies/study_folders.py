"""Folders of studies: the files in them, and the path that a user may have meant who named another one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from unetx_space.errors import RequestError, command

DATABASE, STORAGE, BEST, CHEAPEST = "study.db", "storage.json", "best.json", "cheapest.json"
"""Files of a study's folder; one of the first two is always there."""
DEFAULT_OUT = Path("runs")
"""Where studies are when the user does not say otherwise."""
MAX_NAMED = 5
"""Paths that a hint names at most."""


def check_study(path: Path) -> None:
    """Check that ``path`` is the folder of a study. Raises RequestError, with the one probably meant, otherwise."""
    if not _is_study(path):
        trouble = "holds no study" if path.is_dir() else "is a file" if path.exists() else "is not there"
        raise RequestError(
            f"{path} {trouble}; name the folder of a study, such as runs/demo{_hint(likely_studies(path))}"
        )


def _hint(likely: list[Path]) -> str:
    more = f" or one of {len(likely) - MAX_NAMED} more" if len(likely) > MAX_NAMED else ""
    return f": did you mean {', '.join(map(command, likely[:MAX_NAMED]))}{more}?" if likely else ""


def likely_studies(path: Path) -> list[Path]:
    """The folders of studies that ``path`` may stand for: the one around it, those in it, or that of nearest name."""
    around = [parent for parent in (path, *path.parents) if _is_study(parent)]
    if around:
        return around[:1]
    if path.is_dir() and (inside := list(studies_in(path))):
        return inside
    near = {study.name: study for folder in (DEFAULT_OUT, path.parent) for study in studies_in(folder)}
    return [near[name] for name in difflib.get_close_matches(path.name, near, n=1)]


def with_hint(error: RequestError, path: Path) -> RequestError:
    """The refusal of an architecture's file, completed by the file that was probably meant, or by the way out."""
    if path.is_file() and path.name == BEST and _is_study(path.parent):
        return RequestError(f"{error}; the next run of its study writes it anew")
    if path.is_file() and path.suffix == ".json":  # of somebody else's: the refusal says all
        return error
    studies = likely_studies(path)
    if not path.exists() and not studies:
        studies = likely_studies(path.parent)
    files = [study / BEST for study in studies if (study / BEST).is_file() and study / BEST != path]
    if not files and path.is_dir() and _is_study(path):
        return RequestError(f"{path} is a study that has no {BEST} yet: none of its trials is complete")
    return RequestError(f"{error}{_hint(files)}") if files else error


def _is_study(folder: Path) -> bool:
    return (folder / DATABASE).is_file() or (folder / STORAGE).is_file()


def studies_in(folder: Path) -> Iterator[Path]:
    """The folders of studies in a folder, by name; none where there is no such folder."""
    if folder.is_dir():
        yield from (entry for entry in sorted(folder.iterdir()) if _is_study(entry))
