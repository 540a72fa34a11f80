"""Forwarding: each piece of a task to whoever the router names, to the next one when that fails, several at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from ..errors import DeadlineExceeded, DecodeError, MeshloreError, NoCapableNode, PeerError, PeerTimeout, Refused
from ..knowledge.space import Space
from .pieces import Done, Piece, Served, as_sent, check
from .router import Ability, Candidate, route
from .tasks import Generate

log = structlog.get_logger("meshlore.tasks")

ATTEMPT_S = 10.0
AT_ONCE = 4
"""Pieces of one task under way: enough to keep several nodes busy, few enough to leave others their turn."""
BUSY_S = 0.2
"""Between two tries to find room for the next piece of a task that has begun."""


class Network(Protocol):
    """What forwarding needs of the node."""

    @property
    def space(self) -> Space: ...

    @property
    def leave_for(self) -> float: ...

    def candidates(self) -> list[Candidate]: ...

    def ask(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> Awaitable[dict[str, Any]]: ...


class Forwarding:
    """The way of one task's pieces. Nobody that failed for one piece is asked for another.

    Who is busy has failed too; but once a piece is done the task is not refused for want of room any more: it waits.

    Args:
        here: does a piece on this node.

    Attributes:
        failed: peer id -> why, of those that failed.
    """

    def __init__(self, network: Network, here: Callable[[Served], Awaitable[dict[str, Any]]], timeout_s: float) -> None:
        self._network = network
        self._here = here
        self._ends = time.monotonic() + timeout_s
        self.failed: dict[str, str] = {}
        self._busy = set[str]()
        self._begun = False

    async def all(self, pieces: Sequence[Piece], where: str, on_done: Callable[[Done], None]) -> None:
        """Do every piece.

        Args:
            where: as a task says it. on_done: is told of each piece once it is done.

        Raises:
            NoCapableNode, DeadlineExceeded, or what a piece failed with here; the others are given up.
        """
        waiting = iter(pieces)

        async def work() -> None:
            for piece in waiting:
                on_done(await self.one(piece, where))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in pieces[:AT_ONCE]:
                    workers.create_task(work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def one(self, piece: Piece, where: str) -> Done:
        """Do one piece: the router's candidates in their order, until one answers."""
        task = piece.task
        while True:
            order = self.order(piece, where)
            if not order and self._begun and self._busy:
                await asyncio.sleep(BUSY_S)
                self._ask_the_busy_again()
                continue
            if not order:
                raise nobody(task.kind, getattr(task, "label", ""), where, self.failed)
            candidate, left_s = order[0], self._ends - time.monotonic()
            wait_s = max(0.1, min(ATTEMPT_S, left_s if len(order) == 1 else left_s / 2))
            try:
                reply = await self._reply(piece, candidate, wait_s)
            except (PeerError, DecodeError) as error:
                self._note(task, candidate, error)
                if isinstance(error, PeerTimeout) and wait_s >= left_s:
                    raise DeadlineExceeded("nobody answered in time", "give it more time (--timeout)") from None
            else:
                self._begun = True
                return Done(piece, reply, candidate)

    async def _reply(self, piece: Piece, candidate: Candidate, wait_s: float) -> dict[str, Any]:
        if candidate.hop == "here":
            return piece.at_home or await self._here(piece.task)
        reply = await self._network.ask(candidate.peer_id, "task", as_sent(piece.task), wait_s)
        check(piece.task, reply, self._network.space)
        return reply

    def _note(self, task: Served, candidate: Candidate, error: MeshloreError) -> None:
        self.failed[candidate.peer_id] = str(error)
        busy = isinstance(error, Refused) and error.code == "busy"
        if busy:
            self._busy.add(candidate.peer_id)
        say = log.debug if busy else log.warning
        say("task goes elsewhere", task=task.kind, failed=candidate.name, because=str(error))

    def _ask_the_busy_again(self) -> None:
        for peer_id in self._busy:
            del self.failed[peer_id]
        self._busy.clear()

    def order(self, piece: Piece, where: str) -> list[Candidate]:
        """Who may do a piece, best first."""
        ability: Ability = "generate" if isinstance(piece.task, Generate) else "classify"
        network = self._network
        return route(
            ability,
            piece.concerns,
            network.candidates(),
            where=where,
            failed=self.failed,
            leave_for=network.leave_for,
        )

    def tried(self) -> tuple[str, ...]:
        """The names of those that failed."""
        names = {candidate.peer_id: candidate.name for candidate in self._network.candidates()}
        return tuple(names.get(peer_id, peer_id) for peer_id in self.failed)


def nobody(kind: str, label: str, where: str, failed: dict[str, str]) -> MeshloreError:
    """Why a task has no result, in one line."""
    if failed:
        reasons = "; ".join(sorted(set(failed.values())))
        return NoCapableNode(f"everyone who could {kind} failed ({reasons[:300]})", "try again")
    if where not in ("best", "here"):
        return NoCapableNode(f"no live node named {where!r} can {kind}", "see: meshlore peers")
    if label:
        return NoCapableNode(f"no live node can {kind} {label!r} yet", "wait until a node that knows it has published")
    return NoCapableNode(f"no live node has learned to {kind} yet", "wait a moment, see: meshlore status")
