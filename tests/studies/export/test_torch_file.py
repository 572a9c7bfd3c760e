"""A network that leaves as one Python file is the network, and a file that stands alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from sampled_architectures import KINDS, Kind, sampled

from unetx_space import PRESETS, Architecture, RequestError, build, isotropic_backbone, loads
from unetx_space.operators.catalogue import ATTENTIONS, UPSAMPLERS
from unetx_space.references import REFERENCES
from unetx_studies.export.torch_file import import_file, torch_file

Dims = Literal[2, 3]
ODD: dict[int, tuple[int, ...]] = {2: (37, 26), 3: (19, 17, 21)}


def written(architecture: Architecture, folder: Path) -> ModuleType:
    path = folder / "net.py"
    path.write_text(torch_file(architecture), encoding="utf-8")
    return import_file(path)


def preset_of(name: str, dims: Dims) -> Architecture:
    backbone = isotropic_backbone(dims, n_levels=4, base_width=2)
    return Architecture(backbone, PRESETS[name].genome(4), provenance={"preset": name})


def check(architecture: Architecture, size: tuple[int, ...], folder: Path) -> None:
    """The same parameters by the same names with the same initial values, and the same answers to the bit."""
    network = build(architecture, seed=5)
    module = written(architecture, folder)
    found = module.Network(seed=5)
    state, expected = found.state_dict(), network.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    image = torch.randn(2, architecture.backbone.in_channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(found.eval()(image), network.eval()(image))
        if architecture.backbone.deep_supervision and hasattr(found, "forward_all"):
            pairs = zip(found.forward_all(image), network.forward_all(image), strict=True)
            assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_leaves_as_itself(name: str, dims: Dims, tmp_path: Path) -> None:
    check(preset_of(name, dims), ODD[dims], tmp_path)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_published_network_leaves_as_itself(name: str, tmp_path: Path) -> None:
    reference = REFERENCES[name](2)
    check(replace(reference, backbone=reference.backbone.scaled(1 / 16)), (65, 70), tmp_path)


@pytest.mark.parametrize(
    ("seed", "dims", "kind"),
    [
        pytest.param(seed, dims, kind, marks=[] if seed == 0 else pytest.mark.slow)
        for seed in range(9)
        for dims in (2, 3)
        for kind in KINDS
    ],
)
def test_random_architectures_leave_as_themselves(seed: int, dims: Dims, kind: Kind, tmp_path: Path) -> None:
    architecture, patch = sampled(seed, dims, kind)
    check(architecture, patch, tmp_path)


@pytest.mark.parametrize(
    "architecture",
    [preset_of("u-net", 2), preset_of("attention-u-net-grid", 3), *(sampled(1, 2, kind)[0] for kind in KINDS)],
    ids=["u-net", "attention-u-net-grid", *KINDS],
)
def test_the_file_passes_ruff_as_it_is_installed(architecture: Architecture, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(torch_file(architecture), encoding="utf-8")
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--isolated", "--no-cache", "net.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_file_runs_where_nothing_of_ours_is_and_reads_both_kinds_of_weights(tmp_path: Path) -> None:
    architecture = preset_of("unet++", 2)
    (tmp_path / "net.py").write_text(torch_file(architecture), encoding="utf-8")
    network = build(architecture, seed=9).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors", metadata={"of": "a test"})
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with torch.no_grad():
        torch.save(network(torch.ones(1, 1, 33, 18)), tmp_path / "expected.pt")
    code = (
        "import sys, torch, net\n"
        "expected = torch.load('expected.pt')\n"
        "for name in ('w.safetensors', 'w.pt'):\n"
        "    with torch.no_grad():\n"
        "        assert torch.equal(net.load(name)(torch.ones(1, 1, 33, 18)), expected)\n"
        "assert not any(name.startswith(('unetx', 'safetensors', 'monai')) for name in sys.modules)\n"
    )
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=free, check=True)


def test_the_written_network_trains(tmp_path: Path) -> None:
    network = written(preset_of("scse-u-net", 2), tmp_path).Network().train()
    assert isinstance(network, torch.nn.Module)
    image = torch.randn(2, 1, 32, 24, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(network.parameters(), 1e-2)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(network(image), (image[:, 0] > 0).long())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_docstring_has_the_document_and_the_papers_of_its_operators(tmp_path: Path) -> None:
    architecture = preset_of("attention-u-net", 2)
    text = written(architecture, tmp_path).__doc__ or ""
    assert loads(text[text.index("{\n") :]) == architecture
    assert PRESETS["attention-u-net"].paper in text
    assert ATTENTIONS["attention-gate"].paper in text
    assert ATTENTIONS["cbam"].paper not in text


def test_a_strangers_words_stay_words(tmp_path: Path) -> None:
    hostile = '"""\nimport os; os.environ["PWNED"] = "1"\n"""\\'
    architecture = replace(
        preset_of("u-net", 2),
        provenance={"study": hostile, "trial": 1, "preset": hostile, "note": hostile + "\u2028\x00"},
    )
    text = written(architecture, tmp_path).__doc__ or ""
    assert "PWNED" not in os.environ
    assert json.loads(text[text.index("{\n") :])["provenance"]["note"] == hostile + "\u2028\x00"


def test_an_operator_that_needs_another_package_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_upsampler.py").write_text(
        "import numpy as np\nfrom torch import nn\n\n\nclass Foreign(nn.Module):\n    scale = np.float32(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    foreign = replace(UPSAMPLERS["transposed"], module="foreign_upsampler:Foreign")
    monkeypatch.setitem(UPSAMPLERS, "transposed", foreign)
    with pytest.raises(RequestError, match=r"the operator transposed cannot be .*needs the package numpy"):
        torch_file(preset_of("u-net", 2))


@pytest.mark.parametrize("content", [b"", b"no weights", b'\x10\0\0\0\0\0\0\0{"a": 1}\n\n\n\n\n\n\n\n'])
def test_what_is_no_weights_is_refused_by_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match="neither a safetensors file nor a state dict"):
        written(preset_of("no-skip", 2), tmp_path).load(tmp_path / "w")
