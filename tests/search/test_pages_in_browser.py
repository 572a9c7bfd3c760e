"""Real pages of real studies in a real browser: no error, no request, read at any width, by keyboard, in any light."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from browser import CONTRAST, Browser, browser, needs_chromium
from rich.console import Console

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_search.architectures import named_architecture, write_html
from unetx_search.config import SearchConfig
from unetx_search.report.dashboard_plots import show_study_plots
from unetx_search.report.page import write_report
from unetx_search.report.study import read_reported_study
from unetx_search.run import search
from unetx_studies.dashboard import dashboard_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs_chromium]

HOSTILE = "<img src=x onerror=document.title=1>|$"
"""A class of the data: HTML, mathematics, a table's border and code to whoever reads it as Markdown."""
CUT = """[...document.querySelectorAll(".plot")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].filter((words) => {
    const box = words.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1);
  }).map((words) => words.textContent);
})"""
"""Words of figures that leave their figure."""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Hostile(DemoSource):
    """The demo with names that are no words."""

    classes: ClassVar[tuple[str, ...]] = ("background", *(HOSTILE + name for name in DemoSource.classes[1:]))


class Volumes:
    """Ten slices of the demo on one another, two of them empty."""

    dims: ClassVar[Literal[3]] = 3
    name, layout, channels, classes = "volumes", "volumes", DemoSource.channels, DemoSource.classes
    problems: tuple[DataError, ...] = ()
    warnings: tuple[str, ...] = ()
    n_bytes = 0
    origin = identity = "made by a test"
    case_names = DemoSource(n_cases=20).case_names

    def read(self, name: str) -> RawCase:
        flat = DemoSource().read(name)
        label = np.repeat(flat.label[..., None], 10, axis=-1)
        label[..., [0, 9]] = 0
        return RawCase(np.repeat(flat.image[..., None], 10, axis=-1), label, (1.0, 1.0, 3.0))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four designs, trained for a moment."""
    out = tmp_path_factory.mktemp("runs")
    config = SearchConfig(out=out, trials=4, gpus=0, cpu_workers=1, steps=6, pilot=False, study="s")
    search(config, console=Console(quiet=True), source=Hostile(n_cases=20))
    show_study_plots(read_reported_study(out / "s"))
    return out / "s"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def requested(page: Browser) -> list[str]:
    """Beside the page itself and what lies inside it."""
    return [url for url in page.requests if not url.startswith(("data:", "file:", "blob:"))]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_report_is_read_at_any_width_in_light_and_dark(
    study: Path, tmp_path: Path, page: Browser, width: int, dark: bool
) -> None:
    write_report(read_reported_study(study), tmp_path / "report.html")
    page.said.clear()
    page.requests.clear()
    page.open((tmp_path / "report.html").as_uri(), width=width, dark=dark)
    page.wait_for("document.querySelectorAll('.plot .main-svg').length >= document.querySelectorAll('.plot').length")
    page.ask("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.ask(OVERFLOW) <= 0
    assert page.ask(CONTRAST) == []
    assert page.ask(CUT) == []
    assert page.ask("document.querySelectorAll('.case image').length") >= 5
    assert HOSTILE in page.ask("document.querySelector('.legend').textContent")
    assert page.said == []
    assert requested(page) == []


def test_what_measures_contrast_finds_grey_on_white(page: Browser) -> None:
    page.open("data:text/html,<p style='color:%23999'>pale</p><p style='color:%23666'>plain</p>")
    assert page.ask(CONTRAST) == ["2.85: pale"], "as WCAG's own formula gives for #999 on white"


def test_pointing_at_a_design_shows_it_and_keys_reach_all_controls(study: Path, tmp_path: Path, page: Browser) -> None:
    write_report(read_reported_study(study), tmp_path / "report.html")
    page.open((tmp_path / "report.html").as_uri())
    page.wait_for("document.querySelectorAll('.plot .main-svg').length > 4")
    place = page.ask(
        """(() => {
        const plot = [...document.querySelectorAll(".plot")].find((one) => one.ariaLabel.startsWith("Dice and"));
        plot.scrollIntoView({block: "center"});
        const box = plot.querySelector(".scatterlayer .point").getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    page.point_at(*place)
    page.wait_for("!document.getElementById('thumbnail').hidden")
    assert page.ask("document.querySelectorAll('#thumbnail svg').length") == 1
    page.ask("document.activeElement.blur(); scrollTo(0, 0)")
    n_controls = page.ask("document.querySelectorAll('summary, input, [tabindex=\"0\"]').length")
    reached = set()
    for _ in range(3 * n_controls):
        page.press("Tab", 9)
        reached.add(page.ask("(n => n.matches('summary,input') ? n.tagName + [...document.querySelectorAll(n.tagName)]"
                             ".indexOf(n) : '')(document.activeElement)"))  # fmt: skip
    assert len(reached - {""}) == page.ask("document.querySelectorAll('summary, input').length")


def test_the_slider_of_a_volume_goes_through_its_slices_by_keys(tmp_path: Path, page: Browser) -> None:
    config = SearchConfig(out=tmp_path, trials=3, gpus=0, cpu_workers=1, steps=6, pilot=False, study="v")
    search(config, console=Console(quiet=True), evaluator=FakeEvaluator(predicts=True), source=Volumes())
    write_report(read_reported_study(tmp_path / "v"), tmp_path / "v.html")
    page.open((tmp_path / "v.html").as_uri())
    before = page.ask("(s => { s.focus(); return s.value; })(document.querySelector('main .case input[type=range]'))")
    page.press("ArrowRight", 39)
    slices = "document.querySelector('main .case').querySelectorAll('.slice:not([hidden])')"
    shown = f"[...{slices}].map((slice) => slice.dataset.slice)"
    assert page.ask(shown) == [str(int(before) + 1)] * len(page.ask(shown))


def test_a_drawing_tells_the_costs_of_the_part_that_is_pointed_at(tmp_path: Path, page: Browser) -> None:
    write_html(named_architecture("unet++"), tmp_path / "drawing.html")
    page.said.clear()
    page.open((tmp_path / "drawing.html").as_uri(), width=400)
    page.wait_for("document.querySelectorAll('.plot .main-svg').length > 0")
    assert page.ask(OVERFLOW) <= 0
    place = page.ask(
        """(() => {
        const words = [...document.querySelectorAll(".annotation-text")];
        const found = words.find((one) => one.textContent === "D1.2");
        const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height + 6]; })()"""
    )
    page.point_at(*place)
    page.wait_for("document.querySelector('.hoverlayer').textContent.includes('multiply-adds')")
    assert "D1.2" in page.ask("document.querySelector('.hoverlayer').textContent")
    assert page.said == []


def test_the_dashboard_shows_drawing_predictions_and_names_as_they_are(study: Path, page: Browser) -> None:
    with dashboard_server(study, port=0) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            page.said.clear()
            page.open(f"http://127.0.0.1:{server.server_port}/dashboard/studies/1/trials?numbers=0")
            page.wait_for("document.images.length >= 3 && [...document.images].every((one) => one.naturalWidth > 0)")
            words = page.wait_for("document.body.innerText.includes('multiply-adds') && document.body.innerText")
            assert HOSTILE in words
            assert "reads E0" in words
            assert page.ask("document.title") != "1"
            page.open(f"http://127.0.0.1:{server.server_port}/dashboard/studies/1")
            page.wait_for("document.body.innerText.includes('Skips of the best third')")
            assert page.said == []
        finally:
            server.shutdown()
            serving.join()
