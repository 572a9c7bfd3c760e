"""Both drawings say the whole genome, once, and so that it can be read."""

from __future__ import annotations

import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.design_space import DesignSpace
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, decoder, encoder, plain_coarser
from unetx_space.presets import no_skip, unet
from unetx_space.validity import faults
from unetx_studies.drawing import Numbers, to_svg, to_text, to_thumbnail
from unetx_studies.drawing.layout import LABEL_PITCH, WIDE_LABEL_PITCH, Box, Layout, make_layout

SVG = "{http://www.w3.org/2000/svg}"


def on(genome: Genome, n_levels: int) -> Architecture:
    return Architecture(isotropic_backbone(2, n_levels=n_levels), genome)


def plain(n_levels: int, seed: int) -> Architecture:
    """A random design of the default space."""
    return on(DesignSpace(n_levels).sample(random.Random(seed)), n_levels)


def full_scale(n_levels: int) -> Architecture:
    """As UNet 3+: every finer encoder stage, every deeper decoder node and the bottleneck."""
    bottleneck = encoder(n_levels - 1)
    nodes = []
    for level in reversed(range(n_levels - 1)):
        deeper = [*map(decoder, range(level + 2, n_levels - 1)), *([bottleneck] if level < n_levels - 2 else [])]
        nodes.append(
            DecoderNode(decoder(level), plain_coarser(level, n_levels), (*map(encoder, range(level + 1)), *deeper))
        )
    return on(Genome(tuple(nodes)), n_levels)


def nested(n_levels: int, seed: int | None = None) -> Architecture:
    """UNet++ (arXiv:1807.10165); with a seed, random sources of every allowed kind instead."""
    rng, nodes = random.Random(seed), []
    for column in range(1, n_levels):
        for level in range(n_levels - column):
            coarser = encoder(level + 1) if column == 1 else decoder(level + 1, column - 1)
            own = [encoder(level), *(decoder(level, earlier) for earlier in range(1, column))]
            others = [encoder(other) for other in range(n_levels) if other != level]
            others += [decoder(i, j) for i in range(level + 1, n_levels - 1) for j in range(1, n_levels - i)]
            wild = [ref for ref in own + others if ref != coarser and rng.random() < 0.3]
            attention = NO_ATTENTION if seed is None else rng.choice([NO_ATTENTION, Attention("cbam", "fused")])
            sources = tuple(own if seed is None else wild)
            nodes.append(DecoderNode(decoder(level, column), coarser, sources, attention))
    return on(Genome(tuple(nodes)), n_levels)


GALLERY = {
    "u-net": on(unet(5), 5),
    "no-skip": on(no_skip(5), 5),
    "two levels": on(unet(2), 2),
    "nine levels": plain(9, 0),
    "wild": plain(5, 3),
    "full-scale": full_scale(6),
    "unet++": nested(5),
    "nested wild": nested(4, 1),
}
gallery = pytest.mark.parametrize("architecture", GALLERY.values(), ids=GALLERY.keys())
designs = st.builds(plain, st.integers(2, 9), st.integers(0, 10**6)) | st.builds(
    nested, st.integers(2, 5), st.integers(0, 10**6)
)


def sources(architecture: Architecture) -> Counter[tuple[str, str]]:
    """How often each (source, node) pair is to be drawn: once."""
    return Counter((str(source), str(node.ref)) for node in architecture.genome.nodes for source in node.sources)


def drawn(svg: str) -> Counter[tuple[str, str]]:
    paths = ET.fromstring(svg).iter(f"{SVG}path")
    return Counter((p.attrib["data-source"], p.attrib["data-node"]) for p in paths if p.get("class") == "source")


@given(designs)
def test_the_svg_draws_every_source_of_any_genome_exactly_once(architecture: Architecture) -> None:
    assert faults(architecture) == ()
    assert drawn(to_svg(architecture)) == sources(architecture)


@gallery
def test_a_thumbnail_has_every_stage_and_every_source_and_is_short(architecture: Architecture) -> None:
    svg = to_thumbnail(architecture)
    assert drawn(svg) == sources(architecture)
    names = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert len(names) == architecture.backbone.n_levels + len(architecture.genome.nodes)
    assert len(svg) < len(to_svg(architecture))


@given(designs)
def test_the_table_marks_every_source_of_any_genome_exactly_once(architecture: Architecture) -> None:
    assert tabled(to_text(architecture)) == sources(architecture)


def tabled(text: str) -> Counter[tuple[str, str]]:
    """The (source, node) pairs that the table shows, as a matrix or as lists."""
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("node"))
    columns = {match.start(): match[0] for match in re.finditer(r"\b[ED]\d(\.\d+)?\b", lines[head])}
    found: Counter[tuple[str, str]] = Counter()
    node = ""
    for line in lines[head + 1 :]:
        if not line:
            break
        if line.startswith("D"):
            node = line.split()[0]
            found.update((columns[at], node) for at in columns if line[at] in "●▼▲")
        else:
            found.update((word[1:], node) for word in line.split())
    return found


def tapped(text: str) -> Counter[tuple[str, str]]:
    """The (source, node) pairs that the U's wires show: a mark lies on the wire of the stage whose line feeds it."""
    lines = text.splitlines()
    wires = {line[2:4]: max(line.find(end) for end in "┐┘┤┴") for line in lines if re.match(r"  E\d ", line)}
    feeds = {column: stage for stage, column in wires.items() if column > 0}
    taps = [(line, match[1]) for line in lines if (match := re.search(r"▶ (D\d)", line))]
    return Counter((feeds[at], node) for line, node in taps for at, char in enumerate(line) if char in "●▼▲")


@given(st.builds(plain, st.integers(2, 9), st.integers(0, 10**6)))
def test_the_wires_of_the_terminal_u_lead_from_every_source_to_its_node(architecture: Architecture) -> None:
    text = to_text(architecture)
    assert tapped(text) == sources(architecture)
    columns = [at for line in text.splitlines() for at, char in enumerate(line) if char in "●▼▲" and "▶" in line]
    rows = text.splitlines()
    for column in set(columns):  # no wire has a hole between its ends
        cells = [row[column] if column < len(row) else " " for row in rows[: rows.index("", 5)]]
        ends = [i for i, cell in enumerate(cells) if cell in "┐┘┤┴●▼▲" and i > 4]
        assert all(cell in "│┼┐┘┤┴●▼▲" for cell in cells[ends[0] : ends[-1] + 1])


@gallery
def test_no_line_of_the_text_is_wider_than_a_terminal(architecture: Architecture) -> None:
    assert max(map(len, to_text(architecture).splitlines())) <= 100
    assert max(map(len, to_text(architecture, width=80).splitlines())) <= 80


@gallery
def test_the_ascii_fallback_is_ascii_and_has_the_same_lines(architecture: Architecture) -> None:
    text, fallback = to_text(architecture), to_text(architecture, ascii=True)
    assert fallback.isascii()
    assert "?" not in fallback
    assert [len(line) for line in fallback.splitlines()] == [len(line) for line in text.splitlines()]


def test_the_text_of_a_u_net_is_the_u_that_everyone_knows() -> None:
    architecture = replace(on(unet(3), 3), provenance={"preset": "u-net"})
    expected = """\
  1 channel                            2 classes
  ↓                                    ↑
  E0    32   ─────┐                    │
  │               ●──────────────────▶ D0    32
  E1    64   ──────────┐               ↑
  │                    ●─────────────▶ D1    64
  E2   128   ──────────────────────────╯

node  ch  from  upsampler   E0  E1  fusion  align  attention
D0    32  D1    transposed  ●   ·   concat  -      -
D1    64  E2    transposed  ·   ●   concat  -      -

● own level   ▼ finer, brought down   ▲ coarser, brought up   ┼ only crosses"""
    title, _, _, _, *drawing = to_text(architecture).splitlines()
    assert title == "u-net: 2D, 3 levels"
    assert drawing == expected.splitlines()


NODE = DecoderNode(decoder(1), encoder(2), (encoder(0), encoder(2 - 1)), Attention("scse", "block"), "linear", "sum")


@pytest.mark.parametrize(
    ("node", "shown", "hidden"),
    [
        (NODE, ["linear", "sum", "max", "scse after block"], []),
        (replace(NODE, attention=Attention("se", "source")), ["se on sources"], ["after"]),
        (replace(NODE, attention=Attention("eca", "fused")), ["eca after fusion"], []),
        (replace(NODE, attention=NO_ATTENTION), ["sum"], ["scse"]),
        (replace(NODE, sources=(encoder(1),)), ["sum"], ["max"]),  # no finer source, so alignment has no effect
        (replace(NODE, sources=()), ["linear"], ["sum", "max"]),  # nor has fusion without any
    ],
)
def test_operators_are_named_where_they_have_an_effect(node: DecoderNode, shown: list[str], hidden: list[str]) -> None:
    plain_top = DecoderNode(decoder(0), decoder(1), (), upsampler="transposed")
    architecture = on(Genome((node, plain_top)), 3)
    svg, text = to_svg(architecture), to_text(architecture)
    row = next(line for line in text.splitlines() if line.startswith("D1"))
    words = " ".join(element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text"))
    for word in shown:
        assert word in row
        assert word in words
    for word in hidden:
        assert word not in row
        assert word not in words


def test_widths_and_strides_of_an_anisotropic_backbone_are_shown() -> None:
    strides = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    svg = to_svg(Architecture(Backbone(3, 1, 3, (24, 48, 96), strides), unet(3)))
    words = [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"24 ch", "48 ch · ÷1×2×2", "96 ch · ÷2×4×4"} <= set(words)
    titles = [element.text for element in ET.fromstring(svg).iter(f"{SVG}title")]
    assert "E0 to E1, stride 1×2×2" in titles


def test_each_kind_of_source_has_a_colour_and_a_dash_of_its_own() -> None:
    paths = [p for p in ET.fromstring(to_svg(full_scale(5))).iter(f"{SVG}path") if p.get("class") == "source"]
    looks: dict[str, set[tuple[str | None, str | None]]] = {}
    for path in paths:
        source, node = path.attrib["data-source"][1], path.attrib["data-node"][1]
        kind = "same" if source == node else "finer" if source < node else "coarser"
        looks.setdefault(kind, set()).add((path.get("stroke"), path.get("stroke-dasharray")))
    assert [len(look) for look in looks.values()] == [1, 1, 1]
    assert len(set.union(*looks.values())) == 3
    assert len({colour for look in looks.values() for colour, _ in look}) == 3


def test_score_and_costs_are_captions_when_they_are_known() -> None:
    bare = GALLERY["u-net"]
    known = replace(
        bare, score={"dice": 0.84234}, provenance={"study": "demo", "trial": 17, "task": {"patch": [64, 96]}}
    )
    for picture in (to_svg(known), to_text(known)):
        assert "demo, trial 17: 2D, 5 levels" in picture
        assert "Dice 0.8423" in picture
        assert "multiply-adds on 64×96" in picture
    for picture in (to_svg(bare), to_text(bare)):
        assert "Dice" not in picture
        assert "multiply-adds" not in picture
        assert "7.76 M parameters" in picture


HOSTILE = '<script>alert("1")</script> & \' ]]> \x00\x1b[31m\u202e\ud800\ufffe'


@pytest.mark.parametrize(
    "provenance",
    [
        {"preset": HOSTILE},
        {"study": HOSTILE, "trial": 10**3000},
        {"study": 1, "trial": "x", "task": {"patch": ["a", None]}},
        {"task": {"patch": [0, -1]}},
        {"task": {"patch": [10**30, 10**30]}},
        {"task": "none"},
    ],
)
def test_a_strangers_words_stay_words(provenance: dict[str, object]) -> None:
    architecture = replace(GALLERY["u-net"], provenance=provenance, score={"dice": "<b>"})
    svg = to_svg(architecture)
    svg.encode("utf-8")
    root = ET.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg", "title", "desc", "defs", "style", "marker", "path", "rect", "text",
    }  # fmt: skip
    text = to_text(architecture)
    assert all(line.isprintable() for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 100


@gallery
def test_the_svg_stands_alone_and_says_what_it_is(architecture: Architecture) -> None:
    svg = to_svg(architecture)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    first, second = list(root)[:2]
    assert (first.tag, second.tag) == (f"{SVG}title", f"{SVG}desc")
    assert all(str(node.ref) in (second.text or "") for node in architecture.genome.nodes)
    assert not re.search(r"(href|src|@import|url\((?!#))", svg)  # nothing is loaded from elsewhere
    assert "system-ui" in svg


@gallery
def test_everything_lies_inside_the_picture(architecture: Architecture) -> None:
    svg = to_svg(architecture)
    x, y, width, height = map(float, ET.fromstring(svg).attrib["viewBox"].split())
    left, top, right, bottom = make_layout(architecture).bounds()
    assert (x, y) < (left, top)
    assert x + width > right
    assert y + height > bottom
    for element in ET.fromstring(svg).iter(f"{SVG}text"):
        assert x <= float(element.attrib["x"]) <= x + width
        assert y <= float(element.attrib["y"]) <= y + height


def numbered(architecture: Architecture) -> Numbers:
    """The longest numbers that there may be, everywhere."""
    pairs = [(source, node.ref) for node in architecture.genome.nodes for source in node.sources]
    stages = [encoder(level) for level in range(architecture.backbone.n_levels)]
    stages += [node.ref for node in architecture.genome.nodes]
    return Numbers(
        sources=dict.fromkeys(pairs, "−0.123"),
        widths=dict.fromkeys(pairs, 4.5),
        stages=dict.fromkeys(stages, "gradient ×0.052"),
        worth="Dice 0.8123",
        notes=("What the numbers are.",),
    )


@gallery
def test_numbers_stand_inside_their_boxes_and_once_each(architecture: Architecture) -> None:
    svg, layout = to_svg(architecture, numbered(architecture)), make_layout(architecture, with_numbers=True)
    assert drawn(svg) == sources(architecture)
    n_sources = sum(sources(architecture).values())
    boxes = layout.boxes.values()
    assert not any(overlap(one, other) for one, other in itertools.combinations(boxes, 2))
    words = [element for element in ET.fromstring(svg).iter(f"{SVG}text") if element.text]
    assert sum((element.text or "").endswith("−0.123") for element in words) == n_sources
    assert sum(element.text == "gradient ×0.052" for element in words) == len(boxes)
    for element in words:
        if (element.text or "").endswith(("−0.123", "gradient ×0.052")):
            assert any(holds(box, element) for box in boxes), element.text


def holds(box: Box, element: ET.Element) -> bool:
    """A text's place and its width, at 6.8 pixels a character of 12 pixels and 5.6 of one of 9, lie in the box."""
    width = len(element.text or "") * (5.6 if element.get("class") == "port" else 6.8)
    x, y = float(element.attrib["x"]), float(element.attrib["y"])
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.attrib["text-anchor"]]
    return box.x - box.width / 2 <= left and left + width <= box.x + box.width / 2 and abs(y - box.y) <= box.height / 2


@given(designs)
def test_no_words_of_a_node_leave_its_box(architecture: Architecture) -> None:
    """The longest name of an attention with its place has 30 characters."""
    for numbers in (None, numbered(architecture)):
        svg = to_svg(architecture) if numbers is None else to_svg(architecture, numbers)
        boxes = make_layout(architecture, with_numbers=numbers is not None).boxes.values()
        for element in ET.fromstring(svg).iter(f"{SVG}text"):
            if "on sources" in (element.text or "") or "after " in (element.text or ""):
                assert any(holds(box, element) for box in boxes), element.text


def overlap(one: Box, other: Box) -> bool:
    return (
        abs(one.x - other.x) < (one.width + other.width) / 2 and abs(one.y - other.y) < (one.height + other.height) / 2
    )


@gallery
def test_no_two_boxes_overlap(architecture: Architecture) -> None:
    boxes = make_layout(architecture).boxes.values()
    assert len(boxes) == architecture.backbone.n_levels + len(architecture.genome.nodes)
    assert not any(overlap(one, other) for one, other in itertools.combinations(boxes, 2))


def inside(layout: Layout) -> bool:
    """Every wire begins and ends on the border of its boxes."""
    for wire in layout.wires:
        for ref, (x, y) in ((wire.source, wire.start), (wire.target, wire.end)):
            box = layout.boxes[ref]
            dx, dy = abs(x - box.x) / (box.width / 2), abs(y - box.y) / (box.height / 2)
            if abs(max(dx, dy) - 1) > 1e-9:
                return False
    return True


@given(designs)
def test_wires_end_on_their_boxes_and_labels_keep_their_distance(architecture: Architecture) -> None:
    layout = make_layout(architecture)
    assert inside(layout)
    ends: dict[tuple[str, str], list[float]] = {}
    for wire in layout.wires:
        if wire.is_source:
            along = wire.end[1] if wire.enters in ("left", "right") else wire.end[0]
            ends.setdefault((str(wire.target), wire.enters), []).append(along)
    for (_, side), places in ends.items():
        pitch = LABEL_PITCH if side in ("left", "right") else WIDE_LABEL_PITCH
        gaps = [b - a for a, b in itertools.pairwise(sorted(places))]
        assert all(gap >= pitch - 1e-9 for gap in gaps)


def test_own_level_skips_of_a_plain_decoder_are_straight_and_level() -> None:
    wires = [wire for wire in make_layout(plain(6, 1)).wires if wire.kind == "same"]
    assert wires
    assert all(wire.start[1] == wire.control1[1] == wire.control2[1] == wire.end[1] for wire in wires)


def test_a_nested_decoder_stands_as_in_the_paper_every_node_up_right_of_its_coarser_input() -> None:
    architecture = GALLERY["unet++"]
    boxes = make_layout(architecture).boxes
    for node in architecture.genome.nodes:
        assert boxes[node.ref].x > boxes[node.coarser].x
        assert boxes[node.ref].y < boxes[node.coarser].y
