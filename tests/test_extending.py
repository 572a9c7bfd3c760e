"""The page on extending is followed to the letter: each thing takes two files, and what it adds is built and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from extending_page import ROOT, STEPS, entry_of, module_of
from mask_samples import blobs, disturbed, one_hot
from monai.metrics.surface_distance import compute_average_surface_distance
from PIL import Image
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from trial_records import ASKED, NOON

from unetx_evaluators.evaluation import DataError, DataErrors, NullObserver
from unetx_evaluators.metrics import METRICS, Metric, compare, summarise
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import TaskOptions, open_source, prepare
from unetx_evaluators.tasks.sources import open as opening
from unetx_studies.job_states import finished
from unetx_studies.store import Records, TrialRecord, open_store, study_url

WORDS = {"attention": "spread-gate", "upsampler": "linear-act", "fusion": "maximum", "alignment": "subsample"}


def test_everything_is_one_module_and_one_entry_and_a_sampler_of_optunas_the_entry_alone() -> None:
    operators = ["ATTENTIONS", "", "UPSAMPLERS", "", "FUSIONS", "", "ALIGNMENTS", ""]
    assert [step.table for step in STEPS] == [
        *(*operators, "METRICS", "", "LAYOUTS", ""),
        *("SAMPLERS", "SAMPLERS", "", "ENGINES", ""),
    ]
    assert all((ROOT / step.path).exists() == bool(step.table) for step in STEPS)


def test_the_map_of_the_tree_names_every_folder_with_code() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+/unetx_[^`]+)/` \|", page, re.MULTILINE))
    inner = {
        "executors/ray",
        "executors/slurm",
        "training/fast_cpu",
        "training/fast_cuda",
        "store/migrations",
        "store/migrations/versions",
    }
    packages = (path for floor in ("space", "evaluators", "studies", "search") for path in (ROOT / floor).rglob("*.py"))
    folders = {path.parent.relative_to(ROOT).as_posix() for path in packages}
    assert told == {folder for folder in folders if not folder.endswith(tuple(inner))}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of space and search with the operators, the samplers and the executor that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    for floor in ("space", "search"):
        shutil.copytree(ROOT / floor, root / floor, ignore=shutil.ignore_patterns("__pycache__"))
    for step in STEPS:
        path = root / step.path
        if not step.path.startswith(("space/", "search/")):
            continue
        if step.table:
            head = re.search(rf"^{step.table}: .*[({{]\n", text := path.read_text(encoding="utf-8"), re.MULTILINE)
            assert head is not None
            entry = textwrap.indent(step.code.rstrip(), " " * 4) + ",\n"
            path.write_text(text[: head.end()] + entry + text[head.end() :], encoding="utf-8")
        else:
            path.write_text(step.code, encoding="utf-8")
    return root


def python(extended: Path, *words: str, folder: Path) -> str:
    """What Python prints with the extended floors in place of ours."""
    places = [extended / "space", ROOT / "evaluators", ROOT / "studies", extended / "search"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


USES_THEM = """
import random
from pathlib import Path

import optuna
import torch
from torch.utils.flop_counter import FlopCounterMode

from unetx_evaluators.zero_cost import log_synflow
from unetx_space import Architecture, build, cost, design_space, faults, isotropic_backbone, loads, narrowed
from unetx_studies.drawing import to_svg, to_text
from unetx_studies.export import export

space = narrowed(design_space("default", 3), **{words})
genome = space.suggest(optuna.trial.FixedTrial({{name: choices[-1] for name, choices in space.genes.items()}}))
assert space.sample(random.Random(0))
for dims, patch in ((2, (19, 14)), (3, (9, 12, 11))):
    architecture = Architecture(isotropic_backbone(dims, n_levels=3, base_width=4), genome)
    assert faults(architecture, patch) == () and loads(architecture.dumps()) == architecture
    assert all(word in to_svg(architecture) and word in to_text(architecture) for word in {names})
    network = build(architecture)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.randn(1, 1, *patch))
    predicted = cost(architecture, patch)
    assert predicted.n_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert 2 * predicted.conv_macs == counter.get_total_flops()
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    log_synflow(network, torch.randn(1, 1, *patch))
for name in ("net.pt2", "net.py"):
    export(architecture, Path(name), patch=patch)
"""


def test_operators_made_by_the_page_are_drawn_built_priced_and_exported(extended: Path, tmp_path: Path) -> None:
    words = WORDS | {"attention": f"{WORDS['attention']}@source"}
    python(extended, "-c", USES_THEM.format(words=words, names=tuple(WORDS.values())), folder=tmp_path)
    assert (tmp_path / "net.pt2").stat().st_size > 0


@pytest.mark.slow
def test_operators_made_by_the_page_are_searched_with(extended: Path, tmp_path: Path) -> None:
    options = [word for family, name in WORDS.items() for word in (f"--{family}", name)]
    search = ("-m", "unetx_search", "--trials", "2", "--gpus", "0", "--no-pilot", "--steps", "2", *options)
    assert "2 of 2 trials (2 complete)" in python(extended, *search, folder=tmp_path)
    assert "linear-act" in (tmp_path / "runs/demo/best.json").read_text(encoding="utf-8")


SEARCHES_WITH_FAKES = """
from functools import partial

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search import cli, run

run.search = partial(run.search, evaluator=FakeEvaluator(), source=DemoSource(n_cases=6))
for sampler, n_trials in {searches}.items():
    words = "--gpus 0 --no-pilot --steps 12 --pruner none --reseed 0 --engine in-turn".split()
    words += ["--study", sampler, "--sampler", sampler, "--trials", str(n_trials)]
    assert cli.app.meta(words, result_action="return_value") == 0
"""
SEARCHES = {"hill-climb": 6, "nsga2": 30}
"""Trials of a search with each sampler; a generation of the second holds 20."""


@pytest.fixture(scope="module")
def searched(extended: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TrialRecord, ...]]:
    """The trials of a search with each sampler, run by the page's executor."""
    folder = tmp_path_factory.mktemp("searched")
    python(extended, "-c", SEARCHES_WITH_FAKES.format(searches=SEARCHES), folder=folder)
    trials = {}
    for name in SEARCHES:
        with open_store(study_url(folder / "runs" / name), create=False, read_only=True) as store:
            trials[name] = Records(store, name).trials(finished_only=True)
    return trials


def test_samplers_made_by_the_page_propose_designs(searched: dict[str, tuple[TrialRecord, ...]]) -> None:
    """Two presets come first. A hill climber knows what to do from then on, evolution after its first generation."""
    origins = {name: [str(trial.origin) for trial in trials] for name, trials in searched.items()}
    assert origins["hill-climb"] == ["preset u-net", "preset no-skip"] + ["sampler"] * 4
    assert "sampler" not in origins["nsga2"][:20]
    assert origins["nsga2"][-6:] == ["sampler"] * 6


def test_a_hill_climber_proposes_neighbours_of_the_best_before(searched: dict[str, tuple[TrialRecord, ...]]) -> None:
    trials = searched["hill-climb"]
    for trial in trials[2:]:
        best = max(trials[: trial.number], key=lambda other: other.score or 0.0)
        assert sum(trial.params[name] != value for name, value in best.params.items()) == 1


def test_an_executor_made_by_the_page_runs_a_search(searched: dict[str, tuple[TrialRecord, ...]]) -> None:
    """It is in one process with both searches, where the others would have started workers for each."""
    for name, n_trials in SEARCHES.items():
        assert [trial.number for trial in searched[name]] == list(range(n_trials))
    assert len({trial.versions["pid"] for trials in searched.values() for trial in trials}) == 1


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> Metric:
    module = module_of("evaluators/unetx_evaluators/metrics/assd.py")
    added: Metric = entry_of("METRICS", module, Metric=Metric)
    monkeypatch.setitem(METRICS, added.name, added)
    return added


def test_an_added_metric_is_scored_stored_and_summarised(metric: Metric, tmp_path: Path) -> None:
    task = write_tiny_task(tmp_path / "task")
    architecture = tiny_architecture(task)
    evaluation = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver())
    with open_store(study_url(tmp_path), create=True) as store:
        records = Records(store, "s")
        records.begin(ASKED, architecture)
        records.finish(finished(ASKED, evaluation, 0, NOON), evaluation)
        stored = records.case_scores(0)
    values = [score.values[metric.name] for score in stored]
    assert stored == evaluation.case_scores
    assert all(value is not None and value > 0 for value in values)
    told = summarise(stored)[metric.name]
    assert (told["title"], told["unit"], told["higher_is_better"]) == ("average surface distance", "mm", False)
    assert told["by_class"]["bright"] == pytest.approx(np.mean([value or 0 for value in values[::2]]))


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
def test_the_added_metric_is_monais(metric: Metric) -> None:
    truth = blobs((21, 18, 15), 0)
    prediction = disturbed(truth, 2, 1)
    spacing = (0.5, 0.9, 4.0)
    (one,) = compare(truth, prediction, 2, spacing)
    expected = compute_average_surface_distance(
        one_hot(prediction, 2), one_hot(truth, 2), symmetric=True, spacing=list(spacing)
    )
    assert metric.of(one) == pytest.approx(float(expected[0, 0]), rel=1e-5)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of the added layout, with six cases in a folder of its own naming."""
    module = module_of("evaluators/unetx_evaluators/tasks/sources/table.py")
    added = entry_of("LAYOUTS", module, Layout=opening.Layout)
    monkeypatch.setattr(opening, "LAYOUTS", (*opening.LAYOUTS, added))
    (tmp_path / "stored").mkdir()
    lines = ["case,image,mask"]
    for number in range(6):
        drawn = np.zeros((40, 40), np.uint8)
        drawn[8:24, 8 + number : 24] = 255
        Image.fromarray(drawn // 2 + 50).save(tmp_path / "stored" / f"{number}.png")
        Image.fromarray(drawn).save(tmp_path / "stored" / f"{number}_drawn.png")
        lines.append(f"patient{number},stored/{number}.png,stored/{number}_drawn.png")
    (tmp_path / "cases.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_an_added_layout_is_recognised_and_prepared(table: Path) -> None:
    source = open_source(table)
    assert (source.layout, source.classes) == ("table of cases", ("background", "foreground"))
    assert source.case_names == tuple(f"patient{number}" for number in range(6))
    task = prepare(source, table / "cache", TaskOptions(), n_workers=1)
    assert task.source == f"table of cases {table}"
    assert task.label("patient0").max() == 1


def test_an_added_layout_tells_all_that_is_wrong_and_is_named_among_the_known(table: Path, tmp_path: Path) -> None:
    (table / "stored" / "1.png").write_bytes(b"no picture")
    with (table / "cases.csv").open("a", encoding="utf-8") as stream:
        stream.write("\nabroad,../a.png,stored/1_drawn.png")
    with pytest.raises(DataErrors, match=r"(?s)leaves the dataset's folder.*1\.png"):
        prepare(open_source(table), table / "cache", TaskOptions(), n_workers=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"table of cases      cases\.csv with the columns"):
        open_source(tmp_path / "empty")
