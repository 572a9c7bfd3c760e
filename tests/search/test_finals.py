"""Finals of a study: who competes, what is trained on what, what is told, and what a second run does."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import whole_searches
from executor_helpers import wait_until
from kill_helpers import DEADLINE_S, check_whole, finished
from rich.console import Console

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource, Source
from unetx_evaluators.tasks.task import Splits
from unetx_search.config import SearchConfig, read_request, write_request
from unetx_search.finals.config import FinalsConfig
from unetx_search.finals.entrants import Entrant
from unetx_search.finals.report import Results, finals_facts, finals_text
from unetx_search.finals.run import finals
from unetx_search.finals.schedule import FIRST_SEED
from unetx_search.finals.search_results import read_search_results
from unetx_search.status import read_status, status_text
from unetx_space import load
from unetx_space.canonical import key
from unetx_space.errors import RequestError
from unetx_space.files import json_text
from unetx_studies.store import Records, TrialRecord, open_store, study_url

SCRIPT = Path(__file__).with_name("fake_finals.py")
SOURCE = DemoSource(n_cases=20)
PAIR = "u-net,no-skip"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of ten trials."""
    out = tmp_path_factory.mktemp("runs")
    whole_searches.run(out, SOURCE, trials=10)
    return out / "s"


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> Path:
    """A copy of it, to write into; its cache stays where it is."""
    return Path(shutil.copytree(searched, tmp_path / "s"))


def hold(study: Path, evaluator: FakeEvaluator | None = None, source: Source = SOURCE, **told: Any) -> Results:
    config = FinalsConfig(**{"top": 2, "seeds": 3, "baselines": PAIR, "race": False, **told})
    return finals(
        study, config, console=Console(file=io.StringIO()), evaluator=evaluator or FakeEvaluator(), source=source
    )


def trials_of(folder: Path) -> tuple[TrialRecord, ...]:
    with open_store(study_url(folder), create=False, read_only=True) as store:
        [name] = Records.studies(store)
        return Records(store, name).trials()


def test_the_best_designs_meet_the_baselines_on_test_cases_with_seeds_that_chose_nothing(study: Path) -> None:
    results = hold(study)
    best = [one for one in read_search_results(study).ranking.designs if not one.origin.is_given][:2]
    assert [one.name for one in results.lineup.entrants] == [
        *(f"trial-{one.number}" for one in best),
        "u-net",
        "no-skip",
    ]
    assert [key(one.architecture) for one in results.lineup.entrants[:2]] == [one.key for one in best]
    seeds = {trial.seed for trial in trials_of(study / "finals")}
    assert seeds == {FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2}
    splits = Splits(**{part: tuple(names) for part, names in json.loads((study / "splits.json").read_text()).items()})
    assert results.task.splits == Splits((*splits.train, *splits.validation), splits.test, ())
    assert {score.case for scores in results.trainings.values() for score in scores} == set(splits.test)
    budget = trials_of(study / "finals")[0].budget
    assert (budget.steps, budget.width_factor, budget.validation_cases) == (48, 0.25, len(splits.test))


def test_the_verdict_is_kept_as_text_json_table_and_architectures(study: Path) -> None:
    results = hold(study)
    folder = study / "finals"
    told = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert told == json.loads(json_text(finals_facts(results)))
    assert told["conclusion"] == results.verdict.conclusion
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    unet = [float(row["value"]) for row in rows if row["design"] == "u-net" and row["metric"] == "dice"]
    assert sum(unet) / len(unet) == pytest.approx(results.scores.mean("u-net"))
    assert results.verdict.chosen is not None
    best = load(folder / "best.json")
    assert key(best) == key(results.entrant(results.verdict.chosen.design).architecture)
    assert best.score["verdict"]["conclusion"] == told["conclusion"]
    text = finals_text(results)
    assert "95 % interval" in text
    assert str(folder / "verdict.json") in text
    assert told["conclusion"] in status_text(read_status(study))


def test_finals_go_on_where_they_were_broken_off_and_end_the_same(study: Path, tmp_path: Path) -> None:
    undisturbed = hold(Path(shutil.copytree(study, tmp_path / "other" / "s")))
    calls = tmp_path / "calls"
    first = hold(study, FakeEvaluator(calls_folder=calls), max_hours=1e-9)
    assert first.was_stopped
    assert not first.trainings
    hold(study, FakeEvaluator(calls_folder=calls), seeds=2)
    results = hold(study, FakeEvaluator(calls_folder=calls), seeds=3)
    assert len(list(calls.iterdir())) == len(results.trainings) == 12, "no training was made twice"
    assert results.trainings == undisturbed.trainings
    assert results.verdict == undisturbed.verdict


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_finals_that_are_killed_again_and_again_end_as_undisturbed_ones(study: Path, tmp_path: Path) -> None:
    undisturbed = hold(Path(shutil.copytree(study, tmp_path / "other" / "s")))
    command = [sys.executable, str(SCRIPT), str(study), "0.005"]

    def has_more_than(n_trainings: int) -> bool:
        return (study / "finals" / "study.db").exists() and len(finished(study / "finals")) > n_trainings

    for n_finished in (0, 3, 7):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
            wait_until(partial(has_more_than, n_finished))
            running.kill()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 0, ended.stderr
    check_whole(study / "finals", 12)
    results = hold(study)
    assert results.trainings == undisturbed.trainings
    assert results.verdict == undisturbed.verdict


@pytest.mark.parametrize("told", [{"top": 1}, {"steps": 7}, {"baselines": "u-net,unet++"}, {"equal_cost": True}])
def test_other_finals_in_the_same_folder_are_refused(study: Path, told: dict[str, Any]) -> None:
    hold(study, seeds=1)
    with pytest.raises(RequestError, match=rf"begun with other settings.*\n  {next(iter(told))}: begun with"):
        hold(study, seeds=1, **told)
    assert hold(study, seeds=1, name="others", **told).folder == study / "others"


def test_designs_that_are_behind_get_no_further_seeds(study: Path) -> None:
    results = hold(study, FakeEvaluator(noise=1e-4), seeds=6, race=True)
    n_seeds = {name: sum(design == name for design, _ in results.trainings) for name in results.costs}
    assert n_seeds["u-net"] == 6
    assert n_seeds["no-skip"] < 6
    assert "no-skip" in results.given_up
    assert any("Given up early" in limit and "no-skip" in limit for limit in results.limits)


def test_folds_score_every_case_by_trainings_that_have_not_seen_it(study: Path) -> None:
    results = hold(study, folds=4, seeds=2)
    assert {score.case for score in results.trainings["u-net", FIRST_SEED]} == set(SOURCE.case_names)
    seen: list[str] = []
    for fold in range(4):
        splits = json.loads((study / "finals" / f"fold-{fold}" / "splits.json").read_text(encoding="utf-8"))
        assert set(splits["train"]).isdisjoint(splits["validation"])
        assert set(splits["train"]) | set(splits["validation"]) == set(SOURCE.case_names)
        seen += splits["validation"]
    assert sorted(seen) == sorted(SOURCE.case_names)
    assert any("Cross-validated" in limit for limit in results.limits)


def test_patients_are_told_by_the_cases_own_names_under_pseudonyms(tmp_path: Path) -> None:
    """Names are demo_000 to demo_059: six cases a patient, by the last digit."""
    told: dict[str, Any] = {"pseudonyms": True, "group_by": "([0-9])$"}
    many = DemoSource(n_cases=60)
    whole_searches.run(tmp_path, many, trials=3, **told)
    results = hold(tmp_path / "s", source=many, top=1, seeds=2, baselines="u-net")
    assert all(case.startswith("case_") for case in results.groups)
    assert 1 < len(set(results.groups.values())) < len(results.groups)
    assert set(results.scores.groups) == set(results.groups.values()) <= set("0123456789")


def test_equal_cost_makes_every_design_cost_what_the_u_net_does(study: Path) -> None:
    results = hold(study, equal_cost=True, baselines="u-net,unet++,no-skip", seeds=1)
    shares = {name: cost / results.costs["u-net"] for name, cost in results.costs.items()}
    assert len(shares) + len(results.lineup.left_out) == 5
    assert all(0.95 <= share <= 1.05 for share in shares.values())
    factors = {one.name: one.width_factor for one in results.lineup.entrants}
    assert factors["unet++"] < factors["u-net"] < factors["no-skip"]
    trained = {str(trial.params["design"]): trial.budget.width_factor for trial in trials_of(study / "finals")}
    assert trained == factors


def test_one_seed_and_failures_are_told_as_limits(study: Path) -> None:
    told = FakeEvaluator(acts_by_seed={FIRST_SEED: Outcome.DIVERGED})
    results = hold(study, told, seeds=2)
    assert any("Without a score: u-net with seed 1000000 ended as diverged" in limit for limit in results.limits)
    assert any("One seed" in limit for limit in results.limits)
    nothing = hold(study, FakeEvaluator(acts_by_seed={FIRST_SEED: Outcome.DIVERGED}), seeds=1, name="none")
    assert nothing.verdict.conclusion.startswith("No conclusion")
    assert not (study / "none" / "best.json").exists()
    assert "No conclusion" in finals_text(nothing)


def test_a_study_without_a_score_has_no_finals(tmp_path: Path) -> None:
    whole_searches.run(tmp_path, SOURCE, trials=2, evaluator=FakeEvaluator(acts_by_seed={0: Outcome.DIVERGED}))
    with pytest.raises(RequestError, match="none of its trials is complete yet"):
        hold(tmp_path / "s")
    with pytest.raises(RequestError, match="is not there"):
        hold(tmp_path / "nowhere")


def test_a_request_is_kept_without_the_url_of_a_database_and_read_again(tmp_path: Path) -> None:
    told = SearchConfig(storage="postgresql://me:secret@host/db", trials=5, spacing=(1.0, 2.0), cache=tmp_path / "c")
    write_request(told, tmp_path / "request.json")
    assert "secret" not in (tmp_path / "request.json").read_text(encoding="utf-8")
    found = read_request(tmp_path / "request.json")
    assert found == replace(told, storage=None, out=Path("runs").absolute())


def test_an_entrant_comes_back_from_json(study: Path) -> None:
    for entrant in hold(study, seeds=1).lineup.entrants:
        assert Entrant.from_json(json.loads(json.dumps(entrant.to_json()))) == entrant


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"baselines": "u-nett"}, "did you mean 'u-net'"),
        ({"folds": 1}, "--folds must be at least 2"),
        ({"name": "../up"}, "--name is the name of one folder"),
        ({"width_factor": 0.0}, "--width-factor must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(told: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        FinalsConfig(**told)
