"""Parameters taken over from a trained network: which ones, and what happens to a file that is not what it was."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import nn

from unetx_evaluators.evaluation import DataError, Evaluation, NullObserver, Outcome, Parent
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.inheritance import inherit
from unetx_space.network import build

FILE = "pilot/u-net.safetensors"


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return write_tiny_task(tmp_path / "task")


@pytest.fixture
def parent(task: Task) -> Parent:
    """A U-Net trained on the task, its weights in the task's folder."""
    file = task.folder / FILE
    trained = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver(), weights=file)
    assert trained.outcome is Outcome.COMPLETE
    return Parent(FILE, hashlib.sha256(file.read_bytes()).hexdigest())


def design(task: Task, name: str, seed: int = 1) -> nn.Module:
    """As the budget trains it, at its initial values."""
    architecture = tiny_architecture(task, name)
    backbone = architecture.backbone.scaled(TINY_BUDGET.width_factor)
    return build(replace(architecture, backbone=backbone), seed=seed)


def test_the_weights_are_those_of_the_plain_network_after_training(task: Task, parent: Parent) -> None:
    written, start = load_file(task.folder / FILE), design(task, "u-net", seed=0).state_dict()
    assert written.keys() == start.keys()
    assert not torch.equal(written["encoder.E0.conv1.weight"], start["encoder.E0.conv1.weight"])


@pytest.mark.parametrize("name", ["u-net", "no-skip", "unet++"])
def test_every_design_gets_the_whole_encoder_and_nothing_else(name: str, task: Task, parent: Parent) -> None:
    network, start, trained = design(task, name), design(task, name).state_dict(), load_file(task.folder / FILE)
    n_inherited = inherit(network, parent, task.folder)
    for key, value in network.state_dict().items():
        assert torch.equal(value, trained[key] if key.startswith("encoder.") else start[key]), key
    assert n_inherited == sum(p.numel() for key, p in network.named_parameters() if key.startswith("encoder."))


def test_all_parts_are_taken_over_where_name_and_shape_agree(task: Task, parent: Parent) -> None:
    network, trained = design(task, "no-skip"), load_file(task.folder / FILE)
    inherit(network, replace(parent, parts=("",)), task.folder)
    values = network.state_dict()
    assert torch.equal(values["decoder.D0.block.norm2.weight"], trained["decoder.D0.block.norm2.weight"])
    assert values["decoder.D0.block.conv1.weight"].shape != trained["decoder.D0.block.conv1.weight"].shape


def evaluate(task: Task, parent: Parent | None) -> Evaluation:
    budget = replace(TINY_BUDGET, parent=parent)
    return ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 1, NullObserver())


def test_an_evaluation_starts_from_its_parent(task: Task, parent: Parent) -> None:
    from_scratch, from_parent = evaluate(task, None), evaluate(task, replace(parent, parts=("",)))
    assert from_parent.curve[0].loss < from_scratch.curve[0].loss


@pytest.mark.parametrize("content", [None, b"", b"something else"])
def test_a_file_that_is_gone_or_changed_is_told(task: Task, parent: Parent, content: bytes | None) -> None:
    file = task.folder / FILE
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    result = evaluate(task, parent)
    assert result.outcome is Outcome.DATA_ERROR
    assert str(file) in result.reason
    with pytest.raises(DataError, match=r"were changed|cannot be read"):
        inherit(design(task, "u-net"), parent, task.folder)
