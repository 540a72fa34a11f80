"""Who has which blob, and what to pull from whom next. Pure: the caller has the clock and the dice.

Blobs are named by their content, so every holder is as good as the author: pulls go to the holder
with the fewest of our pulls under way, one pull per blob at a time, and elsewhere after a failure.
What our store refused is not pulled again for a while, from anybody; a holder is marked only for what
is wrong on every device, and not for good, so no two honest members stay apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
MAX_DOUBLINGS = 16
SOON_S = 30.0


@dataclass(frozen=True)
class Pull:
    name: str
    peer_id: str
    size_bytes: int


@dataclass(frozen=True)
class GossipSettings:
    """Bounds and delays (seconds). ``retry_s`` doubles with every failure, up to ``rejected_s``."""

    parallel: int = 2
    retry_s: float = 3.0
    rejected_s: float = 600.0
    max_blob_bytes: int = 8 << 20
    max_names_per_peer: int = 8192
    max_rejected: int = 4096
    faults_to_ignore: int = 3


@dataclass(frozen=True)
class _Wait:
    until: float
    tries: int


class Gossip:
    """What the neighbours hold, as they said. Times are seconds of one monotonic clock.

    ``mine`` is what is here, or not wanted here; what leaves it is wanted again when a neighbour names it again.
    """

    def __init__(self, settings: GossipSettings, dice: Callable[[], float]) -> None:
        self._settings = settings
        self._dice = dice
        self._held: dict[str, dict[str, int]] = {}
        self._open: dict[str, dict[str, int]] = {}
        self._pulling: dict[str, str] = {}
        self._not_from: dict[tuple[str, str], _Wait] = {}
        self._aside: dict[str, _Wait] = {}
        self._faults: dict[str, _Wait] = {}

    def holds(self, peer_id: str, blobs: Iterable[tuple[str, int]], mine: Container[str], now: float) -> None:
        """A peer says that it holds these (name, size in bytes), besides what it said before.

        When that is too much, names that are here already or were set aside make room for new ones.
        """
        held = self._held.setdefault(peer_id, {})
        for name, size_bytes in blobs:
            if name not in held and len(held) >= self._settings.max_names_per_peer:
                self.lacks(peer_id, [known for known in held if known in mine or self._is_aside(known, now)])
                if len(held) >= self._settings.max_names_per_peer:
                    return
            held[name] = size_bytes
            if name not in mine:
                self._open.setdefault(name, {})[peer_id] = size_bytes

    def lacks(self, peer_id: str, names: Iterable[str]) -> None:
        """The peer does not hold these, whatever was heard before."""
        held = self._held.get(peer_id, {})
        for name in names:
            held.pop(name, None)
            self._close(name, peer_id)

    def forget(self, peer_id: str) -> None:
        """The peer left: it holds nothing that we could pull. Its faults are not forgotten by that."""
        for name in self._held.pop(peer_id, {}):
            self._close(name, peer_id)
        for key in [key for key in self._not_from if key[1] == peer_id]:
            del self._not_from[key]

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
        for name, holders in self._wanted(mine, now):
            candidates = [peer_id for peer_id in holders if _is_over(self._not_from.get((name, peer_id)), now)]
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
        """How many blobs are under way, or may be pulled from a neighbour within half a minute."""
        soon = now + SOON_S
        return len(self._pulling) + sum(
            any(_is_over(self._not_from.get((name, peer_id)), soon) for peer_id in holders)
            for name, holders in self._wanted(mine, now)
        )

    def finished(self, name: str) -> None:
        """The blob is in our store."""
        self._pulling.pop(name, None)
        self._aside.pop(name, None)
        for key in [key for key in self._not_from if key[0] == name]:
            del self._not_from[key]

    def failed(self, name: str, now: float) -> None:
        """The transfer broke: another holder next, this one after a while, ever longer."""
        if peer_id := self._pulling.pop(name, None):
            self._retry_later(self._not_from, (name, peer_id), now)

    def put_off(self, name: str, now: float) -> None:
        """We could not keep it, as when our disk is full: pulled again, from anybody, ever later. Nobody's fault."""
        self._pulling.pop(name, None)
        self._retry_later(self._aside, name, now)

    def set_aside(self, name: str, now: float) -> None:
        """Our store refused it for what this node knows; another may rightly hold it, so nobody is marked."""
        self._pulling.pop(name, None)
        self._aside[name] = _Wait(now + self._settings.rejected_s, 0)
        _trim(self._aside, self._settings.max_rejected, now)

    def missing(self, name: str) -> None:
        """The peer does not have it after all."""
        if peer_id := self._pulling.pop(name, None):
            self.lacks(peer_id, [name])

    def misdelivered(self, name: str, now: float) -> None:
        """The peer sent other bytes: marked, and the blob is pulled elsewhere, from this one much later."""
        if peer_id := self._pulling.pop(name, None):
            forgiven_at = now + self._settings.rejected_s
            self._faults[peer_id] = _Wait(forgiven_at, self._faults_of(peer_id, now) + 1)
            _trim(self._faults, self._settings.max_rejected, now)
            self._not_from[name, peer_id] = _Wait(forgiven_at, 0)
            _trim(self._not_from, self._settings.max_rejected, now)

    def rejected(self, name: str, now: float) -> None:
        """The content is malformed wherever it is read: no honest member keeps it, so its holder is marked."""
        self.misdelivered(name, now)
        self.set_aside(name, now)

    def _faults_of(self, peer_id: str, now: float) -> int:
        """Faults not forgiven yet; ``rejected_s`` after the last one all are."""
        faults = self._faults.get(peer_id)
        return 0 if faults is None or _is_over(faults, now) else faults.tries

    def _is_aside(self, name: str, now: float) -> bool:
        return not _is_over(self._aside.get(name), now)

    def _retry_later(self, waits: dict[K, _Wait], key: K, now: float) -> None:
        tries = waits[key].tries if key in waits else 0
        delay_s = min(self._settings.rejected_s, self._settings.retry_s * 2 ** min(tries, MAX_DOUBLINGS))
        waits[key] = _Wait(now + delay_s, tries + 1)
        _trim(waits, self._settings.max_rejected, now)

    def _wanted(self, mine: Container[str], now: float) -> Iterator[tuple[str, dict[str, int]]]:
        """Names to pull with those who have them and may be asked; what is here by now is not looked at again."""
        for name in [name for name in self._open if name in mine]:
            del self._open[name]
        ignored = {peer for peer in self._faults if self._faults_of(peer, now) >= self._settings.faults_to_ignore}
        for name, holders in self._open.items():
            if name not in self._pulling and not self._is_aside(name, now):
                usable = {
                    peer_id: size_bytes
                    for peer_id, size_bytes in holders.items()
                    if size_bytes <= self._settings.max_blob_bytes and peer_id not in ignored
                }
                if usable:
                    yield name, usable

    def _close(self, name: str, peer_id: str) -> None:
        if (holders := self._open.get(name)) is not None:
            holders.pop(peer_id, None)
            if not holders:
                del self._open[name]


def _is_over(wait: _Wait | None, now: float) -> bool:
    return wait is None or wait.until <= now


def _trim(waits: dict[K, _Wait], limit: int, now: float) -> None:
    """Forget what is over; if that is not enough, the oldest."""
    if len(waits) > limit:
        for key in [key for key, wait in waits.items() if wait.until <= now]:
            del waits[key]
        while len(waits) > limit:
            del waits[next(iter(waits))]
