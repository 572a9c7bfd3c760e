"""What the drawings, in SVG and in the terminal, say in words about an architecture and its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unetx_space import Architecture, DecoderNode, cost, relation
from unetx_space.operators.catalogue import Placement

PLACES: Mapping[Placement, str] = {"source": "on sources", "fused": "after fusion", "block": "after block"}


def operator_words(node: DecoderNode) -> tuple[str, str, str]:
    """Fusion, alignment and attention (``cbam on sources``) of a node, each empty where it has no effect."""
    has_finer, place = any(relation(source, node.ref) == "finer" for source in node.sources), node.attention.placement
    return (
        node.fusion if node.sources else "",
        node.alignment if has_finer else "",
        "" if place is None else f"{node.attention.type} {PLACES[place]}",
    )


def title(architecture: Architecture) -> str:
    """The title of an architecture: where it comes from, its dimensions and levels."""
    backbone, name = architecture.backbone, "architecture"
    preset, study, trial = (architecture.provenance.get(field) for field in ("preset", "study", "trial"))
    if isinstance(preset, str):
        name = printable(preset)
    elif isinstance(study, str) and isinstance(trial, int):
        name = f"{printable(study)}, trial {printable(str(trial), 12)}"
    return f"{name}: {backbone.dims}D, {backbone.n_levels} levels"


def captions(architecture: Architecture) -> tuple[str, str]:
    """Two lines on an architecture: its score and costs as far as they are known, and its backbone."""
    backbone, score = architecture.backbone, architecture.score.get("dice")
    patch = architecture.searched_patch
    costs = cost(architecture, patch or (2**backbone.n_levels,) * backbone.dims)
    worth = [f"Dice {score:.4f}"] if isinstance(score, float) else []
    worth.append(f"{short_number(costs.n_parameters)} parameters")
    if patch:
        worth.append(f"{short_number(costs.macs)} multiply-adds on {size_text(patch)}")
    return (
        " · ".join(worth),
        f"{counted(backbone.in_channels, 'channel')} in, {counted(backbone.out_channels, 'class', 'classes')} out · "
        f"{backbone.norm} norm · "
        f"{backbone.downsampling} down",
    )


def short_number(number: int) -> str:
    """A number in three digits with a unit of thousands, such as ``4.58 G``."""
    for unit, name in ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}" if number < 1000 * unit else f"{number // unit:,}{name}"
    return str(number)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 channel`` and ``2 channels``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def size_text(numbers: Iterable[int]) -> str:
    """A size or a stride, such as ``2×2×1``."""
    return "×".join(map(str, numbers))


def printable(text: str, limit: int = 40) -> str:
    """A stranger's text without control characters (which could steer a terminal, and XML forbids), cut to a limit."""
    clean = "".join(char for char in text if char.isprintable())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
