"""A seat on a Ray cluster as the coordinator sees it: its actor, the line to it, its job, and whose fault a death is.

An actor is asked for events all the time, one question under way for each; whatever is to be said to it goes along, and
once more with every question until it has confirmed it.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, RayActorError, RayError, RayTaskError

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_search.executors import worker
from unetx_search.executors.base import Handler, Job, failed_evaluation, tell_end
from unetx_search.executors.ray.remote import (
    Answer,
    Broke,
    Close,
    Closed,
    Errand,
    Event,
    Failed,
    Interrupt,
    Keeper,
    Lost,
    Mail,
    Order,
    Reply,
    Up,
)
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Actors of one seat that may die one after another before any of them is up."""
LISTEN_S = 20.0
"""How long an actor holds a question for events before it answers that there are none."""
ASK_AGAIN_S = 1.0
"""After an actor could not be reached."""
LEFT_OUT_S = 60.0
"""For a seat whose worker turned out unfit while others work, before it is tried again."""
RESOLUTION = 10_000
"""Ray counts fractions of a GPU in ten-thousandths."""


class SeatActor:
    """The actor: a keeper and its mail."""

    def __init__(self, errand: Errand) -> None:
        self._mail = Mail()
        Keeper(errand, self._mail, ray.get_runtime_context().get_node_id())

    def exchange(self, n_events: int, orders: Sequence[tuple[int, Order]], wait_s: float) -> Reply:
        return self._mail.exchange(n_events, orders, wait_s)


@dataclass(slots=True)
class _Assignment:
    """A job in its seat."""

    job: Job
    began_s: float | None = None
    """When the handler was told that it began; None before."""
    interrupted: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def is_mute(self) -> bool:
        """It was withdrawn before anybody was told that it began: what it does now is nobody's concern."""
        return self.interrupted and self.began_s is None


@dataclass(frozen=True, slots=True)
class _Death:
    """An actor that died under a job, while it is not clear whether its whole node did."""

    up: Up
    cause: str
    judged_at_s: float


class FarSeat:
    """A seat as the coordinator sees it: its actor, the line to it, and the job it has."""

    def __init__(self, errand: Errand, verdict_s: float) -> None:
        self.up: Up | None = None
        """Set while the actor is there and fit for work."""
        self.question: Any = None
        """The exchange that waits for events; None while the actor cannot be reached."""
        self.closing = False
        self._errand = errand
        self._verdict_s = verdict_s
        self._actor: Any = None
        self._assignment: _Assignment | None = None
        self._death: _Death | None = None
        self._n_failed_starts = 0
        self._n_events = 0
        self._orders: deque[tuple[int, Order]] = deque()
        self._n_orders = 0
        self._again_at_s = 0.0

    @property
    def free(self) -> bool:
        return self.up is not None and self._assignment is None

    # The actor and the line to it.

    def fill(self) -> None:
        """Ask Ray for an actor. It comes when there is room."""
        share = RESOLUTION // self._errand.workers_per_gpu / RESOLUTION
        needs = {"num_cpus": 0, "num_gpus": share} if self._errand.device == "cuda" else {"num_cpus": 1, "num_gpus": 0}
        self.up, self._n_events, self._n_orders = None, 0, 0
        self._orders.clear()
        actor_class = ray.remote(SeatActor)
        self._actor = actor_class.options(
            **needs, max_restarts=0, max_concurrency=16, scheduling_strategy="SPREAD"
        ).remote(self._errand)
        self._ask()

    def _ask(self) -> None:
        self.question = self._actor.exchange.remote(self._n_events, list(self._orders), LISTEN_S)

    def _send(self, order: Order) -> None:
        self._orders.append((self._n_orders, order))
        self._n_orders += 1
        if self.question is not None:
            self._actor.exchange.remote(self._n_events, list(self._orders), 0.0)

    def _answer(self) -> Reply | None:
        """What came; None when the actor cannot be reached now. Raises RayError when it is dead."""
        question, self.question = self.question, None
        try:
            reply: Reply = ray.get(question)
        except RayTaskError:
            raise  # a bug of ours
        except (RayActorError, ActorUnschedulableError) as error:
            if not isinstance(error, ActorUnavailableError):
                raise
            logger.warning("worker %d cannot be reached; asking again", self._errand.worker)
        except RayError as error:
            logger.warning("an answer of worker %d was lost (%s); asking again", self._errand.worker, error)
        else:
            while self._orders and self._orders[0][0] < reply.n_orders:
                self._orders.popleft()
            return reply
        self._again_at_s = time.monotonic() + ASK_AGAIN_S
        return None

    def welcome(self) -> None:
        """Hear the first words of an actor. Raises UnetxError when it cannot do its work."""
        try:
            reply = self._answer()
        except (RayActorError, ActorUnschedulableError) as error:
            self._start_again(_cause(error))
            return
        first = reply.events[0] if reply is not None and reply.events else None
        if isinstance(first, Broke):
            raise RuntimeError(f"the keeper of worker {self._errand.worker} broke:\n{first.traceback}")
        if isinstance(first, Up):
            if first.problem:
                raise UnetxError(first.problem)
            self._errand.reach.confirm(self._errand.worker, first.host)
            self.up, self._n_events, self._n_failed_starts = first, 1, 0
        if reply is not None:
            self._ask()

    def _welcome_late(self) -> None:
        """The same while others work: a node that is not ready yet (a disk that is mounted late) ends no run."""
        try:
            self.welcome()
        except UnetxError as error:
            logger.warning("worker %d is tried again in %g s: %s", self._errand.worker, LEFT_OUT_S, error)
            self.end()
            self._n_failed_starts, self._again_at_s = 0, time.monotonic() + LEFT_OUT_S

    def _start_again(self, cause: str) -> None:
        self._n_failed_starts += 1
        if self._n_failed_starts >= MAX_FAILED_STARTS:
            raise UnetxError(
                f"a worker must start before it can evaluate; Ray's actor for worker {self._errand.worker} died while "
                f"starting, {self._n_failed_starts} times in a row: {cause} Check that unetx-search and what it needs "
                "are installed on every node of the cluster"
            )
        self.fill()

    # The job.

    def take(self, job: Job) -> None:
        self._assignment = _Assignment(job)
        self._send(job)

    def interrupt(self) -> None:
        if self._assignment is not None and not self._assignment.interrupted:
            self._assignment.interrupted = True
            self._send(Interrupt())

    def attend(self, handler: Handler) -> None:
        """Tell the handler what the actor has answered."""
        if self.up is None:
            self._welcome_late()
            return
        try:
            reply = self._answer()
        except (RayActorError, ActorUnschedulableError) as error:
            self._bury(self.up, _cause(error), handler)
            return
        if reply is None:
            return
        try:
            for number, event in enumerate(reply.events, reply.first):
                if number >= self._n_events:
                    self._n_events = number + 1
                    self._heed(event, handler)
        finally:
            self._ask()

    def look_after(self, handler: Handler) -> None:
        """What time alone brings: to ask or to start again, to judge a death."""
        self.go_on_asking()
        if self._death is not None:
            self._judge(self._death, handler)

    def go_on_asking(self) -> None:
        """A seat without a question under way has one again, when it is time, or a new actor."""
        if self.question is None and time.monotonic() >= self._again_at_s:
            if self._actor is None:
                self.fill()
            else:
                self._ask()

    def _heed(self, event: Event, handler: Handler) -> None:
        match event:
            case Failed():
                raise UnetxError(event.message)
            case Broke():
                raise RuntimeError(f"the keeper of worker {self._errand.worker} broke:\n{event.traceback}")
            case worker.DiskFull():  # its job was left just before
                raise StorageFull(event.message)
            case _ if self._assignment is not None and self._assignment.is_mute:
                self._heed_mute(event, handler)
            case _ if self._assignment is not None and self.up is not None:
                self._heed_job(self._assignment, self.up, event, handler)

    def _heed_mute(self, event: Event, handler: Handler) -> None:
        if isinstance(event, worker.Finished | worker.Left | Lost):
            self._close_job(handler, None)

    def _heed_job(self, held: _Assignment, up: Up, event: Event, handler: Handler) -> None:
        trial = held.job.trial
        match event:
            case worker.Started():
                held.began_s = time.monotonic()
                handler.on_started(trial, self._errand.worker, up.label, event.process)
            case worker.Stepped():
                handler.on_step(trial, event.step)
            case worker.ReachedRung():
                held.curve.append(event.point)
                self._send(Answer(handler.on_rung(trial, event.point)))
            case worker.Finished():
                self._close_job(handler, event.evaluation)
            case worker.Left():
                self._close_job(handler, None)
            case Lost():
                self._assignment = None
                handler.on_lost(trial, self._errand.worker, event.evaluation)

    def _close_job(self, handler: Handler, evaluation: Evaluation | None) -> None:
        """Free the seat, then tell how the job ended; None: without a result."""
        held, self._assignment = self._assignment, None
        if held is not None:
            tell_end(handler, held.job.trial, self._errand.worker, evaluation)

    # The end of an actor.

    def _bury(self, up: Up, cause: str, handler: Handler) -> None:
        """The actor is dead: its seat is filled again; its job, if it had begun, waits for the verdict."""
        held = self._assignment
        if held is not None:
            self._death = _Death(up, cause, time.monotonic() + self._verdict_s)
        self.fill()
        if self._death is not None:
            self._judge(self._death, handler)

    def _judge(self, death: _Death, handler: Handler) -> None:
        """Whose fault it was. The job's only when its node lives on, or when Ray says that memory ran out."""
        held = self._assignment
        if held is None:
            self._death = None
            return
        trial, index = held.job.trial, self._errand.worker
        where = f"worker {index} on {death.up.label}"
        if held.interrupted:
            self._end_job_of_the_dead()
            handler.on_interrupted(trial)
        elif held.began_s is None or not _is_alive(death.up.node):
            self._end_job_of_the_dead()
            handler.on_displaced(trial, f"{where} went down with its node ({death.cause})")
        elif time.monotonic() >= death.judged_at_s:
            self._end_job_of_the_dead()
            reason = f"{where}: its Ray actor died: {death.cause}"
            seconds = time.monotonic() - held.began_s
            handler.on_lost(trial, index, failed_evaluation(Outcome.CRASHED, reason, curve=held.curve, seconds=seconds))

    def _end_job_of_the_dead(self) -> None:
        self._assignment, self._death = None, None

    def begin_to_close(self, timeout_s: float) -> None:
        """Drop the job, and ask the actor to leave no process behind."""
        self._assignment = self._death = None
        if self.up is not None:
            self.closing = True
            self._send(Close(timeout_s))

    def hear_goodbye(self) -> None:
        with suppress(RayError):
            reply = self._answer()
            if reply is None or not any(isinstance(event, Closed | Failed | Broke) for event in reply.events):
                self._n_events = self._n_events if reply is None else reply.first + len(reply.events)
                self._ask()
                return
        self.closing = False

    def end(self) -> None:
        """Take the actor away."""
        if self._actor is not None:
            with suppress(RayError):
                ray.kill(self._actor, no_restart=True)
            self._actor = self.up = self.question = None


def _is_alive(node: str) -> bool:
    return any(found["NodeID"] == node and found["Alive"] for found in ray.nodes())


def _cause(error: RayError) -> str:
    """Ray's account of a death in one line, without colours, the names of our own class and its guesses."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    own = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:", "The actor died unexpectedly")
    account = " ".join(line for line in lines if line and not line.startswith(own))
    return re.split(r"(?:Some common causes|There are some potential root causes)", account)[0].strip()[:1000]
