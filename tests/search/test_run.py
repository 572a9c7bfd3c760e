"""A whole search with worker processes and files: what it leaves, how it is continued, killed and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kill_helpers import DEADLINE_S, check_whole, finished, rows
from narrowing import there
from rich.console import Console
from whole_searches import SOURCE, run, start, wait_until

from unetx_evaluators.evaluation import Budget, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.insight import Insight
from unetx_search.config import SearchConfig
from unetx_search.executors.gpus import Gpu
from unetx_search.resolving import unpiloted_budget
from unetx_search.run import search
from unetx_search.status import read_status, status_json, status_text
from unetx_search.summary import summary_json, summary_text
from unetx_space import load
from unetx_space.errors import RequestError
from unetx_studies.store import Records, open_store, study_url


def test_a_search_leaves_a_study_a_best_architecture_and_its_drawing(tmp_path: Path) -> None:
    summary = run(tmp_path / "runs")
    folder = tmp_path / "runs" / "s"
    left = {"study.db", "best.json", "best.svg", "config.json", "task.json", "splits.json", "logs"}
    assert left <= {path.name for path in folder.iterdir()}
    check_whole(folder, 4)
    best = load(folder / "best.json")
    assert summary.best is not None
    assert "original voxels" not in summary_text(summary)
    assert best.score["dice"] == summary.best.dice == max(one.dice for one in summary.ranking.designs)
    assert (best.score["estimate"], best.score["seeds"]) == (summary.best.estimate, [0])
    assert best.score["standard_error"] == summary.best.standard_error
    assert best.provenance["trial"] == summary.best.number
    assert best.backbone.widths[0] == 32, "an architecture keeps the full-size backbone"
    with open_store(study_url(folder), create=False, read_only=True) as store:
        assert Records(store, "s").case_scores(0)
        assert [point.step for point in Records(store, "s").curve(0)] == [4, 8, 12]


class Resampled(FakeEvaluator):
    """Scores 0.125 less on the original voxels of what it completes."""

    def evaluate(self, *asked: Any, **options: Any) -> Evaluation:
        result = super().evaluate(*asked, **options)
        if result.outcome is not Outcome.COMPLETE or result.score is None:
            return result
        return replace(result, insight=Insight(original_dice=result.score - 0.125))


def test_scores_on_original_voxels_are_told_where_they_differ(tmp_path: Path) -> None:
    summary = run(tmp_path, evaluator=Resampled(), trials=2, cpu_workers=1)
    unet, bare = summary.evaluations
    assert there(summary.best).first == unet
    assert unet.score is not None
    less = unet.score - 0.125
    assert f"on the original voxels: {less:.4f} (the best, trial 0)\n" in summary_text(summary)
    told = json.loads(summary_json(summary))
    assert told["best_original_dice"] == told["evaluations"][0]["original_dice"] == less
    assert load(tmp_path / "s" / "best.json").score["original_dice"] == less
    status = read_status(tmp_path / "s")
    assert f"{less:.4f} on the original voxels" in status_text(status)
    assert json.loads(status_json(status))["best_original_dice"] == less
    beaten = replace(summary, evaluations=(unet, replace(bare, score=0.9, original_dice=0.75)))
    assert f"voxels: 0.7500 (the best, trial 1), {less:.4f} (U-Net, trial 0)\n" in summary_text(beaten)


def test_the_best_and_the_cheapest_are_kept_and_told_and_follow_the_margin(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    wide = run(tmp_path, trials=20, cpu_workers=1, margin=0.5, cheap_by="params")
    assert (wide.cheapest is not None, wide.best is not None) == (True, True)
    found, best = wide.cheapest.design, load(folder / "best.json")  # type: ignore[union-attr]
    assert found is not None
    unet = there(wide.preset("u-net"))
    cheaper = [one for one in wide.ranking.designs if one.first.n_parameters < unet.first.n_parameters]
    assert found.first.n_parameters == min(one.first.n_parameters for one in cheaper), "the margin lets all pass"
    kept = load(folder / "cheapest.json")
    assert kept.provenance["key"] == found.key
    assert kept.score["cheapest"] == json.loads(summary_json(wide))["cheapest"]
    assert kept.score["cheapest"] == json.loads(status_json(read_status(folder)))["cheapest"]
    sentence = f"trial {found.number} is as good as U-Net at "
    assert sentence in " ".join(summary_text(wide).split())
    assert sentence in status_text(read_status(folder))
    assert str(folder / "cheapest.json") in summary_text(wide)
    assert wide.best is not None
    assert len(wide.best.seeds) > 1
    assert best.score["seeds"] == list(wide.best.seeds)
    assert best.score["estimate"] == wide.best.estimate != best.score["dice"] == wide.best.dice
    assert best.provenance["trials"] == [trial.number for trial in wide.best.trials]

    strict = run(tmp_path, trials=20, cpu_workers=1, margin=0.0, evaluator=FakeEvaluator())
    assert strict.evaluations == wide.evaluations, "margin and cost are no part of what a study was begun with"
    assert (folder / "cheapest.json").exists() == (strict.cheapest is not None and strict.cheapest.design is not None)


def test_a_study_of_a_version_without_re_seeding_goes_on(tmp_path: Path) -> None:
    run(tmp_path, trials=3, reseed=0.0)
    settings = tmp_path / "s" / "config.json"
    begun = json.loads(settings.read_text(encoding="utf-8"))
    assert begun.pop("reseed") == 0.0
    settings.write_text(json.dumps(begun), encoding="utf-8")
    again = run(tmp_path, trials=8, cpu_workers=1)
    assert [str(e.origin)[:9] for e in again.evaluations].count("replicate") == 2


def test_a_complete_study_says_so_and_more_trials_continue_it(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert not first.was_complete
    again = run(tmp_path)
    assert again.was_complete
    assert again.evaluations == first.evaluations
    more = run(tmp_path, trials=6)
    assert not more.was_complete
    assert more.evaluations[:4] == first.evaluations
    check_whole(tmp_path / "s", 6)


def test_other_settings_are_refused_with_every_difference(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    with pytest.raises(RequestError, match=r"(?s)seed: begun with 0, now 1.*another --study"):
        run(tmp_path, trials=1, seed=1)
    with pytest.raises(RequestError, match=r"budget\.steps: begun with 12, now 24"):
        run(tmp_path, trials=1, steps=24)
    with pytest.raises(RequestError, match=r"task\.patch: begun with .*, now \[32, 32\]"):
        run(tmp_path, trials=1, patch=(32, 32))
    with pytest.raises(RequestError, match=r"task\.widths: begun with .*, now \[8, "):
        run(tmp_path, trials=1, base_width=8)
    assert run(tmp_path, trials=1).was_complete


def test_a_refused_request_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="gpus"):
        run(tmp_path / "runs", gpus=4)
    assert not (tmp_path / "runs").exists()


def test_gpus_with_a_torch_that_was_built_for_cpus_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_search.executors.engines.version", lambda package: "2.13.0+cpu")
    gpu = Gpu(index=0, uuid="GPU-0", name="pretended")
    config = SearchConfig(trials=1, out=tmp_path / "runs")
    with pytest.raises(RequestError, match="built for CPUs only"):
        search(config, console=Console(stderr=True, quiet=True), probe=lambda: (gpu,), source=SOURCE)
    assert not (tmp_path / "runs").exists()


def test_four_pretended_gpus_each_give_their_worker_exactly_one_device(tmp_path: Path) -> None:
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i:08d}", name="pretended") for i in range(4))
    config = SearchConfig(trials=12, gpus=4, out=tmp_path, study="s", steps=12)
    summary = search(
        config,
        console=Console(stderr=True, quiet=True),
        probe=lambda: gpus,
        evaluator=FakeEvaluator(shown_variables=("CUDA_VISIBLE_DEVICES",), seconds_per_step=0.05),
        source=SOURCE,
    )
    seen = {(e.versions["pid"], e.versions["CUDA_VISIBLE_DEVICES"]) for e in summary.evaluations}
    assert {device for _, device in seen} == {gpu.uuid for gpu in gpus}
    assert len(seen) == len({pid for pid, _ in seen}) == 4, "a worker keeps its device"
    assert {e.versions["torch"] for e in summary.evaluations} == {"absent"}


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_the_total_is_exact_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    process = start(tmp_path, 8, 0.05)
    wait_until(lambda: len(finished(folder)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=DEADLINE_S)
    process.communicate()
    before = finished(folder)
    assert len(before) >= 3
    after = result(start(tmp_path, 8, 0.0))
    check_whole(folder, 8)
    assert before.items() <= finished(folder).items()
    assert {e["trial"]: e["dice"] for e in after["evaluations"]} == {n: one[3] for n, one in finished(folder).items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_stops_in_order_and_the_same_command_continues(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "s"
    process = start(tmp_path, 6, 0.2)
    wait_until(lambda: len(finished(folder)) >= 1, process)
    os.killpg(process.pid, number)  # the whole group, as a terminal does
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert json.loads(out)["was_stopped"]
    assert rows(folder, "select number from trials") == rows(folder, "select number from unetx_trials")
    assert len(finished(folder)) < 6
    assert result(start(tmp_path, 6, 0.0))["n_finished"] == 6
    check_whole(folder, 6)


def test_two_signals_stop_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, 6, 3600.0)  # no step ever ends, so an orderly stop would take its whole grace
    wait_until(lambda: len(rows(tmp_path / "s", "select 1 from unetx_trials")) >= 2, process)
    os.kill(process.pid, signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "again to stop at once" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert printed == "", "a stop in order ends with a summary"


def test_steps_move_the_rungs_along() -> None:
    from executor_helpers import TASK

    assert unpiloted_budget(SearchConfig(), TASK).rungs[-1] == unpiloted_budget(SearchConfig(), TASK).steps
    budget: Budget = unpiloted_budget(SearchConfig(steps=2, batch_size=3, width_factor=0.5, validation_cases=1), TASK)
    assert (budget.steps, budget.rungs[-1]) == (2, 2)
    assert (budget.batch_size, budget.width_factor, budget.validation_cases) == (3, 0.5, 1)
