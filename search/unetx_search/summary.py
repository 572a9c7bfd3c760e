"""What the command line prints: the same facts as text for people and as JSON for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_search.caution import WIDTH, caution, evidence_facts
from unetx_search.cheapest import cheapest_words
from unetx_search.config import FIRST_PRESETS
from unetx_search.reading_words import MOST_NAME_BYTES
from unetx_space.architecture import Architecture
from unetx_space.backbone import MAX_LEVELS, isotropic_backbone
from unetx_space.canonical import key
from unetx_space.cost import cost
from unetx_space.design_space import DesignSpace, space_facts
from unetx_space.documents import load
from unetx_space.errors import RequestError, command, unknown_name
from unetx_space.files import json_text, write_whole
from unetx_space.presets import PRESETS
from unetx_studies.drawing import differences, side_by_side, to_svg, to_text
from unetx_studies.drawing.captions import captions, size_text, title
from unetx_studies.evidence import evidence
from unetx_studies.ranking import outcome_counts
from unetx_studies.study_folders import BEST, CHEAPEST, with_hint

if TYPE_CHECKING:
    from unetx_search.run import Summary
    from unetx_studies.export import Exported
    from unetx_studies.ranking import Ranked

N_RANKED = 5
RANKED_BY = (
    "Ranked by the estimate: the mean Dice over seeds, pulled towards the mean of all designs by as much as seeds and "
    "designs vary; +- is its standard error."
)
USUAL_PATCH: Mapping[int, tuple[int, ...]] = {2: (128, 128), 3: (64, 64, 64)}
"""What costs are told for where an architecture was never searched."""


def summary_text(summary: Summary) -> str:
    """The end of a search on one screen: ranking, the reference designs, honest words, where to go from here."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcome_counts(summary.evaluations).items())
    if summary.was_stopped:
        head = f"stopped: {len(summary.evaluations)} of {summary.n_trials} trials are done"
    elif summary.ran_out_of_time:
        head = f"the time is up: {len(summary.evaluations)} of {summary.n_trials} trials are done"
    elif summary.was_complete:
        head = f"the study is complete: {len(summary.evaluations)} of {summary.n_trials} trials were done before"
    else:
        head = f"done: {len(summary.evaluations)} of {summary.n_trials} trials"
    lines = [f"{summary.study}: {head} ({counts or 'none yet'})", ""]
    lines += _ranking(summary)
    lines += _on_original_voxels(summary)
    lines += caution(evidence(summary.evaluations))
    lines += _cheapest(summary)
    for warning in summary.warnings:
        lines += ["", f"Warning: {warning}"]  # in one line, so that the option in it can be copied
    lines += ["", *_where_to_go(summary)]
    return "\n".join(lines)


def _ranking(summary: Summary) -> list[str]:
    designs = summary.ranking.designs
    if not designs:
        return ["no trial completed, so there is no best architecture"]
    shown = list(designs[:N_RANKED])
    others = [*map(summary.preset, FIRST_PRESETS), summary.cheapest.design if summary.cheapest else None]
    for one in sorted((one for one in others if one is not None and one not in shown), key=designs.index):
        shown.append(one)
    lines = [
        f"{'rank':>5}  {'trial':>5}  {'estimate':>8}  {'+-':>6}  {'seeds':>5}  {'Dice':>6}  {'seconds':>7}  design"
    ]
    for one in shown:
        lines.append(
            f"{designs.index(one) + 1:>5}  {one.number:>5}  {one.estimate:>8.4f}  {one.standard_error:.4f}  "
            f"{len(one.seeds):>5}  {one.dice:.4f}  {one.first.seconds:>7.0f}  {one.key[:12]}  {one.origin}"
        )
    return [*lines, "", *textwrap.wrap(RANKED_BY, WIDTH)]


def _cheapest(summary: Summary) -> list[str]:
    if summary.cheapest is None:
        return []
    words = cheapest_words(summary.cheapest.facts)
    return ["", *textwrap.wrap(f"Cheapest: {words}.", WIDTH)]


def _on_original_voxels(summary: Summary) -> list[str]:
    """The scores of the best design and of U-Net before any resampling, where that makes a difference."""
    told = []
    best, unet = summary.best, summary.preset("u-net")
    for name, one in (("the best", best), ("U-Net", unet if unet != best else None)):
        if one is not None and one.original_dice not in (None, one.dice):
            told.append(f"{one.original_dice:.4f} ({name}, trial {one.number})")
    return ["", f"on the original voxels: {', '.join(told)}"] if told else []


def _where_to_go(summary: Summary) -> list[str]:
    best = summary.folder / BEST
    lines = [f"  study      {summary.database}"]
    if summary.best is not None:
        lines += [
            f"  best       {best}",
            f"  report     {summary.folder / 'report.html'}",
            f"  look       {command('unetx-search', 'show', best)}",
            f"  export     {command('unetx-search', 'export', best, 'best.onnx')}",
        ]
    if summary.cheapest is not None and summary.cheapest.design is not None:
        lines.append(f"  cheapest   {summary.folder / CHEAPEST}")
    if len(summary.ranking.designs) > 1:
        lines.append(f"  finals     {command('unetx-search', 'finals', summary.folder)}")
    lines.append(f"  dashboard  {command('unetx-search', 'dashboard', summary.folder)}")
    if summary.was_stopped or summary.ran_out_of_time:
        lines.append("  continue   run the same command again; interrupted trials are run under the same numbers")
    return lines


def summary_json(summary: Summary) -> str:
    """The facts of ``summary_text`` and every evaluation."""
    best = summary.best
    return json_text(
        {
            "study": summary.study,
            "folder": str(summary.folder),
            "database": summary.database,
            "n_trials": summary.n_trials,
            "n_finished": len(summary.evaluations),
            "was_complete": summary.was_complete,
            "was_stopped": summary.was_stopped,
            "ran_out_of_time": summary.ran_out_of_time,
            "warnings": list(summary.warnings),
            **best_facts(best),
            "cheapest": summary.cheapest.facts if summary.cheapest else None,
            "evidence": evidence_facts(evidence(summary.evaluations)),
            "evaluations": [
                {
                    "trial": record.number,
                    "outcome": record.outcome,
                    "reason": record.reason,
                    "dice": record.score,
                    "original_dice": record.original_dice,
                    "origin": str(record.origin),
                    "key": record.key,
                    "seed": record.seed,
                    "seconds": record.seconds,
                }
                for record in summary.evaluations
            ],
        }
    )


def best_facts(best: Ranked | None) -> dict[str, Any]:
    """The best design, for machines; None where there is none."""
    return {
        "best_trial": best.number if best else None,
        "best_estimate": best.estimate if best else None,
        "best_standard_error": best.standard_error if best else None,
        "best_seeds": list(best.seeds) if best else None,
        "best_dice": best.dice if best else None,
        "best_original_dice": best.original_dice if best else None,
    }


def named_architecture(name: str, n_levels: int = 5) -> Architecture:
    """An architecture file, or a preset on a 2D backbone of so many levels. Raises RequestError."""
    if name in PRESETS:
        if not 2 <= n_levels <= MAX_LEVELS:
            raise RequestError(f"--levels must lie in 2..{MAX_LEVELS}, got {n_levels}")
        backbone = isotropic_backbone(2, n_levels=n_levels)
        provenance = {"preset": PRESETS[name].title, "task": {"patch": list(USUAL_PATCH[2])}}
        return Architecture(backbone, PRESETS[name].genome(backbone.n_levels), provenance=provenance)
    path = Path(name)
    if Path(path.name) == path and path.suffix == "" and (len(name) > MOST_NAME_BYTES or not path.exists()):
        error = RequestError(f"{unknown_name('preset', name, PRESETS)}; and there is no file of that name")
        raise with_hint(error, path) if len(name) <= MOST_NAME_BYTES else error
    return loaded(path)


def loaded(path: Path) -> Architecture:
    """The architecture in a file. Raises RequestError, with the file that was probably meant."""
    try:
        return load(path)
    except RequestError as error:
        raise with_hint(error, path) from error


def exported_text(done: Exported) -> str:
    """What was written, for which images, and how near to torch it is."""
    lines = [f"wrote {done.path} ({done.format})"]
    if done.patch is not None:
        sizes = [f"a multiple of {n}" if n else f"{size}" for n, size in zip(done.multiples, done.patch, strict=True)]
        lines.append(f"  patch {'x'.join(map(str, done.patch))}; any batch; size of an image: {', '.join(sizes)}")
    if done.max_difference is not None:
        lines.append(f"  differs from torch by at most {done.max_difference:.1e}")
    if done.runner is not None:
        lines.append(f"  segments images: python {done.runner} IMAGES -o FOLDER")
    return "\n".join(lines)


def _facts(architecture: Architecture) -> dict[str, Any]:
    patch = architecture.searched_patch or USUAL_PATCH[architecture.backbone.dims]
    full = cost(architecture, patch)
    return {
        "key": key(architecture),
        "n_parameters": full.n_parameters,
        "macs": full.macs,
        "patch": list(patch),
        "dice": architecture.score.get("dice"),
    }


def architecture_text(architecture: Architecture, *, ascii: bool = False) -> str:
    """The drawing with its costs, then the key."""
    return f"{to_text(architecture, ascii=ascii)}\n\nkey {key(architecture)}"


def architecture_json(architecture: Architecture) -> str:
    """Costs and the document itself."""
    return json_text({**_facts(architecture), "architecture": architecture.to_json()})


def difference_text(one: Architecture, other: Architecture) -> str:
    """Worth and costs of both, and what is otherwise in the first."""
    words = differences(one, other) or ["nothing: both are the same design"]
    lines = [f"  {name}: {' · '.join(captions(design))}" for name, design in ((title(one), one), (title(other), other))]
    return "\n".join([*lines, "", "What differs in the first:", *(f"  {told}" for told in words)])


def difference_json(one: Architecture, other: Architecture) -> str:
    """Costs and documents of both, and what is otherwise in the first."""
    both = [{**_facts(design), "architecture": design.to_json()} for design in (one, other)]
    return json_text({"one": both[0], "other": both[1], "differences": differences(one, other)})


def write_svg(architecture: Architecture, target: Path, other: Architecture | None = None) -> None:
    """The drawing as a file, or two side by side. Raises RequestError when it cannot be written."""
    _write(target, to_svg(architecture) if other is None else side_by_side(architecture, other))


def write_html(architecture: Architecture, target: Path, other: Architecture | None = None) -> None:
    """The drawing as a page that tells of each part it is pointed at, or two. Raises RequestError when it cannot be
    written."""
    from unetx_studies.drawing.interactive import part_rows, to_figure
    from unetx_studies.report.page import Page, Section, page_html

    sections = []
    for design in (architecture, *([other] if other else [])):
        patch = design.searched_patch or USUAL_PATCH[design.backbone.dims]
        note = f"Of one patch of {size_text(patch)}: point at a part, or look into the table."
        table = ("part", "parameters", "multiply-adds", "kept for training"), part_rows(design, patch)
        sections.append(Section(title(design), note, to_figure(design, patch), table=table, is_folded=True))
    words = differences(architecture, other) if other else []
    page = Page(title(architecture), " · ".join(captions(architecture)), sections=sections, differences=words)
    _write(target, page_html(page))


def _write(target: Path, content: str) -> None:
    try:
        write_whole(target, content)
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from error


def space_json(space: DesignSpace) -> str:
    """What a space holds."""
    return json_text(space_facts(space))


def presets_text() -> str:
    """Name, title and paper of every preset."""
    width = max(map(len, PRESETS))
    rows = [f"{preset.name:<{width}}  {preset.title} ({preset.paper})" for preset in PRESETS.values()]
    return "\n".join([*rows, "", "draw one with: unetx-search show NAME"])


def presets_json() -> str:
    """Every preset with its genome for five levels."""
    return json_text(
        [
            {"name": p.name, "title": p.title, "paper": p.paper, "genome_of_5_levels": p.genome(5).to_json()}
            for p in PRESETS.values()
        ]
    )
