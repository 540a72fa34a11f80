"""The compute lane: one worker thread per node on which everything that computes runs.

Long work (training) calls ``step`` between its optimisation steps. Inside ``step`` the lane runs the
urgent work (inference for tasks) that came in meanwhile, so a served task starts within one training
step, and training is paused, never lost. Tasks that ask for more than their share of the lane wait in turn
with training (`meshlore.node.turns`). A cancelled piece of long work ends at its next step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import Cancelled, Refused
from ..knowledge.process import give_memory_back
from .turns import Turns

T = TypeVar("T")
Step = Callable[[float], None]

MAX_URGENT = 64
SHARE = 0.8
"""Of the time while something is trained, what tasks may take."""


@dataclass(frozen=True)
class LaneState:
    """What the lane is doing: label and fraction of the long work, and how much urgent work waits.

    Attributes:
        load: pieces of urgent work that wait or are being done.
        latency_s: how long the next piece would take if none waited.
    """

    label: str
    fraction: float
    waiting: int
    load: int
    latency_s: float


@dataclass
class _Job:
    work: Callable[[], Any]
    future: Future[Any]

    def run(self, ended: Callable[[], None] = lambda: None) -> None:
        """Do the work; ``ended`` is called before anybody is told the result."""
        if not self.future.set_running_or_notify_cancel():
            ended()
            return
        try:
            result = self.work()
        except BaseException as error:
            ended()
            self.future.set_exception(error)
        else:
            ended()
            self.future.set_result(result)

    def refuse(self) -> None:
        # a cancelled future would look as if the waiting task itself had been cancelled
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(Cancelled("the node is stopping"))


class Lane:
    """Runs long work one piece at a time, and urgent work in between.

    Args:
        share: of the time while something is trained, what urgent work may take, 0 < share <= 1.
        clock: monotonic seconds.
    """

    def __init__(
        self, name: str = "lane", *, share: float = SHARE, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._whose_turn, self._clock = Turns(share), clock
        self._serving = 0
        self._condition = threading.Condition()
        self._urgent: deque[_Job] = deque()
        self._long: deque[_Job] = deque()
        self._closed = False
        self._label, self._fraction = "", 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def state(self) -> LaneState:
        waiting, turns = len(self._urgent), self._whose_turn
        latency_s = turns.task_s + (turns.step_s if self._label else 0.0)
        return LaneState(self._label, self._fraction, waiting, waiting + self._serving, latency_s)

    async def train(self, label: str, work: Callable[[Step], T]) -> T:
        """Run ``work(step)`` after the long work that waits already; cancelling ends it at its next step.

        Raises:
            Cancelled: the lane was closed meanwhile.
        """
        cancelled = threading.Event()

        since = 0.0

        def step(fraction: float) -> None:
            nonlocal since
            self._whose_turn.trained(self._clock() - since)
            self._fraction = fraction
            if cancelled.is_set() or self._closed:
                raise Cancelled(f"{label} was stopped")
            self._run_urgent()
            since = self._clock()

        def labelled() -> T:
            nonlocal since
            self._label, self._fraction = label, 0.0
            since = self._clock()
            try:
                step(0.0)
                return work(step)
            finally:
                self._label, self._fraction = "", 0.0

        try:
            return await asyncio.wrap_future(self._submit(self._long, labelled))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def serve(self, work: Callable[[], T]) -> T:
        """Run short ``work`` as soon as the step in flight has ended and those before it are done.

        Raises:
            Refused: ``MAX_URGENT`` pieces wait already (code "busy").
            Cancelled: the lane was closed meanwhile.
        """
        if len(self._urgent) >= MAX_URGENT:
            raise Refused("this node has too many tasks waiting", "try again in a moment", code="busy")
        return await asyncio.wrap_future(self._submit(self._urgent, work))

    async def close(self) -> None:
        """End long work at its next step, refuse what waits, and wait for the thread to end."""
        with self._condition:
            self._closed = True
            for job in (*self._urgent, *self._long):
                job.refuse()
            self._urgent.clear()
            self._long.clear()
            self._condition.notify()
        await asyncio.to_thread(self._thread.join, 10)

    def _submit(self, jobs: deque[_Job], work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._condition:
            if self._closed:
                raise Cancelled("the node is stopping")
            jobs.append(_Job(work, future))
            self._condition.notify()
        return future

    def _run_urgent(self) -> None:
        """What waits, while it is the turn of tasks."""
        while self._urgent and self._whose_turn.for_tasks:
            with self._condition:
                if not self._urgent:
                    return
                job = self._urgent.popleft()
            self._serve(job, beside_training=True)

    def _serve(self, job: _Job, *, beside_training: bool) -> None:
        started, self._serving = self._clock(), 1

        def ended() -> None:
            self._serving = 0
            self._whose_turn.served(self._clock() - started, beside_training=beside_training)

        job.run(ended)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._urgent or self._long or self._closed):
                    self._condition.wait()
                if self._closed:
                    return
                urgent = bool(self._urgent) and (self._whose_turn.for_tasks or not self._long)
                job = (self._urgent if urgent else self._long).popleft()
                training_waits = bool(self._long)
            if urgent:
                self._serve(job, beside_training=training_waits)
            else:
                job.run()
                give_memory_back()
