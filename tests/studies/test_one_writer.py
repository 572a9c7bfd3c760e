"""The one-writer storage: what Optuna's own storage would hold, in one transaction, and forgotten when it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, text

from unetx_studies.store import OneWriterStorage, Store, one_writer_storage, open_store, optuna_storage, study_url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url, create=True) as opened:
        yield opened


@pytest.fixture
def storage(store: Store) -> Iterator[OneWriterStorage]:
    opened = one_writer_storage(store)
    yield opened
    opened.close()


def optunas_own(tmp_path: Path) -> BaseStorage:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return optuna_storage(study_url(folder))


def study_in(storage: BaseStorage) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name="s",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )


def play(study: optuna.Study, n_trials: int) -> None:
    """A search with all that a trial can hold."""
    study.enqueue_trial({"a": "y", "x": 0.5}, user_attrs={"origin": "given"})
    for number in range(n_trials):
        trial = study.ask()
        score = trial.suggest_float("x", 0.0, 1.0) + (trial.suggest_categorical("a", ["x", "y", None]) == "y")
        trial.set_user_attr("note", {"number": number})
        for step in (1, 2, 4):
            trial.report(math.nan if (number, step) == (3, 2) else score * step, step)
            if trial.should_prune() and number != 5:
                trial.set_constraint("c", 1.0)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, score if number != 5 else None, state=TrialState.FAIL if number == 5 else None)
    study.ask().suggest_float("x", 0.0, 1.0)
    study.enqueue_trial({"a": "x"})


def plain(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All but the times."""
    return [
        {
            "number": trial.number,
            "id": trial._trial_id,
            "state": trial.state,
            "values": trial.values,
            "params": trial.params,
            "distributions": trial.distributions,
            "user": trial.user_attrs,
            "system": trial.system_attrs,
            "steps": {step: str(value) for step, value in trial.intermediate_values.items()},
            "began": trial.datetime_start is not None,
            "ended": trial.datetime_complete is not None,
        }
        for trial in trials
    ]


def test_a_search_leaves_in_memory_and_in_the_file_what_optunas_own_storage_holds(
    url: str, tmp_path: Path, store: Store, storage: OneWriterStorage
) -> None:
    ours, theirs = study_in(storage), study_in(optunas_own(tmp_path))
    for study in (ours, theirs):
        play(study, 12)
    expected = plain(theirs.get_trials())
    assert plain(ours.get_trials()) == expected
    assert plain(optuna_storage(url, read_only=True).get_all_trials(ours._study_id)) == expected
    assert plain(one_writer_storage(store).get_all_trials(ours._study_id)) == expected
    assert {TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL} <= {trial["state"] for trial in expected}


@pytest.fixture(params=["ours", "optuna's own"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path, storage: OneWriterStorage) -> BaseStorage:
    """For laws that every storage of Optuna obeys."""
    return storage if request.param == "ours" else optunas_own(tmp_path)


def test_a_finished_trial_takes_nothing_more(any_storage: BaseStorage) -> None:
    study = study_in(any_storage)
    trial = study.ask()
    study.tell(trial, 1.0)
    storage, number = study._storage, trial._trial_id
    for write in (
        lambda: storage.set_trial_param(number, "x", 0.0, FloatDistribution(0, 1)),
        lambda: storage.set_trial_user_attr(number, "a", 1),
        lambda: storage.set_trial_system_attr(number, "a", 1),
        lambda: storage.set_trial_intermediate_value(number, 1, 1.0),
        lambda: storage.set_trial_state_values(number, TrialState.PRUNED),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            write()


def test_a_parameter_keeps_its_kind_of_distribution(any_storage: BaseStorage) -> None:
    study = study_in(any_storage)
    study.ask().suggest_float("x", 0.0, 1.0)
    with pytest.raises(ValueError, match="Cannot set different distribution kind"):
        study.ask().suggest_categorical("x", [1, 2])


def test_unknown_trials_are_key_errors(any_storage: BaseStorage) -> None:
    study = study_in(any_storage)
    with pytest.raises(KeyError):
        any_storage.get_trial(77)
    with pytest.raises(KeyError):
        any_storage.get_trial_id_from_study_id_trial_number(study._study_id, 3)


def test_a_list_of_trials_stays_what_it_was(any_storage: BaseStorage) -> None:
    """Halving reads the others, writes its own rung, then compares: it must not meet itself."""
    study = study_in(any_storage)
    trial = study.ask()
    listed = study.get_trials(deepcopy=False)
    trial.suggest_float("x", 0.0, 1.0)
    trial.report(0.5, 1)
    trial.set_user_attr("a", 1)
    study.tell(trial, 1.0)
    [before] = listed
    assert (before.params, before.user_attrs, before.intermediate_values) == ({}, {}, {})
    assert before.state is TrialState.RUNNING


def n_commits(store: Store) -> list[int]:
    count = [0]
    event.listen(store.engine, "commit", lambda connection: count.__setitem__(0, count[0] + 1))
    return count


def test_everything_inside_together_is_one_commit(store: Store, storage: OneWriterStorage) -> None:
    study = study_in(storage)
    count = n_commits(store)
    with storage.together():
        trial = study.ask()
        for gene in range(30):
            trial.suggest_categorical(f"gene {gene}", [True, False])
        trial.set_user_attr("origin", "random")
        with store.writing() as session:
            session.execute(text("insert into unetx_meta values ('mark', 'ours')"))
    assert count == [1]
    with open_store(store.url, create=False, read_only=True) as reader, reader.reading() as session:
        assert session.scalar(text("select count(*) from trial_params")) == 30
        assert session.scalar(text("select value from unetx_meta where key = 'mark'")) == "ours"


def test_what_fails_is_there_neither_in_the_file_nor_in_memory(store: Store, storage: OneWriterStorage) -> None:
    study = study_in(storage)
    first = study.ask()
    first.suggest_float("x", 0.0, 1.0)
    before = plain(study.get_trials())

    def fail_in_the_middle() -> None:
        with storage.together():
            first.set_user_attr("a", 1)
            study.tell(first, 1.0)
            study.ask().suggest_float("x", 0.0, 1.0)
            with store.writing() as session:
                session.execute(text("insert into unetx_meta values ('mark', 'ours')"))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_in_the_middle()
    assert plain(study.get_trials()) == before
    assert plain(one_writer_storage(store).get_all_trials(study._study_id)) == before
    with store.reading() as session:
        assert session.scalar(text("select count(*) from unetx_meta where key = 'mark'")) == 0
    study.tell(first, 1.0)
    assert study.trials[0].state is TrialState.COMPLETE


def test_seeing_hides_later_trials_from_samplers_and_pruners_and_nothing_else(storage: OneWriterStorage) -> None:
    study = study_in(storage)
    for _ in range(4):
        study.tell(study.ask(), 1.0)
    with storage.seeing(1):
        assert [trial.number for trial in study.get_trials()] == [0, 1]
        with storage.seeing(None):
            assert len(study.get_trials()) == 4
        with storage.seeing(-2):
            assert study.get_trials() == []
        assert storage.get_trial(study._storage.get_trial_id_from_study_id_trial_number(study._study_id, 3)).number == 3
    assert len(study.get_trials()) == 4


def test_another_writer_is_noticed_before_anything_is_mixed_up(url: str, storage: OneWriterStorage) -> None:
    study = study_in(storage)
    study.ask()
    study_in(optuna_storage(url)).ask()
    with pytest.raises(RuntimeError, match="another process has written, too"):
        study.ask()


def test_equal_distributions_of_a_parameter_are_one_object(storage: OneWriterStorage) -> None:
    study = study_in(storage)
    for _ in range(3):
        study.ask().suggest_categorical("a", ["x", "y"])
    found = {id(trial.distributions["a"]) for trial in study.get_trials(deepcopy=False)}
    assert len(found) == 1
    assert study.trials[0].distributions["a"] == CategoricalDistribution(["x", "y"])
