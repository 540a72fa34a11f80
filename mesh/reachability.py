"""Whether others can dial this node, and relays for one that they cannot.

A neighbour is asked to try this node's ports at the address from which it sees it (as AutoNAT does; never at one
that the asker names, so nobody can be made to dial a third party). When all who were asked found them closed, this
node reserves with neighbours that it dialled itself, and tells their addresses as its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from ..codec import expect_map
from ..errors import DecodeError, MeshloreError, Refused
from ..security.limits import KeyedBuckets
from .host import Libp2pTransport
from .mesh import Mesh
from .reasons import Reach
from .transport import Body, Caller

log = logging.getLogger("meshlore.mesh")

KIND = "reach"
LOOK_S = 2.0
RECHECK_S = 300.0
ASKED = 3
RELAYS = 2
PROBE_TIMEOUT_S = 2.0
ASK_TIMEOUT_S = 8.0
REFUSED_S = 120.0
SOONEST_RENEWAL_S = 60.0
MAX_PORTS = 4
PROBES_PER_S = 0.1
PROBES_BURST = 4.0
_PORT = re.compile(r"/tcp/(\d+)")


class Reachability:
    """Keeps one node reachable. `run` it as a task."""

    def __init__(self, transport: Libp2pTransport, mesh: Mesh) -> None:
        self._transport, self._mesh = transport, mesh
        self._relays: dict[str, float] = {}
        self._avoid: dict[str, float] = {}
        self._check_due = 0.0
        self._buckets = KeyedBuckets(PROBES_PER_S, PROBES_BURST, max_keys=256)
        self.state = Reach.UNKNOWN
        mesh.serve(KIND, self._answer)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._look(time.monotonic())
            await asyncio.sleep(LOOK_S)

    async def _look(self, now: float) -> None:
        neighbours = [peer_id for peer_id in sorted(self._transport.connected()) if await self._is_direct(peer_id)]
        if neighbours and now >= self._check_due:
            verdicts = await asyncio.gather(*(self._ask(peer_id) for peer_id in neighbours[:ASKED]))
            seen = [verdict for verdict in verdicts if verdict is not None]
            if seen:
                self._check_due = now + RECHECK_S
                self._become(Reach.DIRECT if any(seen) else Reach.HIDDEN)
        if self.state in (Reach.HIDDEN, Reach.RELAYED):
            await self._reserve(neighbours, now)
            self._become(Reach.RELAYED if self._relays else Reach.HIDDEN)

    async def _ask(self, peer_id: str) -> bool | None:
        """Whether this neighbour can dial this node; None if it does not say."""
        ports = [int(found[1]) for address in self._transport.listening() if (found := _PORT.search(address))]
        try:
            answer = await self._mesh.request(peer_id, KIND, {"ports": ports[:MAX_PORTS]}, ASK_TIMEOUT_S)
            return bool(expect_map(answer, {"open": bool})["open"])
        except MeshloreError as error:
            log.debug("…%s does not say whether it can dial this node: %s", peer_id[-8:], error)
            return None

    async def _reserve(self, neighbours: list[str], now: float) -> None:
        """Hold reservations with a few neighbours, each renewed when two thirds of its time are over."""
        self._relays = {relay: due for relay, due in self._relays.items() if relay in neighbours}
        due = [relay for relay, renew_at in self._relays.items() if now >= renew_at]
        free = [peer for peer in neighbours if peer not in self._relays and self._avoid.get(peer, 0.0) <= now]
        news = False
        for relay in [*due, *free[: max(0, RELAYS - len(self._relays))]]:
            try:
                lasts_s = await self._transport.reserve(relay, ASK_TIMEOUT_S)
                news = news or relay not in self._relays
                # by the relay's clock, which may be off
                self._relays[relay] = now + max(SOONEST_RENEWAL_S, lasts_s * 2 / 3)
            except MeshloreError as error:
                self._relays.pop(relay, None)
                self._avoid = {peer: until for peer, until in self._avoid.items() if until > now}
                self._avoid[relay] = now + REFUSED_S
                log.debug("…%s does not relay for this node: %s", relay[-8:], error)
        self._mesh.hold(frozenset(self._relays))
        if news:
            self._mesh.introduce()

    async def _is_direct(self, peer_id: str) -> bool:
        try:
            return await self._transport.is_direct(peer_id)
        except MeshloreError:
            return False

    async def _answer(self, caller: Caller, body: Body) -> Mapping[str, Any]:
        ports = expect_map(body, {"ports": list})["ports"]
        if len(ports) > MAX_PORTS or not all(type(port) is int and 0 < port < 2**16 for port in ports):
            raise DecodeError("a peer asks to try ports that are none")
        host = self._transport.remote_host(caller.peer_id)
        if host is None or not self._buckets.take(caller.peer_id, time.monotonic()):
            raise Refused("this node does not try that now", "ask another", code="busy")
        found = await asyncio.gather(*(_is_open(host, port) for port in ports))
        return {"open": any(found)}

    def _become(self, state: Reach) -> None:
        if state is self.state:
            return
        self.state = state
        match state:
            case Reach.HIDDEN:
                log.warning("no other device can dial this one (a NAT or a firewall is between), looking for a relay")
            case Reach.RELAYED:
                log.info("reached through %d relays, who see ciphertext only", len(self._relays))
            case Reach.DIRECT:
                log.info("other devices can dial this one")


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
