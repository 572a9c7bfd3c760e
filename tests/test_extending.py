"""The page on extending is followed to the letter: what it adds is drawn, built, priced, exported and searched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"(?:Into `(\w+)` in|and as) `(space/[^`]+)`:\n\n```python\n(.*?)```", re.DOTALL)
WORDS = {"attention": "spread-gate", "upsampler": "linear-act", "fusion": "maximum", "alignment": "subsample"}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the space with what the page adds: each operator touches two files."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "space", root / "space", ignore=shutil.ignore_patterns("__pycache__"))
    steps = STEP.findall((ROOT / "docs/extending.md").read_text(encoding="utf-8"))
    assert len(steps) == 2 * len(WORDS)
    for family, name, code in steps:
        path = root / name
        if family:
            head = re.search(rf"^{family}: .*by_name\($\n", text := path.read_text(encoding="utf-8"), re.MULTILINE)
            assert head is not None
            entry = textwrap.indent(code.rstrip(), " " * 4) + ",\n"
            path.write_text(text[: head.end()] + entry + text[head.end() :], encoding="utf-8")
        else:
            assert not path.exists()
            path.write_text(code, encoding="utf-8")
    return root


def python(extended: Path, *words: str, folder: Path) -> str:
    """What Python prints with the extended space in place of ours."""
    places = [extended / "space", *(ROOT / name for name in ("evaluators", "studies", "search"))]
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
export(architecture, Path("net.pt2"), patch=patch)
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
