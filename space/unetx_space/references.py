"""Published networks in full: a preset's genome with the backbone it was published with.

Each equals its reference to the parameter, and those of MONAI in their outputs as well, once weights are copied over
(``tests/space/test_parity.py``; only the order of concatenation differs, which permutes weights). LEFT_OUT names the
networks that would need something of the backbone that serves nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.genome import Genome
from unetx_space.presets import attention_unet, unet, unet_3_plus, unet_plus_plus

Dims = Literal[2, 3]
Widths = tuple[int, ...]

VGG_WIDTHS: Widths = (64, 128, 256, 512, 1024)
"""Channels of the original U-Net by level (arXiv:1505.04597, figure 1)."""
BASIC_WIDTHS: Widths = (32, 32, 64, 128, 256)


def _backbone(dims: Dims, in_channels: int, out_channels: int, widths: Widths) -> Backbone:
    found = isotropic_backbone(dims, in_channels=in_channels, out_channels=out_channels, n_levels=len(widths))
    return replace(found, widths=widths)


def _with_upsampler(genome: Genome, upsampler: str) -> Genome:
    return Genome(tuple(replace(node, upsampler=upsampler) for node in genome.nodes))


def basic_unet(
    dims: Dims = 2,
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    widths: Widths = BASIC_WIDTHS,
    decoder_widths: Widths | None = None,
) -> Architecture:
    """MONAI's BasicUNet (Falk et al. 2019, doi:10.1038/s41592-018-0261-2).

    Its sixth feature is the first of ``decoder_widths``: features (64, 128, 256, 512, 1024, 128) are decoder widths of
    (128, 128, 256, 512).
    """
    backbone = replace(
        _backbone(dims, in_channels, out_channels, widths),
        downsampling="max-pool",
        conv_bias=True,
        negative_slope=0.1,
        decoder_widths=decoder_widths,
    )
    return Architecture(backbone, unet(len(widths)))


def basic_unet_plus_plus(
    dims: Dims = 2, *, in_channels: int = 1, out_channels: int = 2, widths: Widths = BASIC_WIDTHS
) -> Architecture:
    """MONAI's BasicUNetPlusPlus (Zhou et al. 2018, arXiv:1807.10165) with its four heads.

    It widens the upsampled maps of level 0 to the width of level 1, hence ``widths`` begin with two equal numbers.
    """
    plain = basic_unet(dims, in_channels=in_channels, out_channels=out_channels, widths=widths)
    return Architecture(replace(plain.backbone, deep_supervision=True), unet_plus_plus(len(widths)))


def dynunet(dims: Dims = 3, *, n_levels: int = 6, **shape: int) -> Architecture:
    """MONAI's DynUNet with plain blocks: nnU-Net's network (Isensee et al. 2021) without biases."""
    return Architecture(isotropic_backbone(dims, n_levels=n_levels, **shape), unet(n_levels))


def dynunet_residual(dims: Dims = 3, **shape: int) -> Architecture:
    """MONAI's DynUNet with ``res_block``: one residual block per encoder stage, a plain decoder."""
    plain = dynunet(dims, **shape)
    return replace(plain, backbone=replace(plain.backbone, encoder_block="residual", encoder_depth=1))


def nnunet(dims: Dims = 3, **shape: int) -> Architecture:
    """nnU-Net's PlainConvUNet (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), all its heads included."""
    plain = dynunet(dims, **shape)
    return replace(plain, backbone=replace(plain.backbone, conv_bias=True, deep_supervision=True))


def nnunet_resenc(dims: Dims = 3, **shape: int) -> Architecture:
    """nnU-Net's ResidualEncoderUNet (Isensee et al. 2024, arXiv:2404.09556), all its heads included."""
    plain = nnunet(dims, **shape)
    depths = (1, 3, 4, 6, 6, 6, 6, 6, 6)[: plain.backbone.n_levels]
    resenc = replace(plain.backbone, encoder_block="resnet-d", encoder_depth=depths, decoder_depth=1)
    return replace(plain, backbone=resenc)


def unet_2015(
    dims: Dims = 2, *, in_channels: int = 3, out_channels: int = 1, widths: Widths = VGG_WIDTHS
) -> Architecture:
    """U-Net as LeeJunHyun/Image_Segmentation has it: batch normalisation, nearest upsampling and a convolution."""
    backbone = replace(
        _backbone(dims, in_channels, out_channels, widths),
        norm="batch",
        downsampling="max-pool",
        conv_bias=True,
        negative_slope=0.0,
        normalise_upsampled=True,
    )
    return Architecture(backbone, _with_upsampler(unet(len(widths)), "nearest-conv"))


def attention_unet_2018(dims: Dims = 2, *, widths: Widths = VGG_WIDTHS, **channels: int) -> Architecture:
    """Attention U-Net (Oktay et al. 2018, arXiv:1804.03999) as LeeJunHyun/Image_Segmentation has it, its AttU_Net."""
    plain = unet_2015(dims, widths=widths, **channels)
    return Architecture(plain.backbone, _with_upsampler(attention_unet(len(widths)), "nearest-conv"))


def unet_3_plus_2020(dims: Dims = 2, *, widths: Widths = VGG_WIDTHS, **channels: int) -> Architecture:
    """UNet 3+ (Huang et al. 2020, arXiv:2004.08790): sources as wide as level 0, nodes as wide as all theirs."""
    plain = unet_2015(dims, widths=widths, **channels)
    n_levels = len(widths)
    backbone = replace(
        plain.backbone,
        source_width=widths[0],
        decoder_widths=(n_levels * widths[0],) * (n_levels - 1),
        decoder_depth=1,
        head_kernel=3,
    )
    return Architecture(backbone, unet_3_plus(n_levels))


REFERENCES: Mapping[str, Callable[..., Architecture]] = {
    "BasicUNet": basic_unet,
    "BasicUNetPlusPlus": basic_unet_plus_plus,
    "DynUNet": dynunet,
    "DynUNet residual": dynunet_residual,
    "nnU-Net": nnunet,
    "nnU-Net ResEnc": nnunet_resenc,
    "U_Net": unet_2015,
    "AttU_Net": attention_unet_2018,
    "UNet 3+": unet_3_plus_2020,
}
"""Published networks by the name of their reference implementation; each takes ``dims``, ``in_channels`` and
``out_channels``."""

LEFT_OUT: Mapping[str, str] = {
    "MONAI AttentionUnet": "merges by one convolution with PReLU and a normalisation of another kind than elsewhere",
    "MONAI UNet": "fuses before it upsamples, and has no skip at full resolution",
    "MONAI SegResNet": "normalises and activates before each convolution",
    "Attention U-Net of the authors (CT, 3D)": "has one head on the concatenation of all levels' logits",
    "segmentation_models.pytorch": "has classification encoders with their own stems and pretrained weights",
    "NestedUNet (4uiiurz1)": "upsamples without a projection, so that the upsampled maps are wider than their nodes",
    "UCTransNet": "has position embeddings tied to one image size",
    "BiO-Net and BiX-Net": "run the decoder several times and feed it back into the encoder",
}
"""Networks that are left out by name, each with what it would need of the backbone that serves nothing else."""
