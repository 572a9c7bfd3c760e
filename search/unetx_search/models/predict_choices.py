"""The options of a prediction. Nothing heavy is imported here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetx_search.converters import numbers
from unetx_search.data_choices import Rule, check_rules


@dataclass(frozen=True, kw_only=True)
class PredictChoices:
    """The options of a prediction; nnU-Net's names of these options are understood, too."""

    folds: Annotated[
        tuple[int, ...] | None, Parameter(name=("--folds", "-f"), converter=numbers, n_tokens=1, negative=())
    ] = None
    """Folds whose answers are averaged, such as 0,1; all that there are by default."""
    disable_tta: Annotated[bool, Parameter(name=("--disable-tta", "--disable_tta"), negative=())] = False
    """Do not show images mirrored, too, along the axes on which the training mirrored."""
    save_probabilities: Annotated[
        bool, Parameter(name=("--save-probabilities", "--save_probabilities"), negative=())
    ] = False
    """Also write CASE_probabilities.npy: every class's probability on the image's grid, as it is stored."""
    continue_: Annotated[
        bool, Parameter(name=("--continue", "--continue-prediction", "--continue_prediction"), negative=())
    ] = False
    """Leave out images whose mask is there."""
    num_parts: Annotated[int, Parameter(name=("--num-parts", "--num_parts", "-num_parts"))] = 1
    """Divide the images among so many processes."""
    part_id: Annotated[int, Parameter(name=("--part-id", "--part_id", "-part_id"))] = 0
    """Which part this process predicts, from 0."""
    masks: Path | None = None
    """Folder of masks, called like the images: also tell and write scores."""
    statistics: Path | None = None
    """Also write a JSON file there with the volume of every class in every image."""
    preview: Path | None = None
    """Also write a PNG there with a dozen images and the outlines of what was found."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads of torch; all cores by default."""

    def __post_init__(self) -> None:
        check_rules(self._rules())

    def _rules(self) -> Iterable[Rule]:
        last = self.num_parts - 1
        yield "num-parts", self.num_parts, "at least 1", self.num_parts >= 1
        yield "part-id", self.part_id, f"from 0 to {last} (see --num-parts)", 0 <= self.part_id <= last
        yield "folds", self.folds, "numbers from 0, such as 0,1", self.folds is None or min(self.folds, default=-1) >= 0
        yield "threads", self.threads, "at least 1", self.threads is None or self.threads >= 1

    @property
    def n_threads(self) -> int:
        from unetx_evaluators.host_cores import usable_cores

        return self.threads or usable_cores()

    @property
    def scores_name(self) -> str:
        """The name of the file with scores, beside the masks."""
        return "scores.json" if self.num_parts == 1 else f"scores-part{self.part_id}.json"
