"""What training keeps, by formula, against what autograd really saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import ENCODER_BLOCKS, NORMS, isotropic_backbone
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.network import build
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.training_memory import training_memory

Dims = Literal[2, 3]
BATCH = 2
PATCHES: dict[int, tuple[int, ...]] = {2: (32, 40), 3: (16, 16, 20)}


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes of all storages that autograd saves for the backward pass, each once, those of parameters aside."""
    own = {value.untyped_storage().data_ptr() for value in (*network.parameters(), *network.buffers())}
    saved: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        output = network(x)  # keeps all that is saved alive, so that no address comes twice
    assert output.requires_grad
    return sum(saved.values())


def measured(architecture: Architecture, patch: tuple[int, ...]) -> float:
    """Bytes per patch."""
    x = torch.zeros(BATCH, architecture.backbone.in_channels, *patch)
    return saved_bytes(build(architecture), x) / BATCH


def three_levels(
    dims: Dims, attention: str = "none", *, genes: dict[str, str] | None = None, **knobs: Any
) -> Architecture:
    """D1 reads E0 and E1, D0 reads E0, with these genes in both."""
    nodes = (
        DecoderNode(decoder(1), encoder(2), (encoder(0), encoder(1)), Attention.parse(attention), **(genes or {})),
        DecoderNode(decoder(0), decoder(1), (encoder(0),), Attention.parse(attention), **(genes or {})),
    )
    return Architecture(replace(isotropic_backbone(dims, n_levels=3, base_width=8), **knobs), Genome(nodes))


def test_a_small_design_is_worked_by_hand() -> None:
    """On 4 x 4, widths 2 and 4: the image; of each convolution what its normalisation reads and its activation gives;
    the concatenated map. The transposed convolution and the head read what is kept already."""
    backbone = isotropic_backbone(2, n_levels=2, base_width=2)
    unet = Architecture(backbone, Genome((DecoderNode(decoder(0), encoder(1), (encoder(0),)),)))
    image, e0, e1, concatenated, d0 = 16, 2 * 2 * 2 * 16, 2 * 2 * 4 * 4, 4 * 16, 2 * 2 * 2 * 16
    n_values = image + e0 + e1 + concatenated + d0
    assert training_memory(unet, (4, 4)) == 4 * n_values
    assert training_memory(unet, (4, 4), bytes_per_value=2) == 2 * n_values


CASES: list[tuple[str, dict[str, str]]] = [
    *((f"{name}@{place}", {}) for name, spec in ATTENTIONS.items() for place in spec.placements),
    *(("none", {"upsampler": name}) for name in UPSAMPLERS),
    *(("none", {"fusion": name}) for name in FUSIONS),
    *(("none", {"alignment": name}) for name in ALIGNMENTS),
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("attention", "genes"), CASES, ids=str)
def test_every_operator_keeps_what_its_formula_says(attention: str, genes: dict[str, str], dims: Dims) -> None:
    """Within 3 %: values per channel, and the deformable upsampler's folded kernel, are left out."""
    architecture = three_levels(dims, attention, genes=genes)
    assert training_memory(architecture, PATCHES[dims]) == pytest.approx(
        measured(architecture, PATCHES[dims]), rel=0.03
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "knobs",
    [
        *({"norm": norm} for norm in NORMS),
        *({"encoder_block": block, "decoder_block": "residual"} for block in ENCODER_BLOCKS),
        {"encoder_block": "residual", "downsampling": "max-pool"},
        {"encoder_block": "resnet-d", "downsampling": "max-pool", "encoder_depth": (1, 2, 1)},
        {"source_width": 5},
        {"normalise_upsampled": True},
        {"negative_slope": 0.0},
    ],
    ids=str,
)
def test_every_knob_of_the_backbone_keeps_what_the_formula_says(knobs: dict[str, Any], dims: Dims) -> None:
    """Also on a size that no stride divides, where maps are cropped or padded."""
    architecture = three_levels(dims, **knobs)
    for patch in (PATCHES[dims], (19, 23, 17)[:dims]):
        assert training_memory(architecture, patch) == pytest.approx(measured(architecture, patch), rel=0.02)


def test_deformable_upsampling_keeps_nothing_of_its_taps_on_the_fine_grid() -> None:
    """There, 27 taps of 8 channels for D0 alone would be four times as much as its taps add on the coarse grid."""
    plain, deformable = (
        training_memory(three_levels(3, genes={"upsampler": name}), (16, 16, 16))
        for name in ("transposed", "deformable")
    )
    assert deformable - plain < 4 * 27 * 8 * 16**3 / 4
