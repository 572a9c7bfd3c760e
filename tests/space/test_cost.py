"""Costs against published counts, hand-worked sums, and built networks under torch's FLOP counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.cost import Cost, cost
from unetx_space.genome import Attention, DecoderNode, Genome, StageRef, decoder, encoder, plain_coarser
from unetx_space.operators.catalogue import UPSAMPLERS


def unet(backbone: Backbone) -> Architecture:
    levels = range(backbone.n_levels - 1)
    nodes = [DecoderNode(decoder(i), plain_coarser(i, backbone.n_levels), (encoder(i),)) for i in levels]
    return Architecture(backbone, Genome(tuple(nodes)))


def two_levels(
    *sources: StageRef, fusion: str = "concat", attention: str = "none", upsampler: str = "transposed"
) -> Architecture:
    """Two levels in 2D, widths 2 and 4, where every number can be worked by hand."""
    node = DecoderNode(decoder(0), encoder(1), sources, Attention.parse(attention), upsampler, fusion)
    return Architecture(isotropic_backbone(2, n_levels=2, base_width=2), Genome((node,)))


def test_a_small_design_is_worked_by_hand() -> None:
    """On 4 x 4: E0 9*(1+2)*2 + 8, E1 9*(2+4)*4 + 16, up 4*4*2, D0 9*(4+2)*2 + 8, head 2*2 + 2."""
    n_parameters = (54 + 8) + (216 + 16) + 32 + (108 + 8) + (4 + 2)
    conv_macs = 16 * 54 + 4 * 216 + 4 * 32 + 16 * 108 + 16 * 4
    assert cost(two_levels(encoder(0)), (4, 4)) == Cost(n_parameters, conv_macs, 0)


def test_sampling_gating_and_adding_are_priced() -> None:
    """16 voxels x 2 channels: interpolation 4 each, adding one source 1 each, SE one to pool and one to gate."""
    plain = cost(two_levels(encoder(0)), (4, 4))
    rich = cost(two_levels(encoder(0), fusion="sum", attention="se@source", upsampler="linear"), (4, 4))
    assert rich.other_macs == 16 * 2 * 4 + 16 * 2 + 2 * 16 * 2
    se, block = 2 * 2 * 4, 9 * 2 * 2  # two dense layers of 2 x 4; the first convolution reads 2 channels, not 4
    assert rich.conv_macs == plain.conv_macs - 4 * 24 + se - 16 * block  # the 1x1 upsampler has 8 weights, not 32
    assert rich.macs == rich.conv_macs + rich.other_macs


def test_max_pooling_in_the_encoder_is_priced_at_its_input() -> None:
    backbone = Backbone(2, 1, 2, (2, 4), ((1, 1), (2, 2)), downsampling="max-pool")
    assert cost(unet(backbone), (4, 4)).other_macs == 16 * 2


def with_backbone(**changes: Any) -> Cost:
    """U-Net on the two levels of the sums above, 4 x 4, with knobs of the backbone changed."""
    backbone = replace(isotropic_backbone(2, n_levels=2, base_width=2), **changes)
    return cost(unet(backbone), (4, 4))


PLAIN = with_backbone()


@pytest.mark.parametrize(
    ("changes", "parameters", "conv_macs", "other_macs"),
    [
        # one bias per output channel of the four convolutions of the encoder, the upsampler and two of the decoder
        ({"conv_bias": True}, 2 + 2 + 4 + 4 + 2 + 2 + 2, 0, 0),
        ({"encoder_depth": (2, 3)}, 9 * 4 * 4 + 8, 4 * 9 * 4 * 4, 0),
        ({"decoder_depth": 1}, -(9 * 2 * 2 + 4), -16 * 9 * 2 * 2, 0),
        # E0 1 -> 2 and E1 2 -> 4: a 1x1 convolution and a normalisation in one shortcut each; a sum per value
        (
            {"encoder_block": "residual", "encoder_depth": 1},
            (2 + 4) + (8 + 8),
            16 * 2 + 4 * 8,
            16 * 2 + 4 * 4,
        ),
        # the stem 1 -> 2, behind which E0 goes 2 -> 2 without a convolution in its shortcut; E1 pools its shortcut
        (
            {"encoder_block": "resnet-d", "encoder_depth": 1},
            (9 * 2 + 4) + 9 * 2 + (8 + 8),
            16 * 9 * 2 + 16 * 9 * 2 + 4 * 8,
            16 * 2 + 4 * 4 + 16 * 2,
        ),
        ({"decoder_block": "residual", "decoder_depth": 1}, 4 * 2 + 4, 16 * 4 * 2, 16 * 2),
        # up 4 -> 3 instead of 2, D0 reads 5 and has 3
        (
            {"decoder_widths": (3,)},
            16 * 1 + 9 * (5 * 3 + 3 * 3) + 12 - (9 * (4 * 2 + 2 * 2) + 8) + 2,
            4 * 16 + 16 * (9 * (5 * 3 + 3 * 3) - 9 * (4 * 2 + 2 * 2)) + 16 * 2,
            0,
        ),
        # up 4 -> 1 instead of 2, E0 2 -> 1 by 3x3 and a normalisation, D0 reads 2 instead of 4
        (
            {"source_width": 1},
            -16 + (9 * 2 + 2) - 9 * 2 * 2,
            -4 * 16 + 16 * 9 * 2 - 16 * 9 * 2 * 2,
            0,
        ),
        ({"normalise_upsampled": True}, 4, 0, 0),
        ({"head_kernel": 3}, 8 * 2 * 2, 16 * 8 * 2 * 2, 0),
        ({"deep_supervision": True}, 0, 0, 0),  # the output is the only node
    ],
)
def test_every_knob_of_the_backbone_is_priced_by_hand(
    changes: dict[str, Any], parameters: int, conv_macs: int, other_macs: int
) -> None:
    extra = Cost(parameters, conv_macs, other_macs)
    assert with_backbone(**changes) == PLAIN + extra


def test_a_coarser_source_is_interpolated_before_a_block_and_after_a_1x1_convolution() -> None:
    """E2 of 12 channels to D0 of 16 voxels, 4 values read for each: as it is before a block of width 5."""
    nodes = (DecoderNode(decoder(1), encoder(2)), DecoderNode(decoder(0), decoder(1), (encoder(2),)))
    backbone = Backbone(2, 1, 2, (3, 6, 12), ((1, 1), (2, 2), (2, 2)))
    assert cost(Architecture(backbone, Genome(nodes)), (4, 4)).other_macs == 16 * 4 * 3
    narrow = replace(backbone, source_width=5)
    assert cost(Architecture(narrow, Genome(nodes)), (4, 4)).other_macs == 16 * 4 * 12


def test_heads_for_deep_supervision_cost_parameters_only() -> None:
    backbone = isotropic_backbone(2, n_levels=4, base_width=2)
    plain, supervised = (cost(unet(replace(backbone, deep_supervision=on)), (16, 16)) for on in (False, True))
    assert supervised == plain + Cost((4 + 1) * 2 + (8 + 1) * 2, 0, 0)


def test_deformable_upsampling_is_mostly_sampling() -> None:
    """SPACE 1.2: 27 taps of 8 corners; in 2D per fine voxel 9 taps x (3 maps x 4 corners + 2 channels x (4 + 1))."""
    assert cost(two_levels(upsampler="deformable"), (4, 4)).other_macs == 16 * 9 * (3 * 4 + 2 * 5)


@pytest.mark.parametrize(
    ("name", "n_parameters", "macs"),
    [
        ("linear", 2_080, 8_388_608),
        ("transposed", 8_224, 33_554_432),
        ("pixel-shuffle", 73_856, 301_989_888),
    ],
)
def test_upsamplers_cost_what_the_literature_counts(name: str, n_parameters: int, macs: int) -> None:
    """The column C=64 -> 32, 64 x 64 sites of SPACE 1.2."""
    spec = UPSAMPLERS[name]
    assert spec.n_parameters(64, 32, (2, 2)) == n_parameters
    assert spec.conv_macs(64, 32, (2, 2), 64 * 64) == macs
