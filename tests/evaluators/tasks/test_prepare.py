from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from narrowing import there
from painted_source import PaintedSource, Recorder, check_whole, interrupted_after
from task_samples import nnunet_folder

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.tasks import Phase, RawCase, TaskOptions, choose_splits, examine, open_source, parallel, prepare

SOURCE = PaintedSource()
OPTIONS = TaskOptions()


def test_arrays_are_those_of_the_source_normalised_and_cannot_be_written(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    for name in SOURCE.case_names:
        raw = SOURCE.read(name)
        values = raw.image.astype(np.float64)
        axes = (1, 2)
        expected = (values - values.mean(axes, keepdims=True)) / values.std(axes, keepdims=True)
        np.testing.assert_allclose(task.image(name), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(task.label(name), raw.label)
        assert (str(task.image(name).dtype), str(task.label(name).dtype)) == ("float32", "uint8")
        with pytest.raises(ValueError, match="read-only"):
            task.label(name)[0, 0] = 1


def test_the_metadata_describe_the_arrays(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, replace(OPTIONS, split_seed=4, no_images=True))
    assert (task.name, task.source, task.dims) == (SOURCE.name, SOURCE.origin, 2)
    assert (task.channels, task.classes) == (SOURCE.channels, SOURCE.classes)
    assert task.splits == choose_splits(SOURCE.case_names, TaskOptions(split_seed=4))
    assert (task.spacing, task.stacked, task.ignores, task.no_images) == ((1.0, 1.0), False, False, True)
    assert task.folder.parent == tmp_path
    assert task.folder.name.startswith("Painted-by-hand-")
    task.backbone()


def test_every_choice_is_recorded_with_its_reason(tmp_path: Path) -> None:
    choices = prepare(SOURCE, tmp_path, TaskOptions(folds=3, fold=1)).choices
    assert {"dims", "spacing", "normalisation", "patch", "strides", "widths", "split"} <= set(choices)
    assert all(set(choice) == {"value", "reason"} and choice["reason"] for choice in choices.values())
    assert choices["split"] == {
        "value": {"train": 4, "validation": 2, "test": 2},
        "reason": "drawn with seed 0, fold 1 of 3",
    }
    json.dumps(choices)


def test_of_scored_cases_on_another_grid_the_label_map_is_kept_as_it_was_drawn(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, TaskOptions(spacing=(2.0, 2.0)))
    scored = (*task.splits.validation, *task.splits.test)
    assert task.originals == dict.fromkeys(scored, (1.0, 1.0))
    for name in scored:
        original = there(task.original_label(name))
        assert original.dtype == np.uint8
        np.testing.assert_array_equal(original, SOURCE.read(name).label)
        assert original.shape != task.label(name).shape
    assert [task.original_label(name) for name in task.splits.train] == [None] * 4
    check_whole(task)


def test_where_no_grid_changes_no_label_map_is_kept_twice(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    assert task.originals == {}
    assert task.original_label(task.splits.validation[0]) is None


def test_of_volumes_seen_slice_by_slice_the_original_labels_have_their_slices_first(tmp_path: Path) -> None:
    source = open_source(nnunet_folder(tmp_path / "ct"))  # slices along the last axis, 0.8 x 0.8 x 5 mm
    task = prepare(source, tmp_path / "cache", TaskOptions(dims=2, spacing=(3.2, 0.8, 5.0)))
    (name,) = task.splits.test[:1]
    assert task.originals[name] == pytest.approx((5.0, 0.8, 0.8))
    original = there(task.original_label(name))
    np.testing.assert_array_equal(original, np.moveaxis(source.read(name).label, -1, 0))
    assert task.label(name).shape == (7, 5, 18)  # 21 voxels of 0.8 mm along the first axis become 5 of 3.2


@pytest.fixture
def bare_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that import no readers, which a painted source does not need."""
    monkeypatch.setattr(parallel, "PRELOADED", ())


@pytest.mark.usefixtures("bare_workers")
def test_several_processes_prepare_the_same(tmp_path: Path) -> None:
    alone = prepare(SOURCE, tmp_path / "alone", OPTIONS, n_workers=1)
    together = prepare(SOURCE, tmp_path / "together", OPTIONS, n_workers=2)
    assert together == replace(alone, folder=together.folder)
    check_whole(together)


def test_the_watcher_is_told_of_every_case_and_of_the_size_beforehand(tmp_path: Path) -> None:
    watcher = Recorder()
    task = prepare(SOURCE, tmp_path, OPTIONS, watcher=watcher)
    assert watcher.phases == [(Phase.SURVEY, 8), (Phase.WRITE, 8)]
    assert watcher.n_cases == 16
    [(n_bytes, free_bytes)] = watcher.sizes
    on_disk = sum(file.stat().st_size for part in ("images", "labels") for file in (task.folder / part).iterdir())
    assert n_bytes == on_disk - 8 * 2 * 128  # headers
    assert abs(free_bytes - shutil.disk_usage(tmp_path).free) < 2**30


def test_original_label_maps_are_counted_in_the_size_beforehand(tmp_path: Path) -> None:
    watcher, options = Recorder(), TaskOptions(spacing=(2.0, 2.0))
    task = prepare(SOURCE, tmp_path, options, watcher=watcher)
    on_disk = sum(file.stat().st_size for file in task.folder.glob("*/*.npy"))
    assert watcher.sizes[0][0] == on_disk - (8 * 2 + 4) * 128  # headers
    assert examine(SOURCE, options).n_bytes == watcher.sizes[0][0]


def test_unchanged_input_is_prepared_once(tmp_path: Path) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    task = prepare(source, tmp_path / "cache", OPTIONS)
    assert source.n_reads() == 16
    watcher = Recorder()
    assert prepare(source, tmp_path / "cache", OPTIONS, watcher=watcher) == task
    assert source.n_reads() == 16
    assert watcher.phases == [(Phase.CHECK, 8)]


def test_what_changes_the_arrays_gets_a_folder_of_its_own_and_what_does_not_shares_it(tmp_path: Path) -> None:
    first = prepare(SOURCE, tmp_path, OPTIONS)
    for source, options in (
        (replace(SOURCE, seed=1), OPTIONS),
        (SOURCE, TaskOptions(split_seed=1)),
        (SOURCE, TaskOptions(normalisation="ct")),
        (SOURCE, TaskOptions(spacing=(2.0, 2.0))),
        (SOURCE, TaskOptions(pseudonyms=True)),
    ):
        assert prepare(source, tmp_path, options).folder != first.folder
    assert prepare(SOURCE, tmp_path, TaskOptions(no_images=True)).folder == first.folder


TARGETS = [TaskOptions(seconds=20.0), TaskOptions(memory_gib=4.0), TaskOptions(levels=2), TaskOptions(base_width=16)]


@pytest.mark.parametrize("options", [*TARGETS, TaskOptions(machine="cuda")])
def test_what_a_plan_depends_on_changes_the_folder_unless_the_user_sets_the_spacing(
    tmp_path: Path, options: TaskOptions
) -> None:
    assert prepare(SOURCE, tmp_path, OPTIONS).folder != prepare(SOURCE, tmp_path, options).folder
    set_by_hand = [replace(asked, spacing=(1.0, 1.0)) for asked in (OPTIONS, options)]
    here, elsewhere = (prepare(SOURCE, tmp_path, asked).folder for asked in set_by_hand)
    assert here == elsewhere


def test_patches_that_the_user_sets_share_a_folder(tmp_path: Path) -> None:
    small, smaller = (prepare(SOURCE, tmp_path, TaskOptions(patch=(n, n), seconds=n)).folder for n in (16, 12))
    assert small == smaller


class Enlarged(PaintedSource):
    """Every voxel is four by four, so that the squares are 24 and 20 wide."""

    def read(self, name: str) -> RawCase:
        case = super().read(name)
        image, label = case.image.repeat(4, axis=-1), case.label.repeat(4, axis=-1)
        return RawCase(image.repeat(4, axis=-2), label.repeat(4, axis=-2), case.spacing)


def test_large_images_get_coarser_voxels_and_are_scored_on_their_own(tmp_path: Path) -> None:
    source, options = Enlarged(), TaskOptions(seconds=2.0)
    task = prepare(source, tmp_path, options)
    assert task.spacing[0] == task.spacing[1] > 1
    assert "coarser than 1x1 mm" in task.choices["spacing"]["reason"]
    assert task.alternatives == ((1.0, 1.0), task.spacing)
    assert task.originals == dict.fromkeys((*task.splits.validation, *task.splits.test), (1.0, 1.0))
    for name in task.originals:
        np.testing.assert_array_equal(task.original_label(name), source.read(name).label)
    found = examine(source, options)
    assert (found.choices, found.plan and found.plan.share >= 0.25) == (task.choices, True)


def test_where_only_training_can_decide_the_choices_tell_both_spacings(tmp_path: Path) -> None:
    options = TaskOptions(seconds=0.2)
    task = prepare(Enlarged(), tmp_path, options)
    *others, planned = task.choices["alternatives"]["value"]
    assert others
    assert planned == task.spacing
    assert task.alternatives == (*others, planned)
    found = examine(Enlarged(), options)
    assert there(found.basis).preparation.alternatives == task.alternatives
    coarse = max(task.alternatives)
    assert prepare(Enlarged(), tmp_path, replace(options, spacing=coarse)).spacing == coarse


def test_the_digest_is_that_of_what_a_network_sees(tmp_path: Path) -> None:
    digest = prepare(SOURCE, tmp_path / "here", OPTIONS).digest
    assert prepare(SOURCE, tmp_path / "deep" / "there", TaskOptions(no_images=True, split_seed=0)).digest == digest
    others = [
        prepare(replace(SOURCE, seed=1), tmp_path, OPTIONS).digest,
        prepare(SOURCE, tmp_path, TaskOptions(split_seed=1)).digest,
        prepare(SOURCE, tmp_path, TaskOptions(patch=(16, 16))).digest,
        prepare(SOURCE, tmp_path, TaskOptions(base_width=16)).digest,
    ]
    assert len({digest, *others}) == 5


def test_everything_wrong_is_told_at_once_and_nothing_is_left_behind(tmp_path: Path) -> None:
    source = replace(
        SOURCE,
        broken=("smith_01", "smith_05"),
        plain=SOURCE.case_names,
        problems=(DataError("/files/extra.png: has no mask; add it or remove the image"),),
    )
    with pytest.raises(DataErrors) as caught:
        prepare(source, tmp_path / "runs" / "cache", OPTIONS)
    for told in (
        "extra.png: has no mask",
        "smith_01.png: cannot be read",
        "smith_05.png: cannot be read",
        "class 'dark'",
    ):
        assert told in str(caught.value)
    assert len(caught.value.errors) == 4
    assert list(tmp_path.iterdir()) == []


def test_bad_cases_alone_leave_nothing_behind_either(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"smith_03\.png: cannot be read"):
        prepare(replace(SOURCE, broken=("smith_03",)), tmp_path / "runs" / "cache", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_too_few_cases_are_told_together_with_what_else_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataErrors, match=r"at least 3 cases, got 2(.|\n)*smith_01\.png: cannot be read"):
        prepare(PaintedSource(n_cases=2, broken=("smith_01",)), tmp_path, OPTIONS)


def test_a_network_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a U-Net needs|[Ll]evels"):
        prepare(SOURCE, tmp_path / "cache", TaskOptions(levels=9))
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_no_training_case_holds_is_refused(tmp_path: Path) -> None:
    train = choose_splits(SOURCE.case_names, OPTIONS).train
    with pytest.raises(DataError, match=r"class 'dark' occurs in none of the 4 training cases and in 4 of the other 4"):
        prepare(replace(SOURCE, plain=train), tmp_path, OPTIONS)


def test_a_class_that_cannot_be_judged_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = choose_splits(SOURCE.case_names, OPTIONS)
    source = replace(SOURCE, plain=splits.test)
    expected = "class 'dark' occurs in none of the 2 test cases"
    assert [expected in warning for warning in examine(source, OPTIONS).warnings] == [True]
    with caplog.at_level(logging.WARNING):
        prepare(source, tmp_path, OPTIONS)
    assert expected in caplog.text


def test_the_same_image_under_two_names_is_a_warning(tmp_path: Path) -> None:
    class Twins(PaintedSource):
        def read(self, name: str) -> RawCase:
            return super().read("smith_00" if name == "smith_04" else name)

    warnings = examine(Twins(), OPTIONS).warnings
    assert [warning.startswith("2 cases (smith_00, smith_04) hold the very same image") for warning in warnings] == [
        True
    ]


def test_an_examination_knows_what_a_preparation_will_do(tmp_path: Path) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    found = examine(source, OPTIONS)
    assert source.n_reads() == 8
    assert [entry.name for entry in tmp_path.iterdir()] == ["reads"]
    watcher = Recorder()
    task = prepare(source, tmp_path / "cache", OPTIONS, watcher=watcher)
    assert (found.splits, found.choices, there(found.plan).patch) == (task.splits, task.choices, task.patch)
    assert (found.problems, found.n_bytes) == ((), watcher.sizes[0][0])


def test_an_examination_of_bad_data_shows_what_can_be_seen() -> None:
    found = examine(replace(SOURCE, broken=("smith_01",)), OPTIONS)
    assert [str(problem) for problem in found.problems] == ["/files/smith_01.png: cannot be read; copy it again"]
    assert len(there(found.basis).facts) == 7
    assert found.splits is not None
    unplanned = examine(SOURCE, TaskOptions(levels=9))
    assert (len(unplanned.problems), unplanned.plan) == (1, None)
    assert unplanned.basis is not None
    lost = examine(PaintedSource(n_cases=2), OPTIONS)
    assert (lost.splits, lost.basis, lost.plan, lost.n_bytes) == (None, None, None, None)


@pytest.mark.usefixtures("bare_workers")
def test_a_worker_that_dies_names_its_case(tmp_path: Path) -> None:
    source = replace(SOURCE, fatal=("smith_02",))
    with pytest.raises(DataError, match="case smith_02: the process that read it died"):
        prepare(source, tmp_path / "cache", OPTIONS, n_workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/cache: cannot be written .* \(--cache\)"):
        prepare(SOURCE, tmp_path / "file" / "cache", OPTIONS)


def test_the_real_hippocampus_survives_preparation(test_data: Path, tmp_path: Path) -> None:
    source = open_source(test_data / "hippocampus_msd")
    task = prepare(source, tmp_path, OPTIONS, n_workers=1)
    assert [len(part) for part in (task.splits.train, task.splits.validation, task.splits.test)] == [72, 24, 24]
    for name in task.splits.test[:3]:
        raw = source.read(name)
        values = raw.image.astype(np.float64)
        np.testing.assert_allclose(task.image(name), (values - values.mean()) / values.std(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(task.label(name), raw.label)
    check_whole(task)


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    folder = prepare(SOURCE, tmp_path, OPTIONS).folder
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="was not made by unetx-search; it is not touched"):
        prepare(SOURCE, tmp_path, OPTIONS)
    assert (folder / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_an_interruption_keeps_what_is_done(tmp_path: Path) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    interrupted_after(8 + 5, source, tmp_path / "cache")
    watcher = Recorder()
    task = prepare(source, tmp_path / "cache", OPTIONS, watcher=watcher)
    assert watcher.phases == [(Phase.CHECK, 5), (Phase.WRITE, 8)]
    assert source.n_reads() == 8 + 8
    assert task == replace(prepare(SOURCE, tmp_path / "other", OPTIONS), folder=task.folder)
    check_whole(task)


def test_files_that_change_while_they_are_prepared_are_noticed(tmp_path: Path) -> None:
    class Changing(PaintedSource):
        @property
        def identity(self) -> str:
            return f"{super().identity}, changed {self.n_reads() > 12}"

    with pytest.raises(DataError, match="files were changed while they were prepared; start again"):
        prepare(Changing(reads=tmp_path / "reads"), tmp_path / "cache", OPTIONS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["reads"]


def test_the_process_id_is_in_no_file_that_stays(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    assert not [file for file in task.folder.rglob("*") if str(os.getpid()) in file.name]
