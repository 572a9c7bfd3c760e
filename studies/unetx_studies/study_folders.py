"""The path that a user may have meant who named one beside it: a file's study, a study's file, a near name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from unetx_space.errors import RequestError, command

DATABASE, STORAGE, BEST, CHEAPEST = "study.db", "storage.json", "best.json", "cheapest.json"
"""Files of a study's folder; one of the first two is always there."""
USUAL = Path("runs")
"""Where studies are when the user does not say otherwise."""
N_NAMED = 5


def check_study(path: Path) -> None:
    """Raises RequestError, with the folder that was probably meant, unless ``path`` is a study's."""
    if not _is_study(path):
        trouble = "holds no study" if path.is_dir() else "is a file" if path.exists() else "is not there"
        raise RequestError(
            f"{path} {trouble}; name the folder of a study, such as runs/demo{_hint(studies_meant(path))}"
        )


def _hint(meant: list[Path]) -> str:
    more = f" or one of {len(meant) - N_NAMED} more" if len(meant) > N_NAMED else ""
    return f": did you mean {', '.join(map(command, meant[:N_NAMED]))}{more}?" if meant else ""


def studies_meant(path: Path) -> list[Path]:
    """The study that holds ``path``, or those that it holds, or that whose name is nearest."""
    around = [parent for parent in (path, *path.parents) if _is_study(parent)]
    if around:
        return around[:1]
    if path.is_dir() and (inside := list(studies_in(path))):
        return inside
    near = {study.name: study for folder in (USUAL, path.parent) for study in studies_in(folder)}
    return [near[name] for name in difflib.get_close_matches(path.name, near, n=1)]


def with_hint(error: RequestError, path: Path) -> RequestError:
    """The refusal of an architecture's file, and what was probably meant instead, or what becomes of it."""
    if path.is_file() and path.name == BEST and _is_study(path.parent):
        return RequestError(f"{error}; the next run of its study writes it anew")
    if path.is_file() and path.suffix == ".json":  # of somebody else's: the refusal says all
        return error
    studies = studies_meant(path)
    if not path.exists() and not studies:
        studies = studies_meant(path.parent)
    files = [study / BEST for study in studies if (study / BEST).is_file() and study / BEST != path]
    if not files and path.is_dir() and _is_study(path):
        return RequestError(f"{path} is a study that has no {BEST} yet: none of its trials is complete")
    return RequestError(f"{error}{_hint(files)}") if files else error


def _is_study(folder: Path) -> bool:
    return (folder / DATABASE).is_file() or (folder / STORAGE).is_file()


def studies_in(folder: Path) -> Iterator[Path]:
    """The studies of a folder, by name; none where there is no such folder."""
    if folder.is_dir():
        yield from (entry for entry in sorted(folder.iterdir()) if _is_study(entry))
