"""``export`` writes what its words ask for and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from unetx_search.models import export_command
from unetx_space import PRESETS, Architecture, isotropic_backbone, load
from unetx_studies.export import FORMATS

Run = Callable[..., tuple[int, str, str]]
NET = Architecture(isotropic_backbone(2, n_levels=2, base_width=4), PRESETS["u-net"].genome(2))


def test_the_command_offers_every_format() -> None:
    """Written out there, so that the command line starts without torch."""
    literal, _ = get_args(get_type_hints(export_command.export)["format"])
    assert get_args(literal) == tuple(FORMATS)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    NET.save(tmp_path / "best.json")
    return tmp_path / "best.json"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("net.py",), "wrote net.py (torch)\n  differs from torch by at most 0.0e+00\n"),
        (("net", "--format", "nnunet"), "wrote net (nnunet)\n  differs from torch by at most 0.0e+00\n"),
        (("net.dot",), "wrote net.dot (dot)\n"),
    ],
)
def test_the_ending_or_the_option_gives_the_format(words: tuple[str, ...], told: str, run: Run, document: Path) -> None:
    code, out, _ = run("export", document, *words)
    assert (code, out) == (0, told)
    assert [path.name for path in Path.cwd().iterdir()] == [words[0]]


def test_a_graph_tells_its_patch_its_sizes_and_its_script(run: Run, document: Path) -> None:
    code, out, _ = run("export", document, "net.pt2", "--patch", "16x13")
    assert code == 0
    assert "patch 16x13; any batch; size of an image: a multiple of 2, 13" in out
    assert "python net_run.py IMAGES -o FOLDER" in out
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["net.pt2", "net_run.py"]


def test_what_is_there_is_replaced_with_force_alone(run: Run, document: Path) -> None:
    Path("net.json").write_text("mine")
    code, _, err = run("export", document, "net.json")
    assert code == 2
    assert "net.json is there already; replace it with --force" in err
    assert Path("net.json").read_text() == "mine"
    assert run("export", document, "net.json", "--force")[0] == 0
    assert load("net.json") == NET


def test_an_unknown_ending_is_refused_with_those_that_are_known(run: Run, document: Path) -> None:
    replace(NET, provenance={}).save(document)
    code, _, err = run("export", document, "net.h5")
    assert code == 2
    assert "ends in none of .py, .onnx, .pt2" in err
