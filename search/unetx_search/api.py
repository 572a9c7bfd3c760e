"""What ``import unetx_search as ux`` offers to notebooks and scripts."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

from unetx_evaluators.tasks.sources.arrays import ArrayPair, ArraySource
from unetx_search.architectures import architecture_text, named_architecture
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.finals.config import FinalsConfig
from unetx_search.finals.report import Results, read_conclusion
from unetx_search.models.predict_choices import PredictChoices
from unetx_search.models.train_choices import TrainChoices
from unetx_search.preparing import prepared_task
from unetx_search.progress import stderr_console
from unetx_search.status import read_status, status_text, trial_facts
from unetx_space import PRESETS, key
from unetx_space.errors import RequestError
from unetx_studies.drawing import to_svg
from unetx_studies.ranking import Ranked, Ranking
from unetx_studies.study_folders import BEST, CHEAPEST

if TYPE_CHECKING:
    from pandas import DataFrame

    from unetx_evaluators.tasks import Source, Task
    from unetx_search.models.full_training import Trained
    from unetx_search.models.predicting import Predicted
    from unetx_space import Architecture
    from unetx_space.network import SkipUNet
    from unetx_studies.export import Exported
    from unetx_studies.store import TrialRecord

Data = str | Path | Sequence[ArrayPair] | None
"""A dataset's folder or file, (image, mask) pairs of arrays, or None for the built-in demo."""
SamplerOf = Callable[[int], BaseSampler]

presets: Mapping[str, Any] = PRESETS
"""The published designs, by name."""


@dataclass(frozen=True)
class Design:
    """An architecture that draws itself in a notebook and builds its network."""

    architecture: Architecture

    @property
    def key(self) -> str:
        """The design's key; equal designs have equal keys."""
        return key(self.architecture)

    @property
    def score(self) -> Mapping[str, Any]:
        """The scores in its document; empty where it was never trained."""
        return self.architecture.score

    def build(self, *, seed: int = 0) -> SkipUNet:
        """Build the network at full width, ``[b, c, *size] -> [b, k, *size]``, with initial values by the seed."""
        from unetx_space.network import build

        return build(self.architecture, seed=seed)

    def save(self, path: str | Path) -> None:
        """Write the design's document as JSON."""
        self.architecture.save(Path(path))

    def __str__(self) -> str:
        return architecture_text(self.architecture)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return to_svg(self.architecture)


def load(name: str | Path, *, levels: int = 5) -> Design:
    """Load the design in a file such as ``runs/NAME/best.json``, or a preset by its name, on so many levels.

    Raises RequestError.
    """
    return Design(named_architecture(str(name), levels))


@dataclass(frozen=True)
class Study:
    """A study in its folder. Every property reads it anew, also while the study runs."""

    folder: Path
    source: Source | None = field(default=None, repr=False)
    """The dataset, where it consists of arrays in memory."""

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Every trial, in order of the numbers."""
        return read_status(self.folder).trials

    @property
    def ranking(self) -> tuple[Ranked, ...]:
        """The designs that have a score, the best first."""
        return Ranking(trial for trial in self.trials if trial.is_finished).designs

    @property
    def best(self) -> Design | None:
        """The best design; None before any has a score."""
        return self._winner(BEST)

    @property
    def cheapest(self) -> Design | None:
        """The cheapest design that is as good as U-Net; None where none is known."""
        return self._winner(CHEAPEST)

    def _winner(self, file: str) -> Design | None:
        return load(self.folder / file) if (self.folder / file).exists() else None

    @property
    def verdict(self) -> str | None:
        """The conclusion of the study's finals, in one sentence; None before there were any."""
        return read_conclusion(self.folder)

    def finals(self, *, quiet: bool = False, **options: Any) -> Results:
        """Hold finals, or go on with them; the options are those of ``unetx-search finals``."""
        from unetx_search.finals.run import finals

        return finals(self.folder, FinalsConfig(**options), console=stderr_console(quiet=quiet), source=self.source)

    def frame(self) -> DataFrame:
        """Return a data frame with a row for each trial. Raises RequestError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise RequestError("frame() needs pandas, which is not installed: pip install pandas") from error
        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary for each trial, with its genes, outcome, Dice, seconds and costs."""
        return [{**trial_facts(trial), **trial.params} for trial in self.trials]

    def __str__(self) -> str:
        return status_text(read_status(self.folder))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{one.number}</td><td>{one.estimate:.4f} &plusmn; {one.standard_error:.4f}</td>"
            f"<td>{one.dice:.4f}</td><td>{len(one.seeds)}</td><td>{html.escape(str(one.origin))}</td></tr>"
            for one in self.ranking[:10]
        )
        head = "<tr><th>trial</th><th>estimate</th><th>Dice</th><th>seeds</th><th>origin</th></tr>"
        drawing = "" if self.best is None else to_svg(self.best.architecture)
        return f"<pre>{html.escape(str(self))}</pre><table>{head}{rows}</table>{drawing}"


def search(
    data: Data = None,
    *,
    sampler: str | BaseSampler | SamplerOf = "tpe",
    quiet: bool = False,
    classes: Sequence[str] = (),
    **options: Any,
) -> Study:
    """Search, or continue the study of the same name; the options are those of the command, such as ``trials=200``.

    ``sampler`` is a name, an Optuna sampler, or a function that makes one from a seed: with such a function one seed
    gives the same study, also when it is continued, while a sampler's own state ends with the process. With arrays,
    ``classes`` names the values of their masks, and ``spacing`` is that of their voxels. Raises RequestError for a
    request that cannot be met, UnetxError when the work fails.
    """
    from unetx_search.run import search as run_search

    path, source = _data(data, classes, options)
    name = sampler if isinstance(sampler, str) else "tpe"
    if source is not None:
        options.setdefault("study", source.name)
    config = SearchConfig(data=path, sampler=name, **options)
    made = None if isinstance(sampler, str) else _always(sampler) if isinstance(sampler, BaseSampler) else sampler
    summary = run_search(config, console=stderr_console(quiet=quiet), source=source, sampler_of=made)
    return Study(summary.folder, source)


def study(folder: str | Path) -> Study:
    """Return the study in a folder. Raises RequestError when there is none."""
    read_status(Path(folder))
    return Study(Path(folder))


def task(data: Data = None, *, quiet: bool = False, classes: Sequence[str] = (), **options: Any) -> Task:
    """Prepare a dataset for training, as a search does; the options are those of the command."""
    path, source = _data(data, classes, options)
    config = SearchConfig(data=path, **options)
    machine_options = config.task_options("cpu")
    return prepared_task(
        config.folder, source or config.source(), config.cache_folder, machine_options, stderr_console(quiet=quiet)
    )


def train(
    design: Design | str | Path,
    data: Data = None,
    *,
    model: str | Path,
    against: str | None = None,
    quiet: bool = False,
    classes: Sequence[str] = (),
    **options: Any,
) -> Trained:
    """Train a design, a design's file or a preset in full, into the folder ``model``, or continue its training.

    The options are those of ``unetx-search train``. Raises RequestError and TrainingFailed.
    """
    from unetx_search.models.full_training import train

    path, source = _data(data, classes, options)
    of_data = {one.name for one in fields(DataChoices)}
    choices = DataChoices(data=path, **{name: value for name, value in options.items() if name in of_data})
    how = TrainChoices(**{name: value for name, value in options.items() if name not in of_data})
    with TemporaryDirectory() as aside:
        name = str(design)
        if isinstance(design, Design):
            design.save(file := Path(aside) / f"{design.key[:12]}.json")
            name = str(file)
        return train(
            name, Path(model), choices, how, console=stderr_console(quiet=quiet), against=against, source=source
        )


def predict(
    model: str | Path, images: str | Path, out: str | Path, *, quiet: bool = False, **options: Any
) -> Predicted:
    """Predict masks of images with a trained model; the options are those of ``unetx-search predict``.

    Raises RequestError."""
    from unetx_search.models.predicting import predict

    return predict(Path(model), Path(images), Path(out), PredictChoices(**options), console=stderr_console(quiet=quiet))


def export(design: Design | str | Path, target: str | Path, **options: Any) -> Exported:
    """Write a design, the design in a file, or a trained model with its weights, for use elsewhere.

    The options are those of ``unetx_studies.export.export``. Raises RequestError.
    """
    from unetx_search.models.exporting import with_weights
    from unetx_studies.export import export

    if isinstance(design, Design):
        return export(design.architecture, Path(target), **options)
    architecture, options["weights"] = with_weights(Path(design), options.get("weights"))
    return export(architecture, Path(target), **options)


def _data(data: Data, classes: Sequence[str], options: dict[str, Any]) -> tuple[Path | None, Source | None]:
    """A path, or arrays as a dataset, whose spacing is taken out of the options: there it would ask for resampling."""
    if data is None or isinstance(data, str | Path):
        return (None if data is None else Path(data)), None
    return None, ArraySource.of(data, classes=classes, spacing=options.pop("spacing", None))


def _always(sampler: BaseSampler) -> SamplerOf:
    return lambda seed: sampler
