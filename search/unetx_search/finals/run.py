"""Finals, from the request to the verdict."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from unetx_evaluators.budgets import check_rankable
from unetx_evaluators.evaluation import Budget
from unetx_evaluators.tasks.splits import cross_validation
from unetx_evaluators.tasks.task import Splits
from unetx_search.config import SearchConfig
from unetx_search.executors.engines import Engine, open_engine, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.finals.config import REFERENCE, FinalsConfig
from unetx_search.finals.entrants import GENE, Entrant, Lineup, choose_lineup
from unetx_search.finals.report import Results, cheapest_sentence, outlook_text, write_results
from unetx_search.finals.schedule import FIRST_SEED, FinalsSchedule
from unetx_search.finals.search_results import SearchResults, noise_of, read_search_results
from unetx_search.gpu_check import preflight
from unetx_search.listed_study import ListedStudy
from unetx_search.preparing import case_groups, no_empty_folders, prepared_task, write_split_and_task
from unetx_search.progress import say
from unetx_search.resolving import stored_spacing
from unetx_space.errors import RequestError
from unetx_space.files import read_object, write_whole
from unetx_space.training_memory import training_memory
from unetx_studies.artifacts import note_finals
from unetx_studies.ranking import complete
from unetx_studies.store import Records, find_location, full_disk_explained, open_store

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks import Source, Task
    from unetx_evaluators.tasks.options import TaskOptions

FROZEN = "finals.json"
"""Name of the file in the folder of finals with what they were begun with."""
LONGER = 4
"""How many times the search's steps finals train by default."""
MAX_SECONDS = 7 * 24 * 3600.0


def finals(
    study: Path,
    config: FinalsConfig,
    *,
    console: Console,
    probe: GpuProbe = usable_gpus,
    evaluator: Evaluator | None = None,
    source: Source | None = None,
) -> Results:
    """Train the designs that compete, or continue that, and compare them.

    ``probe``, ``evaluator`` and ``source`` replace the machine, the trainer and the data in tests. Raises RequestError
    when there is no such study, nothing competes, or the folder's finals were begun with other options.
    """
    search = read_search_results(study)
    folds: list[int | None] = [None] if config.folds is None else list(range(config.folds))
    given_up: set[str] = set()
    results = None
    for fold in folds:
        request = config.request(search.request, study, fold)
        with open_engine(request, probe=probe) as engine, full_disk_explained(study):
            if evaluator is None and fold in (None, 0):
                preflight(engine.slots, console)
            found = source or request.source()
            with no_empty_folders(request.folder):
                one = _Final.opened(study, config, search, request, engine, found, fold, console)
            if fold in (None, 0):
                told = outlook_text(one.lineup, noise_of(search, one.groups), config, one.scored_groups, one.margin)
                say(console, told)
            stopped = one.train(engine, evaluator or proxy_evaluator(engine.slots), console, given_up)
            ended = one.results(stopped, given_up)
            results = ended if results is None else results.joined(ended)
            if stopped:
                break
    assert results is not None
    write_results(study / config.name, results)
    url = find_location(study).url
    words = [results.verdict.conclusion, cheapest_sentence(results), *results.limits]
    note_finals(url, search.name, "\n\n".join(words))
    return results


@dataclass(frozen=True, slots=True)
class _Final:
    """Finals on one task: all of the finals, or one fold."""

    study: Path
    config: FinalsConfig
    search: SearchResults
    request: SearchConfig
    task: Task
    lineup: Lineup
    budget: Budget
    margin: float
    groups: Mapping[str, str]
    """The group of each case, where the user has named groups."""

    @classmethod
    def opened(
        cls,
        study: Path,
        config: FinalsConfig,
        search: SearchResults,
        request: SearchConfig,
        engine: Engine,
        source: Source,
        fold: int | None,
        console: Console,
    ) -> _Final:
        """Prepared, checked against what the folder's finals were begun with, or frozen there."""
        device = engine.slots[0].device
        plan = config.plan or ("search" if device == "cpu" else "full")
        options = _options(search, request, plan, device)
        prepared = prepared_task(study, source, request.cache_folder, options, console)
        groups = case_groups(source, request)
        task = _on_test_cases(prepared, config, fold, groups)
        margin = search.request.margin if config.margin is None else config.margin
        frozen = _frozen(request.folder / FROZEN, config, task)
        if frozen is not None:
            budget, left_out = Budget.from_json(frozen["budget"]), tuple(frozen["left_out"])
            lineup = Lineup(tuple(Entrant.from_json(one) for one in frozen["entrants"]), left_out)
            return cls(study, config, search, request, task, lineup, budget, margin, groups)
        budget = _budget(config, search, task, plan)
        check_rankable(task, budget)
        lineup = choose_lineup(search, config, task.backbone(), task.patch, budget.width_factor)
        if len(lineup.entrants) < 2:
            raise RequestError(f"{study}: there is nothing to compare the U-Net with; {'; '.join(lineup.left_out)}")
        write_split_and_task(request.folder, task)
        final = cls(study, config, search, request, task, lineup, budget, margin, groups)
        final.freeze(request.folder / FROZEN)
        return final

    def freeze(self, path: Path) -> None:
        """Write what these finals are begun with, which a continuation must agree on."""
        facts = {
            "stated": self.config.stated(),
            "task_digest": self.task.digest,
            "budget": asdict(self.budget),
            "entrants": [one.to_json() for one in self.lineup.entrants],
            "left_out": list(self.lineup.left_out),
        }
        write_whole(path, json.dumps(facts, indent=2) + "\n")

    @property
    def scored_groups(self) -> dict[str, str]:
        """The group of each scored case; a case without one is a group of its own."""
        return {case: self.groups.get(case, case) for case in self.task.splits.validation}

    @property
    def _name(self) -> str:
        return "-".join([self.search.name, *self.request.folder.relative_to(self.study).parts])

    def train(self, engine: Engine, evaluator: Evaluator, console: Console, given_up: set[str]) -> bool:
        """Train what is missing. Returns whether the user or the time limit ended the finals early."""
        seeds = [FIRST_SEED + self.request.seed + n for n in range(self.config.seeds)]
        schedules: list[FinalsSchedule] = []

        def schedule(records: Records) -> FinalsSchedule:
            schedules.append(
                FinalsSchedule(
                    self.lineup.entrants, seeds, self.budget, self.task.patch, records.case_scores,
                    self.scored_groups, REFERENCE, race=self.config.race, given_up=given_up,
                )
            )  # fmt: skip
            return schedules[0]

        study = ListedStudy(
            config=self.request,
            name=self._name,
            database=self.search.database,
            task=self.task,
            budget=self.budget,
            n_trials=len(seeds) * len(self.lineup.entrants),
            genes={GENE: CategoricalDistribution([one.name for one in self.lineup.entrants])},
        )
        stopped = study.train(schedule, engine, evaluator, console)
        given_up |= schedules[0].given_up
        return stopped

    def results(self, was_stopped: bool, given_up: Collection[str]) -> Results:
        """The results that the folder holds by now; designs in ``given_up`` were shown to be behind the leader."""
        location = find_location(self.request.folder)
        with open_store(location.url, create=False, read_only=True) as store:
            records = Records(store, location.study or self._name)
            trials = records.trials()
            n_begun = Counter(str(trial.params[GENE]) for trial in trials)
            trainings = {
                (str(trial.params[GENE]), trial.seed): records.case_scores(trial.number) for trial in complete(trials)
            }
        return Results(
            study=self.search.name,
            folder=self.study / self.config.name,
            lineup=self.lineup,
            trainings=trainings,
            groups=self.scored_groups,
            costs=self._costs(),
            cost_by=self.request.cheap_by,
            margin=self.margin,
            asked=self.config.top,
            given_up=frozenset(name for name in given_up if n_begun[name] < self.config.seeds),
            budget=self.budget,
            task=self.task,
            failures=tuple(
                f"{trial.params[GENE]} with seed {trial.seed} ended as {trial.outcome}: {trial.reason}"
                for trial in trials
                if trial.is_finished and trial not in complete(trials)
            ),
            seconds=sum(trial.seconds for trial in trials),
            was_stopped=was_stopped,
            is_cross_validated=self.config.folds is not None,
        )

    def _costs(self) -> dict[str, float]:
        """Return the cost of what is trained, by name of the design."""
        patch, by = self.task.patch, self.request.cheap_by
        if by == "memory":
            return {one.name: float(training_memory(one.trained, patch)) for one in self.lineup.entrants}
        costs = {one.name: one.trained_cost(patch) for one in self.lineup.entrants}
        return {name: float(one.macs if by == "macs" else one.n_parameters) for name, one in costs.items()}


def _options(search: SearchResults, request: SearchConfig, plan: str, device: str) -> TaskOptions:
    """Return how the data become the finals' task: as for the search, or as memory alone allows, for as many levels."""
    options = request.task_options("cpu" if device == "cpu" else "cuda")
    levels = len(search.settings["task"]["strides"])
    if plan == "full":
        return replace(options, seconds=math.inf, levels=levels)
    spacing = stored_spacing(request, search.settings)
    return options if spacing is None else replace(options, spacing=spacing)


def _on_test_cases(task: Task, config: FinalsConfig, fold: int | None, groups: Mapping[str, str]) -> Task:
    """The task as finals see it: training on what the search has seen, scored on what it has not."""
    splits = task.splits
    if fold is None:
        moved = Splits((*splits.train, *splits.validation), splits.test, ())
    else:
        assert config.folds is not None
        moved = cross_validation(splits, groups or None, config.folds, fold)
    digest = hashlib.sha256(json.dumps([task.digest, asdict(moved)]).encode()).hexdigest()
    return replace(task, splits=moved, digest=digest)


def _budget(config: FinalsConfig, search: SearchResults, task: Task, plan: str) -> Budget:
    begun = Budget.from_json(dict(search.settings["budget"]))
    steps = config.steps or LONGER * begun.steps
    return replace(
        begun,
        steps=steps,
        rungs=(steps,),  # nothing is decided on the way, and the test cases are looked at once
        width_factor=config.width_factor or (1.0 if plan == "full" else begun.width_factor),
        validation_cases=len(task.splits.validation),
        max_seconds=MAX_SECONDS,
        parent=None,
    )


def _frozen(path: Path, config: FinalsConfig, task: Task) -> dict[str, Any] | None:
    """What the finals of a folder were begun with; None before they were. Raises RequestError where that differs."""
    if not path.exists():
        return None
    fields = {"stated": dict, "task_digest": str, "budget": dict, "entrants": list, "left_out": list}
    frozen = read_object(path, fields, "remove its folder to begin these finals anew")
    before, now = frozen["stated"], json.loads(json.dumps(config.stated()))
    others = [name for name in now if before.get(name) != now[name]]
    lines = [f"  {name}: begun with {before.get(name)!r}, now {now[name]!r}" for name in others]
    if not lines and frozen["task_digest"] != task.digest:
        lines = ["  data: other images, masks or another split than they were begun with"]
    if lines:
        raise RequestError(
            f"the finals in {path.parent} were begun with other settings, so that new scores could not be compared "
            "with theirs:\n" + "\n".join(lines) + "\nuse the same settings, or another --name"
        )
    return frozen
