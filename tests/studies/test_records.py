"""Every record comes back as it was written, or not at all."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_evaluators.insight import Insight, SizeRecall, StageGradient
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.errors import DocumentError
from unetx_space.genome import Genome
from unetx_space.presets import no_skip, unet
from unetx_studies.store import Records, Store, open_store, study_url
from unetx_studies.tables import EvaluationRow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BUDGET = Budget(steps=40, batch_size=4, width_factor=0.25, rungs=(10, 20, 40), validation_cases=3, max_seconds=90.5)
UNET = Architecture(isotropic_backbone(2, n_levels=4), unet(4), score={"dice": 0.5}, provenance={"study": "s"})
NO_SKIP = Architecture(isotropic_backbone(3, n_levels=3), no_skip(3))
EVALUATION = Evaluation(
    outcome=Outcome.COMPLETE,
    score=0.8125,
    case_scores=(
        CaseScore("case 2", "tumour", {"dice": None, "nsd": None}),
        CaseScore("case 2", "liver", {"dice": 0.75, "nsd": 0.9375}),
        CaseScore("Fall_ü", "liver", {"dice": 0.875, "a metric of tomorrow": -2.5}),
    ),
    curve=(CurvePoint(10, 0.25, 1.5, 3.0), CurvePoint(20, 0.5, 0.75, 6.0), CurvePoint(40, 0.8125, 0.5, 12.0)),
    n_parameters=123_456_789_012,
    seconds=12.25,
    peak_mem_mib=1024.5,
    device="NVIDIA H200 (cuda:0)",
    versions={"torch": "2.13.0", "unetx-search": "0.1"},
    loss_sum=36.5,
    insight=Insight(gradients={1: (StageGradient("E0", 0.25),)}, recalls={"liver": (SizeRecall("small", 2, 1, 9),)}),
)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url, create=True) as opened:
        yield opened


@pytest.fixture
def records(store: Store) -> Records:
    records = Records(store, "s")
    records.add_architecture("u", UNET, n_parameters=7_000_000, macs=9_000_000_000_000)
    records.add_architecture("n", NO_SKIP, n_parameters=5, macs=6)
    return records


def start(records: Records, trial: int, key: str = "u", seed: int = 3) -> None:
    records.start(trial, key, seed=seed, origin="preset u-net", budget=BUDGET, started_at=NOON)


def run(records: Records, trial: int, evaluation: Evaluation, key: str = "u") -> None:
    start(records, trial, key)
    records.finish(trial, evaluation, worker=1, ended_at=NOON + timedelta(seconds=12))


def test_a_finished_evaluation_comes_back_whole(records: Records) -> None:
    run(records, 0, EVALUATION)
    record = records.evaluation(0)
    assert record is not None
    assert (record.trial_number, record.key, record.seed, record.origin) == (0, "u", 3, "preset u-net")
    assert record.budget == BUDGET
    assert (record.started_at, record.ended_at, record.worker) == (NOON, NOON + timedelta(seconds=12), 1)
    assert record.outcome is Outcome.COMPLETE
    assert record.is_finished
    assert (
        Evaluation(
            outcome=record.outcome,
            reason=record.reason,
            score=record.score,
            case_scores=records.case_scores(0),
            curve=records.curve(0),
            n_parameters=record.n_parameters,
            seconds=record.seconds,
            peak_mem_mib=record.peak_mem_mib,
            device=record.device,
            versions=record.versions,
            traceback=record.traceback,
            loss_sum=EVALUATION.loss_sum,  # the next test's
            insight=EVALUATION.insight,
        )
        == EVALUATION
    )


def test_what_an_evaluation_tells_beside_its_scores_comes_back(records: Records) -> None:
    start(records, 0)
    assert records.insight(0) is None
    records.finish(0, EVALUATION, worker=1, ended_at=NOON)
    told = records.insight(0)
    assert told is not None
    assert told.loss_sum == 36.5
    assert told.document["gradients"] == {"1": [{"stage": "E0", "norm": 0.25}]}
    assert told.document["recalls"]["liver"][0]["n_hit"] == 1
    assert told.document["zero_cost"] is None


def test_scores_on_original_voxels_are_read_where_they_were_told(records: Records) -> None:
    run(records, 0, replace(EVALUATION, insight=Insight(original_dice=0.625)))
    run(records, 1, EVALUATION)
    assert records.original_dice() == {0: 0.625}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_comes_back_with_its_reason_and_traceback(records: Records, outcome: Outcome) -> None:
    run(records, 0, Evaluation(outcome, reason="because 'é' \"x\"", traceback="line 1\nline 2"))
    record = records.evaluation(0)
    assert record is not None
    assert (record.outcome, record.reason, record.traceback) == (outcome, "because 'é' \"x\"", "line 1\nline 2")
    assert (record.score, record.n_parameters, record.peak_mem_mib) == (None, None, None)
    assert (records.case_scores(0), records.curve(0)) == ((), ())


def test_words_that_a_database_cannot_keep_come_back_as_their_escapes(records: Records) -> None:
    """A worker's last words are of any origin, and losing a result over them would be worse."""
    run(records, 0, Evaluation(Outcome.CRASHED, reason="a\0b", traceback="half a pair: \ud800"))
    record = records.evaluation(0)
    assert record is not None
    assert (record.reason, record.traceback) == ("a\\x00b", "half a pair: \\ud800")


def test_outcomes_are_stored_by_the_values_that_people_read(store: Store, records: Records) -> None:
    run(records, 0, Evaluation(Outcome.OUT_OF_MEMORY))
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT outcome FROM unetx_evaluations")) == "out-of-memory"


def test_an_evaluation_that_has_only_started_has_no_outcome(records: Records) -> None:
    start(records, 5)
    record = records.evaluation(5)
    assert record is not None
    assert (record.outcome, record.ended_at, record.worker, record.is_finished) == (None, None, None, False)
    assert (record.device, record.versions, record.seconds) == ("", {}, 0.0)


def test_a_trial_that_was_never_started_has_no_record(records: Records) -> None:
    assert records.evaluation(0) is None
    assert (records.case_scores(0), records.curve(0)) == ((), ())


def test_an_architecture_comes_back_without_score_and_provenance(records: Records) -> None:
    record = records.architecture_record("u")
    assert record.architecture == UNET
    assert (record.architecture.score, record.architecture.provenance) == ({}, {})
    assert (record.n_parameters, record.macs) == (7_000_000, 9_000_000_000_000)
    assert records.architecture("n") == NO_SKIP


def test_an_unknown_key_is_a_lookup_error(records: Records) -> None:
    with pytest.raises(LookupError, match="'zzz'"):
        records.architecture("zzz")


def test_adding_an_architecture_again_changes_nothing(store: Store, records: Records) -> None:
    respelt = Architecture(UNET.backbone, Genome(UNET.genome.nodes[::-1]))
    records.add_architecture("u", UNET, n_parameters=1, macs=1)
    records.add_architecture("u", respelt, n_parameters=1, macs=1)
    assert records.architecture_record("u").n_parameters == 7_000_000
    assert records.architecture("u").genome.nodes == UNET.genome.nodes


def test_a_key_never_stands_for_two_designs(records: Records) -> None:
    with pytest.raises(ValueError, match="another architecture"):
        records.add_architecture("u", NO_SKIP, n_parameters=1, macs=1)
    assert records.architecture("u") == UNET


def test_a_document_that_someone_tampered_with_is_refused(store: Store, records: Records) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE unetx_architectures SET document = replace(document, 'concat', 'evil')"))
    with pytest.raises(DocumentError, match="evil"):
        records.architecture("u")


def test_an_evaluation_of_an_unknown_architecture_is_refused(records: Records) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        start(records, 0, key="zzz")
    assert records.evaluations() == ()


def test_a_trial_has_one_row_at_most(store: Store, records: Records) -> None:
    start(records, 0)
    twin = EvaluationRow(study="s", trial_number=0, architecture_key="u", seed=0, origin="", budget={}, started_at=NOON)
    with pytest.raises(IntegrityError, match=r"(?i)unique"), store.writing() as session:
        session.add(twin)
    with store.writing() as session:  # the same number in another study is another trial
        session.add(
            EvaluationRow(
                study="t", trial_number=0, architecture_key="u", seed=0, origin="", budget={}, started_at=NOON
            )
        )
    assert len(records.evaluations()) == 1


def test_starting_again_replaces_what_an_interrupted_run_left(store: Store, records: Records) -> None:
    start(records, 0, seed=1)
    with store.engine.begin() as connection:  # as a future version that records on the way might leave
        connection.execute(text("INSERT INTO unetx_curves SELECT id, 10, 0.5, 0.5, 1 FROM unetx_evaluations"))
    records.start(0, "n", seed=2, origin="sampler", budget=replace(BUDGET, batch_size=2), started_at=NOON)
    (record,) = records.evaluations()
    assert (record.key, record.seed, record.origin, record.budget.batch_size) == ("n", 2, "sampler", 2)
    assert records.curve(0) == ()


def test_a_result_is_never_overwritten(records: Records) -> None:
    run(records, 0, EVALUATION)
    with pytest.raises(ValueError, match="finished already as complete"):
        start(records, 0)
    with pytest.raises(ValueError, match="finished already as complete"):
        records.finish(0, Evaluation(Outcome.CRASHED), worker=0, ended_at=NOON)
    assert records.curve(0) == EVALUATION.curve


def test_finishing_what_was_never_started_is_a_lookup_error(records: Records) -> None:
    with pytest.raises(LookupError, match="trial 7"):
        records.finish(7, EVALUATION, worker=0, ended_at=NOON)


def test_a_failure_in_the_middle_of_finishing_leaves_the_trial_running(store: Store, records: Records) -> None:
    start(records, 0)
    twice = (*EVALUATION.case_scores, EVALUATION.case_scores[0])  # the last case breaks the unique constraint
    with pytest.raises(IntegrityError):
        records.finish(0, replace(EVALUATION, case_scores=twice), worker=0, ended_at=NOON)
    record = records.evaluation(0)
    assert record is not None
    assert (record.outcome, record.score, record.ended_at) == (None, None, None)
    with store.engine.connect() as connection:
        for table in ("unetx_case_scores", "unetx_curves"):
            assert connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) == 0
    records.finish(0, EVALUATION, worker=0, ended_at=NOON)
    assert records.case_scores(0) == EVALUATION.case_scores


def test_deleting_an_evaluation_takes_its_cases_and_curve_along(store: Store, records: Records) -> None:
    run(records, 0, EVALUATION)
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM unetx_evaluations"))
        for table in ("unetx_case_scores", "unetx_curves"):
            assert connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) == 0


def test_records_come_in_order_of_trial_number_running_ones_included(records: Records) -> None:
    run(records, 2, EVALUATION)
    start(records, 0)
    run(records, 1, Evaluation(Outcome.PRUNED), key="n")
    assert [record.trial_number for record in records.evaluations()] == [0, 1, 2]
    assert [record.trial_number for record in records.evaluations(finished_only=True)] == [1, 2]


def test_known_keys_include_running_designs_and_finished_keys_do_not(records: Records) -> None:
    run(records, 0, Evaluation(Outcome.DIVERGED), key="n")
    start(records, 1, key="u")
    assert records.known_keys() == {"u", "n"}
    assert records.finished_keys() == {"n"}


def test_a_study_does_not_see_the_evaluations_of_another_in_the_same_file(store: Store, records: Records) -> None:
    run(records, 0, EVALUATION)
    other = Records(store, "t")
    assert (other.evaluations(), other.known_keys(), other.best()) == ((), frozenset(), None)
    assert other.architecture("u") == UNET
    run(other, 0, replace(EVALUATION, score=0.9))
    assert records.curve(0) == EVALUATION.curve
    best = records.best()
    assert best is not None
    assert best.score == 0.8125


def test_the_best_is_the_earliest_of_the_highest_complete_scores(records: Records) -> None:
    assert records.best() is None
    for trial, (outcome, score) in enumerate(
        [
            (Outcome.COMPLETE, 0.25),
            (Outcome.PRUNED, 0.99),
            (Outcome.COMPLETE, 0.75),
            (Outcome.COMPLETE, 0.75),
            (Outcome.COMPLETE, math.nan),
            (Outcome.CRASHED, None),
        ]
    ):
        records.add_architecture(f"design {trial}", UNET, n_parameters=7, macs=9)
        run(records, trial, Evaluation(outcome, score=score), f"design {trial}")
    run(records, 6, Evaluation(Outcome.COMPLETE, score=0.9), "design 0")  # a second seed moves no design
    best = records.best()
    assert best is not None
    assert (best.trial_number, best.score) == (2, 0.75)


def test_a_loss_that_is_no_number_or_infinite_comes_back_as_it_was(records: Records) -> None:
    curve = (CurvePoint(1, 0.5, math.inf, 1.0), CurvePoint(2, math.nan, math.nan, 2.0))
    run(records, 0, Evaluation(Outcome.DIVERGED, curve=curve))
    first, second = records.curve(0)
    assert first == curve[0]
    assert math.isnan(second.loss)
    assert math.isnan(second.score)


def test_instants_are_kept_in_utc_whatever_their_zone_and_naive_ones_are_refused(records: Records) -> None:
    tokyo = timezone(timedelta(hours=9))
    records.start(0, "u", seed=0, origin="", budget=BUDGET, started_at=datetime(2026, 3, 1, 21, tzinfo=tokyo))
    record = records.evaluation(0)
    assert record is not None
    assert record.started_at == NOON
    assert record.started_at.tzinfo is UTC
    with pytest.raises(Exception, match="needs a time zone"):
        records.start(1, "u", seed=0, origin="", budget=BUDGET, started_at=datetime(2026, 3, 1, 12))


def test_readers_never_see_half_an_evaluation_and_never_disturb_the_writer(
    url: str, tmp_path: Path, records: Records
) -> None:
    """A reader in another thread, with its own read-only connections, while 60 evaluations are written."""
    with open_store(url, create=False, read_only=True) as reader:
        seen = Records(reader, "s")
        written = threading.Event()
        problems: list[str] = []

        def watch() -> None:
            last = 0
            while True:
                was_written = written.is_set()
                finished = seen.evaluations(finished_only=True)
                if len(finished) < last:
                    problems.append("a finished evaluation vanished")
                last = len(finished)
                for record in finished[-1:]:
                    if (seen.case_scores(record.trial_number), seen.curve(record.trial_number)) != (
                        EVALUATION.case_scores,
                        EVALUATION.curve,
                    ):
                        problems.append(f"half of trial {record.trial_number}")
                if was_written:
                    break
            problems.extend([] if last == 60 else [f"{last} of 60 seen at the end"])

        thread = threading.Thread(target=watch)
        thread.start()
        for trial in range(60):
            run(records, trial, EVALUATION)
        written.set()
        thread.join()
    assert problems == []
    if url != study_url(tmp_path):
        return
    check = sqlite3.connect(tmp_path / "study.db")
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert check.execute("PRAGMA foreign_key_check").fetchall() == []
    check.close()
