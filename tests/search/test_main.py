"""The process of the command line: signals in its first instant, and terminals that lack characters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

IMPORTING = """
import os, signal, sys, time

class Interrupted:
    '''The signal comes while the command line is being imported.'''
    def find_spec(self, name, path, target=None):
        if name == "unetx_search.cli":
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(60)

import unetx_search.__main__ as entry
sys.meta_path.insert(0, Interrupted())
entry.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_the_process_in_words(number: signal.Signals) -> None:
    words = [sys.executable, "-c", IMPORTING, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped before anything had begun\n"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals to ignore")
def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import sys; sys.argv = ['x', '--version']\n"
        "import unetx_search.cli as cli\n"
        "cli.main = lambda: print(signal.getsignal(signal.SIGINT).name)\n"
        "from unetx_search.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "SIG_IGN\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_where_the_terminal_lacks_the_box_characters_the_drawing_is_in_ascii(encoding: str) -> None:
    words = [sys.executable, "-m", "unetx_search", "show", "u-net"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    plain = subprocess.run([*words, "--ascii"], capture_output=True, env=environment, check=True)
    done = subprocess.run(words, capture_output=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == (plain.stdout, b"")
    assert done.stdout.isascii()


def test_a_name_that_the_terminal_cannot_show_is_shown_escaped() -> None:
    words = [sys.executable, "-m", "unetx_search", "show", "größe.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert rb"gr\xf6\xdfe.json: cannot be read" in done.stderr
