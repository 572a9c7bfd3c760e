"""Two designs beside each other: words and marks say what differs, and nothing else."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.cost import cost, part_costs
from unetx_space.design_space import DesignSpace
from unetx_space.genome import Genome
from unetx_space.plan import make_plan
from unetx_space.presets import PRESETS
from unetx_space.training_memory import part_memory, training_memory
from unetx_studies.drawing import differences, side_by_side, to_svgs
from unetx_studies.drawing.interactive import costs_by_part, part_rows, to_figure
from unetx_studies.drawing.svg import MARK

SVG = "{http://www.w3.org/2000/svg}"


def design(name: str, n_levels: int = 4) -> Architecture:
    return Architecture(isotropic_backbone(2, n_levels=n_levels), PRESETS[name].genome(n_levels))


def test_a_design_does_not_differ_from_itself_nor_from_its_other_spelling() -> None:
    one = design("unet-3+")
    nodes = tuple(replace(node, sources=tuple(reversed(node.sources))) for node in one.genome.nodes)
    other = replace(one, genome=Genome(nodes))
    assert differences(one, other) == []
    assert MARK not in "".join(to_svgs(one, other))


def test_what_differs_is_told_node_by_node() -> None:
    told = differences(design("attention-u-net"), design("u-net"))
    assert [words.split()[0] for words in told] == ["D2", "D1", "D0"]
    assert all("attention attention-gate on sources instead of none" in words for words in told)
    assert differences(design("no-skip"), design("u-net"))[0] == "D2 does not read E2; fusion none instead of concat."
    assert "D0.1 is there." in differences(design("unet++"), design("no-skip"))
    wider = replace(design("u-net"), backbone=isotropic_backbone(2, n_levels=4, base_width=16))
    assert differences(wider, design("u-net"))[0].startswith("Backbone: widths 16, 32, 64, 128 instead of 32,")


def test_exactly_the_wires_that_the_other_lacks_are_marked() -> None:
    rng = random.Random(5)
    one, other = (
        Architecture(isotropic_backbone(2, n_levels=5), DesignSpace(5).sample(rng)) for _ in range(2)
    )  # fmt: skip
    pairs = [{(str(s), str(n.ref)) for n in a.genome.nodes for s in n.sources} for a in (one, other)]
    for svg, lacking in zip(to_svgs(one, other), (pairs[0] - pairs[1], pairs[1] - pairs[0]), strict=True):
        paths = list(ET.fromstring(svg).iter(f"{SVG}path"))
        marked = {path.attrib["d"] for path in paths if path.get("stroke") == MARK}
        found = {(p.attrib["data-source"], p.attrib["data-node"]) for p in paths if p.get("class") == "source"
                 and p.attrib["d"] in marked}  # fmt: skip
        assert found == lacking
    assert len(list(ET.fromstring(side_by_side(one, other)).iter(f"{SVG}title"))) > 2


@pytest.mark.parametrize("name", ["u-net", "unet++", "segresnet"])
def test_parts_add_up_to_the_whole(name: str) -> None:
    one, patch = design(name), (64, 48)
    plan = make_plan(one)
    costs, memory = part_costs(plan, patch), part_memory(plan, patch)
    assert sum(part.macs for part in costs.values()) == cost(one, patch).macs
    assert sum(part.n_parameters for part in costs.values()) == cost(one, patch).n_parameters
    assert sum(memory.values()) == training_memory(one, patch)
    assert costs.keys() == memory.keys()
    assert all(value > 0 for value in memory.values())


def test_the_figure_has_a_hover_for_each_part_and_each_wire() -> None:
    one = design("unet++")
    costs = costs_by_part(one, (64, 64))
    figure = to_figure(one, costs)
    parts = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(parts) == len(part_rows(costs)) == 4 + len(one.genome.nodes)
    assert all("multiply-adds" in trace.text and "MiB" in trace.text for trace in parts)
    n_wires = 3 + sum(1 + len(node.sources) for node in one.genome.nodes)
    assert len(figure.data) - len(parts) == n_wires
