"""Reaching members: over the addresses that are known, or, where none is, over what others know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import MeshloreError, NotAMember, PeerTimeout, Unreachable
from . import messages
from .lookup import look_up
from .members import MemberTable, PeerState, Problem
from .messages import KnownPeers
from .reasons import reason_of
from .settings import MeshSettings
from .transport import Body, Transport

log = logging.getLogger("meshlore.mesh")

SHORTEST_DIAL_S = 1.5


class Dialler:
    """Dials over a transport and notes in a `MemberTable` what came of it.

    ``ask`` makes a request of the mesh itself; ``learn`` is told of address records and who sent them.
    """

    def __init__(
        self,
        transport: Transport,
        settings: MeshSettings,
        table: MemberTable,
        clock: Callable[[], float],
        ask: Callable[[str, str, Body], Awaitable[Body]],
        learn: Callable[[KnownPeers, str], None],
    ) -> None:
        self._transport, self._settings, self._table, self._clock = transport, settings, table, clock
        self._ask, self._learn = ask, learn
        self._warned: set[str] = set()
        self.bootstrap: set[str] = set()
        """Peer ids that the user named: when they cannot be reached, that is said."""

    def connected(self, peer_id: str) -> None:
        self._warned.discard(peer_id)

    async def dial(self, peer_id: str, addresses: tuple[str, ...]) -> None:
        """All addresses together have one deadline; each has its share of what is left of it."""
        refused, problem, deadline = False, None, self._clock() + self._settings.dial_timeout_s
        for number, address in enumerate(addresses):
            left_s = deadline - self._clock()
            if left_s <= 0:
                break
            share_s = min(left_s, max(left_s / (len(addresses) - number), SHORTEST_DIAL_S))
            try:
                await self._transport.connect(address, share_s)
                return
            except MeshloreError as error:
                problem = Problem(reason_of(error), address, str(error))
                if refused := isinstance(error, NotAMember):
                    break
        self._table.dial_failed(peer_id, self._clock(), refused=refused, problem=problem)
        if problem and (refused or peer_id in self.bootstrap) and peer_id not in self._warned:
            self._warned.add(peer_id)
            log.warning("cannot reach …%s, trying on: %s", peer_id[-8:], problem.text)

    async def reach(self, peer_id: str, timeout_s: float) -> None:
        """Connect to a member that is no neighbour; where it listens, others are asked if need be.

        Raises:
            Unreachable: nobody knows it, it is gone, or cannot be reached. PeerTimeout: not by the deadline.
        """
        try:
            async with asyncio.timeout(timeout_s):
                addresses = self._known_addresses(peer_id)
                if not addresses:
                    await self._find(peer_id)
                    addresses = self._known_addresses(peer_id)
                await self.dial(peer_id, addresses)
        except TimeoutError:
            raise PeerTimeout(f"…{peer_id[-8:]} took no connection within {timeout_s:g} s", "ask another") from None
        if peer_id not in self._transport.connected():
            raise Unreachable(f"…{peer_id[-8:]} cannot be reached", "see: meshlore peers")

    def _known_addresses(self, peer_id: str) -> tuple[str, ...]:
        peer = self._table.peer(peer_id, self._clock())
        if peer is not None and peer.state is PeerState.GONE:
            raise Unreachable(f"not connected to …{peer_id[-8:]}", "see: meshlore peers")
        return () if peer is None else peer.addresses

    async def _find(self, wanted: str) -> None:
        async def ask(peer_id: str) -> KnownPeers:
            try:
                if peer_id not in self._transport.connected():
                    await self.dial(peer_id, self._known_addresses(peer_id))
                records = messages.read_peers(await self._ask(peer_id, messages.FIND, messages.find_body(wanted)))
            except MeshloreError as error:
                log.debug("…%s did not help to find …%s: %s", peer_id[-8:], wanted[-8:], error)
                return ()
            self._learn(records, peer_id)
            return records

        if await look_up(wanted, sorted(self._transport.connected()), ask) is None:
            raise Unreachable(f"no member that was asked knows …{wanted[-8:]}", "see: meshlore peers")
