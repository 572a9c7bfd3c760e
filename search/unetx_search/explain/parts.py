"""The work of an explanation in parts: trainings, looks at trained networks, scores with one skip replaced.

Each part has a file of its own, in a folder named by all that the numbers depend on: what was killed goes on where it
was, trainings from their last checkpoint, and what is done is not repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.ablation import Skip, TrainedNetwork, skips_of
from unetx_evaluators.device import memory_format, profile, torch_settings, versions, with_safe_precision
from unetx_evaluators.evaluation import Budget, CaseScore, EvaluationEnded, NetworkScores, NullObserver, Outcome
from unetx_evaluators.insight import GateStatistics, Replacement, SkipSimilarity, StageGradient
from unetx_evaluators.proxy import ProxyEvaluator, proxy_architecture
from unetx_evaluators.tasks.cache import read_json
from unetx_evaluators.training.cases import open_cases
from unetx_space import Architecture, RequestError, UnetxError, build
from unetx_space.canonical import canonical
from unetx_space.files import write_whole
from unetx_space.genome import Genome
from unetx_space.network import SkipUNet
from unetx_studies.explanation import SeedObservations
from unetx_studies.weights import load_weights

if TYPE_CHECKING:
    from unetx_evaluators.tasks import Task
    from unetx_search.progress import StageDisplay

FORMAT = 1
"""The version of the answers, which is raised whenever the same question would be answered differently."""
MAX_STEPS = 10
"""Steps whose gradients are taken early in a training, and as many midway."""


def gradient_steps(n_steps: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the steps, from 1, whose gradients count as early and as midway: at most MAX_STEPS each, none as both."""
    middle = max(1, n_steps // 2)
    early = tuple(range(1, min(MAX_STEPS, max(1, middle - 1)) + 1))
    return early, tuple(range(middle, min(middle + MAX_STEPS, n_steps + 1)))


def without_skips(architecture: Architecture) -> Architecture:
    """Return the architecture with the same encoder, decoder and operators, and no skips."""
    nodes = tuple(replace(node, sources=()) for node in architecture.genome.nodes)
    return Architecture(architecture.backbone, canonical(Genome(nodes)))


class Work:
    """The parts of one explanation, each kept in a file once it is done."""

    def __init__(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        groups: Mapping[str, str],
        device: str,
        n_threads: int,
        folder: Path,
        progress: StageDisplay,
        weights: str = "",
    ) -> None:
        """``weights`` is the checksum of those of a trained model, which ``observe`` is called with."""
        early, midway = gradient_steps(budget.steps)
        self.groups = groups
        self._architecture = architecture
        self._task = task
        self._budget = budget
        self._evaluator = ProxyEvaluator(device, n_threads, gradients_at=(*early, *midway))
        self._progress = progress
        design = [architecture.backbone.to_json(), architecture.genome.to_json()]
        question = [FORMAT, design, task.digest, asdict(budget), sorted(groups.items()), device, versions()]
        question += [weights] if weights else []
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        self._parts = folder / f"parts-{digest[:12]}"

    def look(self, seed: int) -> SeedObservations:
        """Train the design and its twin with one seed, and examine them."""
        weights = self._parts / f"seed-{seed}.safetensors"
        design = self._trained(f"seed-{seed}-design", self._architecture, seed, weights)
        twin = without_skips(self._architecture)
        has_skips = any(node.sources for node in canonical(self._architecture.genome).nodes)
        beside = self._trained(f"seed-{seed}-twin", twin, seed) if has_skips else None
        network = build(proxy_architecture(self._architecture, self._budget), seed=seed)
        load_weights(network, weights)
        return replace(
            self.observe(network, seed),
            gradients=_gradients(design),
            twin_scores=() if beside is None else tuple(CaseScore(**score) for score in beside["case_scores"]),
            twin_gradients=None if beside is None else _gradients(beside),
        )

    def observe(self, network: SkipUNet, seed: int) -> SeedObservations:
        """Examine a trained network with every skip in its place, and with one replaced after the other."""
        device = with_safe_precision(
            profile(self._evaluator.device), self._architecture.backbone.sizes(self._task.patch)
        )
        with torch_settings(device, self._evaluator.n_threads):
            network.to(device.device)
            network.to(memory_format=memory_format(self._task.dims, device.device))  # type: ignore[call-overload]  # not in torch's stubs
            cases = open_cases(self._task, device, self._budget.validation_cases)
            trained = TrainedNetwork(network, self._task, cases, device, seed, self.groups)
            intact = self._part(
                f"seed-{seed}-look", "looking at it with every skip in its place", lambda: _seen(trained)
            )
            without = {
                (str(skip.source), str(skip.node)): self._without(trained, skip, seed) for skip in skips_of(network)
            }
        return SeedObservations(
            seed,
            NetworkScores.from_json(intact["intact"]),
            without,
            tuple(SkipSimilarity(**one) for one in intact["similarities"]),
            tuple(GateStatistics(**one) for one in intact["gates"]),
            intact["volumes"],
        )

    def _part(self, name: str, words: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was made of a part, now or earlier; JSON values."""
        file = self._parts / f"{name}.json"
        kept = read_json(file)
        if isinstance(kept, dict):
            return kept
        self._progress.begin(words)
        try:
            made = json.dumps(make(), allow_nan=False)
        except EvaluationEnded as end:
            raise UnetxError(f"{words}: {end.reason}; train longer (--steps), or with another seed") from end
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, made)
        return dict(json.loads(made))

    def _trained(self, name: str, architecture: Architecture, seed: int, weights: Path | None = None) -> dict[str, Any]:
        if weights is not None and not weights.exists():
            (self._parts / f"{name}.json").unlink(missing_ok=True)
        checkpoint = self._parts / f"{name}.checkpoint"
        what = "the twin without skips" if weights is None else "the design"

        def train() -> dict[str, Any]:
            found = self._evaluator.evaluate(
                architecture,
                self._task,
                self._budget,
                seed,
                NullObserver(),
                checkpoint=checkpoint,
                weights=weights,
                diagnosed_above=1.0,  # gradients, and nothing else beside the scores
            )
            if found.outcome is not Outcome.COMPLETE:
                kind = RequestError if found.outcome in (Outcome.INFEASIBLE, Outcome.DATA_ERROR) else UnetxError
                raise kind(f"{what} cannot be trained on {self._task.name} ({found.outcome}): {found.reason}")
            return {
                "score": found.score,
                "seconds": found.seconds,
                "case_scores": [asdict(score) for score in found.case_scores],
                "gradients": {str(step): [asdict(one) for one in at] for step, at in found.insight.gradients.items()},
            }

        made = self._part(name, f"training {what} for {self._budget.steps} steps, seed {seed}", train)
        checkpoint.unlink(missing_ok=True)
        return made

    def _without(self, network: TrainedNetwork, skip: Skip, seed: int) -> dict[Replacement, NetworkScores | None]:
        def scored() -> dict[str, Any]:
            found = {str(way): network.without(skip, way) for way in Replacement}
            return {way: None if measured is None else asdict(measured) for way, measured in found.items()}

        words = f"scoring it with {skip} replaced by nothing, by its mean, by another case's"
        made = self._part(f"seed-{seed}-{skip.source}-{skip.node}", words, scored)
        return {
            Replacement(way): None if measured is None else NetworkScores.from_json(measured)
            for way, measured in made.items()
        }


def _seen(network: TrainedNetwork) -> dict[str, Any]:
    """A network with every skip in its place, as JSON values."""
    return {
        "intact": asdict(network.intact()),
        "similarities": [asdict(one) for one in network.similarities()],
        "gates": [asdict(one) for one in network.gates()],
        "volumes": network.volumes(),
    }


def _gradients(made: Mapping[str, Any]) -> dict[int, tuple[StageGradient, ...]]:
    return {int(step): tuple(StageGradient(**one) for one in at) for step, at in made["gradients"].items()}
