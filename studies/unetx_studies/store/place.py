"""Where a study's database lies: in the study's folder, or on a server that the folder names.

``storage.json`` in the folder holds the server's URL without its password, the study's name there, and an id that
tells this study from another one of the same name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from unetx_space.errors import RequestError
from unetx_space.files import write_whole
from unetx_studies.store.open import DATABASE, study_url
from unetx_studies.store.server import is_server, parse_url, without_secrets

STORAGE = "storage.json"
MAX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study is kept."""

    folder: Path
    url: str = field(repr=False)
    """What opens the database; it may hold a password, so not for people's eyes."""
    study: str | None = None
    """Its name among the studies of a server; None for a file, which holds one study."""
    id: str = ""
    """Of a study on a server."""
    is_new: bool = False
    """The folder does not name it yet."""

    @property
    def is_on_server(self) -> bool:
        return self.study is not None

    @property
    def shown(self) -> str:
        """For people: the file, or the URL without its password."""
        return without_secrets(parse_url(self.url)) if self.is_on_server else str(self.folder / DATABASE)


def find_place(folder: Path) -> Place:
    """Where the study in ``folder`` is kept. Raises RequestError when what the folder says about it is damaged."""
    path = folder / STORAGE
    if not path.exists():
        return Place(folder, study_url(folder))
    kept = _read(path)
    return Place(folder, _server_url(kept["url"]), kept["study"], kept["id"])


def settle_place(folder: Path, study: str, storage: str | None) -> Place:
    """Where a search keeps its study: as its folder says, or else on the server at ``storage``, or else in a file.

    Raises RequestError when the folder says another thing than the request.
    """
    found = find_place(folder)
    if storage is None:
        _check_name(found, study)
        return found
    url = _server_url(storage)
    if found.is_on_server:
        _check_name(found, study)
        _refuse_move(found, url)
        return Place(folder, url, study, found.id)
    if (folder / DATABASE).exists():
        _refuse_move(found, url)
    return Place(folder, url, study, uuid4().hex, is_new=True)


def keep_place(place: Place) -> None:
    """Note in the folder on which server its study is; nothing is noted of a file, which lies there."""
    if place.is_on_server:
        place.folder.mkdir(parents=True, exist_ok=True)
        facts = {"url": place.shown, "study": place.study, "id": place.id}
        write_whole(place.folder / STORAGE, json.dumps(facts, indent=2) + "\n")


def _server_url(words: str) -> str:
    url = parse_url(words)
    if not is_server(url):
        raise RequestError(
            f"--storage names a PostgreSQL database; the SQLite file of a study is always {DATABASE} in its folder: "
            "leave --storage out, and choose another folder with --out and --study"
        )
    return url.render_as_string(hide_password=False)


def _check_name(place: Place, study: str) -> None:
    if place.study not in (None, study):
        raise RequestError(
            f"{place.folder} belongs to the study {place.study!r} at {place.shown}, got {study!r}; use --study "
            f"{place.study} with the folder's own name, or another --study NAME"
        )


def _refuse_move(place: Place, url: str) -> None:
    asked = without_secrets(parse_url(url))
    if asked != place.shown:
        raise RequestError(
            f"a study stays where it was begun: {place.folder} has its database at {place.shown}, and --storage names "
            f"{asked}; leave --storage out, or take another --study NAME"
        )


def _read(path: Path) -> dict[str, Any]:
    """What is kept, every field checked."""
    try:
        with path.open(encoding="utf-8") as file:
            kept = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read: {error}; it says on which server the study is") from error
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), str) for name in ("url", "study", "id")):
        raise RequestError(f"{path} must hold url, study and id, which say on which server the study is")
    return kept
