"""Pages from elsewhere in the user's own browser get at nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from unetx_studies.loopback import HEADERS, cross_origin_reason, is_loopback, loopback_only

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"secret"]


def asked(**environ: str) -> tuple[str, Mapping[str, str], bytes]:
    """Status, headers and body of the guarded application's answer."""
    told: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
        told[:] = status, dict(headers)
        return lambda data: None

    full: WSGIEnvironment = {}
    setup_testing_defaults(full)
    del full["HTTP_HOST"]
    body = b"".join(loopback_only(application)({**full, **environ}, start_response))
    return told[0], told[1], body


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080", "[::1]"]
)
def test_a_request_for_this_machine_is_served_and_may_not_be_framed_or_embedded(host: str) -> None:
    status, headers, body = asked(HTTP_HOST=host)
    assert (status, body) == ("200 OK", b"secret")
    assert headers == {"Content-Type": "text/plain", **dict(HEADERS)}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",  # a name that somebody has pointed here
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.7:8080",
        "[2001:db8::1]:8080",
        "evil@127.0.0.1",
        "127.0.0.1:8080@evil",
        "127.0.0.1:x",
        "[::1",
        " localhost",
        "",
    ],
)
def test_a_request_for_any_other_name_is_refused_reading_too(host: str) -> None:
    status, _, body = asked(HTTP_HOST=host)
    assert status == "403 Forbidden"
    assert repr(host) in json.loads(body)["reason"]


def test_a_request_that_names_no_host_is_refused() -> None:
    assert asked()[0] == "403 Forbidden"


JSON = {"HTTP_HOST": "localhost:8080", "CONTENT_TYPE": "application/json"}


@pytest.mark.parametrize(
    "more",
    [
        {},  # a program, not a browser
        {"HTTP_ORIGIN": "http://localhost:8080"},
        {"HTTP_ORIGIN": "http://localhost:8080", "HTTP_SEC_FETCH_SITE": "same-origin"},
        {"CONTENT_TYPE": "Application/JSON; charset=utf-8"},
    ],
)
def test_changes_from_the_page_itself_are_not_foreign(more: dict[str, str]) -> None:
    assert cross_origin_reason({**JSON, **more}) == ""


@pytest.mark.parametrize(
    "more",
    [
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "http://localhost:3000"},  # another server on this machine
        {"HTTP_ORIGIN": "http://127.0.0.1:8080"},  # another origin, though the same machine
        {"HTTP_ORIGIN": "https://localhost:8080"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"CONTENT_TYPE": "text/plain"},  # what a form can send
        {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
        {"CONTENT_TYPE": ""},
    ],
)
def test_changes_that_a_page_from_elsewhere_could_send_are_foreign(more: dict[str, str]) -> None:
    assert cross_origin_reason({**JSON, **more})


def test_names_of_the_loopback() -> None:
    assert [host for host in ("localhost", "127.0.0.1", "::1", "127.9.9.9") if not is_loopback(host)] == []
    assert [host for host in ("", "0.0.0.0", "::", "localhost.example", "10.0.0.1") if is_loopback(host)] == []
