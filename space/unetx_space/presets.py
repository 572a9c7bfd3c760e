"""Published designs in the language of any candidate, as functions that give a genome for a number of levels.

A preset is the searched half alone and goes with any backbone; ``references.py`` joins some with the backbone they were
published with. Presets that differ in the backbone only (nnU-Net and U-Net) have the same genome and so the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from unetx_space.errors import RequestError, unknown_name
from unetx_space.genome import (
    NO_ATTENTION,
    Attention,
    DecoderNode,
    Genome,
    StageRef,
    decoder,
    encoder,
    plain_coarser,
)
from unetx_space.operators.catalogue import PLAIN_FUSION, PLAIN_UPSAMPLER


@dataclass(frozen=True, slots=True)
class Preset:
    """A published design."""

    name: str
    title: str
    paper: str
    note: str
    """What it is, in one line."""
    genome: Callable[[int], Genome]
    """The function that gives the genome for a number of levels, 2 or more."""


def plain(
    n_levels: int,
    sources: Callable[[int], Iterable[StageRef]],
    *,
    attention: Attention = NO_ATTENTION,
    upsampler: str = PLAIN_UPSAMPLER,
    fusion: str = PLAIN_FUSION,
) -> Genome:
    """A plain decoder, one node per level, each with ``sources(level)`` less its own coarser input."""
    nodes = []
    for level in reversed(range(n_levels - 1)):
        coarser = plain_coarser(level, n_levels)
        kept = tuple(ref for ref in sources(level) if ref != coarser)
        nodes.append(DecoderNode(decoder(level), coarser, kept, attention, upsampler, fusion))
    return Genome(tuple(nodes))


def own_level(level: int) -> tuple[StageRef, ...]:
    """The sources of U-Net: the encoder stage of the node's level."""
    return (encoder(level),)


def no_skip(n_levels: int) -> Genome:
    """Encoder and decoder without any skip, against which the worth of skips is measured."""
    return plain(n_levels, lambda level: ())


def unet(n_levels: int) -> Genome:
    """Each decoder stage reads the encoder stage of its own level (arXiv:1505.04597, figure 1)."""
    return plain(n_levels, own_level)


def attention_unet(n_levels: int) -> Genome:
    """U-Net with a gate on every skip."""
    return plain(n_levels, own_level, attention=Attention("attention-gate", "source"))


def attention_unet_grid(n_levels: int) -> Genome:
    """The gates of the paper's figure 2: the coarser map before upsampling decides, and the top skip has none."""
    gated = plain(n_levels, own_level, attention=Attention("attention-gate-grid", "source"))
    return Genome(tuple(node if node.ref.level else replace(node, attention=NO_ATTENTION) for node in gated.nodes))


def unet_plus_plus(n_levels: int) -> Genome:
    """X^{i,j} reads all X^{i,k}, k < j, and upsampled X^{i+1,j-1} (arXiv:1807.10165, equation 1)."""
    nodes = []
    for i in reversed(range(n_levels - 1)):
        for j in range(1, n_levels - i):
            coarser = decoder(i + 1, j - 1) if j > 1 else encoder(i + 1)
            nodes.append(DecoderNode(decoder(i, j), coarser, (encoder(i), *(decoder(i, k) for k in range(1, j)))))
    return Genome(tuple(nodes))


def unet_3_plus(n_levels: int) -> Genome:
    """A node reads the encoder stages up to its level and all deeper decoder nodes (arXiv:2004.08790, equation 1)."""

    def sources(level: int) -> list[StageRef]:
        deeper = [decoder(below) for below in range(level + 1, n_levels - 1)]
        return [*map(encoder, range(level + 1)), *deeper, encoder(n_levels - 1)]

    return plain(n_levels, sources, upsampler="linear-conv")


def multi_path(n_levels: int) -> Genome:
    """The two finest nodes read several encoder stages, the finest the bottleneck as well; the others read their own.

    In the drawing of the text this project grew from, three of four decoder stages reach no output. Here its skips are
    kept, and its decoder stages are chained from coarse to fine.
    """
    wide = {0: (encoder(0), encoder(1), encoder(n_levels - 1)), 1: (encoder(0), encoder(1), encoder(2))}
    return plain(n_levels, lambda level: dict.fromkeys(wide.get(level, own_level(level))))


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "u-net",
            "U-Net",
            "Ronneberger et al. 2015, arXiv:1505.04597",
            "Each decoder stage reads the encoder stage of its own level.",
            unet,
        ),
        Preset(
            "no-skip",
            "Encoder-decoder without skips",
            "Drozdzal et al. 2016, arXiv:1608.04117",
            "What the skips are worth is measured against it.",
            no_skip,
        ),
        Preset(
            "u-net-no-top",
            "U-Net without the top skip",
            "Wilm et al. 2024, arXiv:2402.08276",
            "The finest decoder stage sees no full-resolution texture; generalises better on some data.",
            lambda n_levels: plain(n_levels, lambda level: own_level(level) if level else ()),
        ),
        Preset(
            "attention-u-net",
            "Attention U-Net",
            "Oktay et al. 2018, arXiv:1804.03999",
            "U-Net whose upsampled map gates every skip voxel by voxel.",
            attention_unet,
        ),
        Preset(
            "attention-u-net-grid",
            "Attention U-Net, gates on the coarse grid",
            "Oktay et al. 2018, arXiv:1804.03999",
            "The authors' gates: decided before upsampling, none on the top skip.",
            attention_unet_grid,
        ),
        Preset(
            "scse-u-net",
            "U-Net with scSE",
            "Roy et al. 2018, arXiv:1803.02579",
            "U-Net with channel and spatial attention behind every decoder block.",
            lambda n_levels: plain(n_levels, own_level, attention=Attention("scse", "block")),  # section 2
        ),
        Preset(
            "unet++",
            "UNet++",
            "Zhou et al. 2018, arXiv:1807.10165",
            "Nested columns of nodes between encoder and decoder, densely connected on each level.",
            unet_plus_plus,
        ),
        Preset(
            "unet-3+",
            "UNet 3+",
            "Huang et al. 2020, arXiv:2004.08790",
            "Every node reads all finer and equal encoder stages and all deeper decoder nodes.",
            unet_3_plus,
        ),
        Preset(
            "dense",
            "Dense skips",
            "Huang et al. 2020, arXiv:2004.08790, without its decoder-to-decoder skips",
            "Every node reads every encoder stage.",
            lambda n_levels: plain(n_levels, lambda level: map(encoder, range(n_levels))),
        ),
        Preset(
            "multi-path",
            "Multi-path skips",
            "the text this project grew from, repaired",
            "The two finest nodes read several encoder stages each, the others their own.",
            multi_path,
        ),
        Preset(
            "fpn",
            "Feature pyramid decoder",
            "Lin et al. 2017, arXiv:1612.03144",
            "Lateral sums with a nearest-upsampled map.",
            lambda n_levels: plain(n_levels, own_level, upsampler="nearest", fusion="sum"),  # section 3
        ),
        Preset(
            "linknet",
            "LinkNet",
            "Chaurasia and Culurciello 2017, arXiv:1707.03718",
            "Sums instead of concatenation, so that blocks are half as wide.",
            lambda n_levels: plain(n_levels, own_level, fusion="sum"),  # figure 1
        ),
        Preset(
            "segresnet",
            "SegResNet",
            "Myronenko 2018, arXiv:1810.11654",
            "Sums with a linearly upsampled map.",
            lambda n_levels: plain(n_levels, own_level, upsampler="linear", fusion="sum"),  # section 2.2
        ),
        Preset(
            "nnu-net",
            "nnU-Net",
            "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
            "U-Net; what makes it nnU-Net is the backbone and the training.",
            unet,
        ),
        Preset(
            "nnu-net-resenc",
            "nnU-Net with residual encoder",
            "Isensee et al. 2024, arXiv:2404.09556",
            "U-Net; its residual encoder is part of the backbone.",
            unet,
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises RequestError naming the nearest one."""
    if name not in PRESETS:
        raise RequestError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]
