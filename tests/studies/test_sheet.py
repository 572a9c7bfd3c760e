"""The picture sheet: what is drawn of a case, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetx_evaluators.tasks.task import IGNORED
from unetx_evaluators.views import MAX_SIDE
from unetx_studies.sheet import (
    CaseGrid,
    ChannelIntensities,
    ClassSize,
    DatasetFacts,
    Decision,
    PilotFacts,
    PilotTraining,
    make_picture,
    sheet_html,
)
from unetx_studies.sheet.curves import APART, HEIGHT, WIDTH, curves_svg
from unetx_studies.sheet.facts import axis_ranges, number_words, size_words
from unetx_studies.sheet.pictures import fullest_slice, outline
from unetx_studies.sheet.style import COLOURS, class_style

EVIL = '<script>alert("1")</script>&'


def facts(**changes: object) -> DatasetFacts:
    found = DatasetFacts(
        name="liver",
        source="MSD folder at liver",
        n_bytes=3 * 2**20,
        dims=3,
        channels=("CT",),
        classes=("background", "organ", "tumour"),
        cases=(
            CaseGrid("a", (10, 12, 8), (1.0, 1.0, 3.0), "train"),
            CaseGrid("b", (14, 12, 6), (1.0, 1.0, 5.0), "train"),
            CaseGrid("c", (9, 9, 9), (1.0, 1.0, 1.0), "test"),
        ),
        class_sizes=(ClassSize("organ", 0.2, 2), ClassSize("tumour", 0.001, 1)),
        intensities=(ChannelIntensities("CT", 50.5, 20.0, -10.0, 48.0, 130.0, -1024.0, 3000.0),),
        choices=(Decision("spacing", "1x1x4 mm", "median of 2 training cases"),),
        cache_bytes=1000,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def square(size: tuple[int, ...], value: int = 1) -> npt.NDArray[np.uint8]:
    label = np.zeros(size, np.uint8)
    label[tuple(slice(2, 5) for _ in size)] = value
    return label


class Elements(HTMLParser):
    """Checks that tags nest, and remembers them with their attributes."""

    VOID = frozenset({"meta", "input", "image", "path", "rect", "br", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def test_the_outline_of_one_pixel_is_a_square() -> None:
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    assert sorted(re.findall(r"M\d+ \d+[hv]\d+", outline(mask))) == ["M3 2h1", "M3 2v1", "M3 3h1", "M4 2v1"]


def test_an_outline_touches_the_border_of_the_picture_too() -> None:
    assert sorted(re.findall(r"M\d+ \d+[hv]\d+", outline(np.ones((2, 3), bool)))) == [
        "M0 0h3",
        "M0 0v2",
        "M0 2h3",
        "M3 0v2",
    ]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outlines_run_where_neighbours_differ_and_nowhere_else(mask: npt.NDArray[np.bool_]) -> None:
    drawn = set()
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", outline(mask)):
        for step in range(int(length)):
            drawn.add((int(x) + step * (way == "h"), int(y) + step * (way == "v"), way))
    framed = np.pad(mask, 1)
    rows, columns = mask.shape
    expected = {
        (x, y, "h") for y in range(rows + 1) for x in range(columns) if framed[y, x + 1] != framed[y + 1, x + 1]
    }
    expected |= {
        (x, y, "v") for y in range(rows) for x in range(columns + 1) if framed[y + 1, x] != framed[y + 1, x + 1]
    }
    assert drawn == expected


def test_the_slice_with_most_foreground_is_shown_and_the_middle_of_equals() -> None:
    label = np.zeros((4, 4, 9), np.uint8)
    assert fullest_slice(label, 2) == 4
    label[..., 6] = IGNORED
    label[0, 0, 2] = 1
    assert fullest_slice(label, 2) == 2, "ignored voxels are no foreground"


def test_a_volume_hangs_as_radiologists_hang_it_with_the_aspect_of_its_millimetres() -> None:
    image = np.zeros((1, 6, 4, 3), np.float32)
    image[0, 5, 3, 1] = 1  # right, front
    label = np.zeros((6, 4, 3), np.uint8)
    label[5, 3, 1] = 1
    picture = make_picture("a", image, label, (0.5, 1.0, 5.0), ("CT",), slice_axis=2)
    assert picture.note == "6x4x3, slice 2"
    assert picture.label.shape == (4, 6)
    assert picture.label[0, 0] == 1, "the patient's right on the left, the front at the top"
    assert picture.panels[0][0, 0] == 255
    assert picture.aspect == pytest.approx(3 / 4)


def test_a_picture_stays_as_it_is() -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    picture = make_picture("a", image, square((3, 4)), (1.0, 1.0), ("grey",), slice_axis=None)
    assert (picture.panels[0][0, 0], picture.panels[0][2, 3]) == (0, 255)
    assert (np.diff(picture.panels[0].astype(int).ravel()) >= 0).all()
    assert picture.aspect == pytest.approx(4 / 3)


def test_a_photograph_is_one_colour_picture_and_other_channels_stand_side_by_side() -> None:
    image = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    photograph = make_picture("a", image, square((8, 8)), (1.0, 1.0), ("red", "green", "blue"), slice_axis=None)
    assert [panel.shape for panel in photograph.panels] == [(8, 8, 3)]
    scans = make_picture("a", image, square((8, 8)), (1.0, 1.0), ("T1", "T2", "FLAIR"), slice_axis=None)
    assert [panel.shape for panel in scans.panels] == [(8, 8)] * 3
    page = sheet_html(facts(), [scans])
    assert all(f"<small>{name}</small>" in page for name in ("T1", "T2", "FLAIR"))


def test_a_large_picture_is_reduced_with_its_mask() -> None:
    label = np.zeros((900, 1800), np.uint8)
    label[:450] = 1
    image = label[None].astype(np.float32)
    picture = make_picture("a", image, label, (1.0, 1.0), ("grey",), slice_axis=None)
    assert picture.label.shape == picture.panels[0].shape == (MAX_SIDE // 2, MAX_SIDE)
    assert ((picture.panels[0] > 127) == (picture.label == 1)).all()
    assert picture.note == "900x1800"


def test_a_constant_picture_is_grey() -> None:
    picture = make_picture("a", np.full((1, 6, 6), 7, np.float32), square((6, 6)), (1.0, 1.0), ("x",), slice_axis=None)
    assert np.unique(picture.panels[0]).tolist() == [128]


def test_the_page_holds_every_class_picture_and_fact_and_loads_nothing() -> None:
    label = square((8, 8)) + square((8, 8), 1)
    label[0, 0], label[7, 7] = 1, IGNORED
    picture = make_picture("a", label[None].astype(np.float32), label, (1.0, 1.0), ("CT",), slice_axis=None)
    page = sheet_html(facts(warnings=("few cases",)), [picture])
    found = parsed(page)
    for told in ("liver", "fit for a search", "organ", "tumour", "20 %", "0.1 %", "2 of 2", "1 of 2", "few cases",
                 "1x1x4 mm", "median of 2 training cases", "-1024 to 3000", "3.0 MiB on disk"):  # fmt: skip
        assert told in found.text
    kinds = {attributes.get("class") for tag, attributes in found.seen if tag == "path"}
    assert {"line k1", "line k2", "line ignored"} <= kinds
    assert "ignored" in found.text
    links = [value for _, attributes in found.seen for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert all(value and value.startswith("data:image/png;base64,") for value in links)
    assert not re.search(r"url\(|@import|<script|<link", page)
    stored = Image.open(io.BytesIO(base64.b64decode(str(links[0]).partition(",")[2])))
    assert (np.asarray(stored) == picture.panels[0]).all()


def test_names_are_text_and_never_markup() -> None:
    picture = make_picture(
        EVIL, np.zeros((2, 8, 8), np.float32), square((8, 8)), (1.0, 1.0), (EVIL, EVIL), slice_axis=None
    )
    page = sheet_html(
        facts(
            name=EVIL,
            source=EVIL,
            classes=("background", EVIL),
            class_sizes=(ClassSize(EVIL, 0.1, 1),),
            cases=(CaseGrid(EVIL, (8, 8), (1.0, 1.0), "train"),),
            intensities=(ChannelIntensities(EVIL, 0, 1, 0, 0, 1, 0, 1),),
            choices=(Decision(EVIL, EVIL, EVIL),),
            pilot=PilotFacts((training(0, voxels=EVIL, outcome=EVIL, round=EVIL),), (Decision(EVIL, EVIL, EVIL),)),
            problems=(EVIL,),
            warnings=(EVIL,),
        ),
        [picture],
    )
    assert "<script" not in page
    assert "alert(&quot;1&quot;)" in page
    assert EVIL in parsed(page).text


def test_problems_stand_first_and_a_page_without_pictures_says_why() -> None:
    page = sheet_html(facts(problems=("a.png: x; y", "b.png: x; y")), why_no_pictures="left out")
    found = parsed(page)
    assert "2 problems" in found.text
    assert found.text.index("a.png: x; y") < found.text.index("left out") < found.text.index("organ")
    assert "<image" not in page


def test_a_page_of_a_dataset_of_which_nothing_is_known_yet() -> None:
    page = sheet_html(facts(cases=(), class_sizes=(), intensities=(), choices=(), problems=("x",), cache_bytes=None))
    assert "1 problem" in parsed(page).text


def test_classes_beyond_the_palette_are_dashed() -> None:
    style = class_style(len(COLOURS) + 3)
    assert "stroke-dasharray" not in style.partition(f".line.k{len(COLOURS) + 1}")[0]
    assert f".line.k{len(COLOURS) + 1}{{stroke:{COLOURS[0]};stroke-dasharray:" in style


def test_colours_stand_out_from_black_and_from_one_another() -> None:
    """Relative luminance and contrast after WCAG 2.2: 3:1 is asked of graphics."""
    rgb = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in COLOURS]
    linear = [[v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour] for colour in rgb]
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear]
    assert all((value + 0.05) / 0.05 >= 3 for value in luminance)
    assert len(set(COLOURS)) == len(COLOURS)


def test_numbers_in_words() -> None:
    assert [size_words(n) for n in (0, 1023, 1024, 3 * 2**20, 5 * 2**40)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert [number_words(n) for n in (0, 0.123456, 12.0, -1024.4, 306100.0, 2e12)] == [
        "0", "0.1235", "12", "-1024", "306100", "2e+12",
    ]  # fmt: skip
    assert list(axis_ranges([(1, 5), (3, 4), (2, 9)])) == [(1, 2, 3), (4, 5, 9)]


def training(number: int, dice: float | None = 0.8, *, steps: int = 300, **changes: object) -> PilotTraining:
    """The n-th of a pilot, which has climbed to its Dice at three rungs."""
    curve = () if dice is None else tuple((steps * n // 3, dice * n / 3) for n in (1, 2, 3))
    one = PilotTraining("recipe", steps, (1e-2, 3e-3)[number % 2], 1.0, "", "complete", dice, 12.4, curve)
    return replace(one, **changes)  # type: ignore[arg-type]


def test_every_training_of_a_pilot_is_a_row_and_a_line_that_ends_in_its_number() -> None:
    trainings = (*map(training, range(4)), training(4, 0.9, steps=600), training(5, None, outcome="diverged"))
    settled = (Decision("steps", "300", "twice as many gained too little"),)
    page = sheet_html(facts(pilot=PilotFacts(trainings, settled, still_gaining=0.0312)))
    found = parsed(page)
    assert "twice as many gained too little" in found.text
    assert "the last doubling of the steps gained +0.0312 Dice" in found.text
    assert "--seconds" in found.text
    numbers = re.findall(r'<text class="number" x="([\d.]+)" y="([\d.]+)">(\d)</text>', page)
    assert sorted(number for *_, number in numbers) == ["1", "2", "3", "4", "5"], "the sixth has reached no rung"
    heights = sorted(float(y) for _, y, number in numbers if number != "5")
    assert np.diff(heights).min() >= APART, "four lines end at one point, their numbers do not"
    assert page.count("<td>diverged</td>") == 1
    assert page.count("<circle ") == 3 * 5
    assert "<th>voxels</th>" not in page


def test_curves_stay_within_their_axes_whose_ticks_are_round() -> None:
    one = training(0, curve=((117, 0.612), (233, 0.7), (349, 0.8463)))
    drawing = curves_svg(PilotFacts((one, training(1, curve=((349, float("nan")),))), ()))
    assert re.findall(r">([\d.]+)</text>", drawing)[:-1] == [
        *("0.6", "0.7", "0.8", "0.9"), *("0", "100", "200", "300", "400"),
    ]  # fmt: skip
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True), "up is better"
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    assert curves_svg(PilotFacts((training(0, None),), ())) == ""


def test_a_pilot_of_one_point_or_of_equal_scores_is_drawn_all_the_same() -> None:
    for curve in (((1, 0.0),), ((1, 0.5), (2, 0.5))):
        drawing = curves_svg(PilotFacts((training(0, curve=curve),), ()))
        assert drawing.count("<circle ") == len(curve)
        assert "nan" not in drawing


def test_voxel_sizes_have_a_column_where_they_were_in_question() -> None:
    heads, rows = PilotFacts((training(0, voxels="1x1x2 mm"), training(1)), ()).table()
    assert dict(zip(heads, rows[0], strict=True))["voxels"] == "1x1x2 mm"
    assert dict(zip(heads, rows[1], strict=True))["Dice"] == "0.8000"
