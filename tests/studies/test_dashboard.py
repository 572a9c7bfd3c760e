"""The dashboard shows a study that is being written, and changes nothing but notes."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard.artifact import get_artifact_path

from unetx_space.errors import RequestError
from unetx_studies.dashboard import dashboard_server, serve
from unetx_studies.store import StudyLocation, open_store, optuna_storage, save_location


@pytest.fixture
def study(tmp_path: Path, server_url: str | None, url: str) -> Iterator[optuna.Study]:
    """A study whose writer stays open."""
    if server_url is not None:
        save_location(StudyLocation(tmp_path, url, "demo", "its id"))
    with open_store(url, create=True):
        yield optuna.create_study(storage=optuna_storage(url), study_name="demo", direction="maximize")


@contextmanager
def running(folder: Path) -> Iterator[str]:
    with dashboard_server(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, answer.read()


def status_of(method: str, url: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, data=b"{}"), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_page_and_api_answer_while_the_study_is_being_written(tmp_path: Path, study: optuna.Study) -> None:
    with running(tmp_path) as url:
        for value in (0.25, 0.5):
            study.add_trial(optuna.trial.create_trial(value=value))
            status, page = get(f"{url}/")
            assert status == 200
            assert b"<html" in page.lower()
            status, body = get(f"{url}/api/studies")
            assert status == 200
            (summary,) = json.loads(body)["study_summaries"]
            assert summary["study_name"] == "demo"
        status, body = get(f"{url}/api/studies/{summary['study_id']}")
        assert status == 200
        assert [trial["values"] for trial in json.loads(body)["trials"]] == [[0.25], [0.5]]


def test_every_request_that_would_change_the_study_is_refused_but_notes(
    tmp_path: Path, url: str, study: optuna.Study
) -> None:
    """All that this optuna-dashboard knows, so that a later one's are looked at."""
    trial = study.ask()
    storage = optuna_storage(url, read_only=True)
    routes = {(route.method, route.rule) for route in optuna_dashboard.wsgi(storage).routes}
    changing = {(method, rule) for method, rule in routes if method != "GET"}
    notes = {(method, rule) for method, rule in changing if rule.endswith("/note")}
    assert len(notes) == 2
    with running(tmp_path) as url:
        for method, rule in changing - notes:
            path = re.sub(r"<[^>]*study_id[^>]*>|<[^>]*trial_id[^>]*>", "1", rule)
            assert status_of(method, url + re.sub(r"<[^>]*>", "0", path)) == 403, rule
    assert optuna.get_all_study_names(storage) == ["demo"]
    assert study.trials[0].state is optuna.trial.TrialState.RUNNING
    assert study.trials[0].number == trial.number


@pytest.mark.parametrize("has_artifacts", [True, False])
def test_artifacts_are_served_where_there_are_any(tmp_path: Path, study: optuna.Study, has_artifacts: bool) -> None:
    if has_artifacts:
        (tmp_path / "artifacts").mkdir()
    with running(tmp_path) as url:
        assert json.loads(get(f"{url}/api/meta")[1])["artifact_is_available"] is has_artifacts


def test_an_artifact_of_a_trial_can_be_fetched(tmp_path: Path, study: optuna.Study) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "drawing.svg").write_text("<svg/>")
    trial = study.ask()
    artifact = upload_artifact(
        artifact_store=FileSystemArtifactStore(tmp_path / "artifacts"),
        file_path=str(tmp_path / "drawing.svg"),
        study_or_trial=trial,
    )
    with running(tmp_path) as url:
        assert get(url + get_artifact_path(trial, artifact)) == (200, b"<svg/>")


def test_a_folder_without_a_study_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no study"):
        dashboard_server(tmp_path, port=0)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_a_request_error_naming_the_way_out(tmp_path: Path, study: optuna.Study) -> None:
    with (
        dashboard_server(tmp_path, port=0) as server,
        pytest.raises(RequestError, match=rf"{server.server_port}.*choose another --port"),
    ):
        dashboard_server(tmp_path, port=server.server_port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_an_impossible_port_is_a_request_error(tmp_path: Path, study: optuna.Study, port: int) -> None:
    with pytest.raises(RequestError, match="port"):
        dashboard_server(tmp_path, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org", ""])
def test_a_host_that_others_can_reach_is_refused_with_a_tunnel_as_the_way_out(
    tmp_path: Path, study: optuna.Study, host: str
) -> None:
    with pytest.raises(RequestError, match=r"no password.*ssh -L 8123:127\.0\.0\.1:8123"):
        dashboard_server(tmp_path, host=host, port=8123)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_every_address_of_the_loopback_will_do(tmp_path: Path, study: optuna.Study, host: str) -> None:
    try:
        with dashboard_server(tmp_path, host=host, port=0) as server:
            assert server.server_port > 0
    except RequestError as error:  # a machine may lack IPv6, or an address
        assert "cannot listen" in str(error)  # noqa: PT017


def test_serve_announces_its_address_and_ends_on_ctrl_c(tmp_path: Path, study: optuna.Study) -> None:
    announced: list[str] = []

    def interrupt(url: str) -> None:
        announced.append(url)
        raise KeyboardInterrupt

    serve(tmp_path, port=0, announce=interrupt)
    (url,) = announced
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.URLError):  # nobody listens there any more
        get(url)
