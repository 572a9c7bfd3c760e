"""Every record comes back as it was written, or not at all."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from narrowing import there
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from trial_records import ASKED as EMPTY
from trial_records import preset, repeated

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_evaluators.insight import Insight, SizeRecall, StageGradient
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.errors import DocumentError
from unetx_space.genome import Genome
from unetx_space.presets import no_skip, unet
from unetx_studies.job_states import finished, started, worker_lost
from unetx_studies.processes import this_process
from unetx_studies.ranking import Ranking
from unetx_studies.store import Records, Stage, Store, TrialRecord, open_store, study_url
from unetx_studies.store.tables import ARCHITECTURES, CURVES, SCORES, TRIALS

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


ASKED = replace(EMPTY, budget=BUDGET)
DESIGNS = {"u": UNET, "n": NO_SKIP}


def begin(records: Records, number: int, key: str = "u", **changes: Any) -> TrialRecord:
    trial = replace(ASKED, number=number, key=key, **changes)
    records.begin(trial, DESIGNS.get(key, UNET))
    return trial


def end(trial: TrialRecord, evaluation: Evaluation) -> TrialRecord:
    return finished(trial, evaluation, worker=1, at=NOON + timedelta(seconds=12))


def run(records: Records, number: int, evaluation: Evaluation, key: str = "u") -> TrialRecord:
    trial = end(begin(records, number, key), evaluation)
    records.finish(trial, evaluation)
    return trial


def test_a_trial_comes_back_as_it_was_written_at_every_stage(records: Records) -> None:
    asked = begin(records, 0, optuna_notes={"completed_rung_0": 0.25}, origin=preset("u-net", is_adapted=True))
    assert records.trial(0) == asked
    assert (asked.stage, asked.is_finished) == (Stage.ASKED, False)
    running = started(asked, 1, "GPU 1: x", this_process(), NOON)
    running = started(worker_lost(running, "was killed by SIGKILL"), 2, "GPU 2: x", this_process(), NOON)
    running = replace(running, pruned_at=20)
    records.update(running, EVALUATION.curve[0])
    assert records.trial(0) == running
    assert (running.stage, running.n_starts, running.n_lost) == (Stage.RUNNING, 2, 1)
    assert records.curve(0) == EVALUATION.curve[:1]
    done = end(running, EVALUATION)
    records.finish(done, EVALUATION)
    assert records.trial(0) == done
    assert (done.stage, done.score, done.device) == (Stage.FINISHED, EVALUATION.score, EVALUATION.device)
    assert (done.seconds, done.versions) == (12.25, EVALUATION.versions)
    assert records.curve(0) == EVALUATION.curve
    assert sorted(records.case_scores(0), key=str) == sorted(EVALUATION.case_scores, key=str)


def test_what_an_evaluation_tells_beside_its_scores_comes_back(records: Records) -> None:
    trial = begin(records, 0)
    assert records.insight(0) is None
    records.finish(end(trial, EVALUATION), EVALUATION)
    told = there(records.insight(0))
    assert told["gradients"] == {"1": [{"stage": "E0", "norm": 0.25}]}
    assert told["recalls"]["liver"][0]["n_hit"] == 1
    assert told["zero_cost"] is None


def test_scores_on_original_voxels_are_read_where_they_were_told(records: Records) -> None:
    run(records, 0, replace(EVALUATION, insight=Insight(original_dice=0.625)))
    run(records, 1, EVALUATION)
    assert [trial.original_dice for trial in records.trials()] == [0.625, None]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_comes_back_with_its_reason_and_traceback(records: Records, outcome: Outcome) -> None:
    run(records, 0, Evaluation(outcome, reason="because 'é' \"x\"", traceback="line 1\nline 2"))
    record = there(records.trial(0))
    assert (record.outcome, record.reason, record.traceback) == (outcome, "because 'é' \"x\"", "line 1\nline 2")
    assert record.score is None
    assert (records.case_scores(0), records.curve(0)) == ((), ())


def test_words_that_a_database_cannot_keep_come_back_as_their_escapes(records: Records) -> None:
    """A worker's last words are of any origin, and losing a result over them would be worse."""
    trial = run(records, 0, Evaluation(Outcome.CRASHED, reason="a\0b", traceback="half a pair: \ud800"))
    record = there(records.trial(0))
    assert (record.reason, record.traceback) == ("a\\x00b", "half a pair: \\ud800")
    records.finish(trial, Evaluation(Outcome.CRASHED, reason="a\0b"))  # written again, it is still the same result


def test_outcomes_are_stored_by_the_values_that_people_read(store: Store, records: Records) -> None:
    run(records, 0, Evaluation(Outcome.OUT_OF_MEMORY))
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT outcome FROM unetx_trials")) == "out-of-memory"


def test_a_trial_that_was_never_asked_has_no_record(records: Records) -> None:
    assert records.trial(0) is None
    assert (records.case_scores(0), records.curve(0), records.insight(0)) == ((), (), None)


def test_an_architecture_comes_back_without_score_and_provenance(records: Records) -> None:
    begin(records, 0, "u")
    begin(records, 1, "n")
    assert records.architecture("u") == UNET
    assert (records.architecture("u").score, records.architecture("u").provenance) == ({}, {})
    assert records.architecture("n") == NO_SKIP
    assert records.architectures() == {"u": UNET, "n": NO_SKIP}


def test_an_unknown_key_is_a_lookup_error(records: Records) -> None:
    with pytest.raises(LookupError, match="'zzz'"):
        records.architecture("zzz")


def test_a_design_that_is_known_is_kept_as_it_was_first_spelt(records: Records) -> None:
    begin(records, 0)
    records.begin(replace(ASKED, number=1), Architecture(UNET.backbone, Genome(UNET.genome.nodes[::-1])))
    assert records.architecture("u").genome.nodes == UNET.genome.nodes


def test_a_key_never_stands_for_two_designs(records: Records) -> None:
    begin(records, 0)
    with pytest.raises(ValueError, match="another architecture"):
        records.begin(replace(ASKED, number=1), NO_SKIP)
    assert records.architecture("u") == UNET
    assert records.trial(1) is None


def test_a_document_that_someone_tampered_with_is_refused(store: Store, records: Records) -> None:
    begin(records, 0)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE unetx_architectures SET document = replace(document, 'concat', 'evil')"))
    with pytest.raises(DocumentError, match="evil"):
        records.architecture("u")


def test_a_trial_of_an_unknown_architecture_is_refused(records: Records) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        records.update(replace(ASKED, key="zzz"))
    assert records.trials() == ()


def test_everything_can_be_written_again(store: Store, records: Records) -> None:
    """As it is when a connection broke, and nobody knows whether the transaction stands."""

    def twice(write: Callable[[], None]) -> None:
        write()
        before = whole(store)
        write()
        assert whole(store) == before

    trial = replace(ASKED, origin=repeated())
    twice(lambda: records.begin(trial, UNET))
    twice(lambda: records.update(started(trial, 0, "CPU 0", this_process(), NOON), EVALUATION.curve[0]))
    twice(lambda: records.finish(end(trial, EVALUATION), EVALUATION))
    assert len(records.trials()) == 1


def whole(store: Store) -> list[object]:
    with store.reading() as connection:
        return [connection.execute(select(table)).all() for table in (TRIALS, ARCHITECTURES, CURVES, SCORES)]


def test_a_result_is_never_overwritten(records: Records) -> None:
    trial = run(records, 0, EVALUATION)
    crash = Evaluation(Outcome.CRASHED)
    for write in (
        lambda: begin(records, 0),
        lambda: records.update(replace(ASKED, n_starts=7), CurvePoint(20, 0.0, 0.0, 0.0)),
        lambda: records.finish(end(ASKED, crash), crash),
    ):
        with pytest.raises(ValueError, match="finished already as complete"):
            write()
    assert records.trial(0) == trial
    assert records.curve(0) == EVALUATION.curve


def test_a_failure_in_the_middle_of_finishing_leaves_the_trial_running(store: Store, records: Records) -> None:
    trial = begin(records, 0)
    twice = (*EVALUATION.case_scores, EVALUATION.case_scores[0])  # the last case is there already
    with pytest.raises(IntegrityError):
        records.finish(end(trial, EVALUATION), replace(EVALUATION, case_scores=twice))
    assert records.trial(0) == trial
    with store.engine.connect() as connection:
        for table in ("unetx_scores", "unetx_curves"):
            assert connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) == 0
    records.finish(end(trial, EVALUATION), EVALUATION)
    assert len(records.case_scores(0)) == 3


def test_deleting_a_trial_takes_its_cases_and_curve_along(store: Store, records: Records) -> None:
    run(records, 0, EVALUATION)
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM unetx_trials"))
        for table in ("unetx_scores", "unetx_curves"):
            assert connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) == 0


def test_trials_come_in_order_of_their_numbers_unfinished_ones_included(records: Records) -> None:
    run(records, 2, EVALUATION)
    begin(records, 0)
    run(records, 1, Evaluation(Outcome.PRUNED), key="n")
    assert [record.number for record in records.trials()] == [0, 1, 2]
    assert [record.number for record in records.trials(finished_only=True)] == [1, 2]


def test_a_study_does_not_see_the_trials_of_another_in_the_same_file(store: Store, records: Records) -> None:
    run(records, 0, EVALUATION)
    other = Records(store, "t")
    assert (other.trials(), other.curves()) == ((), {})
    assert other.architecture("u") == UNET
    run(other, 0, replace(EVALUATION, score=0.9))
    assert records.curve(0) == EVALUATION.curve
    assert [trial.score for trial in records.trials()] == [0.8125]


def test_the_best_is_the_earliest_of_the_highest_complete_scores(records: Records) -> None:
    assert Ranking(records.trials()).best is None
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
        run(records, trial, Evaluation(outcome, score=score), f"design {trial}")
    best = there(Ranking(records.trials()).best)
    assert (best.number, best.dice) == (2, 0.75)


def test_a_loss_that_is_no_number_or_infinite_comes_back_as_it_was(records: Records) -> None:
    curve = (CurvePoint(1, 0.5, math.inf, 1.0), CurvePoint(2, math.nan, math.nan, 2.0))
    run(records, 0, Evaluation(Outcome.DIVERGED, curve=curve))
    first, second = records.curve(0)
    assert first == curve[0]
    assert math.isnan(second.loss)
    assert math.isnan(second.score)


def test_instants_are_kept_in_utc_whatever_their_zone_and_naive_ones_are_refused(records: Records) -> None:
    tokyo = timezone(timedelta(hours=9))
    begin(records, 0, asked_at=datetime(2026, 3, 1, 21, tzinfo=tokyo))
    record = there(records.trial(0))
    assert record.asked_at == NOON
    assert record.asked_at.tzinfo is UTC
    with pytest.raises(Exception, match="needs a time zone"):
        begin(records, 1, asked_at=datetime(2026, 3, 1, 12))


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
                finished = seen.trials(finished_only=True)
                if len(finished) < last:
                    problems.append("a finished evaluation vanished")
                last = len(finished)
                for record in finished[-1:]:
                    if (len(seen.case_scores(record.number)), seen.curve(record.number)) != (3, EVALUATION.curve):
                        problems.append(f"half of trial {record.number}")
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
