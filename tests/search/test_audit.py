"""An audit: what it trains, what it tells of scores whose truth is known, what it recommends, and who uses that."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, refusal
from executor_helpers import TASK
from narrowing import there
from rich.console import Console

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Budget, Evaluation, Observer, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.insight import Insight, ZeroCost
from unetx_evaluators.pilot import with_steps
from unetx_evaluators.tasks import DemoSource, Task
from unetx_evaluators.training.recipe import Recipe
from unetx_search.audit.config import MIN_DESIGNS, AuditConfig
from unetx_search.audit.findings import Audit
from unetx_search.audit.recommendation import AuditFile, Recommendation, recommended
from unetx_search.audit.report import audit_facts, audit_text
from unetx_search.audit.run import FIRST_REFERENCE_SEED, audit
from unetx_search.audit.sample import sample_designs
from unetx_search.config import SearchConfig
from unetx_search.executors.engines import Engine
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.slots import make_slots
from unetx_search.run import search
from unetx_search.status import read_status, status_text
from unetx_search.study_setup import StudySetup
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.cost import cost
from unetx_space.design_space import design_space, narrowed
from unetx_space.errors import RequestError
from unetx_space.files import json_text
from unetx_studies.spread import Vector
from unetx_studies.store import TrialRecord

SOURCE = DemoSource(n_cases=6)
SMALL = {"designs": 5, "seeds": 1, "longer": 4, "steps": 6}


class Trainer:
    """Scores by the fake's formula, with a noise of its own for each number of steps, and tells features, too."""

    def __init__(self, noise: Callable[[int], float] = lambda steps: 0.0, interrupt_at: int | None = None) -> None:
        self.noise = noise
        self.interrupt_at = interrupt_at
        self.calls: list[tuple[int, int]] = []

    def evaluate(
        self, architecture: Architecture, task: Task, budget: Budget, seed: int, observer: Observer, **options: Any
    ) -> Evaluation:
        if len(self.calls) == self.interrupt_at:
            self.interrupt_at = None
            signal.raise_signal(signal.SIGINT)
        fake = FakeEvaluator(noise=self.noise(budget.steps))
        found = fake.evaluate(architecture, task, budget, seed, observer, **options)
        self.calls.append((budget.steps, seed))
        full = cost(architecture, task.patch)
        features = ZeroCost(full.n_parameters, full.macs, -(found.score or 0.0), 1.0, 1.0, 1.0, found.score or 0.0)
        return replace(found, insight=Insight(zero_cost=features), seconds=0.5 * budget.steps)


@contextmanager
def inline(config: SearchConfig, probe: Any) -> Iterator[Engine]:
    """Trainings need no processes of their own here."""
    yield Engine(make_slots(0, cpu_workers=1), lambda evaluator, task, chosen: InlineExecutor(evaluator, task))


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("unetx_search.audit.run", "unetx_search.run"):
            patch.setattr(f"{module}.open_engine", inline)
        yield


def request(out: Path, **told: Any) -> AuditConfig:
    return AuditConfig(out=out, study="s", gpus=0, pilot=False, **{**SMALL, **told})


def hold(out: Path, trainer: Trainer | None = None, **told: Any) -> Audit:
    return audit(request(out, **told), console=Console(quiet=True), evaluator=trainer or Trainer(), source=SOURCE)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Trainer]:
    """A finished audit on two seeds, of scores without any noise."""
    trainer = Trainer()
    return hold(tmp_path_factory.mktemp("runs"), trainer, seeds=2), trainer


def settled(setup_seed: int = 0, **choices: Any) -> StudySetup:
    space = narrowed(design_space("default", 4), **choices)
    return StudySetup(isotropic_backbone(2, n_levels=4), (64, 64), space, default_budget(TASK), setup_seed, 1.5)


def test_the_sample_is_spread_over_costs_skips_and_operators_and_holds_u_net_and_no_skip() -> None:
    setup = settled()
    designs = sample_designs(setup, 14, MIN_DESIGNS)
    assert [str(one.origin) for one in designs[:2]] == ["preset u-net", "preset no-skip"]
    assert len({one.key for one in designs}) == 14
    assert all(one.cost.macs <= setup.max_macs for one in designs)
    many = sample_designs(setup, 150, MIN_DESIGNS)[2:]
    for feature in (
        lambda one: one.cost.macs,
        lambda one: sum(len(node.sources) for node in one.architecture.genome.nodes),
    ):
        thirds = np.quantile([feature(one) for one in many], [1 / 3, 2 / 3])
        places = np.searchsorted(thirds, [feature(one) for one in designs[2:]])
        assert set(places) == {0, 1, 2}, "some of the low, of the middle and of the high ones"
    assert sample_designs(settled(), 14, MIN_DESIGNS) == designs
    assert sample_designs(settled(1), 14, MIN_DESIGNS) != designs


def test_a_space_that_is_nearly_empty_gives_all_it_has_or_is_refused() -> None:
    narrow: dict[str, Any] = {"attention": "none", "upsampler": "linear", "fusion": "concat", "sources": "same"}
    designs = sample_designs(settled(**narrow), 12, MIN_DESIGNS)
    assert len({one.key for one in designs}) == len(designs) == 2**3, "three nodes, each with its skip or without"
    with pytest.raises(RequestError, match=r"needs at least 9 designs .* this space has 8"):
        sample_designs(settled(**narrow), 12, 9)


def test_every_design_is_trained_with_every_budget_and_scores_without_noise_agree_wholly(
    done: tuple[Audit, Trainer],
) -> None:
    found, trainer = done
    expected = [(steps, seed) for steps in (3, 6, 12) for seed in (0, 1)]
    expected += [(24, FIRST_REFERENCE_SEED), (24, FIRST_REFERENCE_SEED + 1)]
    assert sorted(trainer.calls) == sorted(expected * 5)
    by_name = {(one.name, one.n_seeds): one for one in found.proxies}
    for steps, n_seeds in ((steps, n) for steps in (3, 6, 12) for n in (1, 2)):
        told = by_name[f"{steps} steps", n_seeds]
        assert told.agreement is not None
        assert (told.agreement.spearman.value, told.agreement.recall.value) == pytest.approx((1.0, 1.0))
        assert told.agreement.regret == (0.0, 0.0, 0.0)
        assert told.seconds == pytest.approx(0.5 * steps * n_seeds)
        assert told.evaluations_an_hour == pytest.approx(7200 / (steps * n_seeds))
    synflow, norm, snip = (by_name[name, 0].agreement for name in ("log synflow", "grad norm", "snip"))
    assert there(synflow).kendall.value == pytest.approx(1.0), "the feature that is the score"
    assert there(norm).kendall.value == pytest.approx(-1.0), "the one that is its opposite"
    assert math.isnan(there(snip).kendall.value), "the one that is the same for all"
    assert there(found.ceiling).spearman.value == pytest.approx(1.0)
    assert found.recommendation.steps == 3


def test_losses_are_summed_over_steps_and_rank_the_lower_the_better(done: tuple[Audit, Trainer]) -> None:
    found, _ = done
    one = next(one for one in found.trainings if one.trial.budget.steps == 6)
    assert one.trial.score is not None
    shares = [math.expm1(-4 * step / 6) / math.expm1(-4) for step in (2, 4, 6)]
    assert one.loss_sum == pytest.approx(sum(2 * (1 - one.trial.score * share) for share in shares))
    [losses] = [one.agreement for one in found.proxies if one.name == "6 steps, loss"]
    assert there(losses).kendall.value == pytest.approx(1.0)


def test_what_was_found_is_kept_as_json_and_told_as_a_table(done: tuple[Audit, Trainer]) -> None:
    found, _ = done
    folder = found.config.folder
    kept = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json_text(audit_facts(found)))
    assert len(kept["scores"]) == 40
    assert kept["designs"][0]["origin"] == "preset u-net"
    text = audit_text(found)
    assert "40 of 40 trainings" in text
    assert "ceiling" in text
    rows = [line for line in text.splitlines() if line.startswith("12 steps")]
    assert [row.split()[2] for row in rows[:2]] == ["1", "2"]
    assert " ".join(found.recommendation.reason.split()) in " ".join(text.split())
    status = status_text(read_status(folder))
    assert "40 of 40" in status
    assert "best" not in status, "trainings of different lengths have no best"


def comparable(found: Audit) -> dict[str, Any]:
    """All but the order in which trials ended."""
    facts = json.loads(json_text(audit_facts(found)))
    return {**facts, "scores": sorted(facts["scores"], key=lambda one: (one["steps"], one["seed"], one["design"]))}


def test_an_audit_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    undisturbed = hold(tmp_path / "other", Trainer(noise=lambda steps: 0.1 / steps))
    trainer = Trainer(noise=lambda steps: 0.1 / steps, interrupt_at=7)
    stopped = hold(tmp_path, trainer)
    assert stopped.was_stopped
    assert stopped.n_finished == 8
    assert "the same command continues it" in audit_text(stopped)
    assert audit_facts(stopped)["recommendation"] is None
    assert not [*(tmp_path / ".cache").rglob("audit-*.json")], "nothing is recommended before the end"
    assert hold(tmp_path, trainer, max_hours=1e-9).was_stopped
    found = hold(tmp_path, trainer)
    assert not found.was_stopped
    assert len(trainer.calls) == 20, "no training is made twice"
    assert comparable(found) == comparable(undisturbed)
    again = hold(tmp_path, trainer)
    assert len(trainer.calls) == 20, "all is there already"
    assert again.recommendation == found.recommendation == undisturbed.recommendation


def test_what_is_there_after_a_stop_is_told_of_whole_seeds(done: tuple[Audit, Trainer]) -> None:
    stopped = replace(done[0], trainings=done[0].trainings[:22], was_stopped=True)
    told = [one.agreement for one in stopped.proxies if one.n_seeds == 1]
    assert all(agreement is not None and agreement.n_designs == 5 for agreement in told)
    too_early = replace(done[0], trainings=done[0].trainings[:17], was_stopped=True)
    assert all(one.agreement is None for one in too_early.proxies)
    assert "too few designs" in audit_text(too_early)


def failing(found: Audit, fails: Callable[[TrialRecord], bool]) -> Audit:
    """The audit as if some of its trainings had diverged."""
    return replace(
        found,
        trainings=tuple(
            replace(one, is_complete=False, trial=replace(one.trial, outcome=Outcome.DIVERGED, reason="it diverged"))
            if fails(one.trial)
            else one
            for one in found.trainings
        ),
    )


def test_a_design_that_fails_once_is_told_and_left_out(done: tuple[Audit, Trainer]) -> None:
    key = done[0].designs[3].key
    found = failing(done[0], lambda trial: trial.key == key and trial.budget.steps == 6 and trial.seed == 1)
    assert f"{key[:12]} after 6 steps with seed 1 ended as diverged: it diverged" in " ".join(audit_text(found).split())
    n_designs = {one.name: one.agreement.n_designs for one in found.proxies if one.agreement is not None}
    assert (n_designs["3 steps"], n_designs["6 steps"], n_designs["12 steps"]) == (5, 4, 5)
    assert found.recommendation.steps == 3


def test_a_seed_of_the_references_that_fails_leaves_their_noise_unknown(done: tuple[Audit, Trainer]) -> None:
    found = failing(done[0], lambda trial: trial.seed == FIRST_REFERENCE_SEED + 1)
    assert math.isnan(there(found.ceiling).spearman.value)
    assert "not known" in audit_text(found)
    nothing = failing(done[0], lambda trial: trial.budget.steps == 24)
    assert nothing.recommendation.steps is None
    assert "fewer than 4 designs" in audit_text(nothing)


def table(truth: Vector, noise: float, seed: int, n_seeds: int = 2) -> Vector:
    values: Vector = truth[:, None] + noise * np.random.default_rng(seed).normal(size=(len(truth), n_seeds))
    return values


def advice(noises: Sequence[float], margin: float = 0.005, n_designs: int = 14) -> Recommendation:
    """For proxies of 100, 200 and 400 steps with such noises, of designs that differ by 0.02."""
    truth: Vector = np.random.default_rng(0).normal(0.8, 0.02, n_designs)
    proxies = {steps: table(truth, noise, steps) for steps, noise in zip((100, 200, 400), noises, strict=True)}
    return recommended(proxies, 200, table(truth, 0.001, 1), truth, margin)


def test_the_fewest_steps_that_lose_no_more_than_the_margin_are_recommended() -> None:
    assert advice([0.0, 0.0, 0.0]).steps == 100
    assert advice([0.5, 0.0, 0.0]).steps == 200
    assert advice([0.001, 0.001, 0.001]).steps == 100
    assert "at most 0.005 Dice more than by 400: +0.0000 (95 %: +0.0000 to +0.0000)" in advice([0.0, 0.0, 0.0]).reason


def test_twice_the_steps_are_recommended_only_where_the_default_is_shown_to_lose_more() -> None:
    truth: Vector = np.linspace(0.0, 1.0, 14)
    exact, turned = truth[:, None], -truth[:, None]
    worse = recommended({100: turned, 200: turned, 400: exact}, 200, exact, truth, 0.005)
    assert worse.steps == 400
    assert "by 200 is expected to lose more than 0.005 Dice" in worse.reason


def test_where_nothing_is_shown_the_default_stays() -> None:
    noise_alone = advice([10.0, 10.0, 10.0])
    assert noise_alone.steps is None
    assert "nothing is shown" in noise_alone.reason
    assert "200 stay" in noise_alone.reason
    vague = advice([0.02, 0.02, 0.001], margin=0.0)
    assert vague.steps is None
    assert "by 200; 0 Dice count, and 200 stay" in vague.reason


def test_the_next_search_trains_as_long_as_the_audit_recommends_and_says_so(done: tuple[Audit, Trainer]) -> None:
    found, out = done[0], done[0].config.out

    def begun(study: str, **told: Any) -> tuple[int, str]:
        said = StringIO()
        config = SearchConfig(out=out, study=study, gpus=0, pilot=False, trials=1, **told)
        search(config, console=Console(file=said, width=300), evaluator=Trainer(), source=SOURCE)
        settings = json.loads((out / study / "config.json").read_text(encoding="utf-8"))
        return settings["budget"]["steps"], said.getvalue()

    assert found.recommendation.steps == 3
    steps, said = begun("after")
    assert steps == 3
    assert f"steps by the audit of this dataset (--steps N overrides): {found.recommendation.reason}" in said
    task = json.loads((out / "after" / "task.json").read_text(encoding="utf-8"))
    assert task["choices"]["steps"]["value"] == 3
    assert begun("after")[0] == 3, "and goes on"
    steps, said = begun("other", steps=4)
    assert steps == 4
    assert "audit" not in said


def test_a_recommendation_holds_for_the_same_data_and_training_alone(tmp_path: Path) -> None:
    task, budget = replace(TASK, folder=tmp_path), default_budget(TASK)
    kept = AuditFile.of(task, budget)
    assert kept.read() is None
    kept.write(Recommendation(7, "7: enough"))
    assert AuditFile.of(task, with_steps(budget, 24)).read() == Recommendation(7, "7: enough"), (
        "for how long is its answer"
    )
    assert AuditFile.of(replace(task, digest="other"), budget).read() is None
    assert AuditFile.of(task, replace(budget, recipe=Recipe(learning_rate=0.5))).read() is None
    for damage in ("", "{", "[]", '{"steps": "7", "reason": "r"}', '{"steps": 0, "reason": "r"}', '{"steps": 7}'):
        kept.path.write_text(damage, encoding="utf-8")
        assert kept.read() is None
    kept.write(Recommendation(None, "nothing is shown"))
    assert json.loads(kept.path.read_text(encoding="utf-8")) == asdict(Recommendation(None, "nothing is shown"))


@pytest.mark.parametrize("told", [{"designs": 7}, {"seeds": 1}, {"longer": 5}, {"steps": 8}, {"seed": 1}])
def test_another_audit_in_the_same_folder_is_refused(done: tuple[Audit, Trainer], told: dict[str, Any]) -> None:
    [(name, value)] = told.items()
    words = rf"begun with other settings.*\n  [a-z.]*{name}: begun with \d+, now {value}"
    with pytest.raises(RequestError, match=words):
        hold(done[0].config.out, **{"seeds": 2, **told})


def test_a_search_does_not_go_on_with_an_audit(done: tuple[Audit, Trainer]) -> None:
    same: dict[str, Any] = {"steps": 6, "pruner": "none", "sampler": "random", "reseed": 0.0}
    config = SearchConfig(out=done[0].config.out, study="s-audit", gpus=0, pilot=False, trials=41, **same)
    with pytest.raises(RequestError, match="audit: begun with"):
        search(config, console=Console(quiet=True), evaluator=Trainer(), source=SOURCE)


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--designs", "4"], "--designs must be at least 5"),
        (["--seeds", "0"], "--seeds must be 1 to"),
        (["--longer", "2"], "--longer must be at least 3"),
        (["--steps", "1"], "--steps must be at least 2"),
        (["--trials", "3"], "Unknown option: --trials"),
        (["--data", "nowhere"], "nowhere"),
        (["--max-cost", "0.5"], "--max-cost must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, words: list[str], fact: str) -> None:
    assert fact in refusal(run, "audit", "--gpus", "0", *words)
