"""Who says that they listen where: this node's own signed record, the newest of every other, and doubles.

Two devices with one identity (a home folder was copied) are told from one that restarts: every start has a
random instance id, so an instance that comes back after another one of the same peer id was heard is alive
beside it. Who sees that tells both, and each of the two then sees a record in its own name that it never made.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from .messages import Introduction
from .records import INSTANCE_BYTES, MAX_ADDRESSES, AddressRecord, Sign, issue_record

DOUBLE_S = 180.0
"""A double that was not seen again for this long has been stopped."""
MAX_EARLIER = 4
RENEW_S = 3600


@dataclass
class _Heard:
    """What one peer id said first-hand: its present record, and those of earlier instances."""

    record: AddressRecord
    ahead_s: float
    earlier: dict[bytes, AddressRecord] = field(default_factory=dict)
    doubled_at: float | None = None


class Directory:
    """Bounded by the caller's table of members, with `keep`. ``now`` is monotonic, ``wall()`` unix time."""

    def __init__(
        self,
        peer_id: str,
        sign: Sign,
        addresses: Callable[[], list[str]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._peer_id, self._sign, self._addresses, self._wall = peer_id, sign, addresses, wall
        self.instance = secrets.token_bytes(INSTANCE_BYTES)
        self._newest: dict[str, AddressRecord] = {}
        self._heard: dict[str, _Heard] = {}
        self._own: AddressRecord | None = None
        self._own_double: tuple[AddressRecord, float] | None = None

    def introduction(self) -> Introduction:
        """What this node says of itself and of whom it knows."""
        record = self.own_record()
        known = frozenset(record.mark for record in self._newest.values())
        return Introduction(record, int(self._wall()), known | {record.mark})

    def own_record(self) -> AddressRecord:
        """Where this node listens now; signed anew when that changes, and every hour."""
        addresses, now, own = tuple(self._addresses())[:MAX_ADDRESSES], self._wall(), self._own
        if own is None or own.addresses != addresses or not 0 <= now - own.issued < RENEW_S:
            own = self._own = issue_record(self._peer_id, addresses, self.instance, self._sign, now)
        return own

    def record_of(self, peer_id: str) -> AddressRecord | None:
        return self._newest.get(peer_id)

    def is_fresh(self, record: AddressRecord) -> bool:
        """Its node was there not long ago: a living one signs anew every hour."""
        return self._wall() - record.issued < 2 * RENEW_S

    def introduced(self, said: Introduction, now: float) -> bool:
        """A peer introduced itself. True if this is the first sign that two devices answer to its peer id."""
        record, ahead_s = said.record, self._wall() - said.time_s
        peer_id = record.peer_id
        self._newest[peer_id] = record
        heard = self._heard.get(peer_id)
        if heard is None:
            self._heard[peer_id] = _Heard(record, ahead_s)
            return False
        news = False
        if record.instance != heard.record.instance:
            heard.earlier[heard.record.instance] = heard.record
            if heard.earlier.pop(record.instance, None) is not None:
                news, heard.doubled_at = self._is_over(heard.doubled_at, now), now
            while len(heard.earlier) > MAX_EARLIER:
                del heard.earlier[next(iter(heard.earlier))]
        heard.record, heard.ahead_s = record, ahead_s
        return news

    def heard_of(self, record: AddressRecord, now: float) -> bool:
        """Another member, or the local network, passed it on. True if it is news.

        One in this node's own name that it never made is that of its double.
        """
        if record.peer_id == self._peer_id:
            if record.instance == self.instance:
                return False
            news = self.double(now) is None
            self._own_double = record, now
            return news
        known = self._newest.get(record.peer_id)
        if known is not None and record.issued <= known.issued:
            return False
        self._newest[record.peer_id] = record
        return True

    def double_of(self, record: AddressRecord, now: float) -> AddressRecord | None:
        """The record of the other living device that answers to the peer id of this one."""
        heard = self._heard.get(record.peer_id)
        if heard is None or self._is_over(heard.doubled_at, now):
            return None
        others = [other for instance, other in heard.earlier.items() if instance != record.instance]
        return others[-1] if others else None

    def double(self, now: float) -> AddressRecord | None:
        """The last record that another device made with this node's identity, while that is not long ago."""
        if self._own_double is None or self._is_over(self._own_double[1], now):
            return None
        return self._own_double[0]

    def ahead_s(self, peer_id: str) -> float | None:
        """How far this device's clock is ahead of that of a peer, in seconds; None if it never said."""
        heard = self._heard.get(peer_id)
        return None if heard is None else heard.ahead_s

    def keep(self, peer_ids: Collection[str]) -> None:
        """Forget all others."""
        for peer_id in self._newest.keys() - set(peer_ids):
            del self._newest[peer_id]
            self._heard.pop(peer_id, None)

    def _is_over(self, seen: float | None, now: float) -> bool:
        return seen is None or now - seen > DOUBLE_S
