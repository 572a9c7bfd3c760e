"""Prints what verdict.py and reseeding.py have found: benchmarks/results/verdict.jsonl as tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parent / "results" / "verdict.jsonl"
Row = dict[str, Any]


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with columns as wide as needed, the first one left-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [
            word.ljust(n) if i == 0 else word.rjust(n) for i, (word, n) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def intervals(rows: Sequence[Row]) -> Iterator[str]:
    yield "Finals of one design against the U-Net: 5 seeds and 30 cases of as many patients where nothing else is said."
    yield "Deviations 0.006 of seeds, 0.02 of cases' differences, 0.02 beyond both; 2,000 studies a world. All in %;"
    yield "covered: the 95 % interval holds the truth; better, worse: it says so; width: of the ideal interval's."
    methods = ("satterthwaite", "fiducial", "bootstrap", "bootstrap-t")
    by = {(row["world"], row["method"]): row for row in rows}
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    header = (
        "world",
        "covered",
        "better",
        "worse",
        "width",
        *(f"{one}" for one in methods[1:]),
        "sign-flip says either",
    )
    table = []
    for world in worlds:
        own, flips = by[world, methods[0]], by.get((world, "sign-flip"))
        others = [percent(by[world, one]["cover"]) if (world, one) in by else "-" for one in methods[1:]]
        numbers = (percent(own[key]) for key in ("cover", "better", "worse", "width"))
        table.append((world, *numbers, *others, percent(None if flips is None else flips["better"] + flips["worse"])))
    yield from lines(header, table)


def finals(rows: Sequence[Row]) -> Iterator[str]:
    yield "Finals of several designs, the best of which is judged by the scores that chose it; 1,000 studies a world."
    yield "Bias in units of the seeds' deviation; plain: as if named beforehand; zoom: width in units of the verdict's."
    header = (
        "world", "bias", "plain", "covered", "plain", "zoom", "zoom's width", "better", "plain", "zoom", "worse",
        "any of Holm's", "equivalent", "cheaper", "wrongly",
    )  # fmt: skip
    keys = "cover plain_cover zoom_cover", "better plain_better zoom_better worse holm equivalent cheaper cheap_wrong"
    first, second = (words.split() for words in keys)
    yield from lines(
        header,
        [
            (
                row["world"],
                *(f"{row[key]:+.2f}" for key in ("bias", "plain_bias")),
                *(percent(row[key]) for key in first),
                f"{row['zoom_width']:.2f}",
                *(percent(row[key]) for key in second),
            )
            for row in rows
        ],
    )


def searches(rows: Sequence[Row]) -> Iterator[str]:
    yield "The design with the highest shrunken estimate after 200 trainings. Truth above the mean of all designs,"
    yield "times 10,000; what estimates overstate, in units of the seeds' deviation; coverage in % of the shrunken"
    yield "estimate's interval, of that of its lead over the U-Net, and of the zoom correction of the plain means,"
    yield "whose width is in units of the first's; how often the lead is said to be above 0, and how often wrongly."
    header = (
        "world, re-seeding", "studies", "seeds", "truth", "plain", "shrunken", "moments", "REML", "covered", "lead",
        "zoom", "zoom's width", "better", "wrongly",
    )  # fmt: skip
    yield from lines(
        header,
        [
            (
                f"{row['world']}, {row['method']}",
                str(row["n"]),
                f"{row['seeds']:.1f}",
                f"{1e4 * row['truth']:.1f}",
                *(f"{row[key]:+.2f}" for key in ("plain", "shrunken", "moments", "reml")),
                *(percent(row[key]) for key in ("cover", "cover_lead", "zoom_cover")),
                "-" if row["zoom_width"] != row["zoom_width"] else f"{row['zoom_width'] / row['width']:.1f}",
                percent(row["better"]),
                percent(row["false_better"]),
            )
            for row in rows
        ],
    )


def cheapest(rows: Sequence[Row]) -> Iterator[str]:
    yield "The cheapest design that is with this probability not worse than the U-Net by more than 0.005: its cost in"
    yield "units of the U-Net's, which the cheapest have half of, and how often in % it is worse; and the truth of the"
    yield "best, times 10,000. Half of the designs cost more than the U-Net; cost tells nothing of worth; 250 studies."
    header = ("contenders", "cost 0.5", "worse", "cost 0.8", "worse", "cost 0.95", "worse", "truth of the best")
    table = []
    for row in rows:
        pairs = [(f"{row[f'cost {p}']:.2f}", percent(row[f"wrong {p}"])) for p in (0.5, 0.8, 0.95)]
        table.append((row["world"], *(word for pair in pairs for word in pair), f"{1e4 * row['truth']:.1f}"))
    yield from lines(header, table)


def main() -> int:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    parts = {name: [row for row in rows if row["part"] == name] for name in ("intervals", "finals", "cheapest")}
    found = [row for row in rows if row["part"] in ("chosen", "policies")]
    worlds = list(dict.fromkeys(row["world"] for row in found))
    found.sort(key=lambda row: worlds.index(row["world"]))
    sections = (
        (intervals, parts["intervals"]), (finals, parts["finals"]), (searches, found), (cheapest, parts["cheapest"])
    )  # fmt: skip
    for section, own in sections:
        if own:
            print("\n".join(section(own)), end="\n\n")
    print(f"{sum(row['seconds'] for row in rows) / 60:.0f} minutes of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
