"""From an architecture to a trained model: what its folder holds, going on, what is refused."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_samples import THREE_D, TWO_D, cell_folder, copied, organ_folder, predicted, quiet, trained
from painted_source import PaintedSource
from rich.console import Console
from safetensors.torch import load_file
from tiny_task import tiny_architecture, write_tiny_task

from unetx_evaluators.evaluation import CurvePoint
from unetx_evaluators.tasks.sources import ClassMap
from unetx_evaluators.training.recipe import STRONG
from unetx_search.executors.slots import Slot
from unetx_search.models.full_training import PreparedData, TrainingFailed, locked, processes_of_a_fold, train
from unetx_search.models.train_choices import TrainChoices
from unetx_search.models.training_progress import TrainingBar
from unetx_space.architecture import Architecture
from unetx_space.documents import load
from unetx_space.errors import RequestError
from unetx_space.presets import preset
from unetx_studies.model_folder import FORMAT, ModelFolder

FILES = {"plan.json", "architecture.json", "training.json", "scores.json", "weights-fold0.safetensors"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def model(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained once for the tests that only look at it or damage a copy."""
    path = tmp_path_factory.mktemp("models") / "model"
    trained(cells, path, TWO_D)
    return path


def on_cores(n: int) -> tuple[Slot, ...]:
    return tuple(Slot.on_cpu(index, f"CPU {index}") for index in range(n))


def test_a_model_is_a_folder_of_json_and_numbers_that_tells_how_it_was_trained(model: Path) -> None:
    assert {file.name for file in model.iterdir()} == FILES
    told = json.loads((model / "training.json").read_text(encoding="utf-8"))
    assert [point["step"] for point in told["folds"]["0"]["curve"]] == [2, 4, 6]
    assert told["begun"]["recipe"]["rotation"] == STRONG.rotation
    assert told["versions"]["torch"] == torch.__version__.partition("+")[0] or "+" in told["versions"]["torch"]
    scores = json.loads((model / "scores.json").read_text(encoding="utf-8"))
    assert scores["weights"] == "last"
    assert scores["test"]["n_cases"] == len(told["folds"]["0"]["splits"]["test"]) == 2
    assert 0 <= scores["test"]["means"]["original_dice"] <= 1


@pytest.mark.parametrize(
    ("make", "choices", "masks"), [(cell_folder, TWO_D, "masks"), (organ_folder, THREE_D, "labelsTr")]
)
def test_predicting_the_test_cases_gives_the_scores_that_the_training_told(
    make: Callable[[Path], Path], choices: object, masks: str, tmp_path: Path
) -> None:
    data = make(tmp_path / "data")
    done = trained(data, tmp_path / "model", choices, mirror=True)  # type: ignore[arg-type]
    tests = {one["case"] for one in done.scores["test"]["cases"]}
    images = tmp_path / "images"
    images.mkdir()
    for file in data.glob("images*/*"):
        if file.name.partition(".")[0] in tests:
            (images / file.name).write_bytes(file.read_bytes())
    found = predicted(tmp_path / "model", images, tmp_path / "masks", masks=data / masks)
    assert found.scores_json is not None
    assert found.scores_json["means"] == pytest.approx(done.scores["test"]["means"], abs=1e-9)
    assert {file.name for file in found.written} == {file.name for file in images.iterdir()}


@pytest.mark.parametrize("broken_at", [1, 3, 5])
def test_a_training_that_was_broken_off_ends_with_the_same_bits(
    broken_at: int, model: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_evaluators.training.trainer.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("unetx_search.executors.worker.STEP_INTERVAL_S", 0.0)  # every step is told
    with monkeypatch.context() as fault:

        def break_off(self: TrainingBar, step: int) -> None:
            if step == broken_at:
                raise KeyboardInterrupt

        fault.setattr(TrainingBar, "on_step", break_off)
        with pytest.raises(KeyboardInterrupt):
            trained(cells, tmp_path / "model", TWO_D)
    trained(cells, tmp_path / "model", TWO_D)
    name = "weights-fold0.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (model / name).read_bytes()
    curves = [
        json.loads((path / "training.json").read_text())["folds"]["0"]["curve"] for path in (model, tmp_path / "model")
    ]
    one, other = ([point | {"seconds": 0} for point in curve] for curve in curves)
    assert one == other


def test_the_same_command_on_a_complete_model_trains_nothing(
    model: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_evaluators.proxy.ProxyEvaluator.evaluate", None)
    assert trained(cells, copied(model, tmp_path / "again"), TWO_D).was_complete


def test_other_options_on_a_model_that_was_begun_are_refused(model: Path, cells: Path, tmp_path: Path) -> None:
    again = copied(model, tmp_path / "again")
    with pytest.raises(RequestError, match=r"was begun with steps 6, now it is 8; give the same options"):
        trained(cells, again, TWO_D, steps=8)
    with pytest.raises(RequestError, match=r"recipe.learning_rate 0.003, now it is 0.01"):
        trained(cells, again, TWO_D, learning_rate=0.01)


def test_a_folder_of_somebody_else_is_left_alone(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"sun")
    with pytest.raises(RequestError, match="holds something else than a model"):
        trained(cells, tmp_path / "photos", TWO_D)
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]


def test_two_trainings_into_one_folder_are_refused(cells: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "model"), pytest.raises(RequestError, match="another process trains this model"):
        trained(cells, tmp_path / "model", TWO_D)


def test_a_design_keeps_its_own_widths_and_blocks_times_the_factor(cells: Path, model: Path, tmp_path: Path) -> None:
    backbone = replace(load(model / "architecture.json").backbone, widths=(6, 10), deep_supervision=False)
    Architecture(backbone, preset("attention-u-net").genome(2)).save(tmp_path / "best.json")
    trained(cells, tmp_path / "model", replace(TWO_D, levels=None), str(tmp_path / "best.json"), width_factor=0.5)
    found = ModelFolder.load(tmp_path / "model").architecture
    assert found.backbone == replace(backbone, widths=(3, 5), deep_supervision=True)
    assert found.genome == preset("attention-u-net").genome(2)


def test_a_design_for_other_images_is_refused_before_anything_is_read(cells: Path, model: Path, tmp_path: Path) -> None:
    backbone = replace(load(model / "architecture.json").backbone, in_channels=4)
    Architecture(backbone, preset("u-net").genome(2)).save(tmp_path / "best.json")
    with pytest.raises(RequestError, match=r"has 4 input channels, .* needs 1"):
        trained(cells, tmp_path / "model", TWO_D, str(tmp_path / "best.json"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("choices", "rule"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"width_factor": 0.0}, "--width-factor must be above 0"),
        ({"averaging": 1.5}, "--averaging must be from 0 to 1"),
        ({"validations": 0}, "--validations must be at least 1"),
    ],
)
def test_what_no_training_can_be_asked_is_refused(choices: dict[str, float], rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        TrainChoices(**choices)  # type: ignore[arg-type]


def test_weights_of_another_design_damaged_ones_and_newer_formats_are_refused_by_name(
    model: Path, tmp_path: Path
) -> None:
    weights = "weights-fold0.safetensors"
    damaged = copied(model, tmp_path / "damaged")
    data = bytearray((damaged / weights).read_bytes())
    data[-3] ^= 0x40
    (damaged / weights).write_bytes(bytes(data))
    with pytest.raises(RequestError, match=rf"{weights} is damaged: its numbers are not those"):
        ModelFolder.load(damaged).networks()

    cut = copied(model, tmp_path / "cut")
    (cut / weights).write_bytes(bytes(data[:-100]))
    with pytest.raises(RequestError, match=rf"{weights} is no safetensors file"):
        ModelFolder.load(cut).networks()

    other = copied(model, tmp_path / "other")
    architecture = load(other / "architecture.json")
    replace(architecture, backbone=replace(architecture.backbone, negative_slope=0.3)).save(other / "architecture.json")
    with pytest.raises(RequestError, match=rf"{weights}: was trained with another architecture"):
        ModelFolder.load(other).networks()
    replace(architecture, backbone=architecture.backbone.scaled(2.0)).save(other / "architecture.json")
    with pytest.raises(RequestError, match=rf"{weights} does not fit this architecture"):
        ModelFolder.load(other).networks()

    newer = copied(model, tmp_path / "newer")
    plan = json.loads((newer / "plan.json").read_text())
    (newer / "plan.json").write_text(json.dumps(plan | {"version": 99}))
    with pytest.raises(RequestError, match=r"plan.json: was written by a newer unetx-search \(version 99"):
        ModelFolder.load(newer)
    (newer / "plan.json").write_text(json.dumps({"format": FORMAT, "version": 1, "plan": {"name": "x"}}))
    with pytest.raises(RequestError, match=r"plan\.json is damaged"):
        ModelFolder.load(newer)
    with pytest.raises(RequestError, match=r"is no trained model: it holds no plan\.json"):
        ModelFolder.load(tmp_path)


def test_a_fold_that_was_not_trained_is_refused_with_those_that_were(model: Path) -> None:
    with pytest.raises(RequestError, match="has folds 0, and fold 3 was asked for"):
        ModelFolder.load(model).networks((0, 3))


def test_weights_are_loaded_as_they_were_saved(model: Path) -> None:
    (network,) = ModelFolder.load(model).networks()
    saved = load_file(model / "weights-fold0.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())


def test_folds_hold_out_the_same_test_cases_and_are_averaged(cells: Path, tmp_path: Path) -> None:
    done = trained(cells, tmp_path / "model", replace(TWO_D, folds=3), steps=2)
    assert done.model.folds == (0, 1, 2)
    folds = json.loads((tmp_path / "model" / "training.json").read_text())["folds"]
    splits = [folds[str(fold)]["splits"] for fold in range(3)]
    assert splits[0]["test"] == splits[1]["test"] == splits[2]["test"]
    validated = [case for split in splits for case in split["validation"]]
    assert sorted(validated) == sorted(splits[0]["train"] + splits[0]["validation"]), "each of the others once"
    images = cells / "images"
    found = predicted(
        tmp_path / "model", images / f"{splits[0]['test'][0]}.png", tmp_path / "all", masks=cells / "masks"
    )
    assert found.scores_json is not None
    own = {one["case"]: one["original_dice"] for one in done.scores["test"]["cases"]}
    assert found.scores_json["means"]["original_dice"] == own[splits[0]["test"][0]]


def test_against_a_preset_gives_a_verdict_on_the_same_cases_and_folds(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = replace(TWO_D, folds=2)
    done = trained(cells, tmp_path / "model", choices, "no-skip", steps=2, against="u-net")
    assert done.verdict is not None
    (comparison,) = done.verdict.comparisons
    assert (comparison.design, comparison.baseline) == ("no-skip", "u-net")
    rival = json.loads((tmp_path / "model" / "against-u-net" / "scores.json").read_text())
    means = [
        sum(one["original_dice"] for fold in scores["by_fold"].values() for one in fold["cases"]) / 4
        for scores in (done.scores, rival)
    ]
    assert comparison.difference.mean == pytest.approx(means[0] - means[1]), "two folds, two test cases, one class"
    assert json.loads((tmp_path / "model" / "verdict.json").read_text())["conclusion"] == done.verdict.conclusion
    backbones = [
        ModelFolder.load(path).architecture.backbone
        for path in (tmp_path / "model", tmp_path / "model" / "against-u-net")
    ]
    assert backbones[0] == backbones[1]
    monkeypatch.setattr("unetx_evaluators.proxy.ProxyEvaluator.evaluate", None)
    assert trained(cells, tmp_path / "model", choices, "no-skip", steps=2, against="u-net").verdict == done.verdict


def test_a_comparison_with_nothing_that_is_known_is_refused(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="did you mean 'u-net'"):
        trained(cells, tmp_path / "model", TWO_D, "no-skip", against="unet")


@pytest.mark.slow
def test_folds_train_at_the_same_time_in_workers_and_come_out_the_same(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_search.models.full_training.make_slots", lambda gpus: on_cores(2))
    choices = replace(TWO_D, folds=2)
    for path, gpus in ((tmp_path / "here", None), (tmp_path / "workers", 0)):
        trained(cells, path, choices, steps=2, gpus=gpus)
    for fold in (0, 1):
        here, there = (
            ModelFolder.load(path).weights_file(fold).read_bytes() for path in (tmp_path / "here", tmp_path / "workers")
        )
        assert here == there


def test_a_fold_takes_its_share_of_the_slots_and_says_why_it_takes_fewer(cells: Path) -> None:
    source, told = PaintedSource(), Console(file=io.StringIO(), width=200)
    fold = write_tiny_task(cells.parent / "tiny")
    plain = tiny_architecture(fold)
    normed = replace(plain, backbone=replace(plain.backbone, norm="batch"))

    def processes(n_slots: int, n_folds: int, architecture: Architecture = plain) -> int:
        data = PreparedData(source, (fold,) * n_folds, on_cores(n_slots), "cpu", 1, batch_size=2, groups={})
        return processes_of_a_fold(data, architecture, told)

    assert [processes(0, 1), processes(1, 1), processes(2, 1), processes(4, 2), processes(4, 3)] == [1, 1, 2, 2, 1]
    assert told.file.getvalue() == ""  # type: ignore[attr-defined]
    assert [processes(4, 1), processes(2, 1, normed)] == [2, 1]
    assert told.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "each fold trains in 2 of 4 processes: a batch has 2 patches (--batch-size)",
        "each fold trains in 1 of 2 processes: its batch norm needs the whole batch in one",
    ]


@pytest.mark.slow
def test_a_fold_in_two_processes_learns_as_in_one_and_goes_on_with_the_same_bits_after_one_was_killed(
    cells: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_search.models.full_training.make_slots", lambda gpus: on_cores(2))
    trained(cells, tmp_path / "unbroken", TWO_D, gpus=0)
    with monkeypatch.context() as fault:
        told = TrainingBar.on_point

        def kill_the_second(self: TrainingBar, point: CurvePoint) -> None:
            told(self, point)
            if point.step == 4:
                (second,) = (one for one in multiprocessing.active_children() if one.name == "unetx-worker-1")
                second.kill()

        fault.setattr(TrainingBar, "on_point", kill_the_second)
        with pytest.raises(TrainingFailed, match=r"process 2 of 2: .*SIGKILL.*; the same command goes on"):
            trained(cells, tmp_path / "broken", TWO_D, gpus=0)
    trained(cells, tmp_path / "broken", TWO_D, gpus=0)
    name = "weights-fold0.safetensors"
    assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    told_of = [json.loads((path / "training.json").read_text()) for path in (model, tmp_path / "broken")]
    assert [one["begun"]["processes"] for one in told_of] == [1, 2]
    alone, together = ([point["loss"] for point in one["folds"]["0"]["curve"]] for one in told_of)
    assert together == pytest.approx(alone, rel=1e-2), "in bfloat16, where the CPU has it"
    with pytest.raises(RequestError, match="was begun with processes 2, now it is 1"):
        trained(cells, tmp_path / "broken", TWO_D)


def test_a_name_that_is_no_preset_and_no_file_is_refused_with_the_nearest(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"did you mean 'u-net'\? .* there is no file of that name"):
        trained(cells, tmp_path / "model", TWO_D, "unet")


def test_a_source_that_is_handed_in_is_trained_on_and_its_classes_are_the_values(tmp_path: Path) -> None:
    choices = replace(TWO_D, out=tmp_path / "runs", pseudonyms=True)
    how = TrainChoices(steps=2, batch_size=2, validations=1, device="cpu", threads=1)
    done = train("u-net", tmp_path / "model", choices, how, console=quiet(), source=PaintedSource())
    assert done.model.plan.masks == ClassMap(PaintedSource.classes, (0, 1, 2))
    assert {one["case"] for one in done.scores["test"]["cases"]} <= {f"case_{number:04d}" for number in range(1, 9)}
