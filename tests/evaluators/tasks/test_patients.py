from __future__ import annotations

import shlex
from itertools import product

import pytest
from narrowing import there

from unetx_evaluators.tasks.groups import groups_of
from unetx_evaluators.tasks.patients import patients_of


def crossed(pattern: str, *choices: list[object]) -> list[str]:
    return [pattern.format(*chosen) for chosen in product(*choices)]


FEW: list[object] = [1, 2, 7]
SIDES: list[object] = ["left", "right"]

ALIKE: dict[str, tuple[list[str], str, str]] = {
    "frames": (crossed("patient{:03d}_frame{:02d}", FEW, [1, 13]), "^(patient[0-9]+)", "patient001"),
    "frames of uneven numbers": (
        ["patient010_frame01", "patient010_frame13", "patient014_frame01", "patient014_frame09"],
        "^(patient[0-9]+)",
        "patient010",
    ),
    "sides": (crossed("sub{:02d}_{}", FEW, SIDES), "^(sub[0-9]+)", "sub01"),
    "sides in a letter": (crossed("Image_{:02d}{}", FEW, ["L", "R"]), "^(Image_[0-9]+)", "Image_01"),
    "eyes": (crossed("{}_{}", [101, 102], ["OD", "OS"]), "^([0-9]+)", "101"),
    "sides first": (crossed("{}_{:03d}", SIDES, FEW), "^[^-_. ]+[-_. ]+(.+)", "001"),
    "visits": (crossed("P{:02d}_visit{}", FEW, FEW), "^(P[0-9]+)", "P01"),
    "visits without a separator": (crossed("P{:02d}v{}", FEW, FEW), "^(P[0-9]+)", "P01"),
    "sessions and runs": (crossed("sub-{:02d}_ses-{}_run-{}", FEW, FEW, FEW), "^(sub-[0-9]+)", "sub-01"),
    "time points": (crossed("case{}_t{}", FEW, [0, 1]), "^(case[0-9]+)", "case1"),
    "dates": (crossed("pat{}_{}", FEW, ["20190203", "2020-11-30"]), "^(pat[0-9]+)", "pat1"),
    "slices": (crossed("vol-{}-slice-{:03d}", FEW, FEW), "^(vol-[0-9]+)", "vol-1"),
    "plain numbers": (crossed("{:03d}_{}", FEW, FEW), "^([0-9]+)", "001"),
    "slices by plain numbers, after a date": (
        crossed("TCGA_{}_19960909_{}", ["CS_4941", "CS_4942", "DU_5849"], FEW),
        "^(TCGA_[A-Za-z]+_[0-9]+)",
        "TCGA_CS_4941",
    ),
    "lesions": (crossed("LIDC-{:04d}_nodule_{}", FEW, FEW), "^(LIDC-[0-9]+)", "LIDC-0001"),
    "patients of several sites": (
        crossed("site{}_pat{}_{}", [1, 2], FEW, FEW),
        "^(site[0-9]+_pat[0-9]+)",
        "site1_pat1",
    ),
    "patients that are no numbers": (
        crossed("{}_{}", ["A0S9V9", "B12D1", "7AE3T7"], ["ED", "ES"]),
        "^([^-_. ]+)",
        "A0S9V9",
    ),
    "letters": (crossed("scan{:02d}{}", FEW, ["a", "b"]), "^(scan[0-9]+)", "scan01"),
    "one patient that came again": (["p01", "p02", "p03", "p04", "p03_followup"], "^(p[0-9]+)", "p03"),
    "tiles of slides": (crossed("slide{}_tile_{}_{}", FEW, [0, 512], [0, 512]), "^(slide[0-9]+)", "slide1"),
    "spaces": (crossed("patient {} {}", FEW, SIDES), "^(patient [0-9]+)", "patient 1"),
}


@pytest.mark.parametrize("what", ALIKE)
def test_several_cases_of_one_patient_are_seen_with_the_expression_that_groups_them(what: str) -> None:
    names, expression, stem = ALIKE[what]
    patients = there(patients_of(names))
    assert patients.expression == expression
    assert stem in patients.shared
    assert groups_of(names, patients.expression) == patients.stems


RUNNING: list[object] = list(range(30))

UNLIKE: dict[str, list[str]] = {
    "slices of one stack": crossed("slice_{:02d}", RUNNING),
    "running numbers": crossed("hippocampus_{:03d}", RUNNING),
    "running numbers after a word": crossed("IMD{:03d}", RUNNING),
    "running numbers after a numbered word": crossed("BraTS20_Training_{:03d}", RUNNING),
    "two years of one challenge": crossed("BraTS{}_Training_{:03d}", [19, 20], RUNNING),
    "one frame each": crossed("patient{:03d}_frame01", RUNNING),
    "one session each": crossed("sub-{:03d}_ses-01", RUNNING),
    "hashes": [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 200)],
    "short hashes": [f"{number * 40503 % 2**16:04x}" for number in range(1, 100)],
    "years": crossed("{}_{:05d}", [2007, 2008], RUNNING),
    "dates": crossed("IMG_202001{:02d}_{:03d}", FEW, RUNNING),
    "sites": crossed("site{}_{:03d}", [1, 2, 3], RUNNING),
    "folds": crossed("fold_{}_{:03d}", [1, 2, 3], RUNNING),
    "stages": crossed("stage{}_{:03d}", [1, 2], RUNNING),
    "parts of a split": [*crossed("train_{}", RUNNING), *crossed("testA_{}", RUNNING)],
    "kinds": crossed("{}_frame{:02d}", ["healthy", "tumour"], RUNNING),
    "diagnoses": crossed("{:02d}_{}", RUNNING, ["dr", "g", "h"]),
    "places in one image": crossed("tile_{}_{}", FEW, FEW),
    "wells": crossed("{}{:02d}", ["A", "B", "C"], RUNNING),
    "slides of a tissue bank": ["TCGA-18-5592-01Z-00-DX1", "TCGA-38-6178-01Z-00-DX1", "TCGA-A7-A13E-01Z-00-DX1"],
    "brackets": [*crossed("benign ({})", RUNNING), *crossed("malignant ({})", RUNNING)],
    "one case": ["patient1_frame1"],
    "no case": [],
}


@pytest.mark.parametrize("what", UNLIKE)
def test_names_of_one_case_for_each_patient_are_no_alarm(what: str) -> None:
    assert patients_of(UNLIKE[what]) is None


def test_numbers_that_go_on_from_one_stem_to_the_next_are_no_patients() -> None:
    assert patients_of([f"box{number // 10}_{number}" for number in range(60)]) is None
    assert patients_of([f"box{number // 10}_{number % 10}" for number in range(60)]) is not None


@pytest.mark.parametrize("what", ["spaces", "frames", "sides first"])
def test_the_option_survives_a_shell(what: str) -> None:
    patients = there(patients_of(ALIKE[what][0]))
    assert shlex.split(patients.flag) == ["--group-by", patients.expression]
    dotted = there(patients_of(crossed("pat.{}.{}", FEW, FEW)))
    assert shlex.split(dotted.flag) == ["--group-by", r"^(pat\.[0-9]+)"]


def test_an_expression_that_tells_no_names() -> None:
    patients = there(patients_of(crossed("smith{}_visit{}", FEW, FEW), spell=False))
    assert "smith" not in patients.expression
    assert groups_of(list(patients.stems), patients.expression) == patients.stems


def test_patients_on_several_sides_of_a_split_are_named() -> None:
    patients = there(patients_of(crossed("p{}_t{}", FEW, [0, 1])))
    assert patients.separated([["p1_t0", "p1_t1", "p2_t0"], ["p2_t1"], ["p7_t0", "p7_t1"]]) == ["p2"]
