"""A trained model on a folder of images: masks on the images' own grids, each of them whole or not there."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import coarsest_axis
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.files import read_header
from unetx_evaluators.tasks.sources.formats import READ, stem_of
from unetx_evaluators.tasks.sources.header import check_agreement
from unetx_evaluators.tasks.sources.images import ImageFiles, list_images
from unetx_evaluators.tasks.sources.mask_values import read_mask
from unetx_search.models.scores import prediction_scores, scores_json, tracked
from unetx_space.errors import RequestError
from unetx_space.files import write_whole
from unetx_studies.disk_full import full_disk_explained
from unetx_studies.model_folder import ModelFolder
from unetx_studies.sheet.pictures import Picture, make_picture
from unetx_studies.sheet.preview import preview_png

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import CaseScore
    from unetx_evaluators.predicting.model_plan import ModelPlan
    from unetx_evaluators.predicting.predictor import Predictor, Segmentation
    from unetx_evaluators.tasks.task import Image, Label
    from unetx_search.models.predict_choices import PredictChoices

N_SHOWN = 12
"""Images of a preview, at most, which are evenly spread over all."""
PROBABILITIES = "_probabilities.npy"
UNFINISHED = ".unfinished-"
"""The beginning of the name of the folder in which a part writes files before they get their names."""


@dataclass
class Predicted:
    """The results of a prediction."""

    written: list[Path] = field(default_factory=list)
    n_kept: int = 0
    """Number of masks that were there before."""
    statistics: list[dict[str, Any]] = field(default_factory=list)
    """Volumes by image, of all masks, those that were there before among them."""
    scores: list[CaseScore] = field(default_factory=list)
    """Scores of the images that were predicted now."""

    @property
    def scores_json(self) -> dict[str, Any] | None:
        """The scores for JSON; None where no masks were given."""
        return scores_json(self.scores) if self.scores else None


def predict(path: Path, images: Path, out: Path, how: PredictChoices, *, console: Console) -> Predicted:
    """Predict every image at ``images`` with the model at ``path``.

    Model, weights, and the headers of images and masks are checked first, so that RequestError for what does not fit
    comes before anything is written. An image whose voxels cannot be used does not keep others from being predicted;
    DataError names it at the end.
    """
    from unetx_evaluators import device as devices
    from unetx_evaluators.predicting.predictor import Predictor

    model = ModelFolder.load(path)
    networks = model.networks(how.folds)
    found = list_images(images, model.plan.source_dims, model.plan.channels)
    masks = {} if how.masks is None else _masks(found, how.masks)
    for one in found:
        _check_elsewhere(one, out)
    _check_places(out, how)
    mine = {one.name: one for one in found[how.part_id :: how.num_parts]}
    profile = devices.profile(devices.best_device() if how.device == "auto" else how.device)
    predictor = Predictor(networks, model.plan, profile, mirrors=not how.disable_tta)
    problems = Problems()
    with full_disk_explained(out), _OutputFolder.opened(out, how.part_id) as folder, ExitStack() as stack:
        work = _Work(predictor, folder, masks, how, frozenset([*mine][:: max(1, math.ceil(len(mine) / N_SHOWN))]))
        stack.enter_context(devices.torch_settings(profile, how.n_threads, devices.AUTOTUNED_STEPS))
        stack.enter_context(predictor.ready())
        for name in tracked([*mine], "predicting images", console):
            with problems.collecting():
                work.predict(mine[name])
        work.write_extras()
    problems.raise_all()
    return work.done


@dataclass
class _Work:
    """A prediction under way, image by image."""

    predictor: Predictor
    folder: _OutputFolder
    masks: Mapping[str, Path]
    how: PredictChoices
    shown: frozenset[str]
    """Names of the images of the preview."""
    done: Predicted = field(default_factory=Predicted)
    pictures: list[Picture] = field(default_factory=list)

    def predict(self, one: ImageFiles) -> None:
        """Predict an image. Raises DataError where it cannot be used."""
        from unetx_evaluators.device import is_out_of_memory

        plan, done = self.predictor.plan, self.done
        if self.how.continue_ and self.folder.has(one, self.how.save_probabilities):
            done.n_kept += 1
            _, mask = read_mask(self.folder.path / one.mask_name, plan.masks.mask_kind)
            label = plan.masks.encode(mask, self.folder.path / one.mask_name, "remove it, so that it is predicted anew")
            done.statistics.append(_statistics(one, label, plan.classes))
            return
        image = one.read()
        try:
            prediction = self._predicted(one, image)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{one.files[0]}: the memory does not hold what its prediction needs ({reason}); free some, or try "
                "--device cpu"
            ) from error
        done.written.append(self.folder.path / one.mask_name)
        done.statistics.append(_statistics(one, prediction.label, plan.classes))
        if one.name in self.masks:
            done.scores += _scored(one, self.masks[one.name], prediction, plan)
        if self.how.preview is not None and one.name in self.shown:
            self.pictures.append(_picture(one, image, prediction.label, plan.channels))

    def _predicted(self, one: ImageFiles, image: Image) -> Segmentation:
        """The mask is written last: where it is, all else is, too."""
        predictor = self.predictor
        if not self.how.save_probabilities:
            prediction = predictor.predict(image, one.spacing, one.name)
        else:
            with self.folder.written(f"{one.name}{PROBABILITIES}") as aside:
                room = one.create_arrays(aside, len(predictor.plan.classes))
                room[0] = 1.0  # of the background, where an image is empty and cropped away

                def keep(part: tuple[slice, ...], probabilities: Image) -> None:
                    room[:, *part] = probabilities

                prediction = predictor.predict(image, one.spacing, one.name, keep)
                del room
        with self.folder.written(one.mask_name) as aside:
            one.write_mask(aside, predictor.plan.values(prediction.label))
        return prediction

    def write_extras(self) -> None:
        """Write the files that were asked for beside the masks."""
        how, done = self.how, self.done
        if how.statistics is not None:
            write_whole(how.statistics, json.dumps({"images": done.statistics}, indent=2) + "\n")
        if how.preview is not None and self.pictures:
            write_whole(how.preview, preview_png(self.pictures))
        if done.scores:
            write_whole(self.folder.path / how.scores_name, json.dumps(done.scores_json, indent=2) + "\n")


@dataclass(frozen=True)
class _OutputFolder:
    """The folder for masks. Files are written aside first, and get their names once they are complete."""

    path: Path
    aside: Path

    @classmethod
    @contextmanager
    def opened(cls, path: Path, part: int) -> Iterator[_OutputFolder]:
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(f"{UNFINISHED}{part}-*"):  # by a process of this part that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}{part}-", dir=path) as aside:
            yield cls(path, Path(aside))

    def has(self, one: ImageFiles, with_probabilities: bool) -> bool:
        """Return whether all files of an image are there; those that are there are complete."""
        wanted = [one.mask_name, *([f"{one.name}{PROBABILITIES}"] if with_probabilities else [])]
        return all((self.path / name).is_file() for name in wanted)

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """Give a path to write to, which gets its name at the end."""
        yield self.aside / name
        (self.aside / name).replace(self.path / name)


def _check_places(out: Path, how: PredictChoices) -> None:
    """Raises RequestError where nothing can be written."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: -o is a folder for the masks, and this is a file; name another")
    for option, file in (("statistics", how.statistics), ("preview", how.preview)):
        if file is not None and (file.is_dir() or not (file.parent.is_dir() or file.parent == out)):
            raise RequestError(
                f"--{option} {file}: is a file in a folder that is there; make {file.parent}, or name another"
            )


def _check_elsewhere(one: ImageFiles, out: Path) -> None:
    """Raises RequestError where a mask would take the place of an image."""
    target = (out / one.mask_name).resolve()
    for file in one.files:
        if file.resolve() == target:
            raise RequestError(f"{target}: the mask would overwrite its image; name another folder with -o")


def _masks(found: Sequence[ImageFiles], place: Path) -> dict[str, Path]:
    """The mask of each image, by name. Raises DataError where one has none, or another grid."""
    if not place.is_dir():
        raise DataError(f"{place}: --masks is a folder with a mask for each image, called like it; there is none")
    files = {stem_of(file): file for file in sorted(place.iterdir()) if file.name.lower().endswith(READ)}
    masks = {}
    for one in found:
        names = (one.name, f"{one.name}_mask", stem_of(one.files[0]))
        file = next((files[name] for name in names if name in files), None)
        if file is None:
            raise DataError(f"{place}: holds no mask for image {one.name!r}; it is called {one.mask_name}, say")
        check_agreement([read_header(image) for image in one.files], read_header(file))
        masks[one.name] = file
    return masks


def _scored(one: ImageFiles, file: Path, prediction: Segmentation, plan: ModelPlan) -> tuple[CaseScore, ...]:
    _, mask = read_mask(file, plan.masks.mask_kind)
    truth = plan.masks.encode(
        mask, file, "correct the mask, or give those of the classes that the model was trained on"
    )
    return prediction_scores(one.name, truth, one.spacing, prediction, plan)


def _statistics(one: ImageFiles, label: Label, classes: Sequence[str]) -> dict[str, Any]:
    """Voxels and size of every class in an image."""
    counts = np.bincount(label.reshape(-1), minlength=len(classes)).tolist()
    voxel, unit = math.prod(one.spacing), ("mm3" if len(one.spacing) == 3 else "mm2")
    return {
        "image": one.name,
        "voxel_" + unit: voxel,
        "classes": {name: {"voxels": n, unit: n * voxel} for name, n in list(zip(classes, counts, strict=True))[1:]},
    }


def _picture(one: ImageFiles, image: Image, label: Label, channels: Sequence[str]) -> Picture:
    axis = coarsest_axis(one.spacing) if label.ndim == 3 else None
    return make_picture(one.name, image, label, one.spacing, channels, slice_axis=axis)
