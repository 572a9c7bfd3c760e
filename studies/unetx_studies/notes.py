"""Stores notes on a study and its trials, as optuna-dashboard's page sends them, also while a search writes the study.

Optuna-dashboard keeps notes of trials, too, as system attributes of the study, so that a finished trial can have them.
A search rests on our own tables, which no note touches. A note is a few short transactions on a connection of its own,
which waits for its turn as every writer does, and is closed at once; the last connection to a finished study leaves the
file whole and no log.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import optuna_dashboard
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from unetx_studies.loopback import cross_origin_reason, error_response, json_response
from unetx_studies.store import optuna_storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

NOTE = re.compile(r"/api/studies/(?P<study>\d+)(/(?P<trial>\d+))?/note/?")
"""The paths of notes in optuna-dashboard, of a study and of a trial, by their ids."""
MAX_BYTES = 100_000
"""Bytes of a note with its wrapping, at most; optuna-dashboard takes little more."""

logger = logging.getLogger(__name__)


def is_note(environ: WSGIEnvironment) -> bool:
    """Whether a request wants to store a note."""
    return environ["REQUEST_METHOD"] == "PUT" and NOTE.fullmatch(environ["PATH_INFO"]) is not None


def note_app(url: str) -> WSGIApplication:
    """The WSGI application that stores notes in the database at ``url``; for requests of which ``is_note`` holds.

    Refuses what may come from a foreign page, what is no note, and notes on what is not there. A note that was changed
    since the page read it is answered with 409 by optuna-dashboard.
    """
    one_at_a_time = threading.Lock()  # the version that a note replaces is looked up before it is written

    def store(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if reason := cross_origin_reason(environ):
            return error_response(start_response, "403 Forbidden", reason)
        length = environ.get("CONTENT_LENGTH", "")
        if not length.isdigit() or int(length) > MAX_BYTES:
            return error_response(start_response, "413 Content Too Large", f"a note has at most {MAX_BYTES:,} bytes")
        body = environ["wsgi.input"].read(int(length))
        if not _is_sound(body):
            return error_response(
                start_response, "400 Bad Request", "a note has a version, a whole number from 1 on, and a text as body"
            )
        with one_at_a_time:
            try:
                return _stored(url, {**environ, "wsgi.input": io.BytesIO(body)}, start_response)
            except (SQLAlchemyError, StorageInternalError) as error:
                logger.warning("a note was not stored: %s", error)
                return error_response(
                    start_response, "503 Service Unavailable", f"the note could not be stored: {error}"
                )

    return store


def _is_sound(body: bytes) -> bool:
    """Whether a body is a note, as optuna-dashboard would store any other, too, and stumble over it at every look."""
    try:
        note = json.loads(body)
    except ValueError:
        return False
    if not isinstance(note, dict):
        return False
    version = note.get("version")
    return isinstance(note.get("body"), str) and type(version) is int and version >= 1


def _stored(url: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    storage = optuna_storage(url)
    try:
        if not _is_there(storage, environ["PATH_INFO"]):
            return error_response(
                start_response, "404 Not Found", "there is no such trial in this study, or no such study"
            )
        return _with_a_body(optuna_dashboard.wsgi(storage), environ, start_response)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _with_a_body(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What ``app`` answers, 204 (no content) as an empty object: the page reads JSON out of every answer, and takes one
    without for a failure (optuna-dashboard 0.21)."""
    started: list[Any] = []

    def keep(*status_and_headers: Any) -> Callable[[bytes], object]:
        started.append(status_and_headers)
        return lambda data: None  # for applications of an older kind, which this one is not

    body = list(app(environ, keep))
    if started[0][0].startswith("204"):
        return json_response(start_response, "200 OK", {})
    start_response(*started[0])
    return body


def _is_there(storage: RDBStorage, path: str) -> bool:
    """Whether a note's study has its trial."""
    match = NOTE.fullmatch(path)
    assert match is not None
    study, trial = int(match["study"]), match["trial"]
    try:
        storage.get_study_name_from_id(study)
        if trial is None:
            return True
        number = storage.get_trial(int(trial)).number
        return storage.get_trial_id_from_study_id_trial_number(study, number) == int(trial)
    except KeyError:
        return False
