"""Lessons that somebody asked for: fine-tuning on labelled images, and learning a skill that was fetched."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import Cancelled, Refused
from ..knowledge.data import Dataset
from ..knowledge.space import Space
from .cycle import Cycle, Outcome
from .messages import Asked, FineTuneAsked, SkillFetched
from .results import Answer, FineTuned, Learned
from .router import Competence
from .skills import Skills
from .store import Journal

MOST = 4
"""Lessons that may wait."""


class LessonsAsked:
    """Lessons that somebody waits for, first come, first served."""

    def __init__(self, put: Callable[[Asked], Awaitable[None]]) -> None:
        self._put = put
        self._waiting: deque[Asked] = deque()
        self._replies: set[asyncio.Future[Any]] = set()

    async def wait_for(self, asked: Asked) -> Any:
        """Put it into the node's mailbox and wait for its result. Raises Refused when too many wait."""
        if len(self._replies) >= MOST:
            raise Refused("too many lessons wait already", "try again later", code="busy")
        self._replies.add(asked.reply)
        try:
            await self._put(asked)
            return await asked.reply
        finally:
            self._replies.discard(asked.reply)

    def add(self, asked: Asked) -> None:
        """It has come out of the mailbox."""
        self._waiting.append(asked)

    def next(self) -> Asked | None:
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Tell those who wait that the node is stopping."""
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(Cancelled("the node is stopping"))


async def teach(
    asked: Asked, cycle: Cycle, journal: Journal, skills: Skills | None, known: Competence, space: Space, me: Answer
) -> tuple[Outcome, FineTuned | Learned]:
    """Do what was asked, on the compute lane, and say what it came to.

    Args:
        known: what the node can do now. me: this node, as the one who answers.

    Raises:
        Cancelled: nobody waits for it any more, or the lane was closed.
    """
    loop = asyncio.get_running_loop()

    def progress(fraction: float) -> None:
        loop.call_soon_threadsafe(asked.progress, fraction, "learning")

    match asked:
        case FineTuneAsked(task):
            labelled = Dataset(space, task.images, task.labels)
            tuned, outcome = await cycle.fine_tune(
                labelled, task.steps, journal, skills, progress, lambda: not asked.reply.done()
            )
            return outcome, FineTuned(
                len(task.images), tuned.before, tuned.after, tuned.home_before, tuned.home_after, tuned.kept, me
            )
        case SkillFetched(task, entry, data):
            labels = {name: space.classes.index(name) for name in task.classes}
            taught, outcome = await cycle.learn_skill(
                entry, data, frozenset(labels.values()), journal, skills, known, progress
            )
            now = known if outcome.measured is None else outcome.measured.competence
            before, after = (
                {name: c.classify[label] if c.classify else 0.0 for name, label in labels.items()} for c in (known, now)
            )
            samples, at_home = len(entry.packet), taught.at_home or (None, None)
            return outcome, Learned(
                task.classes, samples, before, after, at_home[0], at_home[1], taught.kept, taught.reason, me
            )
