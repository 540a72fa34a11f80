"""Spreading blobs: tell neighbours what is here, pull from them what is not."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import DecodeError, MeshloreError, Refused, SecurityError
from . import messages
from .gossip import Gossip, Pull
from .owned import OwnedTasks
from .settings import MeshSettings
from .transport import Body, Transport

log = logging.getLogger("meshlore.mesh")

Ask = Callable[[str, str, Body], Awaitable[Body]]


class BlobStore(Protocol):
    """Where blobs live; the node wing's packet store. Called on the asyncio loop, but for ``read``."""

    def inventory(self) -> Mapping[str, int]:
        """Name (SHA-256, hex) to size in bytes of all that is there. Called often: keep it in memory."""

    def read(self, name: str) -> bytes:
        """The bytes of one; raises KeyError when it is not there. Called on a worker thread."""

    async def accept(self, name: str, data: bytes, from_peer: str) -> None:
        """Check and keep a pulled blob.

        Raises:
            DecodeError: it is malformed, wherever it is read; the peer is marked for it.
            SecurityError: refused for what this node knows (its clock, other blobs); the peer is not marked.
            MeshloreError: any other: it could not be kept now; it is pulled again later.
        """


@dataclass
class _Told:
    """What one neighbour has been told; ``settled`` is the version of our names that it knows completely."""

    names: set[str] = field(default_factory=set)
    settled: int = -1


class Spreading:
    """Drives a `Gossip` over a transport and a store; ``ask`` is `Acquaintance.request`."""

    def __init__(
        self,
        transport: Transport,
        store: BlobStore,
        settings: MeshSettings,
        tasks: OwnedTasks,
        clock: Callable[[], float],
        dice: Callable[[], float],
        *,
        ask: Ask,
        wake: Callable[[], None],
    ) -> None:
        self._transport, self._store, self._settings, self._tasks = transport, store, settings, tasks
        self._clock, self._dice = clock, dice
        self._ask, self._wake = ask, wake
        self._gossip = Gossip(settings.gossip, dice)
        self._told: dict[str, _Told] = {}
        self._names: frozenset[str] = frozenset()
        self._version = 0
        self._digest = messages.digest_of(())
        self._relay_due: dict[str, float] = {}

    def digest(self) -> bytes:
        """Stands for all names that are here."""
        self.look()
        return self._digest

    def missing(self) -> int:
        """How many blobs neighbours hold that are not here yet."""
        return self._gossip.lacking(self._store.inventory(), self._clock())

    def announce(self, name: str) -> None:
        """Tell the neighbours at the next tick."""
        self._relay_due.pop(name, None)
        self.look()

    def look(self) -> None:
        """Notice what came into the store or left it."""
        names = self._store.inventory().keys()
        if names != self._names:
            self._names = frozenset(names)
            self._version += 1
            self._digest = messages.digest_of(self._names)
            for name in self._relay_due.keys() - self._names:
                del self._relay_due[name]

    def greeted(self, peer_id: str, digest: bytes) -> None:
        """A neighbour is there and its blobs have this digest; if it is ours, there is nothing to tell."""
        told = self._told[peer_id] = _Told()
        if digest == self.digest():
            self._holds(peer_id, list(self._store.inventory().items()))
            told.settled = self._version

    def disconnected(self, peer_id: str) -> None:
        self._told.pop(peer_id, None)
        self._gossip.forget(peer_id)

    def answer_announce(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        self._holds(peer_id, messages.read_announce(body))
        return {}

    def tick(self, now: float) -> None:
        """Start the announcements and pulls that are due."""
        self.look()
        for peer_id, told in self._told.items():
            if told.settled != self._version:
                self._tasks.once("announce", peer_id, self._send_names, peer_id, told)
        for pull in self._gossip.next_pulls(self._names, now):
            self._tasks.once("pull", pull.name, self._pull, pull)

    def _holds(self, peer_id: str, blobs: list[tuple[str, int]]) -> None:
        self._gossip.holds(peer_id, blobs, self._store.inventory(), self._clock())

    async def _send_names(self, peer_id: str, told: _Told) -> None:
        version, now = self._version, self._clock()
        known, sizes = self._gossip.known_of(peer_id), self._store.inventory()
        news = [name for name in sizes if name not in told.names and name not in known]
        if news and all(self._relay_due.get(name, now) > now for name in news):
            return  # later: the peer may tell us first
        batch = news[: messages.MAX_NAMES]
        if batch:
            body = messages.announce_body([(name, sizes[name]) for name in batch])
            await self._ask(peer_id, messages.ANNOUNCE, body)
            told.names.update(batch)
        if len(news) == len(batch):
            told.settled = version

    async def _pull(self, pull: Pull) -> None:
        try:
            await self._fetch_and_accept(pull)
        finally:
            # whatever else happened, the pull is over; a no-op when its end was already noted
            self._gossip.failed(pull.name, self._clock())
            self._wake()

    async def _fetch_and_accept(self, pull: Pull) -> None:
        name, peer_id, timeout_s = pull.name, pull.peer_id, self._settings.fetch_timeout_s
        try:
            data = await self._transport.fetch(peer_id, name, size_limit_bytes=pull.size_bytes, timeout_s=timeout_s)
        except Refused as error:
            if error.code == "no-such-blob":
                self._gossip.missing(name)
            return
        except DecodeError as error:
            log.warning("…%s sent a wrong blob: %s", peer_id[-8:], error)
            self._gossip.misdelivered(name, self._clock())
            return
        try:
            await self._store.accept(name, data, peer_id)
        except DecodeError as error:
            log.warning("dropped %s… from …%s: %s", name[:12], peer_id[-8:], error)
            self._gossip.rejected(name, self._clock())
            return
        except SecurityError as error:
            log.warning("set %s… from …%s aside: %s", name[:12], peer_id[-8:], error)
            self._gossip.set_aside(name, self._clock())
            return
        except MeshloreError as error:
            log.warning("could not keep %s… from …%s: %s", name[:12], peer_id[-8:], error)
            self._gossip.put_off(name, self._clock())
            return
        self._gossip.finished(name)
        self._relay_due[name] = self._clock() + self._settings.relay_delay_s * self._dice()
        self.look()
