"""What tests of the command line share; the fixture ``run`` is in tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
"""Words to exit code, stdout and stderr, in an empty folder."""


def refusal(run: Run, *words: object) -> str:
    """What a wrong request is answered: exit 2, one screen on stderr, nothing on stdout, nothing written."""
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = run(*words)
    assert code == 2, (out, err)
    assert out == ""
    assert sorted(Path.cwd().rglob("*")) == before
    assert 0 < len(err.splitlines()) <= 24
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())
