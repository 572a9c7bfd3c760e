"""The command line: what it prints, its exit codes, and that bad input writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command_line import Run, refusal
from PIL import Image

from unetx_space import load
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.design_space import design_space, n_designs, narrowed
from unetx_space.presets import PRESETS

nib: Any = nibabel
"""Typed in part only, which strict mypy does not take."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A dataset of eight small images, each a bright square to be found."""
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        image = rng.integers(0, 60, (40, 36)).astype(np.uint8)
        mask = np.zeros_like(image)
        top, left = rng.integers(4, 20, 2)
        mask[top : top + 12, left : left + 12] = 255
        image[mask > 0] += 120
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


def test_a_path_that_is_not_there(run: Run) -> None:
    assert "nowhere" in refusal(run, "--data", "nowhere")


def test_a_folder_of_no_known_layout(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no images here")
    assert "dataset.json" in refusal(run, "--data", tmp_path / "notes")


def test_an_image_without_its_mask(run: Run, pictures: Path) -> None:
    (pictures / "masks" / "3.png").unlink()
    assert "3.png" in refusal(run, "--data", pictures)


def test_shapes_that_differ(run: Run, pictures: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(pictures / "masks" / "3.png")
    answer = refusal(run, "--data", pictures)
    assert "3.png" in answer
    assert "9" in answer


def test_a_broken_nifti(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "msd"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    training = []
    for number in range(6):
        name = f"case_{number}.nii.gz"
        volume = np.random.default_rng(number).normal(size=(12, 12, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / "imagesTr" / name)
        nib.save(nib.Nifti1Image((volume > 1).astype(np.uint8), np.eye(4)), folder / "labelsTr" / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "name": "t",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "x"},
        "training": training,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    broken = folder / "imagesTr" / "case_2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:1500])
    assert "case_2.nii.gz" in refusal(run, "--data", folder)


def test_more_gpus_than_there_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # where nvidia-smi would be found
    answer = refusal(run, "--gpus", "4")
    assert "4" in answer
    assert "--gpus 0" in answer


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--trials", "-1"], "at least 1"),
        (["--trials", "many"], "many"),
        (["--pruner", "medain"], 'Did you mean "median"'),
        (["--sampler", "tpee"], 'Did you mean "tpe"'),
        (["--trails", "3"], "--trials"),
        (["--gpus", "some"], "some"),
        (["--attention", "none,ecaa"], "did you mean 'eca'"),
        (["--upsampler", ""], "at least one name"),
        (["--space", "nestd"], 'Did you mean "nested"'),
        (["show", "--space", "nestd"], "did you mean 'nested'"),
        (["--labels", "cell", "--data", "."], "cell"),
        (["--spacing", "1xone"], "--spacing"),
        (["--patch", "8x8.5"], "--patch"),
        (["--dims", "4"], "--dims"),
        (["doctor", "--clean", "stael"], 'Did you mean "stale"'),
        (["shwo", "u-net"], "show"),
        (["show", "u-nett"], "did you mean 'u-net'"),
        (["show", "absent.json"], "absent.json"),
        (["dashboard", "absent"], "absent"),
        (["dashboard", "absent", "--host", "0.0.0.0"], "ssh -L 8080:127.0.0.1:8080"),
        (["status", "absent"], "absent"),
        (["--max-hours", "0"], "above 0"),
        (["--deterministic", "0"], "at least 1"),
    ],
)
def test_an_unknown_value_is_answered_with_the_way_out(run: Run, words: list[str], fact: str) -> None:
    assert fact in refusal(run, *words)


def test_a_damaged_best_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text('{"format": "unetx.architecture"')
    assert "not JSON" in refusal(run, "show", path)
    assert "not JSON" in refusal(run, "export", path, tmp_path / "net.onnx")


def test_a_best_json_that_names_an_unknown_operator(run: Run, tmp_path: Path) -> None:
    document = Architecture(isotropic_backbone(2), PRESETS["u-net"].genome(5)).to_json()
    document["genome"]["nodes"][1]["upsampler"] = "transposd"
    path = tmp_path / "best.json"
    path.write_text(json.dumps(document))
    answer = refusal(run, "show", path)
    assert "genome.nodes[1].upsampler" in answer
    assert "did you mean 'transposed'" in answer


@pytest.mark.slow
def test_a_search_on_pictures_ends_with_a_ranking_and_files(run: Run, pictures: Path) -> None:
    words = ("--data", pictures, "--trials", 3, "--gpus", 0, "--steps", 4, "--batch-size", 2, "--width-factor", 0.125)
    code, out, err = run(*words)
    assert code == 0, err
    assert "squares: done: 3 of 3 trials" in out
    assert "preset u-net" in out
    assert "preset no-skip" in out
    assert "trial   2" in err
    assert load(Path("runs/squares/best.json")).backbone.in_channels == 1
    code, out, _ = run(*words)
    assert code == 0
    assert "the study is complete" in out
    code, out, _ = run(*words, "--json")
    assert json.loads(out)["n_finished"] == 3
    code, out, _ = run("status", "runs/squares")
    assert code == 0
    assert out.startswith("squares: complete")
    code, out, _ = run("status", "runs/squares", "--json")
    assert json.loads(out)["n_finished"] == 3
    code, out, _ = run("status", "runs/squares", "--decisions")
    assert len(out.splitlines()) == 3
    code, out, _ = run("show", "runs/squares/best.json", "--svg", "best.svg")
    assert code == 0
    assert "parameters" in out
    assert Path("best.svg").read_text().startswith("<svg")


def test_two_designs_are_shown_with_what_differs(run: Run) -> None:
    code, out, _ = run("show", "attention-u-net", "u-net", "--svg", "both.svg", "--html", "both.html")
    assert code == 0
    assert "D3 attention attention-gate on sources instead of none." in out
    assert Path("both.svg").read_text().count("<svg") == 3
    assert Path("both.html").read_text().count('class="plot"') == 2
    facts = json.loads(run("show", "u-net", "attention-u-net", "--json")[1])
    assert facts["other"]["n_parameters"] > facts["one"]["n_parameters"]
    assert len(facts["differences"]) == 4
    assert "did you mean 'u-net'" in refusal(run, "show", "u-net", "u-nett")


def test_a_preset_is_compared_with_a_file_on_the_files_backbone(run: Run) -> None:
    volumes = isotropic_backbone(3, n_levels=3, base_width=8, in_channels=2)
    Architecture(volumes, PRESETS["no-skip"].genome(3)).save(Path("design.json"))
    for words in (("u-net", "design.json"), ("design.json", "u-net")):
        facts = json.loads(run("show", *words, "--json")[1])
        assert len(facts["differences"]) == 2, "two skips, and nothing of the backbone"
        assert all("E0" in one or "E1" in one for one in facts["differences"])


def test_presets_are_listed_and_drawn(run: Run) -> None:
    code, out, _ = run("presets")
    assert code == 0
    assert all(name in out for name in PRESETS)
    assert {preset["name"] for preset in json.loads(run("presets", "--json")[1])} == set(PRESETS)
    for name in PRESETS:
        code, out, _ = run("show", name, "--ascii")
        assert code == 0
        assert out.isascii()
        assert all(stage in out for stage in ("E0", "E4", "D0", "D3"))
    assert json.loads(run("show", "u-net", "--json")[1])["n_parameters"] > 1_000_000


@pytest.mark.parametrize("name", ["default", "full-scale", "nested"])
def test_a_space_is_told_with_genes_choices_and_its_exact_size(run: Run, name: str) -> None:
    words = ("show", "--space", name, "--levels", 4, "--attention", "none,se@block", "--upsampler", "linear")
    code, out, _ = run(*words)
    assert code == 0
    assert all(fact in out for fact in ("designs", "genes", "se@block", "upsampler  linear"))
    told = json.loads(run(*words, "--json")[1])
    assert told["n_designs"] == n_designs(
        narrowed(design_space(name, 4), attention="none,se@block", upsampler="linear")
    )


def test_show_without_anything_to_show_says_what_it_needs(run: Run) -> None:
    assert "--space" in refusal(run, "show")
    assert "2..9" in refusal(run, "show", "u-net", "--levels", 1)


def test_options_come_from_a_toml_file_and_the_command_line_wins(run: Run) -> None:
    settings = Path("search.toml")
    settings.write_text('gpus = 7\nspace = "nested"\nattention = "none,se"\n')
    assert "7" in refusal(run, "--config", settings)
    assert "9" in refusal(run, "--config", settings, "--gpus", 9)
    settings.write_text('attention = ["none", "ecaa"]\n')
    assert "did you mean 'eca'" in refusal(run, "--config", settings)
    settings.write_text("spacing = [1.0, 0.0, 1]\n")
    assert "--spacing must be two or three lengths above 0, got (1.0, 0.0, 1.0)" in refusal(run, "--config", settings)
    settings.write_text("trails = 3\n")
    assert "Did you mean --trials" in refusal(run, "--config", settings)
    settings.write_text("trials = [\n")
    assert "no TOML file" in refusal(run, "--config", settings)
    assert "cannot be read" in refusal(run, "--config", "absent.toml")


def test_doctor_tells_of_the_machine_and_of_good_and_bad_data(run: Run, pictures: Path) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert "torch" in out
    assert "workers" in out
    code, out, _ = run("doctor", "--data", pictures, "--json")
    assert code == 0
    assert json.loads(out)["data"]["dims"] == 2
    (pictures / "masks" / "3.png").unlink()
    code, out, _ = run("doctor", "--data", pictures)
    assert code == 2
    assert "3.png" in out
    assert list(Path.cwd().iterdir()) == []


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].strip()
    code, out, _ = run("--help")
    assert code == 0
    assert all(option in out for option in ("--trials", "--gpus", "--data", "show", "export", "dashboard"))
