"""Spreading blobs: tell neighbours what is here, compare with them what was missed, pull what is lacking."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import DecodeError, MeshloreError, Refused, SecurityError
from . import messages
from .gossip import Gossip, Pull
from .owned import OwnedTasks
from .partials import Partials
from .reconcile import bucket_digests, bucket_of, compare
from .settings import MeshSettings
from .transport import Body, Transport

log = logging.getLogger("meshlore.mesh")

STEP_IN_S = 2.0
EAGER = 2
"""So many neighbours hear at once of what was pulled from another."""
MORE_S = 0.5
Ask = Callable[[str, str, Body], Awaitable[Body]]


class BlobStore(Protocol):
    """Where blobs live; the node wing's packet store. Called on the asyncio loop, but for ``read``."""

    def inventory(self) -> Mapping[str, int]:
        """Name (SHA-256, hex) to size in bytes of all that is there. Called often: keep it in memory. What was
        returned never changes; as long as it is true, it is best returned again."""

    def declines(self, name: str) -> bool:
        """This one is not here and shall not come: it was given up, or something newer replaced it."""

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
class _Neighbour:
    """What one neighbour knows of our names, and what is due between the two (monotonic seconds).

    ``met``: the two have compared what they hold; until then nothing is announced. ``names``: what it was told.
    ``settled``: the version of our names that it knows completely.
    """

    compare_due: float
    met: bool = False
    names: set[str] = field(default_factory=set)
    settled: int = -1
    announce_due: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class _Relay:
    """When neighbours are told of a blob that was pulled (monotonic seconds); the ``eager`` ones at once."""

    due: float
    eager: frozenset[str]


class _Here:
    """Contains the names that are here or not wanted here."""

    def __init__(self, store: BlobStore) -> None:
        self.names: frozenset[str] = frozenset()
        self._store = store

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.names or self._store.declines(name))


class Spreading:
    """Drives a `Gossip` over a transport and a store; ``ask`` is `Acquaintance.request`.

    News is announced; what two neighbours hold is compared when they meet and ever again (`reconcile`).
    ``brought`` is called with the peer that a new blob came from.
    """

    def __init__(
        self,
        transport: Transport,
        store: BlobStore,
        settings: MeshSettings,
        tasks: OwnedTasks,
        clock: Callable[[], float],
        dice: Callable[[], float],
        *,
        partials: Partials,
        ask: Ask,
        wake: Callable[[], None],
        brought: Callable[[str], None],
    ) -> None:
        self._transport, self._store, self._settings, self._tasks = transport, store, settings, tasks
        self._clock, self._dice = clock, dice
        self._partials = partials
        self._ask, self._wake, self._brought = ask, wake, brought
        self._gossip = Gossip(settings.gossip, dice)
        self._neighbours: dict[str, _Neighbour] = {}
        self._here = _Here(store)
        self._inventory: Mapping[str, int] = {}
        self._version = 0
        self._digest: bytes | None = None
        self._relays: dict[str, _Relay] = {}
        self._burst_ends = 0.0

    def digest(self) -> bytes:
        """Stands for all names that are here."""
        self.look()
        if self._digest is None:
            self._digest = messages.digest_of(self._here.names)
        return self._digest

    def missing(self) -> int:
        """How many blobs neighbours hold that are wanted here and not here yet."""
        self.look()
        return self._gossip.lacking(self._here, self._clock())

    def announce(self, name: str) -> None:
        """Tell the neighbours at the next tick."""
        self._relays.pop(name, None)
        self._hurry(self._neighbours)
        self.look()

    def look(self) -> None:
        """Notice what came into the store or left it."""
        inventory = self._store.inventory()
        if inventory is self._inventory:
            return
        self._inventory = inventory
        if inventory.keys() != self._here.names:
            self._here.names = frozenset(inventory)
            self._version += 1
            self._digest = None
            for name in self._relays.keys() - self._here.names:
                del self._relays[name]

    def greeted(self, peer_id: str, digest: bytes) -> None:
        """A neighbour is there and its blobs have this digest. If it is ours, there is nothing to tell; else one
        of the two compares, and the other steps in only if it does not."""
        now = self._clock()
        neighbour = self._neighbours[peer_id] = _Neighbour(now + self._settings.sync_s * (0.75 + 0.5 * self._dice()))
        if digest == self.digest():
            self._gossip.holds(peer_id, self._store.inventory().items(), self._here, now)
            neighbour.met, neighbour.settled = True, self._version
        else:
            neighbour.compare_due = now if self._transport.peer_id < peer_id else now + STEP_IN_S

    def disconnected(self, peer_id: str) -> None:
        self._neighbours.pop(peer_id, None)
        self._gossip.forget(peer_id)

    def answer_announce(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        self._gossip.holds(peer_id, messages.read_announce(body), self._here, self._clock())
        return {}

    def answer_sync(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        theirs, mine = messages.read_sync(body), self._store.inventory()
        answer = compare(mine, theirs, max_names=messages.MAX_NAMES, chance=self._dice())
        if neighbour := self._neighbours.get(peer_id):
            self._learn_equal(peer_id, answer.differ, mine)
            neighbour.names.update(name for name, _ in answer.have)
            self._has_compared(neighbour)
        return messages.sync_answer_body(answer)

    def tick(self, now: float) -> None:
        """Start the comparisons, announcements and pulls that are due."""
        self.look()
        for peer_id, neighbour in self._neighbours.items():
            if now >= neighbour.compare_due:
                self._tasks.once("compare", peer_id, self._compare, peer_id, neighbour)
            elif neighbour.met and neighbour.settled != self._version and now >= neighbour.announce_due:
                self._tasks.once("announce", peer_id, self._send_names, peer_id, neighbour)
        for pull in self._gossip.next_pulls(self._here, now):
            self._tasks.once("pull", pull.name, self._pull, pull)

    async def _compare(self, peer_id: str, neighbour: _Neighbour) -> None:
        """Learn all that the neighbour holds, at the cost of what differs."""
        neighbour.compare_due = self._clock() + self._settings.longest_pause_s
        mine, known = self._store.inventory(), list(self._gossip.known_of(peer_id))
        answer = messages.read_sync_answer(
            await self._ask(peer_id, messages.SYNC, messages.sync_body(bucket_digests(mine)))
        )
        if self._neighbours.get(peer_id) is not neighbour:
            return
        held = dict(answer.have)
        gone = [name for name in known if bucket_of(name) in answer.told and name not in held]
        self._gossip.lacks(peer_id, gone)
        self._gossip.holds(peer_id, answer.have, self._here, self._clock())
        self._learn_equal(peer_id, answer.differ, mine)
        neighbour.names = {name for name in neighbour.names if bucket_of(name) not in answer.told}
        self._has_compared(neighbour)
        if answer.told != answer.differ:
            neighbour.compare_due = self._clock() + MORE_S

    def _learn_equal(self, peer_id: str, differ: frozenset[int], mine: Mapping[str, int]) -> None:
        equal = [(name, size_bytes) for name, size_bytes in mine.items() if bucket_of(name) not in differ]
        self._gossip.holds(peer_id, equal, self._here, self._clock())

    def _has_compared(self, neighbour: _Neighbour) -> None:
        neighbour.met, neighbour.settled = True, -1
        neighbour.compare_due = self._clock() + self._settings.sync_s * (0.75 + 0.5 * self._dice())

    async def _send_names(self, peer_id: str, neighbour: _Neighbour) -> None:
        version, now = self._version, self._clock()
        known, sizes = self._gossip.known_of(peer_id), self._store.inventory()
        untold = sizes.keys() - neighbour.names
        untold.difference_update(known)
        news = [name for name in sizes if name in untold] if untold else []
        if news and (first_due := min(self._due(name, peer_id) for name in news)) > now:
            neighbour.announce_due = first_due  # the peer may tell us first
            return
        batch = news[: messages.MAX_NAMES]
        if batch:
            neighbour.failures += 1
            pause_s = min(self._settings.longest_pause_s, 0.5 * 2 ** min(neighbour.failures, 16))
            neighbour.announce_due = now + pause_s
            body = messages.announce_body([(name, sizes[name]) for name in batch])
            await self._ask(peer_id, messages.ANNOUNCE, body)
            neighbour.names.update(batch)
            neighbour.failures, neighbour.announce_due = 0, now
        if len(news) == len(batch):
            neighbour.settled = version

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
            partial = await asyncio.to_thread(self._partials.open, name)
            data = await self._transport.fetch(
                peer_id, name, size_limit_bytes=pull.size_bytes, timeout_s=timeout_s, partial=partial
            )
        except Refused as error:
            if error.code == "no-such-blob":
                self._gossip.missing(name)
            return
        except DecodeError as error:
            self._transport.guard.refuse("packet", error, peer_id)
            log.warning("…%s sent a wrong blob: %s", peer_id[-8:], error)
            self._gossip.misdelivered(name, self._clock())
            return
        try:
            await self._store.accept(name, data, peer_id)
        except DecodeError as error:
            self._transport.guard.refuse("packet", error, peer_id)
            log.warning("dropped %s… from …%s: %s", name[:12], peer_id[-8:], error)
            self._gossip.rejected(name, self._clock())
            return
        except SecurityError as error:
            self._transport.guard.refuse("packet", error, peer_id)
            log.warning("set %s… from …%s aside: %s", name[:12], peer_id[-8:], error)
            self._gossip.set_aside(name, self._clock())
            return
        except MeshloreError as error:
            log.warning("could not keep %s… from …%s: %s", name[:12], peer_id[-8:], error)
            self._gossip.put_off(name, self._clock())
            return
        self._gossip.finished(name)
        self._brought(peer_id)
        self._relay(name)
        self.look()

    def _relay(self, name: str) -> None:
        """Tell `EAGER` neighbours at once and the others later, as most of those hear of it elsewhere meanwhile. In a
        burst all of them wait, so that many names share a message.

        Eager and lazy push: Leitão et al., "Epidemic Broadcast Trees", SRDS 2007; here of names only.
        """
        now, pause_s = self._clock(), self._settings.relay_delay_s
        eager: list[str] = []
        if now >= self._burst_ends:
            untold = [peer_id for peer_id in self._neighbours if name not in self._gossip.known_of(peer_id)]
            eager = sorted(untold, key=lambda _: self._dice())[:EAGER]
            self._hurry(eager)
        self._burst_ends = now + pause_s
        self._relays[name] = _Relay(now + pause_s * self._dice(), frozenset(eager))

    def _due(self, name: str, peer_id: str) -> float:
        """When this neighbour is told of it; the past, when nothing is to be waited for."""
        relay = self._relays.get(name)
        return 0.0 if relay is None or peer_id in relay.eager else relay.due

    def _hurry(self, peer_ids: Iterable[str]) -> None:
        for peer_id in peer_ids:
            neighbour = self._neighbours[peer_id]
            neighbour.announce_due = neighbour.announce_due if neighbour.failures else 0.0
