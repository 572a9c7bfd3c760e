"""Notes are stored from the dashboard while another process writes the study, and nothing is lost on either side."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.presets import PRESETS
from unetx_studies import notes
from unetx_studies.artifacts import attach_drawing
from unetx_studies.dashboard import dashboard_server
from unetx_studies.store import Store, open_store, optuna_storage, study_url

pytestmark = pytest.mark.timeout(120)

SERVER = """
import sys
from pathlib import Path
from unetx_studies.dashboard import dashboard_server
with dashboard_server(Path(sys.argv[1]), port=0) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(study_url(tmp_path), create=True) as opened:
        yield opened


@pytest.fixture
def storage(store: Store) -> Iterator[RDBStorage]:
    opened = optuna_storage(store.url)
    yield opened
    close(opened)


def close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    """As the coordinator's mirror holds it."""
    return optuna.create_study(storage=storage, study_name="s", direction="maximize")


@contextmanager
def elsewhere(folder: Path) -> Iterator[int]:
    """The port of a dashboard that another process serves, as a person would have it."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def here(folder: Path) -> Iterator[int]:
    with dashboard_server(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection.request(method, path, None if body is None else data, sent)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def put(port: int, path: str, body: str, version: int = 1) -> int:
    status, answer = ask(port, "PUT", f"/api/studies/{path}/note", {"body": body, "version": version})
    assert answer is not None, "the page takes an answer without JSON for a failure"
    return status


def shown(port: int) -> dict[str, str]:
    """The notes that the page gets, by trial number, and that of the study."""
    status, detail = ask(port, "GET", "/api/studies/1?after=0")
    assert status == 200
    return {str(trial["number"]): trial["note"]["body"] for trial in detail["trials"]} | {
        "study": detail["note"]["body"]
    }


def test_notes_outlast_everything_that_the_coordinator_writes_later(
    tmp_path: Path, store: Store, storage: RDBStorage, study: optuna.Study
) -> None:
    done, running = study.ask(), study.ask()
    study.tell(done, 0.5)
    with elsewhere(tmp_path) as port:
        assert put(port, "1", "of the study") == 200
        assert put(port, f"1/{done._trial_id}", "of a finished trial") == 200
        assert put(port, f"1/{running._trial_id}", "of a running trial") == 200
        running.suggest_float("x", 0, 1)
        running.set_user_attr("a", 1)
        running.report(0.25, 1)
        study.tell(running, 0.75)
        study.set_user_attr("b", 2)
        study.tell(study.ask(), 1.0)
        notes = {"0": "of a finished trial", "1": "of a running trial", "2": "", "study": "of the study"}
        with elsewhere(tmp_path) as fresh:  # the other has the trials of two seconds ago in memory
            assert shown(fresh) == notes
        assert put(port, f"1/{running._trial_id}", "changed", version=2) == 200
    assert optuna_dashboard.get_note(study) == "of the study", "the coordinator sees it, too"
    assert [trial.values for trial in study.trials] == [[0.5], [0.75], [1.0]]
    close(storage)
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"], "the last to close folds the log into the file"
    with here(tmp_path) as port:
        assert shown(port) == {**notes, "1": "changed"}


def test_notes_and_the_search_never_meet_a_lock_they_cannot_wait_for(
    tmp_path: Path, store: Store, study: optuna.Study
) -> None:
    """One process notes as fast as it can while the other writes trials."""
    study.ask()
    written = threading.Event()
    with elsewhere(tmp_path) as port, ThreadPoolExecutor(2) as pool:

        def note_all(path: str) -> list[int]:
            statuses: list[int] = []
            while not written.is_set() or len(statuses) < 5:
                statuses.append(put(port, path, f"number {len(statuses)}", version=len(statuses) + 1))
            return statuses

        noting = [pool.submit(note_all, "1"), pool.submit(note_all, "1/1")]
        try:
            for number in range(100):
                trial = study.ask()
                trial.suggest_float("x", 0, 1)
                trial.report(number, 1)
                study.tell(trial, number)
        finally:
            written.set()
        statuses = [future.result() for future in noting]
        told = shown(port)
    assert [set(found) for found in statuses] == [{200}, {200}]
    assert (told["study"], told["0"]) == tuple(f"number {len(found) - 1}" for found in statuses)
    assert len(study.get_trials()) == 101
    with store.reading() as session:
        assert session.scalar(text("pragma integrity_check")) == "ok"


def test_a_note_waits_for_the_coordinators_transaction_and_reading_does_not(
    tmp_path: Path, store: Store, study: optuna.Study
) -> None:
    study.ask()
    with elsewhere(tmp_path) as port, ThreadPoolExecutor(1) as pool:
        with store.writing() as connection:
            connection.execute(text("insert into unetx_studies values ('mark', '', null)"))
            noting = pool.submit(put, port, "1", "patient")
            assert shown(port) == {"0": "", "study": ""}
            assert not noting.done()
        assert noting.result() == 200
        assert shown(port)["study"] == "patient"


def test_a_note_on_a_study_that_nobody_writes_leaves_no_log(
    tmp_path: Path, store: Store, storage: RDBStorage, study: optuna.Study
) -> None:
    study.tell(study.ask(), 1.0)
    close(storage)
    store.close()
    with here(tmp_path) as port:
        assert put(port, "1/1", "long " * 1000) == 200
        assert shown(port)["0"] == "long " * 1000
        assert put(port, "1/1", "", version=2) == 200
        assert shown(port)["0"] == ""
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_a_note_that_was_changed_meanwhile_is_a_conflict_and_stays(tmp_path: Path, study: optuna.Study) -> None:
    with here(tmp_path) as port:
        assert put(port, "1", "first") == 200
        status, answer = ask(port, "PUT", "/api/studies/1/note", {"body": "second", "version": 1})
        assert status == 409
        assert answer["note"] == {"version": 1, "body": "first"}
        assert shown(port)["study"] == "first"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no JSON", 400),
        (b"[]", 400),
        (b'{"version": 1}', 400),
        (b'{"body": "x"}', 400),
        (b'{"version": "1", "body": "x"}', 400),
        (b'{"version": true, "body": "x"}', 400),
        (b'{"version": 0, "body": "x"}', 400),
        (b'{"version": 1, "body": ["x"]}', 400),  # would be stored, and break every later look at the study
        (b'{"version": 1, "body": "' + b"x" * 100_000 + b'"}', 413),
    ],
)
def test_what_is_no_note_is_refused_and_the_study_stays_readable(
    tmp_path: Path, study: optuna.Study, body: bytes, status: int
) -> None:
    with here(tmp_path) as port:
        found, answer = ask(port, "PUT", "/api/studies/1/note", body)
        assert found == status
        assert answer["reason"].startswith("a note has ")
        assert shown(port) == {"study": ""}


def test_a_note_on_what_is_not_there_is_refused(tmp_path: Path, study: optuna.Study) -> None:
    other = optuna.create_study(storage=study._storage, study_name="other")
    foreign = other.ask()
    with here(tmp_path) as port:
        for path in ("7", "7/1", "1/77", f"1/{foreign._trial_id}"):
            status, answer = ask(port, "PUT", f"/api/studies/{path}/note", {"body": "x", "version": 1})
            assert (status, answer["reason"].startswith("there is no such trial")) == (404, True)
    assert study._storage.get_study_system_attrs(1) == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
        {"Host": "evil.example"},
    ],
)
def test_a_page_from_elsewhere_writes_no_note(tmp_path: Path, study: optuna.Study, headers: dict[str, str]) -> None:
    with here(tmp_path) as port:
        note = {"body": "gotcha", "version": 1}
        assert ask(port, "PUT", "/api/studies/1/note", note, **headers)[0] == 403
        assert shown(port) == {"study": ""}
        own = {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}", "Sec_Fetch_Site": "same-origin"}
        assert ask(port, "PUT", "/api/studies/1/note", note, **own)[0] == 200


def test_a_browser_that_asks_before_a_foreign_request_is_given_no_leave(tmp_path: Path, study: optuna.Study) -> None:
    with here(tmp_path) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
        connection.request("OPTIONS", "/api/studies/1/note", headers=asked)
        answer = connection.getresponse()
        assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
        connection.close()


def test_a_database_that_takes_no_note_is_told(
    tmp_path: Path, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str) -> optuna.storages.RDBStorage:
        raise OperationalError("insert", {}, Exception("attempt to write a readonly database"))

    with here(tmp_path) as port:
        monkeypatch.setattr(notes, "optuna_storage", fail)
        status, answer = ask(port, "PUT", "/api/studies/1/note", {"body": "x", "version": 1})
    assert status == 503
    assert "attempt to write a readonly database" in answer["reason"]


def test_a_file_that_was_looked_at_once_is_opened_by_nothing_but_sqlite_again(
    tmp_path: Path, store: Store, study: optuna.Study
) -> None:
    """Closing any descriptor of it would drop the locks that this process's connections have."""
    script = f"""
import sys
from unetx_studies.store import open_store, optuna_storage
url = {study_url(tmp_path)!r}
with open_store(url, create=False, read_only=True):
    def watch(event, arguments):
        if event == "open" and str(arguments[0]).endswith("study.db"):
            raise AssertionError(f"{{arguments[0]}} was opened")
    sys.addaudithook(watch)
    assert optuna_storage(url, read_only=True).get_all_studies()[0].study_name == "s"
    storage = optuna_storage(url)
    storage.set_study_system_attr(1, "a", 1)
    assert optuna_storage(url, read_only=True).get_study_system_attrs(1) == {{"a": 1}}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert optuna_storage(study_url(tmp_path), read_only=True).get_study_system_attrs(1) == {"a": 1}


def test_a_note_that_came_before_the_trials_drawing_stays_below_it(
    tmp_path: Path, storage: RDBStorage, study: optuna.Study
) -> None:
    backbone = isotropic_backbone(2, n_levels=3)
    design = Architecture(backbone, PRESETS["u-net"].genome(3))
    early, late = study.ask(), study.ask()
    with here(tmp_path) as port:
        assert put(port, f"1/{early._trial_id}", "I saw it first") == 200
        for trial in (early, late, early):
            attach_drawing(trial, design, tmp_path)
        told = shown(port)
        assert put(port, f"1/{late._trial_id}", "then me", version=2) == 200
    assert told["0"].startswith("![architecture of trial 0](/artifacts/")
    assert told["0"].endswith(")\n\nI saw it first")
    assert told["1"].startswith("![architecture of trial 1](/artifacts/")
    attach_drawing(late, design, tmp_path)
    assert optuna_dashboard.get_note(late) == "then me"
