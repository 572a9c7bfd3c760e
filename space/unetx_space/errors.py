"""The errors this project raises on purpose.

Anything else that flies out is a bug of ours and should be reported with its traceback.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class UnetxError(Exception):
    """Base of every error raised on purpose. Its text states the rule, what came, and the way out."""


class RequestError(UnetxError):
    """The request itself was wrong (an option, a path, a file); nothing was done. CLI exit code 2."""


class Interrupted(UnetxError):
    """The user ended the work, which has stopped in order. Its text says what is kept. CLI exit code 130."""


class DocumentError(RequestError):
    """A JSON document was refused. ``field`` is the path of the offending value, like ``genome.nodes[2].fusion``."""

    def __init__(self, field: str, problem: str, *, file: str = "") -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{file}: {field}: {problem}" if file else f"{field}: {problem}")


def command(*words: object) -> str:
    """A command as it can be pasted into a shell, paths with spaces quoted."""
    return shlex.join(map(str, words))


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """A sentence for an unknown name: what it should have been, and the nearest one known."""
    names = sorted(known)
    text = str(name)[:60]
    close = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {text!r}; {hint}known: {', '.join(names)}"
