"""The order in which finals train, and which designs are given up early."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unetx_search.finals.entrants import GENE, Entrant
from unetx_search.proposals import ListedProposals, Proposal
from unetx_studies.ranking import is_complete
from unetx_studies.verdict import scores_table

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Budget, CaseScore
    from unetx_studies.store import TrialRecord

FIRST_SEED = 1_000_000
"""The first seed of finals, added to the search's: far from every seed that has chosen designs."""
HOPELESS = 0.99
"""The probability of being behind the leader at which a design is given up early."""
MIN_SEEDS_TO_GIVE_UP = 2
"""Seeds of a design before it may be given up."""


class FinalsSchedule(ListedProposals):
    """Proposals of finals: every entrant on the first seed, then on the second, and so on.

    A design that is behind the one with the highest mean, on their common seeds and cases, with the probability
    ``HOPELESS`` gets no further seed; the ``reference`` gets all, and so does the leader. ``scores_of`` tells the case
    scores of a finished trial; ``groups`` names the group of a case, such as its patient.
    """

    def __init__(
        self,
        entrants: Sequence[Entrant],
        seeds: Sequence[int],
        budget: Budget,
        patch: tuple[int, ...],
        scores_of: Callable[[int], Sequence[CaseScore]],
        groups: Mapping[str, str],
        reference: str,
        *,
        race: bool = True,
        given_up: Collection[str] = (),
    ) -> None:
        super().__init__(
            Proposal(
                entrant.candidate(patch, f"finals: {entrant.name} with seed {seed}"),
                seed,
                replace(budget, width_factor=entrant.width_factor),
            )
            for seed in seeds
            for entrant in entrants
        )
        self._scores_of = scores_of
        self._groups = groups
        self._reference = reference
        self._race = race
        self._known: dict[tuple[str, int], Sequence[CaseScore]] = {}
        self.given_up: set[str] = set()
        """Names of the designs that were given up."""
        self._give_up(given_up)

    def observe(self, trial: TrialRecord) -> None:
        super().observe(trial)
        place = str(trial.params[GENE]), trial.seed
        if is_complete(trial) and place not in self._known:
            self._known[place] = self._scores_of(trial.number)
            if self._race:
                self._give_up(self._hopeless())

    def _give_up(self, names: Collection[str]) -> None:
        self.given_up |= set(names)
        self._left = {at: one for at, one in self._left.items() if one.candidate.params[GENE] not in self.given_up}

    def _hopeless(self) -> set[str]:
        scores = scores_table(self._known, self._groups)
        means = {name: scores.mean(name) for name in scores.designs if name not in self.given_up}
        if not means:
            return set()
        leader = max(means, key=lambda name: means[name])
        found = set()
        for name in means:
            behind = scores.difference(leader, name)
            sure = behind.probability_above(0.0)
            if (
                name not in (leader, self._reference)
                and behind.n_seeds >= MIN_SEEDS_TO_GIVE_UP
                and (sure or 0.0) >= HOPELESS
            ):
                found.add(name)
        return found
