"""Plans worked by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sampled_architectures import KINDS, Kind, sampled

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.plan import Plan, make_plan
from unetx_space.validity import faults, reached

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
    stages = plan_of(*plain()).encoder
    assert [(stage.c_in, stage.c_out, stage.stride) for stage in stages] == [
        (1, 4, (1, 1)),
        (4, 8, (2, 1)),
        (8, 16, (2, 2)),
        (16, 32, (2, 2)),
    ]


def test_under_concat_a_same_level_source_enters_as_it_is_and_others_are_projected_to_the_nodes_width() -> None:
    node = DecoderNode(decoder(1), decoder(2), (encoder(3), encoder(1), encoder(0)), alignment="average")
    plan = plan_of(DecoderNode(decoder(0), decoder(1)), node, DecoderNode(decoder(2), encoder(3)))
    assert plan.nodes[1].c_fused == 8 + 8 + 8 + 8
    rows = [(str(s.ref), s.relation, s.projected, s.c_out, s.alignment, s.factor) for s in plan.nodes[1].sources]
    assert rows == [
        ("E0", "finer", True, 8, "average", (2, 1)),
        ("E1", "same", False, 8, None, (1, 1)),
        ("E3", "coarser", True, 8, None, (4, 4)),
    ]


def test_a_sum_has_the_nodes_width() -> None:
    node = plan_of(*plain(sources=(encoder(0), encoder(2)), fusion="sum")).nodes[-1]
    assert (node.c_fused, [source.projected for source in node.sources]) == (4, [False, True])


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
        live = {ref for ref in reached(architecture.genome) if ref.kind == "D"}
        assert {node.ref for node in plan.nodes} == live


def test_planning_and_pricing_import_no_torch() -> None:
    program = "import sys, unetx_space.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
