"""Whole searches on a Ray cluster: every trial once, whatever is killed; the same study as on one machine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_helpers import DEADLINE_S, Result, check_whole, finished, rows
from ray_helpers import SMALL, cluster, kill_node
from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.run import Summary, search
from unetx_space.errors import RequestError

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

SCRIPT = Path(__file__).with_name("ray_search.py")
SOURCE = DemoSource(n_cases=6)
NODE = {"num_cpus": 2, "num_gpus": 2}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """Four CPUs and four pretended GPUs on two nodes, beside a head without any."""
    with cluster({"num_cpus": 0}, NODE, NODE) as made:
        yield made


def run(made: Any, out: Path, *, evaluator: FakeEvaluator | None = None, **changes: Any) -> Summary:
    settings = {
        "trials": 4,
        "steps": 12,
        "pilot": False,
        "study": "s",
        "engine": "ray",
        "ray_address": made.address,
        **changes,
    }
    return search(
        SearchConfig(out=out, **settings),
        console=Console(stderr=True, quiet=True),
        evaluator=evaluator or FakeEvaluator(),
        source=SOURCE,
    )


def calls(folder: Path) -> list[str]:
    """The designs that were evaluated, once for each time."""
    return [json.loads(file.read_text(encoding="utf-8"))["digest"] for file in folder.glob("*.json")]


def test_two_hundred_trials_on_four_pretended_gpus_of_two_nodes_run_exactly_once(
    two_nodes: Any, tmp_path: Path
) -> None:
    evaluator = FakeEvaluator(seconds_per_step=0.002, calls_folder=tmp_path / "calls")
    summary = run(two_nodes, tmp_path, evaluator=evaluator, trials=200, gpus=4, sampler="random")
    assert len(summary.evaluations) == 200
    check_whole(tmp_path / "s", 200)
    assert len(calls(tmp_path / "calls")) == 200
    assert sorted(Counter(calls(tmp_path / "calls")).values()) == [*[1] * 198, 2], "U-Net on a second seed, as meant"
    assert {worker for (worker,) in rows(tmp_path / "s", "select worker from unetx_trials")} == {0, 1, 2, 3}
    assert rows(tmp_path / "s", "select n_slots from unetx_runs") == [(4,)]
    assert {path.name for path in (tmp_path / "s" / "logs").iterdir()} == {f"worker-{n}.log" for n in range(4)}
    assert list((tmp_path / "s" / "checkpoints").iterdir()) == []


def test_a_real_search_of_eight_trials_on_the_demo_task(two_nodes: Any, tmp_path: Path) -> None:
    words = "--trials 8 --gpus 0 --cpu-workers 2 --steps 4 --batch-size 2 --width-factor 0.25 --validation-cases 2"
    words += " --diagnosis none --no-pilot --json"
    command = [sys.executable, "-m", "unetx_search.cli", *words.split()]
    done = subprocess.run(
        [*command, "--engine", "ray", "--ray-address", two_nodes.address, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["n_finished"] == 8
    assert {trial["outcome"] for trial in facts["evaluations"]} <= {"complete", "pruned"}
    check_whole(tmp_path / "demo", 8)
    assert (tmp_path / "demo" / "best.json").exists()


def test_a_deterministic_study_is_the_same_on_a_cluster_and_on_one_machine_and_may_change_engines(
    two_nodes: Any, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"trials": 8, "gpus": 0, "cpu_workers": 2, "deterministic": 2}
    there = run(two_nodes, tmp_path / "there", **common)
    run(two_nodes, tmp_path / "both", **{**common, "trials": 3})
    local: dict[str, Any] = {"engine": "local", "ray_address": None}
    here = run(two_nodes, tmp_path / "here", **common, **local)
    both = run(two_nodes, tmp_path / "both", **common, **local)
    facts = [
        [(e.number, e.key, e.seed, e.outcome, e.score) for e in found.evaluations] for found in (there, here, both)
    ]
    assert facts[0] == facts[1] == facts[2]


def test_more_gpus_than_the_cluster_has_are_refused_and_nothing_is_written(two_nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--gpus 5 asks for more than is there: the Ray cluster has 4 GPUs"):
        run(two_nodes, tmp_path / "runs", gpus=5)
    assert not (tmp_path / "runs").exists()


def start(made: Any, out: Path, trials: int, seconds_per_step: float) -> subprocess.Popen[str]:
    words = [sys.executable, str(SCRIPT), str(out), str(trials), str(seconds_per_step), made.address]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def n_begun(out: Path) -> int:
    return len(list((out / "calls").glob("*.json")))


def wait_until_begun(out: Path, n_evaluations: int, process: subprocess.Popen[str]) -> None:
    """Each evaluation leaves a file as soon as it begins."""
    deadline_s = time.monotonic() + DEADLINE_S
    while n_begun(out) < n_evaluations:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def kill_one_of_two(made: Any, rng: random.Random) -> None:
    """A node dies, and before long there is another in its place."""
    kill_node(made, rng.choice(sorted(made.worker_nodes, key=id)))
    made.add_node(**{**SMALL, **NODE})


def kill_and_go_on(made: Any, out: Path, victims: list[str], rng: random.Random) -> None:
    """One study; for each victim a run of up to six new trials in the midst of which it is killed."""
    folder = out / "s"
    before: dict[int, Result] = {}
    for victim in victims:
        process = start(made, out, len(before) + 6, 0.02)
        wait_until_begun(out, n_begun(out) + rng.randrange(2, 6), process)
        if victim in ("node", "both"):
            kill_one_of_two(made, rng)
        if victim in ("coordinator", "both"):
            os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=DEADLINE_S)
        if victim == "node":
            assert process.returncode == 0, errors
            assert json.loads(output)["n_finished"] == len(before) + 6, "nothing but ours was written to stdout"
        after = finished(folder)
        assert before.items() <= after.items(), f"lost or changed when {victim} died"
        before = after
    done = start(made, out, len(before) + 3, 0.0)
    _, errors = done.communicate(timeout=DEADLINE_S)
    assert done.returncode == 0, errors
    assert before.items() <= finished(folder).items()
    check_whole(folder, len(before) + 3)
    assert {number for (number,) in rows(folder, "select n_lost from unetx_trials")} == {0}


def test_a_study_whose_node_and_whose_coordinator_were_killed_ends_as_if_they_had_not_been(
    two_nodes: Any, tmp_path: Path
) -> None:
    kill_and_go_on(two_nodes, tmp_path, ["node", "coordinator"], random.Random(0))


@pytest.mark.timeout(3600)
def test_a_study_of_which_something_was_killed_a_dozen_times_ends_as_if_it_had_not_been(
    two_nodes: Any, tmp_path: Path
) -> None:
    rng = random.Random(1)
    kill_and_go_on(two_nodes, tmp_path, [rng.choice(["node", "coordinator", "both"]) for _ in range(12)], rng)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_the_whole_group_stops_a_search_and_its_own_cluster_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A cluster that the search started is in its process group, and must not die before the search has stopped."""
    pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the token of a cluster
    words = [sys.executable, str(SCRIPT), str(tmp_path), "6", "0.5", "local"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until_begun(tmp_path, 3, process)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert json.loads(output)["was_stopped"]
    again = subprocess.run([*words[:4], "0.0", "local"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert again.returncode == 0, again.stderr
    check_whole(tmp_path / "s", 6)
