"""Architectures as users name them, and what commands show of them: drawings, costs, differences, presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetx_search.converters import MAX_NAME_BYTES
from unetx_space.architecture import Architecture
from unetx_space.backbone import MAX_LEVELS, Backbone, isotropic_backbone
from unetx_space.canonical import key
from unetx_space.cost import cost
from unetx_space.design_space import DesignSpace, space_facts
from unetx_space.documents import load
from unetx_space.errors import RequestError, unknown_name
from unetx_space.files import json_text, write_whole
from unetx_space.presets import PRESETS
from unetx_studies.drawing import differences, side_by_side, to_svg, to_text
from unetx_studies.drawing.captions import captions, size_text, title
from unetx_studies.study_folders import with_hint

DEFAULT_PATCH: Mapping[int, tuple[int, ...]] = {2: (128, 128), 3: (64, 64, 64)}
"""The patch, by dimensions, that costs refer to where an architecture was never searched."""


def named_architecture(name: str, n_levels: int = 5) -> Architecture:
    """Return the architecture in a file, or a preset on a 2D backbone of ``n_levels`` levels. Raises RequestError."""
    if name in PRESETS:
        if not 2 <= n_levels <= MAX_LEVELS:
            raise RequestError(f"--levels must lie in 2..{MAX_LEVELS}, got {n_levels}")
        return preset_on(isotropic_backbone(2, n_levels=n_levels), name, DEFAULT_PATCH[2])
    path = Path(name)
    if Path(path.name) == path and path.suffix == "" and (len(name) > MAX_NAME_BYTES or not path.exists()):
        error = RequestError(f"{unknown_name('preset', name, PRESETS)}; and there is no file of that name")
        raise with_hint(error, path) if len(name) <= MAX_NAME_BYTES else error
    return load_with_hint(path)


def named_architectures(name: str, other: str, n_levels: int = 5) -> tuple[Architecture, Architecture]:
    """Return two architectures to be compared; a preset beside a file gets the file's backbone. Raises RequestError."""
    first, second = named_architecture(name, n_levels), named_architecture(other, n_levels)
    if name in PRESETS and other not in PRESETS:
        return _preset_like(second, name), second
    if other in PRESETS and name not in PRESETS:
        return first, _preset_like(first, other)
    return first, second


def _preset_like(found: Architecture, preset: str) -> Architecture:
    """The preset on the backbone, and for the patch, of another architecture."""
    return preset_on(found.backbone, preset, found.searched_patch or DEFAULT_PATCH[found.backbone.dims])


def preset_on(backbone: Backbone, preset: str, patch: Sequence[int]) -> Architecture:
    """Return a preset on a backbone, with its title and the patch that its costs refer to."""
    provenance = {"preset": PRESETS[preset].title, "task": {"patch": list(patch)}}
    return Architecture(backbone, PRESETS[preset].genome(backbone.n_levels), provenance=provenance)


def load_with_hint(path: Path) -> Architecture:
    """Read an architecture file. Raises RequestError, which names the file that was probably meant."""
    try:
        return load(path)
    except RequestError as error:
        raise with_hint(error, path) from error


def _facts(architecture: Architecture) -> dict[str, Any]:
    patch = architecture.searched_patch or DEFAULT_PATCH[architecture.backbone.dims]
    full = cost(architecture, patch)
    return {
        "key": key(architecture),
        "n_parameters": full.n_parameters,
        "macs": full.macs,
        "patch": list(patch),
        "dice": architecture.score.get("dice"),
    }


def architecture_text(architecture: Architecture, *, ascii: bool = False) -> str:
    """Draw an architecture with its costs as text, and its key below."""
    return f"{to_text(architecture, ascii=ascii)}\n\nkey {key(architecture)}"


def architecture_json(architecture: Architecture) -> str:
    """Return an architecture's costs and its document as JSON."""
    return json_text({**_facts(architecture), "architecture": architecture.to_json()})


def difference_text(one: Architecture, other: Architecture) -> str:
    """Return scores and costs of two architectures, and how the first differs from the other, as text."""
    words = differences(one, other) or ["nothing: both are the same design"]
    lines = [f"  {name}: {' · '.join(captions(design))}" for name, design in ((title(one), one), (title(other), other))]
    return "\n".join([*lines, "", "What differs in the first:", *(f"  {told}" for told in words)])


def difference_json(one: Architecture, other: Architecture) -> str:
    """Return costs and documents of two architectures, and how the first differs from the other, as JSON."""
    both = [{**_facts(design), "architecture": design.to_json()} for design in (one, other)]
    return json_text({"one": both[0], "other": both[1], "differences": differences(one, other)})


def write_svg(architecture: Architecture, target: Path, other: Architecture | None = None) -> None:
    """Write an architecture's drawing as SVG, beside another's where one is given. Raises RequestError."""
    _write(target, to_svg(architecture) if other is None else side_by_side(architecture, other))


def write_html(architecture: Architecture, target: Path, other: Architecture | None = None) -> None:
    """Write a page whose drawing shows the costs of the part that is pointed at; another architecture's drawing, where
    one is given, comes below. Raises RequestError when the file cannot be written.
    """
    from unetx_studies.drawing.interactive import costs_by_part, part_rows, to_figure
    from unetx_studies.report.page import Page, Section, page_html

    sections = []
    for design in (architecture, *([other] if other else [])):
        patch = design.searched_patch or DEFAULT_PATCH[design.backbone.dims]
        note = f"Of one patch of {size_text(patch)}: point at a part, or look into the table."
        costs = costs_by_part(design, patch)
        table = ("part", "parameters", "multiply-adds", "kept for training"), part_rows(costs)
        sections.append(Section(title(design), note, to_figure(design, costs), table=table, is_folded=True))
    words = differences(architecture, other) if other else []
    page = Page(title(architecture), " · ".join(captions(architecture)), sections=sections, differences=words)
    _write(target, page_html(page))


def _write(target: Path, content: str) -> None:
    try:
        write_whole(target, content)
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from error


def space_json(space: DesignSpace) -> str:
    """Describe a design space as JSON."""
    return json_text(space_facts(space))


def presets_text() -> str:
    """List every preset's name, title and paper as text."""
    width = max(map(len, PRESETS))
    rows = [f"{preset.name:<{width}}  {preset.title} ({preset.paper})" for preset in PRESETS.values()]
    return "\n".join([*rows, "", "draw one with: unetx-search show NAME"])


def presets_json() -> str:
    """List every preset as JSON, with its genome for five levels."""
    return json_text(
        [
            {"name": p.name, "title": p.title, "paper": p.paper, "genome_of_5_levels": p.genome(5).to_json()}
            for p in PRESETS.values()
        ]
    )
