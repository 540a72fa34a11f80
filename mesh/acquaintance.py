"""Finding members and keeping in touch: dials, greetings, beats, adverts, and who knows whom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DecodeError
from ..security.invites import host_of
from ..security.membership import Certificate
from . import messages
from .addresses import AddressBook
from .conduct import Standing
from .dialling import Dialler
from .directory import Directory
from .introductions import Introductions
from .members import MemberTable, Peer, PeerState
from .messages import Advert, Hello
from .overlay import Neighbour, Overlay, Usefulness
from .owned import OwnedTasks
from .records import AddressRecord
from .settings import MeshSettings
from .transport import Body, Transport

log = logging.getLogger("meshlore.mesh")


@dataclass
class _Link:
    """This node's side of one live connection."""

    since: float
    greet_due: float
    expires_at: int
    parted: bool = False
    greeted: bool = False
    advert_sent: int = -1


class Acquaintance:
    """Drives a `MemberTable` over a transport.

    ``on_change`` is called with the peer id whenever what is known about a peer changed; ``on_hello``
    with the peer id and the digest of its blobs when it is greeted; ``own_digest`` gives ours; ``worth`` is
    what the owner thinks of a peer as a neighbour.
    """

    def __init__(
        self,
        transport: Transport,
        settings: MeshSettings,
        tasks: OwnedTasks,
        clock: Callable[[], float],
        dice: Callable[[], float],
        *,
        wall: Callable[[], float],
        address_book: Path | None,
        own_digest: Callable[[], bytes],
        on_change: Callable[[str], None],
        on_hello: Callable[[str, bytes], None],
        worth: Callable[[Peer], float],
    ) -> None:
        self._transport, self._settings, self._tasks = transport, settings, tasks
        self._clock, self._dice = clock, dice
        self._own_digest, self._on_change, self._on_hello = own_digest, on_change, on_hello
        self._owners_worth, self._usefulness = worth, Usefulness()
        self._overlay = Overlay(settings.overlay, dice, clock())
        self._book = AddressBook(address_book)
        self._table = MemberTable(transport.peer_id, settings.heartbeat, dice)
        self._directory = Directory(transport.peer_id, transport.sign, transport.addresses, wall)
        self._links: dict[str, _Link] = {}
        self._introductions = Introductions(
            transport.peer_id,
            self._directory,
            self._table,
            clock,
            dice,
            neighbours=lambda: self._links,
            enough_known=self._overlay.enough_known,
        )
        self._advert: Advert = {}
        self._advert_version = 0
        self._dialler = Dialler(transport, settings, self._table, clock, self.request, self._learn_peers)
        self.held: frozenset[str] = frozenset()
        self._next_exchange, self._exchange_s = clock(), settings.first_exchange_s
        self._next_save = clock() + settings.save_addresses_s

    def begin(self, bootstrap: Iterable[str]) -> None:
        """Learn the addresses to start from.

        Raises:
            ConfigError: a bootstrap address is not valid or has no /p2p/ part.
        """
        now = self._clock()
        for address in bootstrap:
            try:
                peer_id = host_of(address)
            except DecodeError as error:
                raise ConfigError(f"bootstrap address: {error.message}", "copy all of it, with /p2p/…") from None
            self._table.learn(peer_id, [address], now)
            self._table.keep(peer_id)
            self._dialler.bootstrap.add(peer_id)
        for peer_id, addresses in self._book.load().items():
            self._table.learn(peer_id, addresses, now)

    def peers(self) -> list[Peer]:
        return self._table.peers(self._clock())

    def live(self) -> list[Peer]:
        return self._table.live(self._clock())

    def peer(self, peer_id: str) -> Peer | None:
        return self._table.peer(peer_id, self._clock())

    def introduce(self) -> None:
        """Tell all neighbours now where this node listens."""
        for peer_id in self._links:
            self._tasks.once("exchange", peer_id, self._exchange, peer_id)

    def own_record(self) -> AddressRecord:
        return self._directory.own_record()

    def double(self) -> AddressRecord | None:
        """The address record of another device that runs with this node's identity, if there is one."""
        return self._directory.double(self._clock())

    def ahead_s(self, peer_id: str) -> float | None:
        """How far this device's clock is ahead of that of a peer, in seconds."""
        return self._directory.ahead_s(peer_id)

    def heard(self, peer_id: str) -> None:
        self._table.heard(peer_id, self._clock())

    def set_advert(self, advert: Advert) -> None:
        messages.check_advert(advert)
        if advert != self._advert:
            self._advert, self._advert_version = dict(advert), self._advert_version + 1

    def connected(self, peer_id: str, certificate: Certificate) -> None:
        now = self._clock()
        # one of the two greets; the other steps in only if it does not
        patience_s = 0.0 if self._transport.peer_id < peer_id else 1.0
        self._links[peer_id] = _Link(now, now + patience_s, certificate.not_after)
        self._table.connected(peer_id, certificate.name, certificate.roles, now)
        self._overlay.met(now)
        self._exchange_soon(now)
        self._dialler.connected(peer_id)
        log.info("connected to %s (…%s)", certificate.name, peer_id[-8:])
        self._on_change(peer_id)

    def disconnected(self, peer_id: str) -> None:
        link = self._links.pop(peer_id, None)
        if link is not None and link.parted:
            self._table.parted(peer_id, self._clock())
        else:
            self._table.disconnected(peer_id, self._clock())
        log.info("disconnected from …%s", peer_id[-8:])
        self._on_change(peer_id)

    def forgive(self, pause_s: float) -> None:
        self._table.forgive(pause_s)

    def tick(self, now: float) -> None:
        """Start whatever is due."""
        for peer in self._table.tick(now):
            log.info("%s (…%s) is %s", peer.name, peer.peer_id[-8:], peer.state)
            self._on_change(peer.peer_id)
            if peer.state is PeerState.GONE:
                self._tasks.once("hang up", peer.peer_id, self._transport.disconnect, peer.peer_id)
        self._choose_neighbours(now)
        for peer_id in self._table.due_beats(now):
            self._tasks.once("beat", peer_id, self._beat, peer_id)
        time_s, standings = time.time(), self._transport.guard.not_good()
        for peer_id, link in self._links.items():
            if time_s > link.expires_at or standings.get(peer_id) is Standing.DROPPED:
                # a renewed certificate is shown on the next connection
                self._tasks.once("hang up", peer_id, self._transport.disconnect, peer_id)
            elif not link.greeted and now >= link.greet_due:
                self._tasks.once("greet", peer_id, self._greet, peer_id, link)
            elif link.greeted and link.advert_sent != self._advert_version:
                self._tasks.once("advert", peer_id, self._send_advert, peer_id, link)
        if now >= self._next_exchange and self._links:
            self._exchange_s = min(2 * self._exchange_s, self._settings.peer_exchange_s)
            self._next_exchange = now + self._exchange_s * (0.75 + 0.5 * self._dice())
            peer_id = sorted(self._links)[int(self._dice() * len(self._links))]
            self._tasks.once("exchange", peer_id, self._exchange, peer_id)
        if now >= self._next_save:
            self._next_save = now + self._settings.save_addresses_s
            self._directory.keep(self._table.peer_ids())
            self._tasks.once("save", "addresses", self.save_addresses)

    def _choose_neighbours(self, now: float) -> None:
        dialled, neighbours = self._tasks.under_way("dial"), len(self._links)
        if self._overlay.may_dial(neighbours, len(dialled), now):
            self._dial_due(dialled, now)
        if self._overlay.may_part(neighbours, now):
            self._part_with_some(now)

    def _dial_due(self, dialled: set[str], now: float) -> None:
        due = {peer_id: addresses for peer_id, addresses in self._table.due_dials(now) if peer_id not in dialled}
        room = max(0, self._settings.parallel_dials - len(dialled))
        for peer_id in self._overlay.dials(list(due), len(self._links), len(dialled), self._worth, now)[:room]:
            self._tasks.once("dial", peer_id, self._dialler.dial, peer_id, due[peer_id])

    def _part_with_some(self, now: float) -> None:
        links = {
            peer_id: Neighbour(self._worth(peer_id), link.since)
            for peer_id, link in self._links.items()
            if not link.parted and peer_id not in self.held
        }
        for peer_id in self._overlay.partings(links, now):
            self._tasks.once("part", peer_id, self._part, peer_id, self._links[peer_id])

    async def save_addresses(self) -> None:
        """Keep where members were reached."""
        await self._book.save({peer.peer_id: peer.addresses for peer in self.peers() if peer.addresses and peer.name})

    async def request(self, peer_id: str, kind: str, body: Body) -> Body:
        """A request of the mesh itself; its answer also tells the round-trip time."""
        started = self._clock()
        timeout_s = self._settings.request_timeout_s
        answer = await self._transport.request(peer_id, kind, body, timeout_s=timeout_s)
        ended = self._clock()
        self._table.heard(peer_id, ended, rtt_s=ended - started)
        return answer

    async def reach(self, peer_id: str, timeout_s: float) -> None:
        """Connect to a member that is no neighbour. Raises as `Dialler.reach`."""
        await self._dialler.reach(peer_id, timeout_s)

    def brought(self, peer_id: str) -> None:
        """Something new came from this peer."""
        self._usefulness.brought(peer_id, self._clock())

    # --- answers to the other side

    def answer_hello(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        hello = messages.read_hello(body, peer_id)
        self._learn_hello(peer_id, hello)
        if link := self._links.get(peer_id):
            link.advert_sent = self._advert_version
        return messages.hello_body(self._own_hello(self._introductions.lacking(hello.introduction)))

    def answer_advert(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        self._table.set_advert(peer_id, messages.read_advert(body))
        self._on_change(peer_id)
        return {}

    def answer_peers(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        said = messages.read_introduction(body, peer_id)
        self._introductions.introduced(said)
        return messages.peers_body(self._introductions.lacking(said))

    def answer_find(self, peer_id: str, body: Body) -> Body:
        """Raises DecodeError."""
        return messages.peers_body(self._introductions.about(messages.read_find(body), peer_id))

    def answer_part(self, peer_id: str, body: Body) -> Body:
        """The peer has neighbours enough and names others. Raises DecodeError."""
        peers = messages.read_peers(body)
        if link := self._links.get(peer_id):
            link.parted = True
        self._learn_peers(peers, peer_id)
        return {}

    # --- what a tick starts; each ends by a deadline

    async def _part(self, peer_id: str, link: _Link) -> None:
        """Hang up by agreement; on a peer that does not answer, without."""
        link.parted = True
        try:
            await self.request(peer_id, messages.PART, messages.peers_body(self._introductions.reachable(peer_id)))
        finally:
            await self._transport.disconnect(peer_id)

    async def _greet(self, peer_id: str, link: _Link) -> None:
        link.greet_due = self._clock() + self._settings.request_timeout_s
        version = self._advert_version
        answer = await self.request(peer_id, messages.HELLO, messages.hello_body(self._own_hello()))
        link.advert_sent = version
        self._learn_hello(peer_id, messages.read_hello(answer, peer_id))

    async def _beat(self, peer_id: str) -> None:
        await self.request(peer_id, messages.BEAT, {})

    async def _send_advert(self, peer_id: str, link: _Link) -> None:
        version = self._advert_version
        await self.request(peer_id, messages.ADVERT, messages.advert_body(self._advert))
        link.advert_sent = version

    async def _exchange(self, peer_id: str) -> None:
        ask = messages.introduction_body(self._directory.introduction())
        answer = await self.request(peer_id, messages.PEERS, ask)
        self._learn_peers(messages.read_peers(answer), peer_id)

    # --- small parts

    def _own_hello(self, peers: Sequence[AddressRecord] = ()) -> Hello:
        return Hello(self._directory.introduction(), self._advert, self._own_digest(), peers)

    def _learn_hello(self, peer_id: str, hello: Hello) -> None:
        self._introductions.introduced(hello.introduction)
        self._learn_peers(hello.peers, peer_id)
        known = self._directory.introduction().known
        if hello.introduction.known - known and self._overlay.lacks(len(self._links), len(known)):
            self._tasks.once("exchange", peer_id, self._exchange, peer_id)
        self._table.set_advert(peer_id, hello.advert)
        if link := self._links.get(peer_id):
            link.greeted = True
            self._on_hello(peer_id, hello.digest)
        self._on_change(peer_id)

    def _learn_peers(self, peers: messages.KnownPeers, informant: str) -> None:
        for record in peers:
            self.heard_of(record, informant)

    def heard_of(self, record: AddressRecord, informant: str) -> None:
        """A member, or the local network, passes on where another one listens."""
        if self._introductions.heard_of(record, informant):
            self._exchange_soon(self._clock())

    def _worth(self, peer_id: str) -> float:
        peer = self.peer(peer_id)
        owners = 0.0 if peer is None else self._owners_worth(peer)
        return owners + self._usefulness.of(peer_id, self._clock())

    def _exchange_soon(self, now: float) -> None:
        if not self._overlay.lacks(len(self._links), len(self._table)):
            return
        self._exchange_s = self._settings.first_exchange_s
        self._next_exchange = min(self._next_exchange, now + self._exchange_s)
