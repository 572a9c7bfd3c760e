from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from painted_source import PaintedSource, interrupted_after
from task_samples import mask, msd_folder, picture, picture_folder, save_png

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import (
    CacheState,
    Task,
    TaskOptions,
    cache_entries,
    open_source,
    prepare,
    remove_entry,
    task_in_use,
)
from unetx_evaluators.tasks.cache import CacheFolder

SOURCE = PaintedSource()
OPTIONS = TaskOptions()


def states(root: Path) -> list[CacheState]:
    return [entry.state for entry in cache_entries(root)]


def test_entries_tell_what_they_are(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    [entry] = cache_entries(tmp_path)
    assert (entry.folder, entry.name, entry.origin) == (task.folder, task.folder.name, SOURCE.origin)
    assert entry.state is CacheState.CURRENT
    assert entry.n_bytes == sum(file.stat().st_size for file in task.folder.rglob("*") if file.is_file())
    assert abs(entry.last_used - datetime.now(UTC)) < timedelta(minutes=10)


def test_finding_a_task_again_counts_as_using_it(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    os.utime(task.folder / "manifest.json", (0, 0))
    assert cache_entries(tmp_path)[0].last_used.year == 1970
    prepare(SOURCE, tmp_path, OPTIONS)
    assert cache_entries(tmp_path)[0].last_used.year > 1970


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert cache_entries(tmp_path / "none") == ()


def test_an_unfinished_and_a_damaged_folder_are_told_apart_and_removed(tmp_path: Path) -> None:
    interrupted_after(SOURCE.n_cases + 3, SOURCE, tmp_path)
    other = prepare(replace(SOURCE, seed=1), tmp_path, OPTIONS)
    (other.folder / "manifest.json").write_text("{", encoding="utf-8")
    assert sorted(states(tmp_path)) == [CacheState.DAMAGED, CacheState.UNFINISHED]
    sizes = [entry.n_bytes for entry in cache_entries(tmp_path)]
    assert [remove_entry(entry) for entry in cache_entries(tmp_path)] == sizes
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_ours_is_listed_or_removed(tmp_path: Path) -> None:
    (tmp_path / "photos-0123456789ab").mkdir()
    (tmp_path / "photos-0123456789ab" / "a.png").write_bytes(b"")
    task = prepare(SOURCE, tmp_path / "elsewhere", OPTIONS)
    (tmp_path / "link-0123456789ab").symlink_to(task.folder)
    assert cache_entries(tmp_path) == ()
    [entry] = cache_entries(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="it is not touched"):
        remove_entry(replace(entry, folder=tmp_path / "photos-0123456789ab"))
    assert (tmp_path / "photos-0123456789ab" / "a.png").exists()


def test_what_a_search_uses_is_not_removed(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    [entry] = cache_entries(tmp_path)
    with task_in_use(task):
        assert states(tmp_path) == [CacheState.IN_USE]
        with pytest.raises(DataError, match="is used by a search that is running"):
            remove_entry(entry)
        assert task.image("smith_00").size
    assert states(tmp_path) == [CacheState.CURRENT]
    remove_entry(entry)
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_prepares_is_not_removed(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    [entry] = cache_entries(tmp_path)
    with FileLock(CacheFolder(task.folder).lock_file):
        assert states(tmp_path) == [CacheState.IN_USE]
        with pytest.raises(DataError, match="is being prepared by another process"):
            remove_entry(entry)
    assert states(tmp_path) == [CacheState.CURRENT]


def test_a_user_that_was_killed_uses_nothing_any_more(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom types import SimpleNamespace\n"
        "from unetx_evaluators.tasks import task_in_use\n"
        "with task_in_use(SimpleNamespace(folder=Path(sys.argv[1]))):\n"
        "    print('using', flush=True)\n    signal.pause()\n"
    )
    command = [sys.executable, "-c", script, str(task.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "using\n"
        assert states(tmp_path) == [CacheState.IN_USE]
        user.send_signal(signal.SIGKILL)
    assert states(tmp_path) == [CacheState.CURRENT]
    assert list((task.folder / "users").iterdir()) == []


def pictures(root: Path) -> tuple[Path, Path]:
    folder = picture_folder(root, {f"c{number}": mask((32, 40)) for number in range(5)})
    return folder, folder / "images" / "c3.png"


def volumes(root: Path) -> tuple[Path, Path]:
    folder = msd_folder(root, 5)
    return folder, folder / "imagesTr" / "a3.nii.gz"


@pytest.mark.parametrize("make", [pictures, volumes])
@pytest.mark.parametrize("pseudonyms", [False, True])
def test_a_dataset_that_was_changed_or_is_gone_leaves_a_stale_cache(
    tmp_path: Path, make: object, pseudonyms: bool
) -> None:
    assert callable(make)
    folder, file = make(tmp_path / "set")

    def prepared() -> Task:
        return prepare(open_source(folder), tmp_path / "cache", TaskOptions(pseudonyms=pseudonyms))

    first = prepared()
    assert states(tmp_path / "cache") == [CacheState.CURRENT]
    os.utime(file, (1, 1))
    assert states(tmp_path / "cache") == [CacheState.STALE]
    second = prepared()
    assert first.folder != second.folder
    assert sorted(states(tmp_path / "cache")) == [CacheState.CURRENT, CacheState.STALE]
    folder.rename(tmp_path / "moved")
    assert states(tmp_path / "cache") == [CacheState.STALE, CacheState.STALE]


def test_changed_pictures_are_noticed_and_prepared_anew(tmp_path: Path) -> None:
    folder, file = pictures(tmp_path / "set")
    first = prepare(open_source(folder), tmp_path / "cache", OPTIONS)
    save_png(file, picture((32, 40), seed=99))
    second = prepare(open_source(folder), tmp_path / "cache", OPTIONS)
    assert (first.image("c3") != second.image("c3")).any()
    assert first.digest != second.digest
