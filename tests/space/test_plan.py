"""Plans worked by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from sampled_architectures import KINDS, Kind, sampled

from unetx_space import PRESETS, Architecture, Attention, Backbone, DecoderNode, Genome, decoder, encoder, faults
from unetx_space.backbone import EncoderBlock
from unetx_space.genome import live_nodes
from unetx_space.plan import BlockPlan, Plan, make_plan

BACKBONE = Backbone(2, 1, 3, (4, 8, 16, 32), ((1, 1), (2, 1), (2, 2), (2, 2)))


def plan_of(*nodes: DecoderNode) -> Plan:
    return make_plan(Architecture(BACKBONE, Genome(nodes)))


def plain(**changes: object) -> tuple[DecoderNode, ...]:
    """A plain decoder without skips whose finest node is changed."""
    finest = {"ref": decoder(0), "coarser": decoder(1), **changes}
    return (
        DecoderNode(**finest),  # type: ignore[arg-type]
        DecoderNode(decoder(2), encoder(3)),
        DecoderNode(decoder(1), decoder(2)),
    )


def test_nodes_come_after_what_they_read_and_the_output_last() -> None:
    assert [str(node.ref) for node in plan_of(*plain()).nodes] == ["D2", "D1", "D0"]


def test_a_nested_decoder_is_ordered_along_its_references() -> None:
    nodes = [
        DecoderNode(decoder(0, 2), decoder(1, 1), (decoder(0, 1), encoder(0))),
        DecoderNode(decoder(0, 1), encoder(1), (encoder(0),)),
        DecoderNode(decoder(1, 1), encoder(2), (encoder(1),)),
    ]
    plan = plan_of(*nodes)
    assert [str(node.ref) for node in plan.nodes] == ["D1.1", "D0.1", "D0.2"]
    assert [str(stage.ref) for stage in plan.encoder] == ["E0", "E1", "E2"]  # E3 reaches no node
    assert plan.output == decoder(0, 2)


def test_nodes_that_do_not_reach_the_output_are_not_planned() -> None:
    dead = DecoderNode(decoder(1, 7), encoder(2))
    assert [str(node.ref) for node in plan_of(*plain(), dead).nodes] == ["D2", "D1", "D0"]


def test_encoder_stages_follow_the_backbone() -> None:
    assert [stage.block for stage in plan_of(*plain()).encoder] == [
        BlockPlan("plain", 1, 4, (1, 1), 2),
        BlockPlan("plain", 4, 8, (2, 1), 2),
        BlockPlan("plain", 8, 16, (2, 2), 2),
        BlockPlan("plain", 16, 32, (2, 2), 2),
    ]


def test_each_level_has_its_own_depth_and_the_decoder_its_own_widths_and_blocks() -> None:
    backbone = replace(
        BACKBONE,
        encoder_block="residual",
        decoder_block="residual",
        encoder_depth=(1, 2, 3, 4),
        decoder_depth=(3, 1, 2),
        decoder_widths=(5, 6, 7),
    )
    plan = make_plan(Architecture(backbone, Genome(plain(sources=(encoder(0),)))))
    assert [stage.block.depth for stage in plan.encoder] == [1, 2, 3, 4]
    assert [(node.c_coarser, node.c_upsampled) for node in plan.nodes] == [(32, 7), (7, 6), (6, 5)]
    assert [node.block for node in plan.nodes] == [
        BlockPlan("residual", 7, 7, (1, 1), 2),
        BlockPlan("residual", 6, 6, (1, 1), 1),
        BlockPlan("residual", 4 + 5, 5, (1, 1), 3),
    ]


def test_a_resnet_d_encoder_has_a_stem_that_widens_the_image() -> None:
    plan = make_plan(Architecture(replace(BACKBONE, encoder_block="resnet-d"), Genome(plain())))
    assert plan.stem == BlockPlan("plain", 1, 4, (1, 1), 1)
    assert (plan.encoder[0].block.c_in, plan.encoder[1].block.c_in) == (4, 4)
    assert plan_of(*plain()).stem is None


@pytest.mark.parametrize(
    ("kind", "c_in", "stride", "pool", "expected"),
    [
        ("residual", 4, (1, 1), False, False),
        ("residual", 4, (1, 2), False, True),
        ("residual", 4, (1, 2), True, False),
        ("residual", 3, (1, 1), False, True),
        ("resnet-d", 4, (1, 2), False, False),
        ("resnet-d", 3, (1, 2), False, True),
    ],
)
def test_a_shortcut_has_a_convolution_where_it_is_neither_identity_nor_pooling(
    kind: EncoderBlock, c_in: int, stride: tuple[int, ...], pool: bool, expected: bool
) -> None:
    assert BlockPlan(kind, c_in, 4, stride, 1, pool).has_shortcut_convolution == expected


@pytest.mark.parametrize(("fusion", "c_fused"), [("concat", 4 * 3), ("sum", 3)])
def test_with_a_source_width_everything_enters_at_that_width(fusion: str, c_fused: int) -> None:
    genome = Genome(plain(sources=(encoder(0), encoder(2), decoder(2)), fusion=fusion))
    node = make_plan(Architecture(replace(BACKBONE, source_width=3), genome)).nodes[-1]
    assert [(str(s.ref), s.projection, s.c_out) for s in node.sources] == [
        ("D2", "block", 3),
        ("E0", "block", 3),
        ("E2", "block", 3),
    ]
    assert (node.c_upsampled, node.c_fused, node.c_out) == (3, c_fused, 4)


def test_deep_supervision_puts_heads_on_every_node_of_a_plain_decoder() -> None:
    supervised = replace(BACKBONE, deep_supervision=True)
    plan = make_plan(Architecture(supervised, Genome(plain())))
    assert [str(node.ref) for node in plan.side_heads] == ["D2", "D1"]
    assert plan_of(*plain()).side_heads == ()


def test_deep_supervision_puts_heads_on_every_finest_node_of_a_nested_decoder() -> None:
    supervised = replace(BACKBONE, deep_supervision=True)
    plan = make_plan(Architecture(supervised, PRESETS["unet++"].genome(4)))
    assert sorted(str(node.ref) for node in plan.side_heads) == ["D0.1", "D0.2"]
    assert str(plan.output) == "D0.3"


def test_under_concat_a_same_level_source_enters_as_it_is_and_others_are_projected_to_the_nodes_width() -> None:
    node = DecoderNode(decoder(1), decoder(2), (encoder(3), encoder(1), encoder(0)), alignment="average")
    plan = plan_of(DecoderNode(decoder(0), decoder(1)), node, DecoderNode(decoder(2), encoder(3)))
    assert plan.nodes[1].c_fused == 8 + 8 + 8 + 8
    rows = [(str(s.ref), s.relation, s.projection, s.c_out, s.alignment, s.factor) for s in plan.nodes[1].sources]
    assert rows == [
        ("E0", "finer", "pointwise", 8, "average", (2, 1)),
        ("E1", "same", "identity", 8, None, (1, 1)),
        ("E3", "coarser", "pointwise", 8, None, (4, 4)),
    ]


def test_a_sum_has_the_nodes_width() -> None:
    node = plan_of(*plain(sources=(encoder(0), encoder(2)), fusion="sum")).nodes[-1]
    assert (node.c_fused, [source.projection for source in node.sources]) == (4, ["identity", "pointwise"])


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("source", ("se", "none", "none")),
        ("fused", ("none", "se", "none")),
        ("block", ("none", "none", "se")),
    ],
)
def test_attention_sits_where_its_placement_says(placement: str, expected: tuple[str, ...]) -> None:
    node = plan_of(*plain(sources=(encoder(0),), attention=Attention.parse(f"se@{placement}"))).nodes[-1]
    assert (node.sources[0].attention, node.fused_attention, node.block_attention) == expected


def test_the_order_in_which_nodes_and_sources_are_written_does_not_matter() -> None:
    nodes = plain(sources=(encoder(3), encoder(0), encoder(2)))
    turned = plain(sources=(encoder(2), encoder(3), encoder(0)))[::-1]
    assert plan_of(*nodes) == plan_of(*turned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_holds_exactly_the_live_nodes_each_after_what_it_reads(kind: Kind) -> None:
    for seed in range(60):
        architecture, _ = sampled(seed, 2, kind)
        assert not faults(architecture)
        plan = make_plan(architecture)
        known = {stage.ref for stage in plan.encoder}
        for node in plan.nodes:
            assert {node.coarser, *(source.ref for source in node.sources)} <= known
            known.add(node.ref)
        live = {node.ref for node in live_nodes(architecture.genome)}
        assert {node.ref for node in plan.nodes} == live


def test_planning_and_pricing_import_no_torch() -> None:
    program = "import sys, unetx_space.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
