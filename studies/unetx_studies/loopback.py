"""Keeps a WSGI application to the browser of this machine, and pages from elsewhere away from it.

Listening on the loopback keeps other machines out, but not the pages they put into the user's own browser. Such a page
can point a name of its own at the loopback address (DNS rebinding), which shows in the Host header, or send requests
across origins, which shows in Origin and Sec-Fetch-Site; a browser lets no page forge these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_HOST_HEADER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]@/]+)(:[0-9]+)?")

HEADERS = [("X-Frame-Options", "SAMEORIGIN"), ("Cross-Origin-Resource-Policy", "same-origin")]
"""No page from elsewhere may frame the application, or embed what it serves."""


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine as only itself can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_loopback(host: str, port: int) -> None:
    """Check that only this machine can reach ``host``. Raises RequestError, with a tunnel as the way out, otherwise."""
    if not is_loopback(host):
        raise RequestError(
            f"--host is an address of the loopback, such as 127.0.0.1, got {host!r}: there is no password, and who can "
            "reach the page could read the data and write notes; from another machine open a tunnel with "
            f"`ssh -L {port}:127.0.0.1:{port} USER@THIS-MACHINE`, and http://localhost:{port} there"
        )


def json_response(start_response: StartResponse, status: str, facts: Mapping[str, object]) -> Iterable[bytes]:
    """Start a response that is JSON; the body is returned, as WSGI wants it."""
    body = json.dumps(facts).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def error_response(start_response: StartResponse, status: str, reason: str) -> Iterable[bytes]:
    """Start a response that says, as JSON, why a request is not served; the body is returned."""
    return json_response(start_response, status, {"reason": reason})


def loopback_only(app: WSGIApplication) -> WSGIApplication:
    """``app`` for requests that name this machine as their host; any other is answered with 403 and the reason."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if not _names_loopback(host):
            return error_response(
                start_response,
                "403 Forbidden",
                f"this page is for localhost only, asked for was host {host!r}; from another machine use an SSH tunnel",
            )
        return app(environ, _with_headers(start_response))

    return guarded


def _names_loopback(header: str) -> bool:
    """Whether a Host header names this machine, whatever its port: a tunnel may have another."""
    match = _HOST_HEADER.fullmatch(header)
    return match is not None and is_loopback(match[1].strip("[]"))


def _with_headers(start_response: StartResponse) -> StartResponse:
    def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *HEADERS], *rest)

    return started


def cross_origin_reason(environ: WSGIEnvironment) -> str:
    """Why a request may come from a page of another origin; empty when no browser can have sent it for one."""
    origin, host = environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", "")
    if origin is not None and origin != f"http://{host}":
        return f"changes are taken from this page only, this one came from {origin}"
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site not in (None, "same-origin"):
        return f"changes are taken from this page only, the browser calls this one {site}"
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        return "changes are sent as application/json, which a page from elsewhere cannot do unasked"
    return ""
