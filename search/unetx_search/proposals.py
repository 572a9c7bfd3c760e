"""What a study trains next: designs from a list that is known beforehand, or those that a search proposes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unetx_search.config import DEFAULT_SHARE, MARGIN
from unetx_search.reseeding import FIRST_DESIGNS, Replicate, Training, next_replicate
from unetx_studies.ranking import is_complete

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from unetx_evaluators.evaluation import Budget
    from unetx_search.sampler_study import SamplerStudy
    from unetx_search.samplers.constrained_sampler import ConstrainedSampler
    from unetx_search.study_setup import StudySetup
    from unetx_studies.candidate import Candidate
    from unetx_studies.ranking import Ranking
    from unetx_studies.store import Records, TrialRecord


class Proposal(NamedTuple):
    """A training to be done: a design with a seed and a budget."""

    candidate: Candidate
    seed: int
    budget: Budget


class Proposals(Protocol):
    """Decides what a study trains, trial by trial."""

    def observe(self, trial: TrialRecord) -> None:
        """Take note of a trial that was asked or has finished, in this run or an earlier one."""

    def has_more(self) -> bool:
        """Return whether there is anything left to begin. Once there is not, it stays so."""

    def propose(self, asked: FrozenTrial, horizon: int | None, ranking: Ranking) -> Proposal:
        """Return the next proposal; there must be one.

        It depends on the trials with numbers up to the ``horizon`` alone, on all where that is None. ``ranking`` is
        that of all trials.
        """


class ListedProposals:
    """Proposals from a list, in its order; what has begun, in this run or an earlier one, is not begun again."""

    def __init__(self, listed: Iterable[Proposal]) -> None:
        self._left = {(one.candidate.key, one.seed, one.budget): one for one in listed}

    def observe(self, trial: TrialRecord) -> None:
        self._left.pop((trial.key, trial.seed, trial.budget), None)

    def has_more(self) -> bool:
        return bool(self._left)

    def propose(self, asked: FrozenTrial, horizon: int | None, ranking: Ranking) -> Proposal:
        """Return the next proposal of the list, whatever the scores."""
        return next(iter(self._left.values()))


@dataclass(frozen=True, slots=True)
class Reseeding:
    """How a study trains known designs again with other seeds."""

    share: float = DEFAULT_SHARE
    """The share of the study's trials that are replicates."""
    margin: float = MARGIN
    """Dice by which a design may be worse than U-Net and is still replicated as one that is as good and cheaper."""


class SearchProposals:
    """Proposals of a search for a study of ``n_trials``: given designs, then the sampler's, and replicates.

    ``study`` is the one that the sampler sees. ``cost_of`` returns the cost that the cheapest design has the least of.
    """

    def __init__(
        self,
        setup: StudySetup,
        records: Records,
        study: SamplerStudy,
        sampler: ConstrainedSampler,
        n_trials: int,
        reseeding: Reseeding = Reseeding(),
        cost_of: Callable[[TrialRecord], float] = lambda trial: trial.macs,
    ) -> None:
        self._setup = setup
        self._records = records
        self._study = study
        self._sampler = sampler
        self._n_trials = n_trials
        self._reseeding = reseeding
        self._cost_of = cost_of
        self._trials: dict[int, TrialRecord] = {}
        self._n_finished = 0
        self._designs: dict[str, TrialRecord] = {}
        """The first trial of each design, by the design's key."""
        self._given = deque(setup.given())
        """The designs that are trained before any that a sampler proposes."""

    def observe(self, trial: TrialRecord) -> None:
        self._trials[trial.number] = trial
        self._n_finished += trial.is_finished
        self._designs.setdefault(trial.key, trial)
        if self._given and trial.origin == self._given[0].origin:
            self._given.popleft()

    def has_more(self) -> bool:
        return len(self._trials) < self._n_trials

    def propose(self, asked: FrozenTrial, horizon: int | None, ranking: Ranking) -> Proposal:
        """Return a given design; a replicate when its turn has come or no new design is left; else the sampler's."""
        if self._given:
            return Proposal(self._given[0], self._setup.seed, self._setup.budget)
        candidate, replicate = None, self._replicate(horizon)
        if replicate is None:
            with self._study.seeing(horizon, estimates(ranking.up_to(horizon))):
                candidate = self._sampler.propose(self._study.study, asked, self._designs)
        if candidate is not None:
            seed = self._setup.seed
        else:
            replicate = replicate or self._replicate(horizon, is_exhausted=True) or self._least_repeated()
            first, seed = self._designs[replicate.design], replicate.seed
            reason = f"trial {first.number} again with seed {seed}"
            candidate = self._setup.repeated(first, self._records.architecture(first.key), reason)
        saw = f"{self._n_finished} finished trials" if horizon is None else f"exactly trials 0..{horizon}"
        saw = saw if horizon is None or horizon >= 0 else "no trial"
        return Proposal(replace(candidate, reason=f"{candidate.reason}; it saw {saw}"), seed, self._setup.budget)

    def _replicate(self, horizon: int | None, *, is_exhausted: bool = False) -> Replicate | None:
        """Which known design comes next, and with which seed, by the scores up to the horizon."""
        n_replicates = self._setup.n_replicates(self._n_trials, self._reseeding.share)
        n_new = self._n_trials - n_replicates
        is_first = n_replicates > 0 and len(self._trials) == len(self._designs)
        if len(self._designs) < (min(n_new, FIRST_DESIGNS) if is_first else n_new) and not is_exhausted:
            return None  # as below, at no cost
        return next_replicate(
            (
                Training(trial.key, trial.seed, trial.score if _is_known(trial, horizon) else None)
                for trial in self._trials.values()
            ),
            self._n_trials,
            self._setup.seeds(self._n_trials),
            share=self._reseeding.share,
            n_given=self._setup.n_given,
            reference=self._setup.u_net_key,
            costs={key: self._cost_of(trial) for key, trial in self._designs.items()},
            margin=self._reseeding.margin,
            is_exhausted=is_exhausted,
        )

    def _least_repeated(self) -> Replicate:
        """Return the design with the fewest seeds, where the space is exhausted and no score tells which to repeat."""
        uses = Counter(trial.key for trial in self._trials.values())
        key = min(self._designs, key=lambda one: uses[one])
        used = {trial.seed for trial in self._trials.values() if trial.key == key}
        return Replicate(key, next(seed for seed in self._setup.seeds(self._n_trials) if seed not in used))


def _is_known(trial: TrialRecord, horizon: int | None) -> bool:
    return is_complete(trial) and (horizon is None or trial.number <= horizon)


def estimates(ranking: Ranking) -> dict[int, float]:
    """Return the estimates that a sampler sees in place of scores, by first trials; none where scores say the same."""
    return {} if ranking.is_by_score else {one.number: one.estimate for one in ranking.designs}
