"""Writes what is generated from the code: the reference pages, the command line's help and the JSON Schema of an
architecture.

    python docs/make_reference.py

A test compares every file with what this would write, byte for byte.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from families import FAMILIES, CostRow, Family
from node_picture import node_svg

from unetx_search.cli import app
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.cost import cost
from unetx_space.design_space import SPACES
from unetx_space.documents import schema
from unetx_space.files import write_whole
from unetx_space.network import module_of
from unetx_space.operators.catalogue import Spec
from unetx_space.presets import PRESETS, Preset
from unetx_space.references import LEFT_OUT, REFERENCES
from unetx_studies.drawing import to_svg

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "docs/reference"
SCHEMAS = ("space/unetx_space/architecture.schema.json", "docs/architecture.schema.json")
"""In the package, and published."""
FLOAT_MIB = 4 / 2**20
PRESET_LEVELS = 5


def generated() -> dict[str, str]:
    """Every generated file: its path below the repository's root, and its text."""
    files = dict.fromkeys(SCHEMAS, json.dumps(schema(), indent=2) + "\n")
    files[f"{REFERENCE}/README.md"] = _index()
    files[f"{REFERENCE}/pictures/node.svg"] = node_svg("A decoder node", ())
    files[f"{REFERENCE}/presets.md"] = _presets_page()
    files[f"{REFERENCE}/command-line.md"] = _command_line_page()
    for preset in PRESETS.values():
        files[f"{REFERENCE}/presets/{preset.name}.svg"] = to_svg(_preset_architecture(preset))
    for family in FAMILIES:
        for name, spec in family.specs.items():
            files[f"{REFERENCE}/{family.name}/{name}.md"] = _page(family, spec)
            if picture := family.picture(spec):
                files[f"{REFERENCE}/pictures/{picture.name}.svg"] = node_svg(
                    picture.caption, picture.marked, picture.gate
                )
    return files


def write(root: Path) -> None:
    """All generated files below ``root``; what was generated once and is no more goes."""
    files = generated()
    for path in (root / REFERENCE).rglob("*.*"):
        if path.relative_to(root).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)


def _lines(*parts: str | Iterator[str]) -> str:
    """A Markdown page of paragraphs; a part that is empty is left out."""
    paragraphs = [part for group in parts for part in ([group] if isinstance(group, str) else group)]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]], numbers: int = 0) -> str:
    """A Markdown table whose last ``numbers`` columns are set to the right."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, tuple(rule), *rows))


def _page(family: Family, spec: Spec) -> str:
    """Of one operator."""
    return _lines(
        f"# {spec.title} (`{spec.name}`)",
        _plain(spec.note),
        spec.equation,
        f"{_capital(family.letters)} Back to [{family.title.lower()}](../README.md#{family.title.lower()}).",
        _picture(family, spec),
        "## Costs",
        _costs_table(family.costs(spec)),
        _keeping(spec),
        "## Limits",
        "\n".join(f"- {limit}" for limit in ("2D and 3D; any number of channels.", *family.limits(spec))),
        *_as_built(spec),
        *(("## Paper", f"{spec.paper}.") if spec.paper else ()),
    )


def _picture(family: Family, spec: Spec) -> str:
    picture = family.picture(spec)
    return f"![{picture.caption}](../pictures/{picture.name}.svg)" if picture else ""


def _costs_table(rows: Iterator[CostRow]) -> str:
    head = ("on one patch", "parameters", "multiply-adds of convolutions", "others", "kept for training, MiB")
    return _table(
        head,
        (
            (
                row.setting,
                f"{row.n_parameters:,}",
                f"{row.conv_macs:,}",
                f"{row.other_macs:,}",
                f"{row.saved_values * FLOAT_MIB:.3g}",
            )
            for row in rows
        ),
        numbers=4,
    )


def _keeping(spec: Spec) -> str:
    kept = [word for word, is_kept in (("input", spec.saves_input), ("output", spec.saves_output)) if is_kept]
    beside = f"its {' and '.join(kept)}, which " + ("is" if len(kept) == 1 else "are") if kept else ""
    return (
        "Other multiply-adds are those of sampling, pooling, gating and adding. Training keeps, in float32, what the "
        f"table says{f', and {beside} counted once for all that read it' if kept else ''}."
    )


def _as_built(spec: Spec) -> Iterator[str]:
    """The words of the module's docstring: what departs from the paper, and how it starts."""
    module = module_of(spec)
    if not module.__module__.startswith("unetx_space"):
        return  # torch's own
    yield f"## As built: `{module.__name__}`"
    text = inspect.getdoc(module) or ""
    yield from (_plain(paragraph.replace("\n", " ")) for paragraph in text.split("\n\n"))


def _plain(text: str) -> str:
    """A docstring's words as Markdown: outside of code, stars and brackets are themselves."""
    parts = text.split("``")
    for i, part in enumerate(parts):
        parts[i] = f"`{part}`" if i % 2 else _escaped(part)
    return "".join(parts)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "*[]<>_" else char for char in text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _index() -> str:
    return _lines(
        "# Reference",
        "Every operator that a decoder node can have, with its equation, costs, limits and paper; "
        "[presets](presets.md), the published designs; the [command line](command-line.md); and the "
        "[JSON Schema](../architecture.schema.json) of an architecture. Generated from the catalogue by "
        "`docs/make_reference.py`.",
        "A decoder node brings its coarser input up and its sources to its own grid, fuses them and convolves:",
        "![A decoder node](pictures/node.svg)",
        "## Spaces",
        _table(
            ("space", "nodes and sources", "note", "paper"),
            ((f"`{name}`", space.title, space.note, space.paper) for name, space in SPACES.items()),
        ),
        *(part for family in FAMILIES for part in _family_section(family)),
    )


def _family_section(family: Family) -> Iterator[str]:
    yield f"## {family.title}"
    yield family.does
    head = ("operator", "what it is", "note", "parameters", "multiply-adds")
    yield _table(head, (_index_row(family, spec) for spec in family.specs.values()), numbers=2)
    yield f"Costs: {next(family.costs(next(iter(family.specs.values())))).setting.partition(':')[0]}."


def _index_row(family: Family, spec: Spec) -> tuple[str, ...]:
    costs = next(family.costs(spec))
    link = f"[`{spec.name}`]({family.name}/{spec.name}.md)"
    return (
        link,
        _plain(spec.title),
        _plain(spec.note),
        f"{costs.n_parameters:,}",
        f"{costs.conv_macs + costs.other_macs:,}",
    )


def _preset_architecture(preset: Preset) -> Architecture:
    backbone = isotropic_backbone(2, n_levels=PRESET_LEVELS)
    return Architecture(backbone, preset.genome(PRESET_LEVELS), provenance={"preset": preset.name})


def _presets_page() -> str:
    return _lines(
        "# Presets",
        f"Published designs as functions of the number of levels, drawn here with {PRESET_LEVELS} in 2D and a base "
        "width of 32. Generated by `docs/make_reference.py`.",
        *(part for preset in PRESETS.values() for part in _preset_section(preset)),
        "## References",
        "With the backbone they were published with, these equal their reference implementations to the parameter, and "
        "those of MONAI in their outputs (`tests/space/test_parity.py`).",
        _table(
            ("network", "what it is", "parameters as built by default"),
            ((name, _first_sentence(build), f"{_n_parameters(build()):,}") for name, build in REFERENCES.items()),
            numbers=1,
        ),
        "Left out, because each would need something of the backbone that serves nothing else:",
        _table(("network", "what stands in the way: it"), iter(LEFT_OUT.items())),
    )


def _command_line_page() -> str:
    """The help of every command, as ``unetx-search COMMAND --help`` has it."""
    with patch.object(sys, "argv", ["unetx-search"]):  # usage lines begin with the program that is run
        help_text = app.generate_docs().replace("# unetx-search\n", "# Command line\n", 1)
    before, _, contents = help_text.partition("## Table of Contents")
    after = contents[contents.index("**Commands**") :]  # lists the commands with links, too
    return "\n".join(line.rstrip() for line in f"{before}{after}".splitlines()) + "\n"


def _preset_section(preset: Preset) -> Iterator[str]:
    yield f"## {preset.title} (`{preset.name}`)"
    yield preset.note
    yield f"![{preset.title}](presets/{preset.name}.svg)"
    yield f"Paper: {preset.paper}."


def _first_sentence(build: object) -> str:
    text = (inspect.getdoc(build) or "").split("\n\n")[0].replace("\n", " ")
    return _plain(text)


def _n_parameters(architecture: Architecture) -> int:
    return cost(architecture, (2**architecture.backbone.n_levels,) * architecture.backbone.dims).n_parameters


if __name__ == "__main__":
    write(ROOT)
