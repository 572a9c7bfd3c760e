"""An audit, from the request to its recommendation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from unetx_evaluators.pilot import with_steps
from unetx_search.audit.config import MIN_DESIGNS, AuditConfig
from unetx_search.audit.findings import Audit, AuditTraining
from unetx_search.audit.recommendation import AuditFile
from unetx_search.audit.report import outlook_text, write_audit
from unetx_search.audit.sample import sample_designs
from unetx_search.config import StudySettings, check_request, read_settings
from unetx_search.executors.engines import Engine, open_engine, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.gpu_check import preflight
from unetx_search.listed_study import ListedStudy
from unetx_search.preparing import no_empty_folders, write_split_and_task
from unetx_search.progress import say
from unetx_search.proposals import ListedProposals, Proposal
from unetx_search.resolving import ResolvedRequest, resolve_request
from unetx_search.run import SETTINGS, source_of
from unetx_search.study_setup import StudySetup
from unetx_studies.ranking import is_complete
from unetx_studies.store import Records, find_location, full_disk_explained, open_store

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, Evaluator
    from unetx_evaluators.tasks import Source
    from unetx_studies.candidate import Candidate

FIRST_REFERENCE_SEED = 2_000_000
"""The first seed of references, added to the audit's: none shares initial values or batches with a proxy."""
STEPS = "steps"
"""The parameter of a training in Optuna's tables beside its design's genes."""


def audit(
    config: AuditConfig,
    *,
    console: Console,
    probe: GpuProbe = usable_gpus,
    evaluator: Evaluator | None = None,
    source: Source | None = None,
) -> Audit:
    """Train a sample of designs briefly and long, or go on with that, and tell what the short trainings are worth.

    ``probe``, ``evaluator`` and ``source`` replace the machine, the trainer and the data in tests. Once all is trained,
    the recommendation is kept with the prepared task. Raises RequestError when the request cannot be met or differs
    from what the folder's audit was begun with.
    """
    with open_engine(config, probe=probe) as engine, full_disk_explained(config.folder):
        if evaluator is None:
            preflight(engine.slots, console)
        trainer = evaluator or proxy_evaluator(engine.slots)
        with no_empty_folders(config.folder, config.cache_folder):
            resolved, settings = _resolved(config, engine, trainer, source or source_of(config, console), console)
            task, budget = resolved.task, resolved.budget
            setup = StudySetup(task.backbone(), task.patch, resolved.space, budget, config.seed, config.max_cost)
            designs = sample_designs(setup, config.designs, MIN_DESIGNS)
            write_split_and_task(config.folder, task)
        listed = tuple(trainings(designs, budget, config))
        say(console, outlook_text(config, designs, budget.steps, listed))
        study = ListedStudy(
            config=config,
            name=config.study_name,
            database=config.storage,
            task=task,
            budget=max((one.budget for one in listed), key=lambda one: one.steps),
            n_trials=len(listed),
            genes=setup.genes | {STEPS: CategoricalDistribution(sorted({one.budget.steps for one in listed}))},
            diagnosis=config.diagnosis,
            settings=settings,
        )
        was_stopped = study.train(lambda records: ListedProposals(listed), engine, trainer, console)
        result = Audit(config, designs, budget.steps, _read_trainings(config), len(listed), was_stopped)
        write_audit(result)
        if not was_stopped:
            AuditFile.of(task, budget).write(result.recommendation)
        return result


def _resolved(
    config: AuditConfig, engine: Engine, trainer: Evaluator, source: Source, console: Console
) -> tuple[ResolvedRequest, StudySettings]:
    """The resolved request and the settings of its study, checked against those of one that has begun."""
    path = config.folder / SETTINGS
    check_request(config, path)
    stored = read_settings(path) if path.exists() else None
    resolved = resolve_request(
        config,
        source,
        engine.slots[0].device,
        lambda task: engine.executor(trainer, task, engine.slots),
        console,
        stored,
    )
    settings = replace(resolved.settings, audit=config.stated)
    if stored is not None:
        settings.check(path)
    return resolved, settings


def proxy_lengths(steps: int) -> tuple[int, ...]:
    """Return the numbers of steps that are tried as proxies: half the default's, as many, and twice as many."""
    return steps // 2, steps, 2 * steps


def trainings(designs: Sequence[Candidate], budget: Budget, config: AuditConfig) -> Iterator[Proposal]:
    """Yield all trainings seed by seed, the short ones first, so that an early end leaves tables that are complete."""
    for n in range(config.seeds):
        for steps in proxy_lengths(budget.steps):
            yield from (_training(one, budget, steps, config.seed + n) for one in designs)
        reference_seed, steps = FIRST_REFERENCE_SEED + config.seed + n, config.longer * budget.steps
        yield from (_training(one, budget, steps, reference_seed) for one in designs)


def _training(design: Candidate, budget: Budget, steps: int, seed: int) -> Proposal:
    longer = max(1.0, steps / budget.steps)
    trained = replace(with_steps(budget, steps), max_seconds=longer * budget.max_seconds)
    candidate = replace(
        design,
        params={**design.params, STEPS: steps},
        reason=f"audit: {design.origin}, {steps} steps, seed {seed}",
    )
    return Proposal(candidate, seed, trained)


def _read_trainings(config: AuditConfig) -> tuple[AuditTraining, ...]:
    """What the study's folder holds by now."""
    location = find_location(config.folder)
    with open_store(location.url, create=False, read_only=True) as store:
        records = Records(store, location.study or config.study_name)
        trials, curves = records.trials(), records.curves()
        return tuple(
            AuditTraining(
                trial,
                is_complete(trial),
                _loss_sum([(point.step, point.loss) for point in curves.get(trial.number, ())]),
                (records.insight(trial.number) or {}).get("zero_cost"),
            )
            for trial in trials
        )


def _loss_sum(curve: Sequence[tuple[int, float]]) -> float:
    """Return the sum over all training steps, from the mean losses between rungs."""
    steps = [0, *(step for step, _ in curve)]
    return sum((step - before) * loss for before, (step, loss) in zip(steps, curve, strict=False))
