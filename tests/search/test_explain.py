"""``explain`` from trainings to files: planted facts, killed and continued, studies and files, refusals."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refusal
from rich.console import Console
from task_samples import msd_folder
from tiny_task import TINY_BUDGET, tiny_architecture

from unetx_evaluators.evaluation import Budget, EvaluationInterrupted, NullObserver
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.insight import Replacement
from unetx_evaluators.tasks.task import Splits, Task
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.explain import parts
from unetx_search.explain.parts import Work, gradient_steps, without_skips
from unetx_search.preparing import case_groups
from unetx_search.progress import StageDisplay
from unetx_search.run import search
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import key
from unetx_space.presets import preset
from unetx_space.validity import faults
from unetx_studies.explanation import Explanation, Role, make_explanation

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Console(file=io.StringIO(), width=200)


class Recorded(StageDisplay):
    """Remembers which parts were worked on."""

    def __init__(self) -> None:
        super().__init__(QUIET)
        self.begun: list[str] = []

    def begin(self, step: str) -> None:
        self.begun.append(step)


def work_on(
    architecture: Architecture, task: Task, budget: Budget, folder: Path, steps: Recorded | None = None
) -> Work:
    return Work(architecture, task, budget, {}, "cpu", 1, folder, steps or Recorded())


# Planted facts


def fine_task(folder: Path, n_levels: int) -> Task:
    """Whether a voxel is bright is told by that voxel alone: what any coarser level has cannot say it."""
    names = tuple(f"case{number}" for number in range(10))
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in names:
        image = rng.normal(size=(32, 32)).astype(np.float32)
        np.save(folder / "images" / f"{name}.npy", image[None])
        np.save(folder / "labels" / f"{name}.npy", (image > 0).astype(np.uint8))
    return Task(
        folder=folder,
        name="fine",
        source="written by a test",
        dims=2,
        channels=("noise",),
        classes=("background", "bright"),
        spacing=(1.0, 1.0),
        patch=(32, 32),
        strides=((1, 1), *[(2, 2)] * (n_levels - 1)),
        widths=tuple(4 * 2**level for level in range(n_levels)),
        splits=Splits(names[:5], names[5:], ()),
        digest="fine",
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """A U-Net of five levels after 60 steps on that task, and what is seen of it."""
    task = fine_task(tmp_path_factory.mktemp("fine") / "task", n_levels=5)
    budget = Budget(steps=60, batch_size=2, width_factor=1.0, rungs=(60,), validation_cases=5)
    u_net = Architecture(task.backbone(), preset("u-net").genome(5))
    look = work_on(u_net, task, budget, tmp_path_factory.mktemp("explain")).look(0)
    early, midway = gradient_steps(budget.steps)
    return make_explanation([look], early=early, midway=midway)


def test_where_the_answer_is_only_in_the_top_skip_that_skip_alone_matters(planted: Explanation) -> None:
    for way in Replacement:
        for skip in planted.skips:
            change = skip.dice[way]
            assert change is not None
            assert change.low is not None
            assert change.high is not None
            if skip.node == "D0":
                assert change.high < -0.05
            else:
                assert abs(change.mean) < 0.02
    assert [skip.source for skip in planted.skips if skip.role is Role.DECISIVE] == ["E0"]
    assert not any(skip.role is Role.HELPS for skip in planted.skips)
    assert planted.all_skips is not None
    assert planted.all_skips.low is not None
    assert planted.all_skips.low > 0.03


def test_a_deep_net_without_skips_has_the_smaller_gradient_at_its_first_stage(planted: Explanation) -> None:
    first = planted.stages[0]
    assert first.stage == "E0"
    assert first.midway.factor is not None
    assert first.midway.factor.low is not None
    assert first.midway.factor.low > 2


def test_maps_that_have_nothing_in_common_are_told_as_unlike(planted: Explanation) -> None:
    """The top skip knows single voxels of white noise, the decoder averages of many."""
    top = next(skip for skip in planted.skips if skip.node == "D0")
    assert top.cka == pytest.approx(0, abs=0.1)


# Twins and steps


@pytest.mark.parametrize("name", ["u-net", "attention-u-net", "unet++", "unet-3+", "scse-u-net"])
def test_the_twin_has_the_same_decoder_without_any_source(task: Task, name: str) -> None:
    design = tiny_architecture(task, name)
    twin = without_skips(design)
    assert faults(twin, task.patch) == ()
    assert not any(node.sources for node in twin.genome.nodes)
    assert {node.upsampler for node in twin.genome.nodes} <= {node.upsampler for node in design.genome.nodes}
    assert key(without_skips(twin)) == key(twin)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 6, 25, 1000])
def test_early_and_midway_are_steps_of_the_training_and_few(n_steps: int) -> None:
    early, midway = gradient_steps(n_steps)
    assert early
    assert midway
    assert {*early, *midway} <= set(range(1, n_steps + 1))
    assert len(early) <= 10
    assert len(midway) <= 10
    assert n_steps < 4 or not {*early} & {*midway}


# Kills.


class Killed(NullObserver):
    """Ends the process's work at a step, as a signal would."""

    def on_step(self, step: int) -> None:
        if step == 5:
            raise EvaluationInterrupted


def test_what_was_killed_goes_on_and_what_is_done_is_not_repeated(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = tiny_architecture(task, "attention-u-net")
    unbroken = work_on(design, task, TINY_BUDGET, tmp_path / "one").look(0)
    folder = tmp_path / "two"
    with monkeypatch.context() as patched:
        patched.setattr(parts, "NullObserver", Killed)
        with pytest.raises(EvaluationInterrupted):
            work_on(design, task, TINY_BUDGET, folder).look(0)
    assert [file.name for file in folder.glob("parts-*/*")] == ["seed-0-design.checkpoint"]
    continued = work_on(design, task, TINY_BUDGET, folder).look(0)
    assert continued == unbroken, "on a CPU to the bit, gradients of the steps before it was killed included"
    assert not list(folder.glob("parts-*/*.checkpoint"))

    again = Recorded()
    assert work_on(design, task, TINY_BUDGET, folder, again).look(0) == unbroken
    assert again.begun == []
    next(folder.glob("parts-*/seed-0-E1-D1.json")).write_text('{"zero": ', encoding="utf-8")
    assert work_on(design, task, TINY_BUDGET, folder, again).look(0) == unbroken
    assert [words.partition(" replaced")[0] for words in again.begun] == ["scoring it with E1 to D1"]


def test_lost_weights_are_trained_again(task: Task, tmp_path: Path) -> None:
    design = tiny_architecture(task)
    first = work_on(design, task, TINY_BUDGET, tmp_path).look(0)
    next(tmp_path.glob("parts-*/seed-0.safetensors")).unlink()
    for file in tmp_path.glob("parts-*/seed-0-E*.json"):
        file.unlink()
    assert work_on(design, task, TINY_BUDGET, tmp_path).look(0) == first


def test_another_budget_or_other_groups_are_other_parts(task: Task, tmp_path: Path) -> None:
    design = tiny_architecture(task)
    shorter = replace(TINY_BUDGET, steps=4, rungs=(2, 4))
    looks = [work_on(design, task, budget, tmp_path).look(0) for budget in (TINY_BUDGET, shorter)]
    looks.append(Work(design, task, shorter, {"validation0": "a"}, "cpu", 1, tmp_path, Recorded()).look(0))
    assert len(list(tmp_path.glob("parts-*"))) == 3
    assert looks[0].intact != looks[1].intact
    assert looks[1].intact == looks[2].intact


# The command


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return msd_folder(tmp_path_factory.mktemp("data") / "data")


SMALL = ("--steps", 3, "--gpus", 0, "--validation-cases", 2)


def test_a_preset_is_explained_in_text_json_and_on_the_u(run: Run, dataset: Path) -> None:
    words = ("explain", "u-net", "--data", dataset, *SMALL, "-o", "told")
    code, out, err = run(*words)
    assert code == 0, err
    assert "together they are worth" in out
    assert out.rstrip().endswith("told/explain.svg")
    assert "training the design for 3 steps" in err
    ET.parse("told/explain.svg")
    code, told, err = run(*words, "--json")
    assert code == 0
    assert "training" not in err, "all parts were kept"
    facts = json.loads(told)
    assert facts == json.loads(Path("told/explain.json").read_text(encoding="utf-8"))
    assert facts["budget"]["steps"] == 3
    n_skips = len(facts["architecture"]["genome"]["nodes"])
    assert [(skip["source"], skip["node"]) for skip in facts["skips"]] == [
        (f"E{level}", f"D{level}") for level in reversed(range(n_skips))
    ]
    assert all(set(skip["dice"]) == {"zero", "mean", "shuffled"} for skip in facts["skips"])


@pytest.fixture
def study(run: Run, dataset: Path) -> Path:
    """A study of two trials, whose scores are made up, in the folder in which ``run`` runs."""
    config = SearchConfig(data=dataset, trials=2, study="s", cpu_workers=1, gpus=0, pilot=False)
    search(config, console=Console(quiet=True), evaluator=FakeEvaluator(), probe=tuple)
    return Path("runs/s")


def test_a_study_gives_its_best_design_or_the_trial_that_is_named(run: Run, dataset: Path, study: Path) -> None:
    best = json.loads((study / "best.json").read_text(encoding="utf-8"))["provenance"]["trial"]
    code, out, err = run("explain", study, *SMALL)
    assert code == 0, err
    assert out.startswith(f"s, trial {best}: ")
    assert (study / "explain" / f"trial-{best}" / "explain.json").is_file()
    code, out, err = run("explain", f"{study}:1", "--data", dataset, *SMALL, "--seeds", 2, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["twin_dice"], facts["skips"]) == (None, []), "trial 1 is the design without skips"
    assert facts["seeds"] == [0, 1]
    code, out, err = run("explain", study / "best.json", "--data", dataset, *SMALL)
    assert code == 0, err
    assert list(Path("runs/explain").glob("best-*/explain.svg"))


def test_wrong_requests_are_refused_in_words(run: Run, dataset: Path, study: Path, tmp_path: Path) -> None:
    assert "has no trial 7; it has 0 to 1" in refusal(run, "explain", f"{study}:7")
    assert "did you mean 'u-net'" in refusal(run, "explain", "u-nett")
    assert "holds no study" in refusal(run, "explain", "runs")
    assert "--seeds must be at least 1, got 0" in refusal(run, "explain", study, "--seeds", 0)
    assert "--steps must be at least 1" in refusal(run, "explain", study, "--steps", 0)
    taken = study / "best.json"
    assert "is a file; name another" in refusal(run, "explain", study, "-o", taken)
    other = refusal(run, "explain", study, "--data", msd_folder(tmp_path / "other", n_cases=9), "--gpus", 0)
    assert "a study keeps the split it began with" in other
    code, _, err = run("explain", study, "--levels", 2, "--gpus", 0)
    assert code == 2
    assert "was trained on other data" in err
    assert "task.widths: begun with" in err
    (study / "request.json").unlink()  # of a version before
    assert "demo" in refusal(run, "explain", study, "--gpus", 0)


def test_a_design_that_does_not_fit_the_data_is_refused_and_leaves_nothing(run: Run, dataset: Path) -> None:
    backbone = replace(isotropic_backbone(3, n_levels=3, base_width=4), in_channels=7)
    Architecture(backbone, preset("u-net").genome(3)).save("other.json")
    code, _, err = run("explain", "other.json", "--data", dataset, *SMALL, "-o", "told")
    assert code == 2
    assert "cannot be trained on" in err
    assert "input channels" in err
    assert not Path("told").exists()


def test_groups_go_by_the_names_that_cases_are_called(dataset: Path) -> None:
    plain = DataChoices(data=dataset)
    assert case_groups(plain.source(), plain) == {}
    grouped = replace(plain, group_by=r"(.)$")
    names = case_groups(grouped.source(), grouped)
    assert names == {name: name[-1] for name in grouped.source().case_names}
    hidden = case_groups(grouped.source(), replace(grouped, pseudonyms=True))
    assert set(hidden) == {f"case_{number:04d}" for number in range(1, len(names) + 1)}
    assert sorted(hidden.values()) == sorted(names.values())
