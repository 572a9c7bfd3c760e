"""The options of a full training. Nothing heavy is imported here."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unetx_search.data_choices import Rule, check_rules

if TYPE_CHECKING:
    from unetx_evaluators.training import Recipe

Training = Parameter(group="Training")
Switch = Annotated[bool, Parameter(group="Training", negative=())]


@dataclass(frozen=True, kw_only=True)
class TrainChoices:
    """The options of a full training."""

    steps: Annotated[int, Training] = 25_000
    """Training steps of each fold."""
    batch_size: Annotated[int | None, Training] = None
    """Patches of a step: 8 in 2D and 2 in 3D by default. The patch is what --memory-gib holds of so many."""
    width_factor: Annotated[float, Training] = 1.0
    """Multiplies every width of the full-size network."""
    learning_rate: Annotated[float | None, Training] = None
    """Highest learning rate: that of the search which found the architecture, at most 0.003, by default."""
    background_weight: Annotated[float | None, Training] = None
    """Weight of the background in the cross entropy, against 1: that of the search by default."""
    deep_supervision: Annotated[bool, Parameter(group="Training", negative="--no-deep-supervision")] = True
    """Heads at the other decoder stages learn beside the output's."""
    averaging: Annotated[float, Training] = 0.0
    """Keep a moving average of the weights over this share of the steps, such as 0.05, in place of the last ones."""
    augmentation: Annotated[Literal["strong", "light"], Training] = "strong"
    """strong also turns, scales and bends patches and changes their gamma; light is what a search does."""
    mirror: Switch = False
    """Mirror patches along every axis, in training and when predicting: where left and right mean nothing."""
    validations: Annotated[int, Training] = 25
    """How often validation cases are scored on the way."""
    seed: Annotated[int, Training] = 0
    """Decides initial values and batches."""
    device: Annotated[str, Training] = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    gpus: Annotated[int | Literal["all"] | None, Training] = None
    """Train folds at the same time, each on one of so many GPUs, or on several that share its batches where there are
    more GPUs than folds; 0 takes CPU cores in their place."""
    threads: Annotated[int | None, Training] = None
    """CPU threads of torch; all cores by default. Another number gives other bits."""

    def __post_init__(self) -> None:
        check_rules(self._rules())

    def _rules(self) -> Iterable[Rule]:
        yield "steps", self.steps, "at least 1", self.steps >= 1
        yield "batch-size", self.batch_size, "at least 1", self.batch_size is None or self.batch_size >= 1
        yield "width-factor", self.width_factor, "above 0", 0 < self.width_factor < math.inf
        for name, value in (("learning-rate", self.learning_rate), ("background-weight", self.background_weight)):
            yield name, value, "above 0", value is None or 0 < value < math.inf
        yield "averaging", self.averaging, "from 0 to 1", 0 <= self.averaging <= 1
        yield "validations", self.validations, "at least 1", self.validations >= 1
        yield "seed", self.seed, "0 or more", self.seed >= 0
        yield "threads", self.threads, "at least 1", self.threads is None or self.threads >= 1

    @property
    def n_threads(self) -> int:
        from unetx_evaluators.host_cores import usable_cores

        return self.threads or usable_cores()

    def recipe(self, dims: int, searched: "Recipe | None") -> "Recipe":
        """Return the recipe of the training; ``searched`` is that of the architecture's search, if it is known."""
        from dataclasses import replace

        from unetx_evaluators.training.recipe import STRONG, Recipe

        base = STRONG if self.augmentation == "strong" else Recipe(learning_rate=STRONG.learning_rate)
        found = searched or base
        return replace(
            base,
            learning_rate=self.learning_rate or min(found.learning_rate, base.learning_rate),
            background_weight=self.background_weight or found.background_weight,
            deep_supervision=self.deep_supervision,
            averaging=self.averaging,
            mirror=tuple(range(dims)) if self.mirror else (),
        )
