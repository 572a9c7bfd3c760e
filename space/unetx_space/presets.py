"""Published designs, written in the language of any candidate: functions of the number of levels that give a genome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unetx_space.errors import RequestError, unknown_name
from unetx_space.genome import DecoderNode, Genome, decoder, encoder, plain_coarser


@dataclass(frozen=True, slots=True)
class Preset:
    """A published design."""

    name: str
    title: str
    paper: str
    genome: Callable[[int], Genome]
    """From the number of levels."""


def unet(n_levels: int) -> Genome:
    """Each decoder stage reads the encoder stage of its own level (arXiv:1505.04597, figure 1)."""
    return Genome(
        tuple(
            DecoderNode(decoder(level), plain_coarser(level, n_levels), sources=(encoder(level),))
            for level in reversed(range(n_levels - 1))
        )
    )


def no_skip(n_levels: int) -> Genome:
    """The same encoder and decoder without any skip: what the skips are worth is measured against it."""
    return Genome(
        tuple(DecoderNode(decoder(level), plain_coarser(level, n_levels)) for level in reversed(range(n_levels - 1)))
    )


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("u-net", "U-Net", "Ronneberger et al. 2015, arXiv:1505.04597", unet),
        Preset("no-skip", "Encoder-decoder without skips", "Drozdzal et al. 2016, arXiv:1608.04117", no_skip),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises RequestError naming the nearest one."""
    if name not in PRESETS:
        raise RequestError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]
