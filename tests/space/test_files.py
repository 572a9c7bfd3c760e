"""Files of ours: whole or not at all, and told what is wrong with them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from unetx_space import RequestError, read_object, write_whole, written_whole

FIELDS = {"seed": int, "task": dict}


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old", durable=durable)
    write_whole(file, "größer\n", durable=durable)
    assert file.read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_when_writing_ends_in_an_error_the_old_file_stays_as_it_was(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.json"
    write_whole(file, b"old")

    def write_half() -> None:
        with written_whole(file) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_object_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + b'{"seed": 1, "task": {}, "more": null}')
        assert read_object(file, FIELDS, "restore it") == {"seed": 1, "task": {}, "more": None}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b'{"seed": 1, "ta', "is damaged: it is no JSON after 12 characters"),
        (b"\0" * 40, "is damaged"),
        (b"\xff\xfe{", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b"{}", "its field 'seed' is missing or no int"),
        (b'{"seed": 1, "task": []}', "its field 'task' is missing or no dict"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_and_the_remedy(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=problem) as caught:
        read_object(file, FIELDS, "restore it")
    assert str(caught.value).startswith(str(file))
    assert str(caught.value).endswith("; restore it")
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        read_object(tmp_path, FIELDS, "restore it")
