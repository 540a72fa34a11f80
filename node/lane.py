"""The compute lane: one worker thread per node on which everything that computes runs.

Long work (training) calls ``step`` between its optimisation steps. Inside ``step`` the lane runs the
urgent work (inference for tasks) that came in meanwhile, so a served task starts within one training
step, and training is paused, never lost. A cancelled piece of long work ends at its next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import Cancelled, Refused

T = TypeVar("T")
Step = Callable[[float], None]

MAX_URGENT = 64


@dataclass(frozen=True)
class LaneState:
    """What the lane is doing: label and fraction of the long work, and how much urgent work waits."""

    label: str
    fraction: float
    waiting: int


@dataclass
class _Job:
    work: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self) -> None:
        # a cancelled future would look as if the waiting task itself had been cancelled
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(Cancelled("the node is stopping"))


class Lane:
    """Runs long work one piece at a time, and urgent work in between."""

    def __init__(self, name: str = "lane") -> None:
        self._condition = threading.Condition()
        self._urgent: deque[_Job] = deque()
        self._long: deque[_Job] = deque()
        self._closed = False
        self._label, self._fraction = "", 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def state(self) -> LaneState:
        return LaneState(self._label, self._fraction, len(self._urgent))

    async def train(self, label: str, work: Callable[[Step], T]) -> T:
        """Run ``work(step)`` after the long work that waits already; cancelling ends it at its next step.

        Raises:
            Cancelled: the lane was closed meanwhile.
        """
        cancelled = threading.Event()

        def step(fraction: float) -> None:
            self._fraction = fraction
            if cancelled.is_set() or self._closed:
                raise Cancelled(f"{label} was stopped")
            self._run_urgent()

        def labelled() -> T:
            self._label, self._fraction = label, 0.0
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
        """Run short ``work`` as soon as the step in flight has ended.

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
        while self._urgent:
            with self._condition:
                if not self._urgent:
                    return
                job = self._urgent.popleft()
            job.run()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._urgent or self._long or self._closed):
                    self._condition.wait()
                if self._closed:
                    return
                job = (self._urgent or self._long).popleft()
            job.run()
