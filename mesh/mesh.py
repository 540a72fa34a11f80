"""The mesh as one node lives it: what its owner calls and what its peers ask.

One ticker lets `acquaintance` and `spreading` start what is due. All that they start is owned here,
is one of its kind for its peer, ends by a deadline, and is awaited by ``stop``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import PeerError, Refused
from ..security.limits import KeyedBuckets
from . import messages
from .acquaintance import Acquaintance
from .logs import NoFlood
from .members import Peer
from .messages import Advert
from .owned import OwnedTasks
from .partials import Partials
from .records import AddressRecord
from .settings import MeshSettings
from .spreading import BlobStore, Spreading
from .transport import Body, Caller, Traffic, Transport

__all__ = ["BlobStore", "Handler", "Mesh", "MeshSettings", "Peer"]

log = logging.getLogger("meshlore.mesh")
log.addFilter(NoFlood())

Handler = Callable[[Caller, Body], Awaitable[Mapping[str, Any]]]
LONGEST_STOP_S = 1.0
DEAF_S = 1.0


class Mesh:
    """One node's membership of the mesh, over any `Transport`.

    Args:
        transport: not started; the mesh starts and stops it.
        store: the node's blobs.
        address_book: file that remembers where members were reached, or None.
        partials: folder for beginnings of transfers that were cut; None: in memory.
        on_peer: called with a `Peer` when its state or advert changed.
        worth: how much a member is worth as a neighbour, 0..1 or more; what it brought lately is added to that.
        clock: monotonic seconds. wall: unix seconds. dice: numbers in [0, 1).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        store: BlobStore,
        settings: MeshSettings | None = None,
        address_book: Path | None = None,
        partials: Path | None = None,
        on_peer: Callable[[Peer], None] | None = None,
        worth: Callable[[Peer], float] = lambda _peer: 0.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._transport, self._store, self._clock = transport, store, clock
        self._settings = settings = settings or MeshSettings()
        self._on_peer = on_peer
        self._handlers: dict[str, tuple[Handler, frozenset[str]]] = {}
        self._buckets = KeyedBuckets(settings.requests_per_s, settings.requests_burst, max_keys=1024)
        self._wake = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._tasks = OwnedTasks()
        self._spreading = Spreading(
            transport,
            store,
            settings,
            self._tasks,
            clock,
            dice,
            partials=Partials(partials),
            ask=self._ask,
            wake=self._wake.set,
            brought=lambda peer_id: self._acquaintance.brought(peer_id),
        )
        self._acquaintance = Acquaintance(
            transport,
            settings,
            self._tasks,
            clock,
            dice,
            wall=wall,
            address_book=address_book,
            own_digest=self._spreading.digest,
            on_change=self._peer_changed,
            on_hello=self._spreading.greeted,
            worth=worth,
        )

    # --- the owner's side

    @property
    def peer_id(self) -> str:
        return self._transport.peer_id

    def addresses(self) -> list[str]:
        return self._transport.addresses()

    async def start(self, bootstrap: Iterable[str] = ()) -> None:
        """Listen, and keep dialling the bootstrap addresses and all members heard of since.

        Raises:
            ConfigError: a bootstrap address is not valid or has no /p2p/ part, or the listen address is taken.
        """
        self._acquaintance.begin(bootstrap)
        self._spreading.look()
        await self._transport.start(self)
        self._ticker = asyncio.create_task(self._tick_for_ever(), name="mesh ticker")

    async def stop(self) -> None:
        """Leave. Under 3 s whatever the peers do; leaves no task."""
        if self._ticker is None:
            return
        ticker, self._ticker = self._ticker, None
        ticker.cancel()
        tasks = [ticker, *self._tasks.cancel_all()]
        await asyncio.wait(tasks, timeout=LONGEST_STOP_S)
        await self._acquaintance.save_addresses()
        await self._transport.stop()
        await asyncio.wait(tasks)

    def peers(self) -> list[Peer]:
        """All members that this node has heard of, connected ones first."""
        return self._acquaintance.peers()

    def live(self) -> list[Peer]:
        """The neighbours that are alive."""
        return self._acquaintance.live()

    def own_record(self) -> AddressRecord:
        """Where this node listens, signed, for others to pass on."""
        return self._acquaintance.own_record()

    def introduce(self) -> None:
        """This node's addresses changed: tell the neighbours now."""
        self._acquaintance.introduce()

    def hold(self, peer_ids: frozenset[str]) -> None:
        """Do not part with these neighbours for others."""
        self._acquaintance.held = peer_ids

    def heard_of(self, record: AddressRecord) -> None:
        """The local network says where a member listens."""
        self._acquaintance.heard_of(record, informant="lan")
        self._wake.set()

    def double(self) -> tuple[str, ...] | None:
        """Where another device listens that runs with this node's identity; None while none is known."""
        double = self._acquaintance.double()
        return None if double is None else double.addresses

    def clock_ahead_s(self) -> tuple[float, ...]:
        """How far this device's clock is ahead of that of each connected peer, in seconds."""
        ahead = (self._acquaintance.ahead_s(peer.peer_id) for peer in self.peers() if peer.connected)
        return tuple(seconds for seconds in ahead if seconds is not None)

    def set_advert(self, advert: Advert) -> None:
        """What neighbours shall know about this node (a map of at most 8 KiB); sent now and to all who come.

        Raises:
            ConfigError: it is too large.
        """
        self._acquaintance.set_advert(advert)
        self._wake.set()

    def announce(self, name: str) -> None:
        """A blob of our own is new in the store: tell the neighbours now, they pull it."""
        self._spreading.announce(name)
        self._wake.set()

    def serve(self, kind: str, handler: Handler, roles: frozenset[str] = frozenset()) -> None:
        """Answer requests of this kind, from members that have one of ``roles`` (any member if empty).

        The handler returns a map; a `MeshloreError` that it raises reaches the caller as `Refused`.
        """
        if kind.startswith(messages.OWN_PREFIX):
            raise ValueError(f"{kind!r}: kinds that start with {messages.OWN_PREFIX!r} are the mesh's own")
        self._handlers[kind] = (handler, roles)

    async def request(self, peer_id: str, kind: str, body: Body, timeout_s: float) -> Body:
        """Ask one member; who is no neighbour is dialled first, and looked for if it is not known here.

        Raises as `Transport.request` does.
        """
        if peer_id not in self._transport.connected():
            await self._acquaintance.reach(peer_id, timeout_s)
        answer = await self._transport.request(peer_id, kind, body, timeout_s=timeout_s)
        self._acquaintance.heard(peer_id)
        return answer

    def missing(self) -> int:
        """How many blobs neighbours hold that are not here yet."""
        return self._spreading.missing()

    def traffic(self) -> Traffic:
        return self._transport.traffic()

    # --- the peers' side: this is the transport's `Service`

    async def handle(self, caller: Caller, kind: str, body: Body) -> Mapping[str, Any]:
        """Answer one request of a peer."""
        self._acquaintance.heard(caller.peer_id)
        if not self._buckets.take(caller.peer_id, self._clock(), self._transport.guard.cost(caller.peer_id)):
            raise Refused("too many requests", "slow down", code="busy")
        if kind.startswith(messages.OWN_PREFIX):
            _check_role(caller, kind, messages.ROLES_OF_KIND.get(kind, frozenset()))
            return self._answer_own(caller.peer_id, kind, body)
        if kind not in self._handlers:
            raise Refused(f"this node does not serve {kind[:40]!r}", code="unknown-kind")
        handler, roles = self._handlers[kind]
        _check_role(caller, kind, roles)
        return await handler(caller, body)

    def blob(self, name: str) -> bytes | None:
        """The bytes of a blob that is here. Reads a disk: called on a worker thread."""
        try:
            return self._store.read(name)
        except (KeyError, FileNotFoundError):
            return None

    def on_connected(self, peer_id: str) -> None:
        """A connection stands; also when the peer connects afresh."""
        try:
            certificate = self._transport.certificate_of(peer_id)
        except PeerError:
            return  # gone again already
        self._acquaintance.connected(peer_id, certificate)
        self._wake.set()

    def on_disconnected(self, peer_id: str) -> None:
        """The last connection to that peer is gone."""
        self._spreading.disconnected(peer_id)
        self._acquaintance.disconnected(peer_id)

    def _answer_own(self, peer_id: str, kind: str, body: Body) -> Body:
        self._wake.set()
        match kind:
            case messages.BEAT:
                return {}
            case messages.HELLO:
                return self._acquaintance.answer_hello(peer_id, body)
            case messages.ADVERT:
                return self._acquaintance.answer_advert(peer_id, body)
            case messages.PEERS:
                return self._acquaintance.answer_peers(peer_id, body)
            case messages.FIND:
                return self._acquaintance.answer_find(peer_id, body)
            case messages.ANNOUNCE:
                return self._spreading.answer_announce(peer_id, body)
            case messages.SYNC:
                return self._spreading.answer_sync(peer_id, body)
            case messages.PART:
                return self._acquaintance.answer_part(peer_id, body)
        raise Refused(f"unknown kind {kind[:40]!r}", "update this node", code="unknown-kind")

    # --- the ticker

    async def _tick_for_ever(self) -> None:
        last = self._clock()
        while True:
            now = self._clock()
            if now - last > self._settings.tick_s + DEAF_S:
                # this process slept or its loop was blocked; the peers were not silent
                self._acquaintance.forgive(now - last)
            last = now
            self._wake.clear()
            try:
                self._acquaintance.tick(now)
                self._spreading.tick(now)
            except Exception:
                log.exception("a tick failed")
            try:
                async with asyncio.timeout(self._settings.tick_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self, peer_id: str, kind: str, body: Body) -> Body:
        return await self._acquaintance.request(peer_id, kind, body)

    def _peer_changed(self, peer_id: str) -> None:
        if self._on_peer is not None and (peer := self._acquaintance.peer(peer_id)):
            self._on_peer(peer)


def _check_role(caller: Caller, kind: str, roles: frozenset[str]) -> None:
    if roles and not roles & caller.roles:
        raise Refused(f"{kind!r} needs one of the roles {', '.join(sorted(roles))}", code="role")
