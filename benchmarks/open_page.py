"""A dashboard that is open on a growing study, asked as its page asks; used by coordinator.py, in a process of its own.

python benchmarks/open_page.py URL optuna-dashboard|ours
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import optuna
from sqlalchemy.exc import SQLAlchemyError

from unetx_space.errors import UnetxError
from unetx_studies.store import optuna_storage

ASK_EVERY_S = 5.0
PATIENCE_S = 120.0
PAGES = ("optuna-dashboard", "ours", "none")
SERVERS = {
    "optuna-dashboard": "import sys; from optuna_dashboard._cli import main; "
    "sys.argv = ['optuna-dashboard', sys.argv[1], '--port', sys.argv[2]]; main()",
    "ours": "import sys; from pathlib import Path; from sqlalchemy import make_url; "
    "from unetx_studies.dashboard import serve; "
    "serve(Path(make_url(sys.argv[1]).database).parent, port=int(sys.argv[2]))",
}


@contextmanager
def watched(url: str, page: str) -> Iterator[list[str]]:
    """Inside, the page is open; afterwards the list holds its responses."""
    answers: list[str] = []
    if page == "none":
        yield answers
        return
    command = [sys.executable, __file__, url, page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            yield answers
        finally:
            watcher.terminate()
            answers += (watcher.stdout.read() if watcher.stdout else "").splitlines()


def watch(url: str, page: str) -> None:
    """Serve the study's dashboard and send the requests of its page, until killed; print a line for each response.

    ``trials seconds`` for an answer, ``ERROR why`` for none; nothing while the study or the server is still to come.
    """
    wait_for_study(url)
    port = free_port()
    command, void = [sys.executable, "-c", SERVERS[page], url, str(port)], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=void, stderr=void) as server:
        signal.signal(signal.SIGTERM, lambda *_: (server.kill(), os._exit(0)))
        states: list[str] = []
        wait_for_server(port)
        while True:
            began = time.perf_counter()
            first = next((n for n, state in enumerate(states) if state in ("Running", "Waiting")), len(states))
            try:
                with urlopen(f"http://127.0.0.1:{port}/api/studies/1?after={first}", timeout=300) as answer:
                    states[first:] = [trial["state"] for trial in json.load(answer)["trials"]]
                print(len(states), f"{time.perf_counter() - began:.3f}", flush=True)
            except (OSError, ValueError, KeyError) as error:
                print("ERROR", error, flush=True)
            time.sleep(ASK_EVERY_S)


def wait_for_study(url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(UnetxError, KeyError, SQLAlchemyError):
            optuna.load_study(study_name="s", storage=optuna_storage(url, read_only=True))
            return
        time.sleep(0.2)
    raise SystemExit("no study came")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for_server(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise SystemExit("the dashboard did not come up")


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
