"""The generated pages, pictures and JSON Schema are those that the code would generate now."""

from __future__ import annotations

import importlib
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
from jsonschema import Draft202012Validator

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.presets import PRESETS

ROOT = Path(__file__).parents[1]
STALE = "{} is not what the code says; run: python docs/make_reference.py"
FAMILIES = {"attention": ATTENTIONS, "upsampler": UPSAMPLERS, "fusion": FUSIONS, "alignment": ALIGNMENTS}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("make_reference")
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def written(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    generator.write(folder)
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_generated_file_is_up_to_date(written: Path) -> None:
    for name in sorted(files_in(written)):
        assert (ROOT / name).is_file(), STALE.format(name)
        assert (ROOT / name).read_bytes() == (written / name).read_bytes(), STALE.format(name)


def test_nothing_else_lies_among_the_generated_files(written: Path) -> None:
    assert files_in(ROOT / "docs/reference") == files_in(written / "docs/reference"), STALE.format("docs/reference")


def test_what_is_generated_no_more_goes(generator: ModuleType, tmp_path: Path) -> None:
    old = tmp_path / "docs/reference/attention/gone.md"
    old.parent.mkdir(parents=True)
    old.write_text("an operator that was removed")
    generator.write(tmp_path)
    assert not old.exists()
    assert (old.parent / "se.md").exists()


def test_the_schema_is_in_the_package_and_accepts_what_is_written() -> None:
    schema = json.loads((ROOT / "space/unetx_space/architecture.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads((ROOT / "docs/architecture.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    unet = Architecture(isotropic_backbone(3, n_levels=4), PRESETS["u-net"].genome(4)).to_json()
    Draft202012Validator(schema).validate(unet)
    unet["genome"]["nodes"][0]["upsampler"] = "unknown"
    assert not Draft202012Validator(schema).is_valid(unet)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_has_a_page_with_its_equation_costs_limits_and_place(family: str) -> None:
    for name, spec in FAMILIES[family].items():
        page = (ROOT / f"docs/reference/{family}/{name}.md").read_text(encoding="utf-8")
        assert spec.title in page
        assert spec.equation in page
        assert spec.equation.count("$") >= 2
        assert "## Costs" in page
        assert "## Limits" in page
        assert spec.paper in page
        assert ("../pictures/" in page) is (name != "none")


def test_the_costs_are_those_of_the_literature() -> None:
    """C=64 to 32 on 64 x 64 and 32 x 32 x 32 sites: SPACE 1.2."""
    page = (ROOT / "docs/reference/upsampler/transposed.md").read_text(encoding="utf-8")
    assert "| 64 to 32 channels, 64x64 to 128x128 | 8,224 | 33,554,432 | 0 | 0 |" in page
    assert "| 64 to 32 channels, 32x32x32 to 64x64x64 | 16,416 | 536,870,912 | 0 | 0 |" in page


def test_every_link_and_picture_leads_to_a_file() -> None:
    for page in (ROOT / "docs/reference").rglob("*.md"):
        targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        for target in targets:
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/reference").rglob("*.svg")), ids=lambda path: path.stem)
def test_every_picture_is_well_formed(picture: Path) -> None:
    assert ET.fromstring(picture.read_text(encoding="utf-8")).tag.endswith("svg")


@pytest.mark.parametrize(
    ("picture", "marked"),
    [
        ("node", []),
        ("upsampler", ["upsampler"]),
        ("alignment", ["alignment"]),
        ("fusion", ["fusion"]),
        ("attention", ["attention"] * 5),
        ("attention-coarse-gate", ["attention"] * 3),
    ],
)
def test_a_picture_marks_where_its_operators_sit(picture: str, marked: list[str]) -> None:
    svg = ET.fromstring((ROOT / f"docs/reference/pictures/{picture}.svg").read_text(encoding="utf-8"))
    texts = svg.iter("{http://www.w3.org/2000/svg}text")
    assert [text.text for text in texts if text.get("class") == "marked"] == marked
