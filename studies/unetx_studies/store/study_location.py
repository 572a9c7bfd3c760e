"""The location of a study's database: in the study's folder, or on a server that the folder names.

``storage.json`` in the folder holds the server's URL without its password, the study's name there, and an id that
tells this study from another one of the same name.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from unetx_space.errors import RequestError, command
from unetx_space.files import read_object, write_whole
from unetx_studies.store.lease import Lease
from unetx_studies.store.open import open_store, study_url
from unetx_studies.store.records import Records
from unetx_studies.store.schema_versions import NoStudy
from unetx_studies.store.server import is_server, parse_url, without_secrets
from unetx_studies.study_folders import BEST, DATABASE, STORAGE

REMAINS = ("config.json", BEST)
"""Files that only a study that has begun has beside its database."""
_RESTORE = (
    "it says on which server the study is: restore it from a backup, or write it anew with the fields url "
    "(postgresql://USER@HOST/DATABASE), study (its name there) and id (its id in the table unetx_studies there)"
)


@dataclass(frozen=True, slots=True)
class StudyLocation:
    """The place of a study: its folder, and the database that holds its records."""

    folder: Path
    url: str = field(repr=False)
    """The URL that opens the database; it may hold a password, so not for people's eyes."""
    study: str | None = None
    """Its name in the database, which the folder's may differ from; None where only the file can tell."""
    id: str = ""
    """The id of a study on a server; empty for one in a file."""
    is_new: bool = False
    """Whether the folder does not name it yet."""

    @property
    def is_on_server(self) -> bool:
        return is_server(parse_url(self.url))

    @property
    def shown(self) -> str:
        """The location as people may see it: the file, or the URL without its password."""
        return without_secrets(parse_url(self.url)) if self.is_on_server else str(self.folder / DATABASE)


def find_location(folder: Path) -> StudyLocation:
    """The location of the study in ``folder``. Raises RequestError when what the folder says about it is damaged."""
    path = folder / STORAGE
    if not path.exists():
        return StudyLocation(folder, study_url(folder))
    kept = read_object(path, {"url": str, "study": str, "id": str}, _RESTORE)
    return StudyLocation(folder, _server_url(kept["url"]), kept["study"], kept["id"])


def resolve_location(folder: Path, study: str, storage: str | None) -> StudyLocation:
    """The location of a search's study: as its folder says, or else on the server at ``storage``, or else in a file.

    A folder has one study, which goes on under the name that it began with when the folder is called otherwise now;
    ``study`` names a new one. Raises RequestError when the folder says another thing than the request, and when its
    database is lost.
    """
    found = find_location(folder)
    if storage is None:
        return found if found.is_on_server else replace(found, study=_study_in(found, study))
    url = _server_url(storage)
    if found.is_on_server:
        _refuse_move(found, url)
        return replace(found, url=url)
    if (folder / DATABASE).exists():
        _refuse_move(found, url)
    return StudyLocation(folder, url, study, uuid4().hex, is_new=True)


def check_writable(location: StudyLocation) -> None:
    """Check, as far as that can be known beforehand, that folder and file can be written. Raises RequestError."""
    paths = [location.folder] if location.is_on_server else [location.folder, location.folder / DATABASE]
    closed = [str(path) for path in paths if path.exists() and not os.access(path, os.W_OK)]
    if closed:
        raise RequestError(
            f"a search writes into its study, and {' and '.join(closed)} cannot be written by you; change that, or go "
            f"on in a copy, in another folder: {command('cp', '-r', location.folder, 'FOLDER')}"
        )


def save_location(location: StudyLocation) -> None:
    """Write into the folder on which server its study is; a study in a file needs no such word."""
    if location.is_on_server:
        location.folder.mkdir(parents=True, exist_ok=True)
        facts = {"url": location.shown, "study": location.study, "id": location.id}
        write_whole(location.folder / STORAGE, json.dumps(facts, indent=2) + "\n")


def _server_url(words: str) -> str:
    url = parse_url(words)
    if not is_server(url):
        raise RequestError(
            f"--storage names a PostgreSQL database; the SQLite file of a study is always {DATABASE} in its folder: "
            "leave --storage out, and choose another folder with --out and --study"
        )
    return url.render_as_string(hide_password=False)


def _study_in(location: StudyLocation, study: str) -> str:
    """The name of the one study in a folder's file; ``study`` where there is none yet, or that is one of several."""
    if not is_begun(location):
        return study
    try:
        with open_store(location.url, create=False, read_only=True) as store:
            names = Records.studies(store) or Lease.studies(store)
    except NoStudy:  # another search that began at the same moment has not made its tables yet
        return study
    if len(names) > 1 and study not in names:
        raise RequestError(
            f"{location.shown} holds the studies {', '.join(names)}, and none is called {study!r}; give the folder "
            "one of these names, and use it with --study"
        )
    return names[0] if len(names) == 1 else study


def is_begun(location: StudyLocation) -> bool:
    """Whether the folder's file holds anything. Raises RequestError when it has been lost, and the rest has not."""
    database = location.folder / DATABASE
    if database.exists() and database.stat().st_size > 0:
        return True
    left = [name for name in REMAINS if (location.folder / name).exists()]
    if left:
        how = "is empty" if database.exists() else "is missing"
        raise RequestError(
            f"{location.folder} holds {' and '.join(left)} of a study, but its database {DATABASE} {how}; restore it "
            "from a backup, or begin another study with --study NAME; to begin anew here, move these files away"
        )
    return False


def _refuse_move(location: StudyLocation, url: str) -> None:
    asked = without_secrets(parse_url(url))
    if asked != location.shown:
        raise RequestError(
            f"a study stays where it was begun: {location.folder} has its database at {location.shown}, and --storage "
            f"names {asked}; leave --storage out, or take another --study NAME"
        )
