"""What Optuna's dashboard shows beside a trial: its architecture as a drawing, kept as an Optuna artifact."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path

from unetx_studies.drawing import to_svg
from unetx_studies.store import optuna_storage

if TYPE_CHECKING:
    from optuna import Trial

    from unetx_space.architecture import Architecture

ARTIFACTS = "artifacts"
"""Folder of a study's artifacts, beside its database."""
DRAWING = "architecture.svg"
FINALS_HEAD = "## Finals"
"""Where the part of a study's note begins that finals write."""


def attach_drawing(trial: Trial, architecture: Architecture, study_folder: Path) -> None:
    """Attach the drawing to a trial and show it in the trial's note, above what somebody may have noted meanwhile.

    Nothing happens when it has one already.
    """
    if any(meta.filename == DRAWING for meta in get_all_artifact_meta(trial)):
        return
    folder = study_folder / ARTIFACTS
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        drawing = Path(aside) / DRAWING
        drawing.write_text(to_svg(architecture), encoding="utf-8")
        artifact = upload_artifact(
            artifact_store=FileSystemArtifactStore(folder), file_path=str(drawing), study_or_trial=trial
        )
    picture, note = f"![architecture of trial {trial.number}]({get_artifact_path(trial, artifact)})", get_note(trial)
    save_note(trial, f"{picture}\n\n{note}" if note else picture)


def note_finals(url: str, study: str, words: str) -> None:
    """Put what finals came to at the end of a study's note, in the place of what earlier ones did."""
    storage = optuna_storage(url)
    try:
        kept = optuna.load_study(study_name=study, storage=storage)
        before = get_note(kept).partition(FINALS_HEAD)[0].rstrip()
        save_note(kept, f"{before}\n\n{FINALS_HEAD}\n\n{words}".lstrip())
    finally:
        storage.remove_session()
        storage.engine.dispose()
