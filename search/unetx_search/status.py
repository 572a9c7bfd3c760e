"""The state of a study, read from its folder while it runs or afterwards; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unetx_search.cheapest import cheapest_words
from unetx_search.evidence_text import evidence_facts, spread_lines
from unetx_search.finals.report import read_conclusion
from unetx_search.progress import WORKERS, WorkersFile, WorkerState, duration
from unetx_search.sharing.choice import SHARING, Sharing, read_sharing
from unetx_search.summary import best_facts
from unetx_space.documents import load
from unetx_space.errors import RequestError
from unetx_space.files import json_text
from unetx_studies.evidence import evidence
from unetx_studies.ranking import Ranked, Ranking, outcome_counts
from unetx_studies.store import (
    Lease,
    Records,
    RunRecord,
    Stage,
    Store,
    StudyLocation,
    TrialRecord,
    check_study,
    find_location,
    open_store,
)
from unetx_studies.study_folders import CHEAPEST


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a study at an instant."""

    study: str
    folder: Path
    now: datetime
    run: RunRecord
    """The latest run of the search."""
    is_running: bool
    trials: tuple[TrialRecord, ...]
    """Every trial, in order."""
    workers: Mapping[int, WorkerState]
    """What each worker is doing; empty when the study does not run."""
    sharing: Mapping[str, Sharing] = field(default_factory=dict)
    """How many workers share a GPU, by kind of GPU, where that was measured."""
    cheapest: Mapping[str, Any] | None = None
    """Facts of the cheapest design that is as good as U-Net, by the latest run; None before there are any."""

    @property
    def evaluations(self) -> tuple[TrialRecord, ...]:
        """The finished trials."""
        return tuple(trial for trial in self.trials if trial.is_finished)

    @property
    def n_trials(self) -> int:
        """The total of trials that the latest run was to reach."""
        return self.run.n_trials

    @property
    def compared(self) -> tuple[TrialRecord, ...]:
        """The finished trials where all trained equally long, else none: scores of an audit cannot be compared."""
        return self.evaluations if len({trial.budget.steps for trial in self.evaluations}) == 1 else ()

    @property
    def best(self) -> Ranked | None:
        """The best design; None before any has a score."""
        return Ranking(self.compared).best

    def state(self) -> str:
        """Put the state of the latest run into a sentence."""
        who = f"{self.run.process} (run {self.run.id[:8]})"
        if self.is_running:
            return f"running for {duration((self.now - self.run.started_at).total_seconds())} as {who}"
        if len(self.evaluations) >= self.n_trials:
            return "complete"
        if self.run.ended_at is None or self.run.ending == "died":
            return f"interrupted: {who} died; run the same command to continue"
        how = "stopped in order" if self.run.ending == "ended" else f"stopped: {self.run.ending}"
        return f"{how}; run the same command to continue"


def read_status(folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Status:
    """Read the state of the study in ``folder``. Raises RequestError when there is none."""
    now = clock()
    check_study(folder)
    location = find_location(folder)
    with open_store(location.url, create=False, read_only=True) as store:
        name = _name(location, store)
        run = Lease(store, name).runs()[-1]
        is_running = run.is_alive(now)
        return Status(
            study=name,
            folder=folder,
            now=now,
            run=run,
            is_running=is_running,
            trials=Records(store, name).trials(),
            workers=WorkersFile.read(folder / WORKERS) if is_running else {},
            sharing=read_sharing(folder / SHARING),
            cheapest=_cheapest(folder / CHEAPEST),
        )


def _cheapest(path: Path) -> dict[str, Any] | None:
    """What the file of the cheapest design says of it; None where there is none, or it is damaged."""
    try:
        return dict(load(path).score["cheapest"])
    except (RequestError, KeyError, TypeError, ValueError):
        return None


def _name(location: StudyLocation, store: Store) -> str:
    """The name of the study; a server's is one among others, a file has one, whatever its folder is called.

    Raises RequestError when it has begun no trial, or none of several is called as the folder.
    """
    names = Records.studies(store)
    mine = location.study if location.is_on_server else location.folder.resolve().name
    if mine in names:
        return str(mine)
    if location.is_on_server or len(names) != 1:
        found = ", ".join(names) or "none that has begun a trial"
        wanted = f"the study {location.study!r}" if location.is_on_server else "one study"
        raise RequestError(f"expected {wanted} in {location.shown}, found {found}")
    return names[0]


def trial_facts(trial: TrialRecord) -> dict[str, Any]:
    """Return a row of a table of trials: number, design, outcome, Dice, seconds and costs; None where unknown."""
    return {
        "trial": trial.number,
        "design": trial.key,
        "origin": str(trial.origin),
        "seed": trial.seed,
        "outcome": None if trial.outcome is None else str(trial.outcome),
        "dice": trial.score,
        "seconds": trial.seconds,
        "parameters": trial.n_parameters,
        "multiply_adds": trial.macs,
    }


def status_text(status: Status) -> str:
    """Return one screen of text: the state, the best design, the workers, the last failure, where the logs are."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcome_counts(status.trials).items()) or "none yet"
    lines = [
        f"{status.study}: {status.state()}",
        f"  trials     {len(status.evaluations)} of {status.n_trials} ({counts})",
    ]
    if (best := status.best) is not None:
        original, seeds = best.original_dice, "1 seed" if len(best.seeds) == 1 else f"{len(best.seeds)} seeds"
        on_original = "" if original in (None, best.dice) else f", {original:.4f} on the original voxels"
        lines.append(
            f"  best       trial {best.number}: Dice estimated at {best.estimate:.4f} +- {best.standard_error:.4f}; "
            f"measured {best.dice:.4f} with {seeds}{on_original}"
        )
        cheapest = "none known that is as good as U-Net" if status.cheapest is None else cheapest_words(status.cheapest)
        lines.append(f"  cheapest   {cheapest}")
    if (conclusion := read_conclusion(status.folder)) is not None:
        lines.append(f"  finals     {conclusion}")
    lines += spread_lines(evidence(status.compared))
    lines += _eager_lines(status.evaluations)
    lines += [f"  {kind}: {sharing}" for kind, sharing in status.sharing.items()]
    lines += [*map(_job_line, _jobs(status)), *_latest_failure(status)]
    lines.append(f"  logs       {status.folder / 'logs'}/worker-N.log")
    return "\n".join(lines)


def status_line(status: Status) -> str:
    """Return one line: how many trials are done, the best design, and what the workers do."""
    best = status.best
    leads = "" if best is None else f", best trial {best.number}: Dice {best.estimate:.4f} +- {best.standard_error:.4f}"
    at_work = ", ".join(f"{worker.trial} (step {worker.step})" for worker in status.workers.values())
    return f"{len(status.evaluations)} of {status.n_trials} trials{leads}{f', in work {at_work}' if at_work else ''}"


def _eager_lines(evaluations: Iterable[TrialRecord]) -> Iterator[str]:
    """How many trainings on GPUs ran their steps one by one, and why most did; nothing where none did."""
    seen = _steps_run_as(evaluations)
    eager = Counter({how.removeprefix("eager: "): n for how, n in seen.items() if how.startswith("eager: ")})
    for reason, _ in eager.most_common(1):
        yield f"  no graph   in {eager.total()} of {seen.total()} trainings on GPUs, which were slower: {reason}"


def _steps_run_as(evaluations: Iterable[TrialRecord]) -> Counter[str]:
    """How the steps of trainings on GPUs ran: "graph", or "eager: " and why."""
    return Counter(trial.versions["steps"] for trial in evaluations if "steps" in trial.versions)


def _jobs(status: Status) -> list[dict[str, object]]:
    """Every unfinished trial, with what its worker does where one has it."""
    at_work = {worker.trial: worker for worker in status.workers.values()}
    found: list[dict[str, object]] = []
    for trial in status.trials:
        if trial.is_finished:
            continue
        is_held = status.is_running and trial.stage is Stage.RUNNING
        worker = at_work.get(trial.number) if is_held else None
        found.append(
            {
                "trial": trial.number,
                "state": "running" if is_held else "waiting",
                "worker": trial.worker if is_held else None,
                "device": trial.device if is_held else "",
                "step": worker.step if worker else None,
                "dice": worker.score if worker else None,
                "seconds": (status.now - trial.started_at).total_seconds() if is_held and trial.started_at else None,
                "starts": trial.n_starts,
                "workers_lost": trial.n_lost,
                "last_loss": trial.exit_reason,
            }
        )
    return found


def _job_line(job: dict[str, object]) -> str:
    tries = f", try {job['starts']}" if isinstance(job["starts"], int) and job["starts"] > 1 else ""
    lost = f"; {job['last_loss']}" if job["workers_lost"] else ""
    if job["state"] == "waiting":
        return f"  waiting    trial {job['trial']}{tries}, to be run again under its number{lost}"
    score = f", Dice {job['dice']:.4f}" if job["dice"] is not None else ""
    step = f", step {job['step']}" if job["step"] is not None else ""
    seconds = duration(job["seconds"]) if isinstance(job["seconds"], float) else ""
    return f"  worker {job['worker']!s:<3} {job['device']}: trial {job['trial']}{tries}{step}{score}, {seconds}{lost}"


def _latest_failure(status: Status) -> list[str]:
    failed = [e for e in status.evaluations if e.outcome is not None and (e.outcome.failed or e.outcome.violates)]
    latest = max(failed, key=lambda e: e.ended_at or e.asked_at, default=None)
    if latest is None:
        return []
    return [f"  last loss  trial {latest.number} ended as {latest.outcome}: {latest.reason}"]


def decisions_text(status: Status) -> str:
    """Return a line for each trial that says why its design was proposed."""
    return "\n".join(f"trial {t.number:>4}  {t.asked_at:%Y-%m-%d %H:%M:%S}  {t.why}" for t in status.trials)


def status_json(status: Status) -> str:
    """Return the state and the decisions as JSON."""
    run, best = status.run, status.best
    facts = {
        "study": status.study,
        "folder": str(status.folder),
        "state": status.state(),
        "is_running": status.is_running,
        "n_trials": status.n_trials,
        "n_finished": len(status.evaluations),
        "outcomes": outcome_counts(status.trials),
        **best_facts(best),
        "cheapest": status.cheapest,
        "finals": read_conclusion(status.folder),
        "evidence": evidence_facts(evidence(status.compared)),
        "run": {
            "id": run.id,
            "host": run.process.host,
            "pid": run.process.pid,
            "started_at": run.started_at.isoformat(),
            "seen_at": run.seen_at.isoformat(),
            "ended_at": run.ended_at.isoformat() if run.ended_at else None,
            "ending": run.ending,
        },
        "workers_per_gpu": {kind: asdict(sharing) for kind, sharing in status.sharing.items()},
        "steps_run_as": _steps_run_as(status.evaluations),
        "jobs": _jobs(status),
        "decisions": [{"trial": t.number, "origin": str(t.origin), "reason": t.why} for t in status.trials],
    }
    return json_text(facts)
