from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted_source import PaintedSource, Recorder, check_whole

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import Phase, Task, TaskOptions, prepare, task_in_use
from unetx_evaluators.tasks.preprocessing import prepare_case

SOURCE = PaintedSource()
OPTIONS = TaskOptions()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def shorten(file: Path) -> None:
    os.truncate(file, 200)


DAMAGES: list[Callable[[Path], None]] = [flip_a_bit, shorten, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["images", "labels", "originals"])
def test_a_damaged_file_is_noticed_named_and_prepared_again_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], part: str
) -> None:
    source, options = replace(SOURCE, reads=tmp_path / "reads"), TaskOptions(spacing=(2.0, 2.0))
    task = prepare(source, tmp_path / "cache", options)
    damaged, other = task.splits.validation
    file = task.folder / part / f"{damaged}.npy"
    expected = file.read_bytes()
    others = file.with_stem(other).stat().st_mtime_ns
    damage(file)
    watcher = Recorder()
    with caplog.at_level(logging.WARNING):
        again = prepare(source, tmp_path / "cache", options, watcher=watcher)
    assert again == task
    assert f"case {damaged} is damaged" in caplog.text
    assert (watcher.phases, source.n_reads()) == ([(Phase.CHECK, 8), (Phase.WRITE, 1)], 17)
    assert file.with_stem(other).stat().st_mtime_ns == others
    assert file.read_bytes() == expected
    check_whole(again)


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    (task.folder / "images" / "smith_00.npy.4711.tmp").write_bytes(b"half")
    check_whole(prepare(SOURCE, tmp_path, OPTIONS))


def test_a_search_that_trains_on_a_file_keeps_it_while_it_is_mended(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    mapped = task.image("smith_03")
    damaged = np.array(mapped)
    file = task.folder / "images" / "smith_03.npy"
    file.with_suffix(".other").write_bytes(file.read_bytes()[:-1] + b"x")
    file.with_suffix(".other").replace(file)
    prepare(SOURCE, tmp_path, OPTIONS)
    np.testing.assert_array_equal(mapped, damaged)


def test_arrays_that_come_out_otherwise_now_are_all_prepared_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    (task.folder / "images" / "smith_03.npy").unlink()

    def brightened(*given: Any) -> Any:
        image, label = prepare_case(*given)
        return image + np.float32(1), label

    monkeypatch.setattr("unetx_evaluators.tasks.cache.prepare_case", brightened)
    with caplog.at_level(logging.WARNING):
        again = prepare(SOURCE, tmp_path, OPTIONS)
    assert "prepared otherwise than before" in caplog.text
    assert again.digest != task.digest
    assert again.image("smith_00").mean() == pytest.approx(1, abs=1e-4)
    check_whole(again)


def test_what_a_search_trains_on_is_not_replaced_as_a_whole(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    (task.folder / "manifest.json").write_text("{", encoding="utf-8")
    with (
        task_in_use(task),
        pytest.raises(DataError, match="has to be prepared anew, but a search that is running uses it"),
    ):
        prepare(SOURCE, tmp_path, OPTIONS)
    check_whole(prepare(SOURCE, tmp_path, OPTIONS))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_manifest_has_everything_prepared_anew(tmp_path: Path, damage: str) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    (task.folder / "manifest.json").write_text(damage, encoding="utf-8")
    assert prepare(SOURCE, tmp_path, OPTIONS) == task
    check_whole(task)


def test_a_disk_with_too_little_space_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**10, 2**10))
    with pytest.raises(
        DataError, match=r"prepared arrays take 4 MiB, free are 0 MiB; free space there, or name another"
    ):
        prepare(SOURCE, tmp_path / "cache", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(SOURCE, reads=tmp_path / "reads")
    write, n_written = np.lib.format.write_array, 0

    def write_until_full(stream: Any, array: Any, **options: Any) -> None:
        nonlocal n_written
        n_written += 1
        if n_written > 7:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(stream, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", write_until_full)
        with pytest.raises(DataError, match=r"cache/Painted.*: cannot be written \(.*No space left.*--cache"):
            prepare(source, tmp_path / "cache", OPTIONS)
    assert not list((tmp_path / "cache").glob("**/*.tmp"))
    watcher = Recorder()
    task = prepare(source, tmp_path / "cache", OPTIONS, watcher=watcher)
    assert watcher.phases == [(Phase.CHECK, 3), (Phase.WRITE, 8)]
    assert source.n_reads() == 8 + 4 + 5
    check_whole(task)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk takes root on Linux")
def test_a_real_disk_that_is_full_is_a_data_error_and_works_after_space_is_made(tmp_path: Path) -> None:
    script = """
import shutil, sys
from pathlib import Path
from painted_source import PaintedSource, check_whole
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import TaskOptions, prepare
disk = Path(sys.argv[1])
source = PaintedSource(size=100)
(disk / "ballast").write_bytes(bytes(2**20 - 3 * 2**18))
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40)  # others fill it on the way
try:
    prepare(source, disk / "cache", TaskOptions())
except DataError as error:
    assert "No space left" in str(error), error
else:
    raise AssertionError("the disk was large enough")
(disk / "ballast").unlink()
check_whole(prepare(source, disk / "cache", TaskOptions()))
"""
    folder = tmp_path / "disk"
    folder.mkdir()
    here = Path(__file__).parents[1]
    mounted = f'mount -t tmpfs -o size=1m tmpfs "{folder}" || exit 77; exec "{sys.executable}" -c "$0" "{folder}"'
    command = ["unshare", "--mount", "sh", "-c", mounted, script]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(here)}, capture_output=True, text=True, check=False
    )
    if run.returncode in (1, 77) and "AssertionError" not in run.stderr and "Traceback" not in run.stderr:
        pytest.skip(f"no disk could be mounted: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr


def test_the_cache_is_marked_for_backup_programs(tmp_path: Path) -> None:
    tag = prepare(SOURCE, tmp_path, OPTIONS).folder / "CACHEDIR.TAG"
    assert tag.read_text(encoding="utf-8").startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_a_task_whose_arrays_are_gone_cannot_be_used(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    shutil.rmtree(task.folder)
    with pytest.raises(DataError, match="are gone; run the search again"), task_in_use(task):
        pass


def test_users_leave_nothing_behind(tmp_path: Path) -> None:
    task = prepare(SOURCE, tmp_path, OPTIONS)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(task_in_use(task))
        assert len(list((task.folder / "users").iterdir())) == 2
    assert list((task.folder / "users").iterdir()) == []


def test_the_manifest_tells_what_the_arrays_were_made_of(tmp_path: Path) -> None:
    task: Task = prepare(SOURCE, tmp_path, OPTIONS)
    manifest = json.loads((task.folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["origin"], manifest["identity"]) == (SOURCE.origin, SOURCE.identity)
    assert manifest["n_bytes"] == sum(file.stat().st_size for file in task.folder.glob("*/*.npy"))
    assert [facts["intensities"] for facts in manifest["basis"]["facts"]] == [[]] * 8
