"""An explanation in words and as a drawing: text for a terminal, and numbers on the U."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from unetx_evaluators.gates import CLOSED, OPEN
from unetx_evaluators.insight import Replacement
from unetx_evaluators.metrics import METRICS
from unetx_space import Architecture, StageRef
from unetx_studies.drawing import Numbers, to_svg
from unetx_studies.drawing.captions import title
from unetx_studies.explanation.facts import Change, Explanation, Flow, SkipEffect

TITLES: Mapping[Replacement, str] = {
    Replacement.ZERO: "nothing",
    Replacement.MEAN: "its mean",
    Replacement.SHUFFLED: "another case's",
}
LINE = 120
THIN, THICK, THICK_FROM = 1.0, 6.0, 0.2
"""Widths of wires in pixels, and the loss of Dice from which on one is as thick as it gets."""
NOTEWORTHY = 1.5
"""A sentence is given to a gradient that is surely so many times more or less than without skips."""


def explanation_text(architecture: Architecture, found: Explanation) -> str:
    """The explanation as text: which skips matter or are redundant, where gradients are weak, how sizes fare."""
    blocks = ["\n".join([title(architecture), fill(worth(found), LINE)])]
    if found.skips:
        blocks += [_skips(found), _by_class(found), _sentences(skip_sentences(found))]
    blocks.append(_gates(found))
    if found.stages:
        blocks += [_gradients(found), _sentences(gradient_sentences(found))]
    blocks += [_sizes(found), _edges(found), _sentences(found.limits)]
    return "\n\n".join(filter(None, blocks))


def worth(found: Explanation) -> str:
    """The score of the design and that of its twin without skips, in one line."""
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else f"seed {found.seeds[0]}"
    own = f"Dice {found.dice:.4f} ({seeds})"
    if found.twin_dice is None or found.all_skips is None:
        return own if found.skips else f"{own} · no skips"
    return f"{own} · {found.twin_dice:.4f} without skips: together they are worth {_interval(found.all_skips)}"


def skip_sentences(found: Explanation) -> list[str]:
    """A sentence for each skip, the one that matters most first."""

    def loss(skip: SkipEffect) -> float:
        mean = skip.dice[Replacement.MEAN]
        return mean.mean if mean is not None else 0.0

    return [f"{skip.source} to {skip.node}: {skip.says}." for skip in sorted(found.skips, key=loss)]


def gradient_sentences(found: Explanation) -> list[str]:
    """Sentences on the stages at which skips surely change the gradient that arrives."""
    sentences = []
    for when in ("early", "midway"):
        flows: list[tuple[str, Flow]] = [(stage.stage, getattr(stage, when)) for stage in found.stages]
        more = [_factor(name, flow) for name, flow in flows if _surely(flow.factor, above=True)]
        less = [_factor(name, flow) for name, flow in flows if _surely(flow.factor, above=False)]
        if more:
            sentences.append(f"{when.capitalize()}, more gradient arrives than without skips at {', '.join(more)}.")
        if less:
            sentences.append(f"{when.capitalize()}, less gradient arrives than without skips at {', '.join(less)}.")
    if found.twin_dice is not None and not sentences:
        sentences.append(f"At no stage do skips surely change the gradient by more than {NOTEWORTHY:g} times.")
    return sentences


def _surely(factor: Change | None, *, above: bool) -> bool:
    if factor is None or factor.low is None or factor.high is None:
        return False
    return factor.low > NOTEWORTHY if above else factor.high < 1 / NOTEWORTHY


def _factor(name: str, flow: Flow) -> str:
    assert flow.factor is not None
    return f"{name} ({_times(flow.factor.mean)})"


def _times(factor: float) -> str:
    return f"×{factor:.0f}" if factor >= 10 else f"×{factor:.2g}"


# Tables


def _skips(found: Explanation) -> str:
    n_cases = max((change.n_cases for skip in found.skips for change in skip.dice.values() if change), default=0)
    heads = ["skip", *TITLES.values(), "edge", "small", "CKA"]
    rows = []
    for skip in found.skips:
        edge, small = skip.edge[Replacement.MEAN], skip.small_recall[Replacement.MEAN]
        rows.append(
            [
                f"{skip.source} to {skip.node}",
                *(_interval(skip.dice[way]) for way in TITLES),
                "-" if edge is None else _signed(edge.mean),
                "-" if small is None else f"{small:+.1%}",
                _number(skip.cka, ".2f"),
            ]
        )
    head = (
        f"change of Dice on {n_cases} validation cases (95 % interval) where a skip gives nothing, its mean over "
        "training cases, or another case's map; edge and small: with its mean, the change of the surface Dice and of "
        "the share of small targets hit"
    )
    return f"{fill(head, LINE)}\n{_table([heads, *rows])}"


def _by_class(found: Explanation) -> str:
    """The table of changes by class; empty where there is but one class."""
    classes = list(found.skips[0].by_class)
    rows = [
        [f"{skip.source} to {skip.node}", *(_interval(skip.by_class[name]) for name in classes)] for skip in found.skips
    ]
    return f"the same by class, with its mean\n{_table([['skip', *classes], *rows])}" if len(classes) > 1 else ""


def _gates(found: Explanation) -> str:
    """The table of how open gates are: those of skips, then those behind fusions and blocks."""
    gates = [(f"{skip.source} to {skip.node}", skip.gate) for skip in found.skips if skip.gate]
    gates += [(f"{gate.node}, {gate.at}", gate) for gate in found.gates]
    rows = [
        (
            where,
            gate.type,
            _number(gate.mean, ".2f"),
            _number(gate.share_closed, ".0%"),
            _number(gate.share_open, ".0%"),
        )
        for where, gate in gates
    ]
    return _table([("gate of", "type", "mean", f"below {CLOSED}", f"above {OPEN}"), *rows]) if rows else ""


def _gradients(found: Explanation) -> str:
    heads = ["stage"]
    for when in ("early", "midway"):
        heads += [when, "without skips", "factor"]
    rows = []
    for stage in found.stages:
        cells = [stage.stage]
        for flow in (stage.early, stage.midway):
            cells += [_number(flow.share, ".2g"), _number(flow.twin, ".2g"), _ratio(flow.factor)]
        rows.append(cells)
    head = (
        "gradient of a stage (root mean square over its parameters) as a share of the head's, in steps "
        f"{_steps(found.early)} (early) and {_steps(found.midway)} (midway)"
    )
    return f"{fill(head, LINE)}\n{_table([heads, *rows])}"


def _sizes(found: Explanation) -> str:
    """The table of targets by size, and beside them of cases by how much of the class they show."""
    rows = [
        (
            one.class_name,
            one.size,
            _up_to(one.max_voxels),
            str(one.n_targets),
            _number(one.recall, ".1%"),
            _up_to(cases.max_voxels),
            str(cases.n_cases),
            _number(cases.dice, ".4f"),
        )
        for one, cases in zip(found.sizes, found.volumes, strict=True)
    ]
    heads = ("class", "third", "target of voxels", "targets", "hit", "case with voxels", "cases", "Dice")
    return _table([heads, *rows]) if rows else ""


def _up_to(voxels: int | None) -> str:
    return "-" if voxels is None else f"up to {voxels}"


def _edges(found: Explanation) -> str:
    metrics = [metric for metric in METRICS.values() if any(one.values[metric.name] is not None for one in found.edges)]
    heads = ["class", *(f"{metric.title} ({metric.unit})" if metric.unit else metric.title for metric in metrics)]
    rows = [[one.class_name, *(_number(one.values[m.name], ".4g") for m in metrics)] for one in found.edges]
    return _table([heads, *rows]) if rows else ""


def _steps(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])


def _interval(change: Change | None) -> str:
    if change is None:
        return "-"
    if change.low is None or change.high is None:
        return _signed(change.mean)
    return f"{_signed(change.mean)} ({_signed(change.low)} to {_signed(change.high)})"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no minus before 0.000


def _ratio(change: Change | None) -> str:
    if change is None:
        return "-"
    ratio = f"×{change.mean:.2f}"
    return ratio if change.low is None or change.high is None else f"{ratio} ({change.low:.2f} to {change.high:.2f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _sentences(sentences: Sequence[str]) -> str:
    return "\n".join(fill(sentence, LINE, subsequent_indent="  ") for sentence in sentences)


# On the U


def explanation_svg(architecture: Architecture, found: Explanation) -> str:
    """The drawing with each skip's loss beside its name and in its width, and each stage's gradient in its box."""
    changes = {
        (StageRef.parse(skip.source), StageRef.parse(skip.node)): change
        for skip in found.skips
        if (change := skip.dice[Replacement.MEAN]) is not None
    }
    numbers = Numbers(
        sources={pair: _signed(change.mean).replace("-", "−") for pair, change in changes.items()},
        widths={
            pair: THIN + (THICK - THIN) * min(1.0, max(0.0, -change.mean) / THICK_FROM)
            for pair, change in changes.items()
        },
        stages={
            StageRef.parse(stage.stage): f"gradient {_times(stage.midway.factor.mean)}"
            for stage in found.stages
            if stage.midway.factor is not None
        },
        worth=worth(found),
        notes=(
            "At a source: the change of Dice where its map is replaced by its mean over training cases; the thicker "
            "the wire, the larger the loss.",
            "In a box: the stage's gradient midway in training, in times of that without skips (both as shares of the "
            "head's).",
        ),
    )
    return to_svg(architecture, numbers)
