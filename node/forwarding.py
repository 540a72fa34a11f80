"""Forwarding: each piece of a task to whoever the router names, to the next one when that fails, several at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from ..errors import DeadlineExceeded, DecodeError, MeshloreError, NoCapableNode, PeerError, PeerTimeout
from ..knowledge.space import Space
from .pieces import Done, Piece, Served, as_sent, check
from .router import Ability, Candidate, route
from .tasks import Generate

log = structlog.get_logger("meshlore.tasks")

ATTEMPT_S = 10.0
AT_ONCE = 4
"""Pieces of one task under way: enough to keep several nodes busy, few enough to leave others their turn."""


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
            if not order:
                raise nobody(task.kind, getattr(task, "label", ""), where, self.failed)
            candidate, left_s = order[0], self._ends - time.monotonic()
            wait_s = max(0.1, min(ATTEMPT_S, left_s if len(order) == 1 else left_s / 2))
            try:
                if candidate.hop == "here":
                    return Done(piece, piece.at_home or await self._here(task), candidate)
                reply = await self._network.ask(candidate.peer_id, "task", as_sent(task), wait_s)
                check(task, reply, self._network.space)
                return Done(piece, reply, candidate)
            except (PeerError, DecodeError) as error:
                self.failed[candidate.peer_id] = str(error)
                log.warning("task goes elsewhere", task=task.kind, failed=candidate.name, because=str(error))
                if isinstance(error, PeerTimeout) and wait_s >= left_s:
                    raise DeadlineExceeded("nobody answered in time", "give it more time (--timeout)") from None

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
