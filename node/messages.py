"""What an edge node is told: the messages in its mailbox, and the answer to the one that somebody waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from ..errors import MeshloreError, TaskError
from .cycle import Outcome
from .library import Entry
from .plan import Action
from .service import Progress
from .tasks import FineTune, FineTuned

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
class WorkDone:
    """The piece of learning that was running has ended."""

    action: Action | FineTuneAsked
    outcome: Outcome | Exception
    result: FineTuned | None = None


Message = PacketArrived | PeersChanged | FineTuneAsked | WorkDone


def reply_to(asked: FineTuneAsked, outcome: Outcome | Exception, result: FineTuned | None) -> None:
    """Tell who asked for a fine-tuning what it came to; what it changed is on disk by now."""
    reply = asked.reply
    if reply.done():
        return
    if result is not None:
        reply.set_result(result)
    elif isinstance(outcome, MeshloreError):
        reply.set_exception(outcome)
    else:
        log.error("fine-tuning failed", exc_info=outcome)
        reply.set_exception(TaskError(f"the fine-tuning failed ({outcome!r})", "see the log of the daemon"))
