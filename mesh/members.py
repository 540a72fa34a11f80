"""The peer table: who is there, who is silent, whom to dial next. Pure: clock and dice are the caller's.

States follow from silence alone, so a peer that is frozen, cut off or killed all look the same:

    new  -- connected, heard -->  live  -- 2 beats missed -->  suspect  -- 3 missed -->  gone
                                   ^--------- heard -----------'                          |
                                   '--------------- connected again ----------------------'

A live peer that is no neighbour any more, by agreement, is new again: known, and neither seen nor missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .reasons import Reason

MAX_ADDRESSES = 8
KEPT_ADDRESSES = 2
FORGETTINGS = 1000
"""Whom to forget is looked at so often in the time after which one is forgotten."""


class PeerState(StrEnum):
    NEW = "new"
    LIVE = "live"
    SUSPECT = "suspect"
    GONE = "gone"


@dataclass(frozen=True)
class Problem:
    """Why the last dial of a member failed, where, and in one line."""

    reason: Reason
    address: str
    text: str


@dataclass(frozen=True)
class Peer:
    """One member as this node sees it. ``last_seen_s`` is the time since it was last heard, in seconds.

    ``kept`` marks a bootstrap peer; ``problem`` is there while it is not connected and the last dial failed.
    """

    peer_id: str
    name: str
    roles: frozenset[str]
    state: PeerState
    addresses: tuple[str, ...]
    rtt_s: float | None
    last_seen_s: float | None
    advert: Mapping[str, Any]
    connected: bool
    kept: bool = False
    problem: Problem | None = None


@dataclass(frozen=True)
class HeartbeatSettings:
    """All in seconds. Silence of ``3.25 * interval_s`` makes a peer gone."""

    interval_s: float = 2.0
    first_redial_s: float = 0.5
    longest_redial_s: float = 30.0
    refused_redial_s: float = 60.0
    parted_redial_s: float = 60.0
    forget_s: float = 24 * 3600.0
    max_peers: int = 512
    max_hearsay: int = 64
    """Members never met that one and the same peer may have told us of."""

    @property
    def suspect_s(self) -> float:
        return 2.25 * self.interval_s

    @property
    def gone_s(self) -> float:
        return 3.25 * self.interval_s


@dataclass
class _Entry:
    peer_id: str
    known_since: float
    informant: str = ""
    name: str = ""
    roles: frozenset[str] = frozenset()
    state: PeerState = PeerState.NEW
    addresses: list[str] = field(default_factory=list)
    rtt_s: float | None = None
    heard: float | None = None
    beat_due: float = 0.0
    dial_due: float = 0.0
    failures: int = 0
    advert: Mapping[str, Any] = field(default_factory=dict)
    connected: bool = False
    kept: bool = False
    problem: Problem | None = None


class MemberTable:
    """Times are seconds of one monotonic clock; ``dice()`` gives numbers in [0, 1)."""

    def __init__(self, own_peer_id: str, settings: HeartbeatSettings, dice: Callable[[], float]) -> None:
        self._own = own_peer_id
        self._settings = settings
        self._dice = dice
        self._entries: dict[str, _Entry] = {}
        self._connected: dict[str, _Entry] = {}
        self._forget_due = 0.0

    def __len__(self) -> int:
        """Members known, whatever their state."""
        return len(self._entries)

    def learn(self, peer_id: str, addresses: Iterable[str], now: float, informant: str = "") -> None:
        """Hearsay: a member can be dialled there. Goes behind what is known, while there is room.

        ``informant`` is the peer that said so, empty for this node's own records; it may name only
        ``max_hearsay`` members that were never met.
        """
        if informant and peer_id not in self._entries and self._hearsay(informant) >= self._settings.max_hearsay:
            return
        if entry := self._entry_of(peer_id, now, informant):
            self._set_addresses(entry, [*entry.addresses, *addresses], now)

    def introduced(self, peer_id: str, addresses: Iterable[str], now: float) -> None:
        """The member itself said where it listens: that goes first, and little of what was known stays."""
        if entry := self._entry_of(peer_id, now):
            own = list(addresses)
            self._set_addresses(entry, [*own, *entry.addresses][: len(own) + KEPT_ADDRESSES], now)
            entry.problem = None  # of an address or a time that is past

    def keep(self, peer_id: str) -> None:
        """Never forget this one: a bootstrap peer."""
        if peer_id in self._entries:
            self._entries[peer_id].kept = True

    def connected(self, peer_id: str, name: str, roles: frozenset[str], now: float) -> None:
        entry = self._entries.setdefault(peer_id, _Entry(peer_id, known_since=now))
        entry.name, entry.roles, entry.connected = name, roles, True
        self._connected[peer_id] = entry
        entry.state, entry.failures, entry.problem, entry.heard = PeerState.LIVE, 0, None, now
        entry.beat_due = now + self._beat_delay()

    def disconnected(self, peer_id: str, now: float) -> None:
        """The connection broke: gone at once, and dialled again soon."""
        if entry := self._hung_up(peer_id, PeerState.GONE):
            entry.dial_due = now + self._settings.first_redial_s * (0.5 + self._dice())

    def parted(self, peer_id: str, now: float) -> None:
        """The two agreed not to be neighbours: not gone, and dialled again much later if at all."""
        if entry := self._hung_up(peer_id, PeerState.NEW):
            entry.dial_due = now + self._settings.parted_redial_s * (0.75 + 0.5 * self._dice())

    def heard(self, peer_id: str, now: float, rtt_s: float | None = None) -> None:
        """Any sign of life; it also puts off our own beat, so of two peers only one asks."""
        entry = self._entries.get(peer_id)
        if entry is None or not entry.connected:
            return
        entry.heard = now
        entry.beat_due = now + self._beat_delay()
        if rtt_s is not None:
            entry.rtt_s = rtt_s if entry.rtt_s is None else 0.7 * entry.rtt_s + 0.3 * rtt_s

    def set_advert(self, peer_id: str, advert: Mapping[str, Any]) -> None:
        if entry := self._entries.get(peer_id):
            entry.advert = advert

    def dial_failed(self, peer_id: str, now: float, *, refused: bool, problem: Problem | None = None) -> None:
        """Back off: doubling with jitter; long at once when the peer refused us or we it."""
        if entry := self._entries.get(peer_id):
            settings = self._settings
            entry.problem = None if entry.connected else problem
            entry.failures += 1
            if not entry.connected:
                entry.state = PeerState.GONE
            delay = min(settings.longest_redial_s, settings.first_redial_s * 2 ** min(entry.failures, 16))
            if refused:
                delay = settings.refused_redial_s
            entry.dial_due = now + delay * (0.75 + 0.5 * self._dice())

    def failures(self, peer_id: str) -> int:
        """Dials that failed since the last connection."""
        entry = self._entries.get(peer_id)
        return entry.failures if entry else 0

    def forgive(self, pause_s: float) -> None:
        """This process itself was frozen for that long: its peers were not silent, it was deaf."""
        for entry in self._entries.values():
            if entry.heard is not None:
                entry.heard += pause_s

    def tick(self, now: float) -> list[Peer]:
        """Let silence have its effect; returns the peers that changed. Hang up on those that are gone."""
        changed = []
        for entry in self._connected.values():
            silence_s = now - (entry.heard or 0.0)
            state = PeerState.LIVE
            if silence_s >= self._settings.gone_s:
                state = PeerState.GONE
            elif silence_s >= self._settings.suspect_s:
                state = PeerState.SUSPECT
            if state is not entry.state:
                entry.state = state
                changed.append(self._view(entry, now))
        if now >= self._forget_due:
            self._forget_due = now + self._settings.forget_s / FORGETTINGS
            self._forget(now)
        return changed

    def due_beats(self, now: float) -> list[str]:
        """Connected peers to ask for a sign of life now; each is asked again one interval later."""
        due = [entry for entry in self._connected.values() if now >= entry.beat_due]
        for entry in due:
            entry.beat_due = now + self._settings.interval_s
        return [entry.peer_id for entry in due]

    def due_dials(self, now: float) -> list[tuple[str, tuple[str, ...]]]:
        """Members without a connection whose back-off has ended, with their addresses; the longest due first.

        The addresses begin with another one after every failure, so that each has its turn.
        """
        due = [
            entry
            for entry in self._entries.values()
            if not entry.connected and entry.addresses and now >= entry.dial_due
        ]
        return [
            (entry.peer_id, _rotated(entry.addresses, entry.failures))
            for entry in sorted(due, key=lambda entry: entry.dial_due)
        ]

    def peer(self, peer_id: str, now: float) -> Peer | None:
        entry = self._entries.get(peer_id)
        return self._view(entry, now) if entry else None

    def peers(self, now: float) -> list[Peer]:
        """All known members, connected ones first, by peer id."""
        entries = sorted(self._entries.values(), key=lambda entry: (not entry.connected, entry.peer_id))
        return [self._view(entry, now) for entry in entries]

    def live(self, now: float) -> list[Peer]:
        """The connected peers that are not silent, by peer id."""
        live = [entry for entry in self._connected.values() if entry.state is PeerState.LIVE]
        return [self._view(entry, now) for entry in sorted(live, key=lambda entry: entry.peer_id)]

    def peer_ids(self) -> set[str]:
        """Of all known members."""
        return set(self._entries)

    def _hung_up(self, peer_id: str, state: PeerState) -> _Entry | None:
        self._connected.pop(peer_id, None)
        if entry := self._entries.get(peer_id):
            entry.connected, entry.state = False, state
        return entry

    def _forget(self, now: float) -> None:
        """Who was not heard for long leaves room for others."""
        for entry in list(self._entries.values()):
            lost = not (entry.connected or entry.kept)
            if lost and now - (entry.heard or entry.known_since) > self._settings.forget_s:
                del self._entries[entry.peer_id]

    def _hearsay(self, informant: str) -> int:
        return sum(entry.informant == informant and entry.heard is None for entry in self._entries.values())

    def _entry_of(self, peer_id: str, now: float, informant: str = "") -> _Entry | None:
        if peer_id == self._own:
            return None
        if peer_id not in self._entries and len(self._entries) < self._settings.max_peers:
            self._entries[peer_id] = _Entry(peer_id, known_since=now, informant=informant, dial_due=now)
        return self._entries.get(peer_id)

    def _set_addresses(self, entry: _Entry, addresses: list[str], now: float) -> None:
        addresses = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        if set(addresses) - set(entry.addresses):
            # a little later, not at once: of two members that hear of each other, one will be first
            entry.dial_due = min(entry.dial_due, now + self._settings.first_redial_s * self._dice())
        entry.addresses = addresses

    def _beat_delay(self) -> float:
        # the jitter lets the two ends of a connection take turns, so that both learn the round-trip time
        return self._settings.interval_s * (0.9 + 0.2 * self._dice())

    def _view(self, entry: _Entry, now: float) -> Peer:
        return Peer(
            entry.peer_id,
            entry.name,
            entry.roles,
            entry.state,
            tuple(entry.addresses),
            entry.rtt_s,
            None if entry.heard is None else max(0.0, now - entry.heard),
            entry.advert,
            entry.connected,
            entry.kept,
            entry.problem,
        )


def _rotated(addresses: list[str], turns: int) -> tuple[str, ...]:
    start = turns % len(addresses)
    return (*addresses[start:], *addresses[:start])
