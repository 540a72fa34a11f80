"""Who has which blob, and what to pull from whom next. Pure: the caller has the clock and the dice.

Blobs are named by their content, so every holder is as good as the author: pulls go to the holder
with the fewest of our pulls under way, one pull per blob at a time, and elsewhere after a failure.
What our store rejected is not pulled again for a while, from anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Pull:
    name: str
    peer_id: str
    size_bytes: int


@dataclass(frozen=True)
class GossipSettings:
    """Bounds and delays (seconds)."""

    parallel: int = 2
    retry_s: float = 3.0
    rejected_s: float = 600.0
    max_blob_bytes: int = 8 << 20
    max_names_per_peer: int = 8192
    max_rejected: int = 4096
    faults_to_ignore: int = 3


class Gossip:
    """What the neighbours hold, as they said. Times are seconds of one monotonic clock."""

    def __init__(self, settings: GossipSettings, dice: Callable[[], float]) -> None:
        self._settings = settings
        self._dice = dice
        self._held: dict[str, dict[str, int]] = {}
        self._pulling: dict[str, str] = {}
        self._not_from: dict[tuple[str, str], float] = {}
        self._rejected: dict[str, float] = {}
        self._faults: Counter[str] = Counter()

    def holds(self, peer_id: str, blobs: Iterable[tuple[str, int]]) -> None:
        """A peer says that it holds these (name, size in bytes), besides what it said before."""
        held = self._held.setdefault(peer_id, {})
        for name, size_bytes in blobs:
            if len(held) >= self._settings.max_names_per_peer:
                return
            held[name] = size_bytes

    def forget(self, peer_id: str) -> None:
        """The peer left: it holds nothing that we could pull."""
        self._held.pop(peer_id, None)

    def known_of(self, peer_id: str) -> Mapping[str, int]:
        """Name to size of what the peer said it holds."""
        return self._held.get(peer_id, {})

    def next_pulls(self, mine: Container[str], now: float) -> list[Pull]:
        """Pulls to start now, as many as are free of ``parallel``; they count as under way from here on."""
        pulls: list[Pull] = []
        free = self._settings.parallel - len(self._pulling)
        if free <= 0:
            return pulls
        busy = Counter(self._pulling.values())
        for name, holders in self._wanted(mine, now).items():
            candidates = [peer_id for peer_id in holders if self._not_from.get((name, peer_id), now) <= now]
            if not candidates:
                continue
            chosen = min(candidates, key=lambda peer_id: (busy[peer_id], self._dice()))
            self._pulling[name] = chosen
            busy[chosen] += 1
            pulls.append(Pull(name, chosen, holders[chosen]))
            if len(pulls) == free:
                break
        return pulls

    def lacking(self, mine: Container[str], now: float) -> int:
        """How many blobs neighbours hold that are not here yet, under way or not."""
        return len(self._wanted(mine, now)) + len(self._pulling)

    def finished(self, name: str) -> None:
        """The blob is in our store."""
        self._pulling.pop(name, None)
        for key in [key for key in self._not_from if key[0] == name]:
            del self._not_from[key]

    def failed(self, name: str, now: float) -> None:
        """The transfer broke: another holder next, this one after a while."""
        if peer_id := self._pulling.pop(name, None):
            self._not_from[name, peer_id] = now + self._settings.retry_s
            _trim(self._not_from, self._settings.max_rejected, now)

    def missing(self, name: str) -> None:
        """The peer does not have it after all."""
        if peer_id := self._pulling.pop(name, None):
            self._held.get(peer_id, {}).pop(name, None)

    def misdelivered(self, name: str) -> None:
        """The peer sent other bytes: marked, and the blob is pulled elsewhere."""
        if peer_id := self._pulling.get(name):
            self._faults[peer_id] += 1
        self.missing(name)

    def rejected(self, name: str, now: float) -> None:
        """Our store refused the content: no honest member holds it, so its holder is marked."""
        self.misdelivered(name)
        self._rejected[name] = now + self._settings.rejected_s
        _trim(self._rejected, self._settings.max_rejected, now)

    def faults(self, peer_id: str) -> int:
        """How many blobs of this peer our store refused."""
        return self._faults[peer_id]

    def _wanted(self, mine: Container[str], now: float) -> dict[str, dict[str, int]]:
        wanted: dict[str, dict[str, int]] = {}
        for peer_id, held in self._held.items():
            if self._faults[peer_id] >= self._settings.faults_to_ignore:
                continue
            for name, size_bytes in held.items():
                if (
                    name not in mine
                    and name not in self._pulling
                    and size_bytes <= self._settings.max_blob_bytes
                    and self._rejected.get(name, now) <= now
                ):
                    wanted.setdefault(name, {})[peer_id] = size_bytes
        return wanted


def _trim(expiries: dict[K, float], limit: int, now: float) -> None:
    """Forget what is over; if that is not enough, the oldest."""
    if len(expiries) > limit:
        for key in [key for key, until in expiries.items() if until <= now]:
            del expiries[key]
        while len(expiries) > limit:
            del expiries[next(iter(expiries))]
