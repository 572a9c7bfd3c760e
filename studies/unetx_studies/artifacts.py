"""What Optuna's dashboard shows beside a trial: drawing, predictions, curve and facts, as artifacts and a note."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.exceptions import StorageInternalError
from optuna_dashboard import get_note, save_note, save_plotly_graph_object
from optuna_dashboard.artifact import get_artifact_path
from sqlalchemy.exc import SQLAlchemyError

from unetx_studies.drawing import to_svg
from unetx_studies.store import optuna_storage

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna import Trial
    from optuna.storages import RDBStorage

    from unetx_space.architecture import Architecture

ARTIFACTS = "artifacts"
"""Folder of a study's artifacts, beside its database."""
DRAWING = "architecture.svg"
"""File name of the artifact that is a trial's drawing."""
RESULT_HEAD = "### What came of it"
"""Heading of the part of a trial's note that is added when the trial ends."""
FINALS_HEAD = "## Finals"
"""Heading of the part of a study's note that finals write."""

logger = logging.getLogger(__name__)


def attach_drawing(trial: Trial, architecture: Architecture, study_folder: Path) -> None:
    """Attach the drawing to a trial and show it in the trial's note, above what somebody may have noted meanwhile.

    Nothing happens when it has one already.
    """
    if any(meta.filename == DRAWING for meta in get_all_artifact_meta(trial)):
        return
    picture, note = _attached(trial, DRAWING, to_svg(architecture), study_folder), get_note(trial)
    save_note(trial, f"{picture}\n\n{note}" if note else picture)


def attach_result(trial: Trial, pictures: Mapping[str, str], words: str, study_folder: Path) -> None:
    """Attach SVG documents by the names of their files, and show them and ``words`` (Markdown) in the trial's note,
    below the drawing and above what somebody may have noted. Nothing happens when the note has them already."""
    note = get_note(trial)
    if RESULT_HEAD in note:
        return
    shown = [_attached(trial, name, svg, study_folder) for name, svg in pictures.items()]
    drawing, _, rest = note.partition("\n\n") if note.startswith("![architecture") else ("", "", note)
    save_note(trial, "\n\n".join(filter(None, (drawing, RESULT_HEAD, *shown, words, rest))))


def _attached(trial: Trial, name: str, svg: str, study_folder: Path) -> str:
    """The artifact of that file name as an image in Markdown; it is uploaded where the trial does not have it."""
    found = next((meta.artifact_id for meta in get_all_artifact_meta(trial) if meta.filename == name), None)
    if found is None:
        folder = study_folder / ARTIFACTS
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_text(svg, encoding="utf-8")
            store = FileSystemArtifactStore(folder)
            found = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
    return f"![{Path(name).stem} of trial {trial.number}]({get_artifact_path(trial, found)})"


def remove_artifacts(url: str, study: str, name: str, study_folder: Path) -> None:
    """Remove the files of all trials' artifacts of that name; notes show words in their place."""
    with _opened(url, study) as (opened, storage):
        for trial in opened.get_trials(deepcopy=False):
            for meta in get_all_artifact_meta(trial, storage=storage):
                if meta.filename == name:
                    (study_folder / ARTIFACTS / meta.artifact_id).unlink(missing_ok=True)


def note_finals(url: str, study: str, words: str) -> None:
    """Put the results of finals at the end of a study's note, in the place of those of earlier ones."""
    with _opened(url, study) as (opened, _):
        before = get_note(opened).partition(FINALS_HEAD)[0].rstrip()
        save_note(opened, f"{before}\n\n{FINALS_HEAD}\n\n{words}".lstrip())


def show_plots(url: str, study: str, plots: Mapping[str, go.Figure]) -> None:
    """Put figures into a study, by names that are ids of HTML, in the place of earlier ones of these names.

    A database that does not take them costs nothing but the figures; a warning says so.
    """
    try:
        with _opened(url, study) as (opened, _):
            for name, figure in plots.items():
                save_plotly_graph_object(opened, figure, graph_object_id=name)
    except (SQLAlchemyError, StorageInternalError, KeyError) as error:
        logger.warning("the dashboard's figures could not be written: %s", error)


@contextmanager
def _opened(url: str, study: str) -> Iterator[tuple[optuna.Study, RDBStorage]]:
    """Open a study in Optuna's tables on a connection of its own."""
    storage = optuna_storage(url)
    try:
        yield optuna.load_study(study_name=study, storage=storage), storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
