"""What an edge node is told: the messages in its mailbox, and the answer to those that somebody waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog

from ..errors import MeshloreError, TaskError
from .acquisition import Progress
from .cycle import Outcome
from .library import Entry, SampleEntry
from .plan import Action
from .results import FineTuned, Learned
from .tasks import FineTune, Skill

log = structlog.get_logger("meshlore.node")


@dataclass(frozen=True)
class PacketArrived:
    """A checked packet of someone else is in the library."""

    entry: Entry


@dataclass(frozen=True)
class PeersChanged:
    """A peer came, went, or advertises something new."""


@dataclass(frozen=True)
class FineTuneAsked:
    """This device's user wants labelled images taught."""

    task: FineTune
    progress: Progress
    reply: asyncio.Future[FineTuned]


@dataclass(frozen=True)
class SkillFetched:
    """A skill that was asked for has come, opened and sealed, and is to be learned."""

    task: Skill
    entry: SampleEntry
    data: bytes
    progress: Progress
    reply: asyncio.Future[Learned]


Asked = FineTuneAsked | SkillFetched


@dataclass(frozen=True)
class WorkDone:
    """The piece of learning that was running has ended."""

    action: Action | Asked
    outcome: Outcome | Exception
    result: FineTuned | Learned | None = None


Message = PacketArrived | PeersChanged | Asked | WorkDone


def reply_to(asked: Asked, outcome: Outcome | Exception, result: FineTuned | Learned | None) -> None:
    """Tell who asked for a lesson what it came to; what it changed is on disk by now."""
    reply: asyncio.Future[Any] = asked.reply
    if reply.done():
        return
    if result is not None:
        reply.set_result(result)
    elif isinstance(outcome, MeshloreError):
        reply.set_exception(outcome)
    else:
        log.error("a lesson that was asked for failed", task=asked.task.kind, exc_info=outcome)
        reply.set_exception(TaskError(f"the {asked.task.kind} task failed ({outcome!r})", "see the log of the daemon"))
