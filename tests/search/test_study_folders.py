"""A path beside the one that a command wants is answered with the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Run, refusal

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.presets import PRESETS
from unetx_studies.store import open_store, study_url


@pytest.fixture
def studies(run: Run) -> Run:
    """Two studies below runs/, one with a best design; and the command line beside them."""
    for name in ("liver", "my spleen"):
        open_store(study_url(Path("runs", name)), create=True).close()
    Path("runs/liver/logs").mkdir()
    Architecture(isotropic_backbone(2), PRESETS["u-net"].genome(5)).save("runs/liver/best.json")
    return run


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["status", "runs/liver/study.db"], "runs/liver"),
        (["status", "runs/liver/best.json"], "runs/liver"),
        (["status", "runs/liver/logs"], "runs/liver"),
        (["status", "runs/livre"], "runs/liver"),
        (["status", "liver"], "runs/liver"),
        (["status", "runs"], "runs/liver, 'runs/my spleen'"),
        (["dashboard", "runs/liver/best.json"], "runs/liver"),
        (["dashboard", "runs/livr"], "runs/liver"),
        (["show", "runs/liver"], "runs/liver/best.json"),
        (["show", "runs/liver/study.db"], "runs/liver/best.json"),
        (["show", "runs/liver/bset.json"], "runs/liver/best.json"),
        (["show", "runs/livr/best.json"], "runs/liver/best.json"),
        (["show", "liver"], "runs/liver/best.json"),
        (["export", "runs/liver", "net.onnx"], "runs/liver/best.json"),
        (["export", "liver", "net.onnx"], "runs/liver/best.json"),
    ],
)
def test_the_path_that_was_meant_is_proposed(studies: Run, words: list[str], meant: str) -> None:
    assert refusal(studies, *words).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("words", [["status", "kidney"], ["show", "kidney.json"], ["dashboard", "runs/kidney"]])
def test_nothing_is_proposed_where_nothing_is_near(studies: Run, words: list[str]) -> None:
    answer = refusal(studies, *words)
    assert words[1] in answer
    assert "did you mean" not in answer


def test_a_study_without_a_best_design_says_so(studies: Run) -> None:
    assert "has no best.json yet" in refusal(studies, "show", "runs/my spleen")


@pytest.mark.parametrize("content", ["", '{"format": "unetx'])
def test_a_damaged_best_design_of_a_study_comes_back_with_its_next_run(studies: Run, content: str) -> None:
    Path("runs/liver/best.json").write_text(content)
    for words in (["show", "runs/liver/best.json"], ["export", "runs/liver/best.json", "net.onnx"]):
        assert refusal(studies, *words).endswith("; the next run of its study writes it anew")


def test_a_best_design_that_an_editor_gave_a_byte_order_mark_is_read(studies: Run) -> None:
    best = Path("runs/liver/best.json")
    best.write_bytes(b"\xef\xbb\xbf" + best.read_bytes())
    code, out, err = studies("show", best)
    assert (code, err) == (0, "")
    assert "5 levels" in out
