"""Optuna's tables mirror our records: live, after a crash, and whatever an outside hand has done to them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import text
from statements import Crash, at_statements
from trial_records import ASKED, NOON, preset

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.errors import RequestError
from unetx_space.presets import unet
from unetx_studies.artifacts import attach_drawing
from unetx_studies.job_states import finished
from unetx_studies.store import OptunaMirror, Records, Store, TrialRecord, optuna_storage

GENES = {"a": CategoricalDistribution([False, True]), "b": CategoricalDistribution(["x", "y"])}
UNET = Architecture(isotropic_backbone(2, n_levels=3), unet(3))


def mirror_of(store: Store, records: Records, folder: Path | None = None) -> OptunaMirror:
    def attach(trial: Trial, record: TrialRecord, architecture: Architecture) -> None:
        assert folder is not None
        attach_drawing(trial, architecture, folder)

    return OptunaMirror(store, "s", records, GENES, attach=None if folder is None else attach, clock_s=lambda: 0.0)


def begin(records: Records, number: int) -> TrialRecord:
    trial = replace(ASKED, number=number, params={"a": number % 2 == 0, "b": "y"}, origin=preset("u-net"))
    records.begin(trial, UNET)
    return trial


def end(records: Records, trial: TrialRecord, outcome: Outcome, *scores: float) -> TrialRecord:
    curve = tuple(CurvePoint(step, score, 0.5, 1.0) for step, score in enumerate(scores, start=1))
    evaluation = Evaluation(outcome, score=scores[-1] if scores else None, curve=curve, reason="because")
    done = finished(trial, evaluation, 0, NOON)
    records.finish(done, evaluation)
    return done


OUTCOMES = [
    (Outcome.COMPLETE, (0.25, 0.5)),
    (Outcome.PRUNED, (0.125,)),
    (Outcome.DIVERGED, (math.nan,)),
    (Outcome.CRASHED, (0.5,)),
    (Outcome.COMPLETE, (0.5, 0.75)),
]
STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
VALUES = [0.5, 0.125, None, None, 0.75]


def record_all(records: Records) -> None:
    """Five trials that ended, and one that runs and has come to a rung."""
    for number, (outcome, scores) in enumerate(OUTCOMES):
        end(records, begin(records, number), outcome, *scores)
    records.update(begin(records, len(OUTCOMES)), CurvePoint(1, 0.375, 0.5, 1.0))


def found_by_optuna(url: str) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=optuna_storage(url, read_only=True))


def check(url: str) -> None:
    """Optuna's tables say what ``record_all`` has recorded."""
    trials = found_by_optuna(url).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.state for trial in trials] == [*STATES, TrialState.RUNNING]
    assert [trial.value for trial in trials] == [*VALUES, None]
    steps = [{step: str(score) for step, score in trial.intermediate_values.items()} for trial in trials]
    expected = [{step: str(score) for step, score in enumerate(scores, 1)} for _, scores in OUTCOMES]
    assert steps == [*expected, {1: "0.375"}]
    assert [trial.params["a"] for trial in trials] == [True, False] * 3
    assert [dict(trial.constraints) for trial in trials] == [{}, {}, {"trainable": 1.0}, {}, {}, {}]
    assert {trial.user_attrs["origin"] for trial in trials} == {"preset u-net"}


def test_what_is_followed_live_is_what_is_made_from_the_records(store: Store, records: Records, url: str) -> None:
    def story(trials: list[FrozenTrial]) -> list[object]:
        return [
            (t.number, t.state, t.value, t.params, t.user_attrs, str(t.intermediate_values), t.constraints)
            for t in trials
        ]

    with mirror_of(store, records) as mirror:
        for number, (outcome, scores) in enumerate(OUTCOMES):
            trial = begin(records, number)
            mirror.follow(trial, {}, UNET)
            assert found_by_optuna(url).trials[number].state is TrialState.RUNNING
            mirror.follow(trial, {1: scores[0]})
            done = end(records, trial, outcome, *scores)
            mirror.follow(done, dict(enumerate(scores, 1)))
        running = begin(records, len(OUTCOMES))
        records.update(running, CurvePoint(1, 0.375, 0.5, 1.0))
        mirror.follow(running, {1: 0.375})
    check(url)
    live = story(found_by_optuna(url).trials)
    optuna.delete_study(study_name="s", storage=optuna_storage(url))
    with mirror_of(store, records):
        pass
    check(url)
    assert story(found_by_optuna(url).trials) == live


def test_genes_read_well_and_a_study_that_has_them_under_their_short_names_is_made_anew(
    store: Store, records: Records, url: str
) -> None:
    either: BaseDistribution = CategoricalDistribution([False, True])
    genes = dict.fromkeys(("D1.E3", "D0.2.D0.1", "D1.upsampler"), either)
    records.begin(replace(ASKED, number=0, params=dict.fromkeys(genes, True)), UNET)
    older = optuna.create_study(study_name="s", storage=optuna_storage(url), direction="maximize")
    older.set_user_attr("unetx:mirror", 1)
    params = dict.fromkeys(genes, True)
    older.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=genes))
    optuna_dashboard.save_note(older, "mine")
    with OptunaMirror(store, "s", records, genes):
        pass
    [trial] = found_by_optuna(url).trials
    assert trial.params == dict.fromkeys(("D1 reads E3", "D0.2 reads D0.1", "D1 upsampler"), True)
    assert optuna_dashboard.get_note(found_by_optuna(url)) == "mine"


@pytest.mark.parametrize("server_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "harm",
    [
        "update trials set state = 'RUNNING' where number = 0",
        "update trials set state = 'FAIL' where number = 5",  # the running one
        "update trials set state = 'COMPLETE' where number = 5",
        "update trial_values set value = 0.9 where trial_id = (select trial_id from trials where number = 0)",
        "delete from trial_values where trial_id = (select trial_id from trials where number = 4)",
        "delete from trial_intermediate_values where trial_id = (select trial_id from trials where number = 1)",
        "insert into trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        "select trial_id, 3, 0.5, 'FINITE' from trials where number = 5",
        "delete from trial_params where param_name = 'a'",
        "update trials set number = 9 where number = 2",
        "delete from trials where number = 2",
        "delete from trials where number = 5",
        "delete from trials",
        "insert into trials (number, study_id, state) select 6, study_id, 'WAITING' from studies",
        "insert into trials (number, study_id, state) select 2, study_id, 'COMPLETE' from studies",
        "delete from studies",
    ],
)
def test_whatever_an_outside_hand_did_is_put_right_at_the_next_start(
    store: Store, records: Records, url: str, harm: str
) -> None:
    record_all(records)
    with mirror_of(store, records):
        pass
    check(url)
    storage = optuna_storage(url)
    with storage.engine.begin() as connection:
        if "delete from trials" in harm or "delete from studies" in harm:
            for table in ("values", "params", "intermediate_values", "user_attributes", "system_attributes"):
                of_those = harm.replace("delete from trials", "select trial_id from trials")
                of_those = "select trial_id from trials" if "studies" in harm else of_those
                connection.execute(text(f"delete from trial_{table} where trial_id in ({of_those})"))
        if "studies" in harm and "delete" in harm:
            for table in ("trials", "study_directions", "study_user_attributes", "study_system_attributes"):
                connection.execute(text(f"delete from {table}"))
        connection.execute(text(harm))
    storage.engine.dispose()
    with mirror_of(store, records):
        pass
    check(url)


def test_a_rebuilt_mirror_keeps_notes_and_artifacts_of_people(
    store: Store, records: Records, url: str, tmp_path: Path
) -> None:
    record_all(records)
    with mirror_of(store, records, tmp_path):
        pass
    storage = optuna_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    [artifact] = get_all_artifact_meta(study.trials[1], storage=storage)
    optuna_dashboard.save_note(study, "of the study")
    note = optuna_dashboard.get_note(trial_of(study, 1))
    assert artifact.artifact_id in note
    optuna_dashboard.save_note(trial_of(study, 1), note + "\n\nlooks good")
    optuna.create_study(storage=storage, study_name="another").add_trial(optuna.trial.create_trial(value=0.5))
    with store.writing() as connection:
        connection.execute(text("update trials set state = 'FAIL' where number = 1"))
    ids = [trial_id(study, number) for number in range(6)]
    with mirror_of(store, records, tmp_path):
        pass
    check(url)
    study = optuna.load_study(study_name="s", storage=optuna_storage(url))
    assert [trial_id(study, number) for number in range(6)] != ids, "the study was rebuilt"
    assert optuna_dashboard.get_note(study) == "of the study"
    assert [meta.artifact_id for meta in get_all_artifact_meta(study.trials[1], storage=optuna_storage(url))] == [
        artifact.artifact_id
    ]
    told = optuna_dashboard.get_note(trial_of(study, 1))
    study_id = optuna_storage(url).get_study_id_from_name("s")
    assert f"(/artifacts/{study_id}/{trial_id(study, 1)}/{artifact.artifact_id})" in told
    assert told.endswith("\n\nlooks good")
    assert sorted(optuna.get_all_study_names(optuna_storage(url))) == ["another", "s"]
    assert all(len(get_all_artifact_meta(trial, storage=optuna_storage(url))) == 1 for trial in study.trials)


def trial_id(study: optuna.Study, number: int) -> int:
    return study.trials[number]._trial_id


def trial_of(study: optuna.Study, number: int) -> Trial:
    return Trial(study, trial_id(study, number))


def test_a_rebuild_that_was_killed_at_any_statement_loses_no_note(store: Store, records: Records, url: str) -> None:
    record_all(records)
    with mirror_of(store, records):
        pass
    optuna_dashboard.save_note(optuna.load_study(study_name="s", storage=optuna_storage(url)), "of the study")
    with store.writing() as connection:
        connection.execute(text("update trials set state = 'FAIL' where number = 0"))
    for statement in (30, 60, 90, 120, 180, 240):
        with pytest.raises(Crash), at_statements({statement}), mirror_of(store, records):
            pass
    with mirror_of(store, records):
        pass
    check(url)
    study = optuna.load_study(study_name="s", storage=optuna_storage(url))
    assert optuna_dashboard.get_note(study) == "of the study"
    assert optuna.get_all_study_names(optuna_storage(url)) == ["s"]


def fail() -> None:
    raise OSError("no room")


def test_a_write_that_fails_costs_nothing_is_told_once_and_mended_at_the_end(
    store: Store, records: Records, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with mirror_of(store, records) as mirror:
        record_all(records)
        trials = records.trials()
        for trial in trials[:3]:
            with at_statements(range(3, 1000), fail):
                mirror.follow(trial, {})
    check(url)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["Optuna's tables could not be written, and are mended later: no room"]


def test_a_mirror_that_is_behind_is_mended_a_minute_later(store: Store, records: Records, url: str) -> None:
    now_s = [0.0]
    with OptunaMirror(store, "s", records, GENES, clock_s=lambda: now_s[0]) as mirror:
        record_all(records)
        trials = records.trials()
        with at_statements({1}, fail):
            mirror.follow(trials[0], {})
        mirror.follow(trials[1], {})
        assert found_by_optuna(url).trials == []
        now_s[0] = 60.0
        mirror.follow(trials[1], {})
        check(url)


def test_a_study_of_somebody_elses_is_left_alone(store: Store, records: Records, url: str) -> None:
    study = optuna.create_study(storage=optuna_storage(url), study_name="s")
    study.add_trial(optuna.trial.create_trial(value=0.5))
    record_all(records)
    with pytest.raises(RequestError, match="was not begun from this folder"), mirror_of(store, records):
        pass
    assert len(study.trials) == 1


@pytest.mark.parametrize("server_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "plot",
    [
        optuna.visualization.plot_param_importances,
        optuna.visualization.plot_slice,
        optuna.visualization.plot_parallel_coordinate,
        optuna.visualization.plot_intermediate_values,
    ],
)
def test_optunas_own_plots_are_drawn_from_a_mirrored_study(
    store: Store, records: Records, url: str, plot: Callable[[optuna.Study], object]
) -> None:
    record_all(records)
    with mirror_of(store, records):
        pass
    figure = plot(found_by_optuna(url))
    assert len(figure.data) > 0  # type: ignore[attr-defined]
