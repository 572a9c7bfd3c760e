"""Every rule of an architecture: what breaks it, and what looks like it but does not."""

import random
from dataclasses import replace
from typing import Any

import pytest

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.design_space import DesignSpace
from unetx_space.genome import Attention, DecoderNode, Genome, StageRef
from unetx_space.presets import PRESETS
from unetx_space.validity import faults

BACKBONE = isotropic_backbone(2, n_levels=3, base_width=8)


def genome(*nodes: tuple[str, str, list[str]], **genes: Any) -> Genome:
    """Nodes as (node, coarser, sources)."""
    return Genome(
        tuple(
            DecoderNode(
                StageRef.parse(node), StageRef.parse(coarser), tuple(StageRef.parse(s) for s in sources), **genes
            )
            for node, coarser, sources in nodes
        )
    )


def fields(found: Genome, backbone: Backbone = BACKBONE) -> list[str]:
    return [fault.field for fault in faults(Architecture(backbone, found))]


def test_every_genome_of_the_default_space_is_valid() -> None:
    rng = random.Random(0)
    for n_levels in range(2, 8):
        backbone = isotropic_backbone(3, n_levels=n_levels)
        for _ in range(50):
            assert not faults(Architecture(backbone, DesignSpace(n_levels).sample(rng)))


def test_a_nested_decoder_is_valid() -> None:
    nested = genome(("D1.1", "E2", ["E1"]), ("D0.1", "E1", ["E0"]), ("D0.2", "D1.1", ["E0", "D0.1"]))
    assert fields(nested) == []


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (genome(("D1", "E2", []), ("D0", "E2", [])), "genome.nodes[1].coarser"),
        (genome(("D1", "E2", []), ("D0", "D2", [])), "genome.nodes[1].coarser"),
        (genome(("D1", "E2", []), ("D0", "D1", ["E3"])), "genome.nodes[1].sources[0]"),
        (genome(("D1", "E2", ["E2"]), ("D0", "D1", [])), "genome.nodes[0].sources[0]"),
        (genome(("D1", "E2", ["E1", "E1"]), ("D0", "D1", [])), "genome.nodes[0].sources[1]"),
        (genome(("D1", "E2", ["D0"]), ("D0", "D1", [])), "genome.nodes[0].sources[0]"),
        (genome(("D1", "E2", ["D1"]), ("D0", "D1", [])), "genome.nodes[0].sources[0]"),
        (genome(("D1", "E2", []), ("D1", "E2", []), ("D0", "D1", [])), "genome.nodes[1].node"),
        (genome(("D1", "E2", [])), "genome.nodes"),
        (genome(("D0", "E1", ["E0"])), "genome.nodes"),
        (genome(("D2", "E3", []), ("D1", "E2", []), ("D0", "D1", [])), "genome.nodes[0].node"),
        (genome(("D1", "E2", []), ("D0", "D1", []), ("D0.1", "D1", [])), "genome.nodes"),
        (genome(("D1", "E2", []), ("D0", "D1", []), upsampler="bicubic"), "genome.nodes[0].upsampler"),
        (genome(("D1", "E2", []), ("D0", "D1", []), fusion="product"), "genome.nodes[0].fusion"),
        (genome(("D1", "E2", []), ("D0", "D1", []), alignment="median"), "genome.nodes[0].alignment"),
        (
            genome(("D1", "E2", []), ("D0", "D1", []), attention=Attention("sse", "block")),
            "genome.nodes[0].attention",
        ),
    ],
)
def test_a_broken_genome_is_told_where(broken: Genome, field: str) -> None:
    assert field in fields(broken)


def test_the_original_texts_graph_with_dead_decoder_nodes_is_refused() -> None:
    """The text this project grew from draws F,C,B -> G; B,C,D -> H; D -> I -> J; E -> J; only G reaches the output.

    With B..F the encoder stages E0..E4 and G, H, I, J the decoder stages 1 to 4 counted from the output, G has no
    decoder node below it: its coarser input is the bottleneck, four levels down.
    """
    original = genome(("D0", "E4", ["E0", "E1"]), ("D1", "E2", ["E0", "E1"]), ("D2", "E3", []), ("D3", "E4", ["E3"]))
    found = faults(Architecture(isotropic_backbone(2, n_levels=5), original))
    assert any(fault.field == "genome.nodes[0].coarser" and "exactly one level below" in fault.rule for fault in found)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dims": 4}, "backbone.dims"),
        ({"in_channels": 0}, "backbone.in_channels"),
        ({"out_channels": 0}, "backbone.out_channels"),
        ({"widths": (8, 0, 8)}, "backbone.widths[1]"),
        ({"widths": (8,), "strides": ((1, 1),)}, "backbone.widths"),
        ({"strides": ((1, 1), (2, 2))}, "backbone.strides"),
        ({"strides": ((2, 2), (2, 2), (2, 2))}, "backbone.strides[0]"),
        ({"strides": ((1, 1), (1, 1), (2, 2))}, "backbone.strides[1]"),
        ({"strides": ((1, 1), (2, 2), (2, 9))}, "backbone.strides[2]"),
        ({"strides": ((1, 1), (2, 2), (2, 2, 2))}, "backbone.strides[2]"),
        ({"norm": "layer"}, "backbone.norm"),
        ({"downsampling": "blur"}, "backbone.downsampling"),
    ],
)
def test_a_broken_backbone_is_told_where(change: dict[str, Any], field: str) -> None:
    unet = PRESETS["u-net"].genome(3)
    assert field in fields(unet, replace(BACKBONE, **change))


def test_a_patch_that_leaves_one_voxel_to_normalise_is_refused() -> None:
    unet = Architecture(BACKBONE, PRESETS["u-net"].genome(3))
    assert [fault.field for fault in faults(unet, (4, 4))] == ["patch"]
    assert not faults(unet, (5, 4))
    assert [fault.field for fault in faults(unet, (16, 16, 16))] == ["patch"]
