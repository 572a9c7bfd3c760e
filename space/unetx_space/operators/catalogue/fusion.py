"""Fusions as data.

A node without sources has one input, and every fusion of one input is that input: no parameters, nothing to compute.
"""

from __future__ import annotations

from collections.abc import Mapping

from unetx_space.operators.catalogue.spec import FusionSpec, by_name


def _weighted(n_inputs: int, channels: int, sites: int) -> int:
    """Multiply-adds of a weighted sum."""
    return n_inputs * channels * sites if n_inputs > 1 else 0


# Not by default: ``mean`` is ``sum`` times a constant that the block's first normalised convolution absorbs, ``bifpn``
# nearly so.
FUSIONS: Mapping[str, FusionSpec] = by_name(
    FusionSpec(
        name="concat",
        module="unetx_space.operators.fusion:Concat",
        by_default=True,
        title="Concatenation",
        note="Keeps every channel; the block's first convolution mixes them.",
        equation=r"$y = [x_1 ; \ldots ; x_n ; u]$",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        equal_widths=False,
        out_channels=sum,
        saves_input=False,
    ),
    FusionSpec(
        name="sum",
        module="unetx_space.operators.fusion:Sum",
        by_default=True,
        title="Sum",
        note="Lighter block; equals concatenation followed by a 1x1 convolution when the sources are projected.",
        equation=r"$y = x_1 + \ldots + x_n + u$",
        paper="Chaurasia and Culurciello 2017, LinkNet, arXiv:1707.03718",
        other_macs=lambda n_inputs, channels, sites: (n_inputs - 1) * channels * sites,
        saves_input=False,
    ),
    FusionSpec(
        name="mean",
        module="unetx_space.operators.fusion:Mean",
        title="Mean",
        note="A sum whose scale does not grow with the number of sources.",
        equation=r"$y = (x_1 + \ldots + x_n + u) / (n + 1)$",
        paper="Wang et al. 2021, BiX-NAS, arXiv:2106.14033",
        other_macs=_weighted,
        saves_input=False,
    ),
    FusionSpec(
        name="bifpn",
        module="unetx_space.operators.fusion:BiFPN",
        title="Fast normalised fusion",
        note="A mean whose shares are learned, one weight per input.",
        equation=r"$y = \sum_i w_i x_i / (\sum_j w_j + 10^{-4})$ with $w = \mathrm{relu}(p)$, $u$ the last $x_i$",
        paper="Tan et al. 2020, EfficientDet, arXiv:1911.09070, section 3.3",
        n_parameters=lambda n_inputs, channels: n_inputs if n_inputs > 1 else 0,
        other_macs=_weighted,
    ),
    FusionSpec(
        name="gated",
        module="unetx_space.operators.fusion:Gated",
        by_default=True,
        decision=("gate", 0),
        title="Gated fusion",
        note="A mean whose shares are decided anew at every voxel, by a 1x1 convolution of all inputs.",
        equation=r"$y = \sum_i a_i x_i$ with $a = \mathrm{softmax}(W [x_1 ; \ldots ; u] + b, 0)$, $u$ the last $x_i$",
        paper="Lu et al. 2022, FADE, arXiv:2207.10392",
        n_parameters=lambda n_inputs, channels: (n_inputs - 1) * (n_inputs * channels + 1),
        conv_macs=lambda n_inputs, channels, sites: (n_inputs - 1) * n_inputs * channels * sites,
        other_macs=_weighted,
        saved_values=lambda n_inputs, channels, sites: n_inputs * sites,
    ),
)
