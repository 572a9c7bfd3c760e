"""Fusions as data."""

from __future__ import annotations

from collections.abc import Mapping

from unetx_space.operators.catalogue.spec import FusionSpec

FUSIONS: Mapping[str, FusionSpec] = {
    "concat": FusionSpec(
        name="concat",
        title="Concatenation",
        note="Keeps every channel; the block's first convolution mixes them.",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        equal_widths=False,
        out_channels=sum,
        n_parameters=lambda n_inputs, channels: 0,
        conv_macs=lambda n_inputs, channels, sites: 0,
        other_macs=lambda n_inputs, channels, sites: 0,
    ),
    "sum": FusionSpec(
        name="sum",
        title="Sum",
        note="Lighter block; equals concatenation followed by a 1x1 convolution when the sources are projected.",
        paper="Chaurasia and Culurciello 2017, LinkNet, arXiv:1707.03718",
        equal_widths=True,
        out_channels=lambda channels: channels[0],
        n_parameters=lambda n_inputs, channels: 0,
        conv_macs=lambda n_inputs, channels, sites: 0,
        other_macs=lambda n_inputs, channels, sites: (n_inputs - 1) * channels * sites,
    ),
}
