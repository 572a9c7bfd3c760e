"""Skips replaced in networks with weights: planted facts, plain constructions as oracles, networks left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from narrowing import there
from tiny_task import tiny_architecture, write_tiny_task
from torch import Tensor, nn

from unetx_evaluators.ablation import (
    FromDonors,
    Skip,
    TrainedNetwork,
    beside,
    channel_means,
    choose_donors,
    replaced,
    skips_of,
)
from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import NetworkScores
from unetx_evaluators.insight import Replacement
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.cases import open_cases
from unetx_space.genome import decoder, encoder
from unetx_space.network import build

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
TOP = Skip(decoder(0), encoder(0))


def trained(task: Task, name: str = "u-net", **choices: object) -> TrainedNetwork:
    """With its initial values, which replacements do not mind."""
    network = build(tiny_architecture(task, name, base_width=4))
    return TrainedNetwork(network, task, open_cases(task, FLOAT32, 3), FLOAT32, **choices)  # type: ignore[arg-type]


def dices(measured: NetworkScores | None) -> list[float | None]:
    return [score.values["dice"] for score in there(measured).case_scores]


@pytest.mark.parametrize(
    ("name", "skips"),
    [
        ("u-net", ["E1 to D1", "E0 to D0"]),
        ("unet-3+", ["E0 to D1", "E1 to D1", "E0 to D0", "E2 to D0"]),
        ("unet++", ["E1 to D1.1", "E0 to D0.1", "E0 to D0.2", "D0.1 to D0.2"]),
        ("no-skip", []),
    ],
)
def test_every_source_of_every_node_is_a_skip(task: Task, name: str, skips: list[str]) -> None:
    assert sorted(map(str, skips_of(trained(task, name).network))) == sorted(skips)


@pytest.mark.parametrize("way", list(Replacement))
def test_a_skip_that_is_cut_by_zero_weights_has_no_effect_and_the_other_one_has(task: Task, way: Replacement) -> None:
    looked = trained(task)
    n_source = looked.network.plan.nodes[-1].sources[0].c_out
    looked.network.get_submodule("decoder.D0.block").get_parameter("conv1.weight").data[:, :n_source] = 0
    intact = dices(looked.intact())
    assert dices(looked.without(TOP, way)) == intact
    assert dices(looked.without(Skip(decoder(1), encoder(1)), way)) != intact


class Zero(nn.Module):
    def forward(self, x: Tensor, *others: object) -> Tensor:
        return torch.zeros_like(x)


def test_nothing_in_the_place_of_a_skip_is_the_network_whose_skip_gives_zeros(task: Task) -> None:
    looked, other = trained(task), trained(task)
    other.network.get_submodule("decoder.D0.sources.E0").add_module("attention", Zero())
    assert looked.without(TOP, Replacement.ZERO) == other.intact()


def test_a_replacement_ends_with_its_block(task: Task) -> None:
    looked = trained(task)
    before = looked.intact()
    for way in Replacement:
        looked.without(TOP, way)
    assert looked.intact() == before


def test_the_mean_is_that_of_every_window_of_the_training_cases(task: Task) -> None:
    looked = trained(task)
    case = next(case for case in looked.cases.train if tuple(case.label.shape) == task.patch)  # one window, no padding
    maps: list[Tensor] = []
    with torch.no_grad(), replaced(looked.network.eval(), TOP, lambda x: maps.append(x) or x):  # type: ignore[func-returns-value]
        looked.network(case.image[None])
    found = channel_means(looked.network, [case, case], task, FLOAT32)[TOP]
    assert found.tolist() == pytest.approx(maps[0].mean((0, 2, 3)).tolist(), rel=1e-5)


def test_a_map_from_a_donor_is_the_one_that_the_donor_has_by_itself(task: Task) -> None:
    network = trained(task).network.eval()
    generator = torch.Generator().manual_seed(0)
    own, donor = torch.randn(2, 3, 1, 16, 16, generator=generator)
    maps: list[Tensor] = []
    with torch.no_grad():
        with replaced(network, TOP, lambda x: maps.append(x) or x):  # type: ignore[func-returns-value]
            network(donor)
        with replaced(network, TOP, lambda x: maps[0]):
            expected = network(own)
        found = FromDonors(network, TOP)(torch.cat([own, donor], 1))
        itself = FromDonors(network, TOP)(torch.cat([own, own], 1))
        intact = network(own)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(itself, intact)
    assert not torch.allclose(found, intact)


def test_a_donor_is_laid_centre_on_centre_and_goes_on_mirrored() -> None:
    image = torch.zeros(1, 1, 6)
    small = torch.tensor([[[1.0, 2, 3]]])  # its middle falls on the fourth of six, and places before it mirror 1, 2
    assert beside(image, small)[1, 0].tolist() == [2, 1, 1, 2, 3, 3]
    large = torch.arange(10.0).view(1, 1, 10)
    assert beside(image, large)[1, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert beside(torch.zeros(2, 5, 4, 3), torch.ones(2, 2, 7, 9)).shape == (4, 5, 4, 3)


def test_donors_are_of_other_groups() -> None:
    names, groups = ["a1", "a2", "b1", "c"], {"a1": "a", "a2": "a", "b1": "b"}
    for seed in range(20):
        donors = there(choose_donors(names, groups, seed))
        assert all(groups.get(names[d], names[d]) != groups.get(n, n) for n, d in zip(names, donors, strict=True))
    assert choose_donors(["a1", "a2"], groups, 0) is None
    assert choose_donors(["only"], {}, 0) is None
    assert choose_donors(names, groups, 1) == choose_donors(names, groups, 1)


def test_with_cases_of_one_patient_none_is_shuffled(task: Task) -> None:
    looked = trained(task, groups=dict.fromkeys(task.splits.validation, "p"))
    assert looked.without(TOP, Replacement.SHUFFLED) is None
    assert looked.without(TOP, Replacement.MEAN) is not None


def test_stacks_of_slices_are_looked_at_too(tmp_path: Path) -> None:
    task = write_tiny_task(tmp_path / "task", n_train=1, n_validation=2)
    for name in (*task.splits.train, *task.splits.validation):
        for part, axis in (("images", 1), ("labels", 0)):
            file = task.folder / part / f"{name}.npy"
            np.save(file, np.repeat(np.expand_dims(np.load(file), axis), 3, axis))
    looked = trained(replace(task, slice_spacing=2.0))
    assert all(len(dices(looked.without(TOP, way))) == 4 for way in Replacement)


def test_similarities_are_of_validation_patches_and_unrelated_maps_have_none(task: Task) -> None:
    looked = trained(task)
    assert [(s.node, s.source) for s in looked.similarities()] == [("D1", "E1"), ("D0", "E0")]
    assert looked.similarities() == looked.similarities()
    noise = torch.Generator().manual_seed(0)

    class Noise(nn.Module):
        def forward(self, x: Tensor, *others: object) -> Tensor:
            return torch.randn(x.shape, generator=noise)

    looked.network.get_submodule("decoder.D0.sources.E0").add_module("attention", Noise())
    assert looked.similarities()[1].cka == pytest.approx(0, abs=0.02)


def test_volumes_are_those_of_the_truth(task: Task) -> None:
    found = trained(task).volumes()
    for name in task.splits.validation:
        label = task.label(name)
        assert found[name] == {"bright": int((label == 1).sum()), "dark": int((label == 2).sum())}
