"""Alignments of finer sources as data."""

from __future__ import annotations

from collections.abc import Mapping

from unetx_space.operators.catalogue.spec import AlignmentSpec

ALIGNMENTS: Mapping[str, AlignmentSpec] = {
    "max": AlignmentSpec(
        name="max",
        title="Max pooling",
        note="Keeps small bright structures.",
        paper="Huang et al. 2020, UNet 3+, arXiv:2004.08790",
        out_channels=lambda channels, factor: channels,
        n_parameters=lambda channels, dims, factor: 0,
        conv_macs=lambda channels, dims, factor, sites: 0,
        other_macs=lambda channels, dims, factor, sites: channels * sites,
    ),
    "average": AlignmentSpec(
        name="average",
        title="Average pooling",
        note="Anti-aliases.",
        out_channels=lambda channels, factor: channels,
        n_parameters=lambda channels, dims, factor: 0,
        conv_macs=lambda channels, dims, factor, sites: 0,
        other_macs=lambda channels, dims, factor, sites: channels * sites,
    ),
}
