"""A live view of a study in this machine's browser: optuna-dashboard on connections that cannot write, notes apart.

The coordinator is the study's one writer, so requests that would change the study are refused here, all but notes
(``notes.py``). Who wants to delete trials runs ``optuna-dashboard`` itself on the same database, after the search.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore

from unetx_space.errors import RequestError
from unetx_studies.artifacts import ARTIFACTS
from unetx_studies.loopback import check_loopback, error_response, loopback_only
from unetx_studies.notes import is_note, note_app
from unetx_studies.store import check_study, find_location, open_store, optuna_storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

READING = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSAL = (
    "unetx-search writes the study, so this page changes nothing but notes; after the search, `optuna-dashboard` "
    "itself on the same database can do more"
)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write no line per request, as the page asks for news every few seconds."""


def dashboard_app(study_folder: Path) -> WSGIApplication:
    """The dashboard of the study in a folder as a WSGI application, artifacts included where there are any.

    Raises RequestError when the folder holds no study.
    """
    check_study(study_folder)
    url = find_location(study_folder).url
    open_store(url, create=False, read_only=True).close()  # says what is wrong better than Optuna would
    artifacts = study_folder / ARTIFACTS
    reader = optuna_dashboard.wsgi(
        optuna_storage(url, read_only=True),
        artifact_store=FileSystemArtifactStore(artifacts) if artifacts.is_dir() else None,
    )
    return loopback_only(_reading_or_notes(reader, note_app(url)))


def _reading_or_notes(reader: WSGIApplication, notes: WSGIApplication) -> WSGIApplication:
    """``reader`` for requests that read, ``notes`` for notes; any other is answered with 403 and the reason."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return reader(environ, start_response)
        if is_note(environ):
            return notes(environ, start_response)
        return error_response(start_response, "403 Forbidden", REFUSAL)

    return guarded


def dashboard_server(study_folder: Path, *, host: str = "127.0.0.1", port: int = 8080) -> WSGIServer:
    """A server of the dashboard that listens already; ``serve_forever`` starts it. Port 0 takes a free one.

    Raises RequestError when the folder holds no study, and for an address that cannot be had or is no loopback's.
    """
    check_loopback(host, port)
    app = dashboard_app(study_folder)
    try:
        server = _Server6 if ":" in host else _Server
        return make_server(host, port, app, server_class=server, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "choose another --port" if taken else "choose a host of this machine and a port of 0..65535"
        raise RequestError(f"cannot listen on {host}:{port}: {error}; {hint}") from error


def serve(
    study_folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    announce: Callable[[str], None] = lambda url: None,
) -> None:
    """Show a study until Ctrl-C. ``announce`` gets the page's URL once the server listens."""
    with dashboard_server(study_folder, host=host, port=port) as server:
        shown = f"[{host}]" if ":" in host else host
        try:
            announce(f"http://{shown}:{server.server_port}/")
            server.serve_forever()
        except KeyboardInterrupt:
            return
