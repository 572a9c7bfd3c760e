"""Presets: valid on any depth, what each reads, and which share a key."""

from __future__ import annotations

import random

import pytest
import torch

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical
from unetx_space.errors import RequestError
from unetx_space.genome import Genome, decoder
from unetx_space.network import build
from unetx_space.presets import PRESETS, preset
from unetx_space.validity import faults


def sources(genome: Genome) -> dict[str, str]:
    """Each node's coarser input, then its sources."""
    nodes = canonical(genome).nodes
    return {str(node.ref): " ".join([f"{node.coarser}:", *sorted(map(str, node.sources))]) for node in nodes}


@pytest.mark.parametrize(("name", "n_levels"), [(name, n_levels) for name in PRESETS for n_levels in range(2, 9)])
def test_every_preset_is_valid_in_2d_and_3d_on_any_number_of_levels(name: str, n_levels: int) -> None:
    genome = PRESETS[name].genome(n_levels)
    for dims in (2, 3):
        assert not faults(Architecture(isotropic_backbone(dims, n_levels=n_levels), genome))
    assert name != "unet++" or len(genome.nodes) == n_levels * (n_levels - 1) // 2
    assert set(canonical(genome).nodes) == set(canonical(canonical(genome)).nodes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is(name: str) -> None:
    found = preset(name)
    assert found.name == name
    assert found.title
    assert found.paper
    assert found.note.endswith(".")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_gives_logits(name: str) -> None:
    network = build(Architecture(isotropic_backbone(2, n_levels=4, base_width=4), PRESETS[name].genome(4)))
    assert network(torch.randn(1, 1, 17, 22)).shape == (1, 2, 17, 22)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no-skip", {"D2": "E3:", "D1": "D2:", "D0": "D1:"}),
        ("u-net", {"D2": "E3: E2", "D1": "D2: E1", "D0": "D1: E0"}),
        ("u-net-no-top", {"D2": "E3: E2", "D1": "D2: E1", "D0": "D1:"}),
        ("attention-u-net", {"D2": "E3: E2", "D1": "D2: E1", "D0": "D1: E0"}),
        ("dense", {"D2": "E3: E0 E1 E2", "D1": "D2: E0 E1 E2 E3", "D0": "D1: E0 E1 E2 E3"}),
        ("multi-path", {"D2": "E3: E2", "D1": "D2: E0 E1 E2", "D0": "D1: E0 E1 E3"}),
        ("unet-3+", {"D2": "E3: E0 E1 E2", "D1": "D2: E0 E1 E3", "D0": "D1: D2 E0 E3"}),
        (
            "unet++",
            {
                "D2.1": "E3: E2",
                "D1.1": "E2: E1",
                "D1.2": "D2.1: D1.1 E1",
                "D0.1": "E1: E0",
                "D0.2": "D1.1: D0.1 E0",
                "D0.3": "D1.2: D0.1 D0.2 E0",
            },
        ),
    ],
)
def test_each_preset_reads_what_its_paper_draws(name: str, expected: dict[str, str]) -> None:
    assert sources(PRESETS[name].genome(4)) == expected


def test_the_repaired_graph_keeps_what_reached_the_output_in_the_original_text() -> None:
    """There, with B..F the encoder stages E0..E4, the finest reads B, C and the bottleneck F, the next one B, C, D."""
    genome = PRESETS["multi-path"].genome(5)
    assert {str(source) for source in genome[decoder(0)].sources} == {"E0", "E1", "E4"}
    assert {str(source) for source in genome[decoder(1)].sources} == {"E0", "E1", "E2"}
    assert len(canonical(genome).nodes) == 4  # no node is dead


def test_gates_sit_where_the_papers_put_them() -> None:
    gates = {name: [str(n.attention) for n in PRESETS[name].genome(4).nodes] for name in PRESETS}
    assert gates["attention-u-net"] == ["attention-gate@source"] * 3
    assert gates["attention-u-net-grid"] == [*["attention-gate-grid@source"] * 2, "none"]  # not on the top skip
    assert gates["scse-u-net"] == ["scse@block"] * 3


@pytest.mark.parametrize(
    ("name", "upsampler"), [("fpn", "nearest"), ("linknet", "transposed"), ("segresnet", "linear")]
)
def test_decoders_that_add_differ_in_their_upsampler(name: str, upsampler: str) -> None:
    assert {(node.fusion, node.upsampler) for node in PRESETS[name].genome(5).nodes} == {("sum", upsampler)}


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match=r"did you mean 'unet\+\+'"):
        preset("unet+++")


def test_the_order_of_a_presets_nodes_carries_no_meaning() -> None:
    genome = PRESETS["unet-3+"].genome(5)
    nodes = random.Random(0).sample(genome.nodes, len(genome.nodes))
    assert canonical(Genome(tuple(nodes))) == canonical(genome)
