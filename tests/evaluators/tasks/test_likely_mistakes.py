"""What is allowed and yet most often a mistake is told, and what could rank nothing or fit no memory is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from painted_source import PaintedSource
from task_samples import label_map, msd_folder, nnunet_folder, place, save_nifti, volume

from unetx_evaluators.budgets import check_rankable, default_budget
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import basis, cache, prepare
from unetx_evaluators.tasks.examination import Examination, examine
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.parallel import FailedCase, Workers
from unetx_evaluators.tasks.sources import open_source
from unetx_evaluators.tasks.sources.base import RawCase


@dataclass(frozen=True)
class ShownIn(PaintedSource):
    """Cases without any foreground but for some; real names by number where there are ``names``."""

    shown: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    spacings: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    flat: tuple[int, ...] = ()
    full: bool = False

    @property
    def case_names(self) -> tuple[str, ...]:
        return self.names or super().case_names

    def read(self, name: str) -> RawCase:
        case, number = super().read(name), self.case_names.index(name)
        label = np.ones_like(case.label) if self.full else case.label
        label = label if number in self.shown or not self.shown else np.zeros_like(label)
        image = np.full_like(case.image, 7) if number in self.flat else case.image
        return RawCase(image, label, self.spacings.get(number, (1.0, 1.0)))


def look(source: PaintedSource, **options: object) -> Examination:
    return examine(source, replace(TaskOptions(), **options), n_workers=1)  # type: ignore[arg-type]


def texts(found: Examination) -> tuple[str, str]:
    """Problems and warnings."""
    return "\n".join(map(str, found.problems)), "\n".join(found.warnings)


def test_nothing_is_suspicious_about_sound_data() -> None:
    found = look(PaintedSource())
    assert (found.problems, found.warnings) == ((), ())


@pytest.mark.parametrize(("factor", "words"), [(100.0, "100 times the median"), (0.1, "1/10 of the median")])
def test_a_spacing_far_from_the_others_is_told_with_case_and_factor(factor: float, words: str) -> None:
    _, warnings = texts(look(ShownIn(spacings={2: (1.0, factor)})))
    assert f"case smith_02: its header gives voxels of 1x{factor:g} mm, along an axis {words} (1x1 mm)" in warnings


def test_spacings_that_differ_by_less_than_five_are_common() -> None:
    assert look(ShownIn(spacings={2: (1.0, 4.9), 3: (0.21, 1.0)})).warnings == ()


def test_foreground_nearly_everywhere_is_told() -> None:
    problems, warnings = texts(look(ShownIn(full=True)))
    assert "100.0% of all voxels are foreground; are the masks inverted?" in warnings
    assert "class 'dark' occurs in none" in problems


def test_images_of_one_value_are_told_once(tmp_path: Path) -> None:
    found = look(ShownIn(flat=(1, 4)))
    assert [warning for warning in found.warnings if "smith_01" in warning] == [
        f"channel {channel!r} has one value everywhere in 2 cases (smith_01, smith_04); there is nothing to learn from "
        "it: export the images anew, or remove the cases"
        for channel in ("grey", "inverse")
    ]


@pytest.mark.parametrize("name", ["Ignore", "VOID", "Don't care", "unlabelled"])
def test_a_class_whose_name_says_that_it_is_none_is_told(tmp_path: Path, name: str) -> None:
    folder = nnunet_folder(tmp_path, 4, labels={"background": 0, "organ": 1, name: 2, "x": 3})
    _, warnings = texts(examine(open_source(folder), TaskOptions(), n_workers=1))
    assert f"class {name!r} is learnt and scored like any other" in warnings


def test_when_no_training_case_can_be_read_no_missing_foreground_is_told(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 5)
    for number in range(5):
        save_nifti(folder / "imagesTr" / f"a{number}.nii.gz", np.full((16, 18, 12), np.nan, np.float32))
    problems, _ = texts(examine(open_source(folder), TaskOptions(), n_workers=1))
    assert problems.count("NaN") == 5
    assert "foreground" not in problems


def test_selection_cases_without_foreground_are_refused_with_the_remedy(tmp_path: Path) -> None:
    splits = look(PaintedSource()).splits
    assert splits is not None
    numbers = {name: number for number, name in enumerate(PaintedSource().case_names)}
    training = tuple(numbers[name] for name in splits.train)
    problems, _ = texts(look(ShownIn(shown=training)))
    assert (
        f"none of the 2 validation cases shows any foreground, so that no design could be ranked; {len(training)}"
        in (problems)
    )
    assert "try another --split-seed" in problems
    with pytest.raises(DataError, match="no design could be ranked"):
        prepare(ShownIn(shown=training), tmp_path, TaskOptions(), n_workers=1)
    problems, _ = texts(look(ShownIn(shown=training[:1])))
    assert "1 of all 8 cases shows some: add cases that show some" in problems
    assert "any foreground" not in texts(look(ShownIn(shown=(*training, numbers[splits.validation[1]]))))[0]


def test_selection_cases_that_are_scored_show_foreground(tmp_path: Path) -> None:
    found = look(PaintedSource())
    assert found.splits is not None
    numbers = {name: number for number, name in enumerate(PaintedSource().case_names)}
    shown = tuple(numbers[name] for name in (*found.splits.train, found.splits.validation[1]))
    task = prepare(ShownIn(shown=shown), tmp_path, TaskOptions(), n_workers=1)
    budget = default_budget(task)
    check_rankable(task, budget)
    with pytest.raises(DataError, match=r"none of the 1 validation cases that are scored .* more of the 2 there are"):
        check_rankable(task, replace(budget, validation_cases=1))


def test_a_case_that_no_memory_holds_is_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place(msd_folder(tmp_path / "data"), ["a3"], np.diag([100.0, 100, 100, 1]))
    monkeypatch.setattr(basis, "available_bytes", lambda: 10 * 2**30)
    words = (
        r"case a3: its 16x18x12 voxels of 100x100x100 mm become 1600x1800x1200 at the spacing 1x1x1 mm, and the memory "
        r"does not hold them \(about 57\.9 GiB, 10 GiB are free\)"
    )  # 3.456e9 voxels of 18 bytes: float32 image and two shares, result, the share of one class, nearest
    with pytest.raises(DataError, match=words):
        prepare(open_source(folder), tmp_path / "cache", TaskOptions(), n_workers=1)
    assert not (tmp_path / "cache").exists()
    problems, warnings = texts(examine(open_source(folder), TaskOptions(), n_workers=1))
    assert "case a3: its 16x18x12 voxels" in problems
    assert "case a3: its header gives voxels of 100x100x100 mm" in warnings


def out_of_memory(*_: object) -> None:
    raise MemoryError("Unable to allocate 36 GiB")


def test_memory_that_runs_out_on_the_way_names_case_and_spacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = msd_folder(tmp_path / "data")
    monkeypatch.setattr(cache, "prepare_case", out_of_memory)
    with pytest.raises(
        DataError, match=r"case a\d: its 16x18x12 voxels of 1x1x1 mm .* broke off: Unable to allocate 36"
    ):
        prepare(open_source(folder), tmp_path / "cache", TaskOptions(), n_workers=1)
    ((_, failed),) = Workers(1).map(out_of_memory, ["a3"])
    assert isinstance(failed, FailedCase)
    assert "case a3: there is not enough memory for it (Unable to allocate 36 GiB)" in str(failed.errors[0])


VISITS = tuple(f"smith{number}_visit{visit}" for number in range(5) for visit in (1, 2))


def test_patients_that_the_split_tears_apart_are_told_before_anything_is_read_and_kept_with_the_choices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = ShownIn(n_cases=10, names=VISITS, reads=tmp_path / "reads")
    task = prepare(source, tmp_path / "cache", TaskOptions(), n_workers=1)
    told = [record.message for record in caplog.records if "patients" in record.message]
    assert len(told) == 1
    assert (
        "5 patients with several cases each, smith0 (smith0_visit1, smith0_visit2) for one; the split puts" in told[0]
    )
    assert told[0].endswith('keep them together with --group-by "^(smith[0-9]+)"')
    assert task.choices["split"]["warning"] == told[0]


def test_patients_that_are_kept_together_are_no_news() -> None:
    found = look(ShownIn(n_cases=10, names=VISITS), group_by="^(smith[0-9]+)")
    assert found.warnings == ()
    assert "warning" not in found.choices["split"]


def test_pseudonyms_hold_in_what_is_told_of_patients() -> None:
    (warning,) = look(ShownIn(n_cases=10, names=VISITS), pseudonyms=True).warnings
    assert "smith" not in warning
    assert '--group-by "^([A-Za-z]*[0-9]+)"' in warning or '--group-by "^([^-_. ]+)"' in warning


def test_what_the_listing_tells_reaches_the_warnings(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 5)
    save_nifti(folder / "labelsTr" / "a9.nii.gz", label_map())
    save_nifti(folder / "imagesTr" / "a9.nii.gz", volume())
    _, warnings = texts(examine(open_source(folder), TaskOptions(), n_workers=1))
    assert "does not list 2 files" in warnings
