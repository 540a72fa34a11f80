"""Which members to be neighbours with: a few of them, most for their worth, the others by chance. Pure.

The degree is bounded as in GossipSub (arXiv:2007.02754), so what a node sends does not grow with the mesh:
with fewer than ``target`` neighbours it dials, with more than ``most`` (others dial too) it parts with some.
Members are also met by chance, one at a time, ever again: so useful ones are found, and the islands that a
broken network leaves behind grow together. Links chosen at random keep a graph of this degree connected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Dice = Callable[[], float]
TRIES_PER_SHUFFLE = 10
KNOWN_PER_NEIGHBOUR = 5
SHORTEST_PAUSE_S = 1.0
HALF_LIFE_S = 600.0
MAX_REMEMBERED = 1024


@dataclass(frozen=True)
class OverlaySettings:
    """How many neighbours, and how long (seconds) at most between two members met by chance."""

    target: int = 6
    most: int = 12
    by_chance: int = 2
    """Of ``target``, how many are kept or dialled whatever their worth."""
    shuffle_s: float = 30.0


@dataclass(frozen=True)
class Neighbour:
    """A member that this node is connected to: how much it is worth, and since when it is a neighbour."""

    worth: float
    since: float


class Overlay:
    """Times are seconds of one monotonic clock; ``dice()`` gives numbers in [0, 1)."""

    def __init__(self, settings: OverlaySettings, dice: Dice, now: float) -> None:
        self._settings, self._dice, self._started = settings, dice, now
        self._dial_by_chance = self._part_by_chance = now + self._pause_s(now)

    def lacks(self, neighbours: int, known: int) -> bool:
        """With so many neighbours and members known, more are wanted."""
        return neighbours < self._settings.target or known < self.enough_known

    @property
    def enough_known(self) -> int:
        """So many members known outlive the sudden end of many; nobody has to know all."""
        return KNOWN_PER_NEIGHBOUR * self._settings.target

    def met(self, now: float) -> None:
        """A connection stands: that is enough of chance for a while."""
        self._dial_by_chance = now + self._pause_s(now)

    def may_dial(self, neighbours: int, dialling: int, now: float) -> bool:
        """Whether `dials` would choose somebody if somebody was due."""
        return self._room(neighbours, dialling) > 0 or (not dialling and now >= self._dial_by_chance)

    def may_part(self, neighbours: int, now: float) -> bool:
        """Whether `partings` would choose among so many, or among fewer."""
        return neighbours > self._settings.most or (neighbours > self._enough and now >= self._part_by_chance)

    def dials(
        self, due: Sequence[str], neighbours: int, dialling: int, worth: Callable[[str], float], now: float
    ) -> list[str]:
        """Whom to dial now of those that may be, the longest due first.

        Twice as many as are lacking may be under way, as some will be dead.
        """
        room = self._room(neighbours, dialling)
        if room <= 0:
            if dialling or not due or now < self._dial_by_chance:
                return []
            # who is dead costs little time: the next one follows soon, until somebody was met
            self._dial_by_chance = now + self._pause_s(now) / TRIES_PER_SHUFFLE
            return [self._any_of(due)]
        left, chosen = list(due), list[str]()
        while left and len(chosen) < room:
            by_chance = self._dice() * self._settings.target < self._settings.by_chance
            peer_id = self._any_of(left) if by_chance and neighbours else max(left, key=worth)
            left.remove(peer_id)
            chosen.append(peer_id)
        return chosen

    def partings(self, neighbours: Mapping[str, Neighbour], now: float) -> list[str]:
        """Whom to part with: all that are too many at once, else now and then the one of least worth."""
        settings = self._settings
        by_worth = sorted(neighbours, key=lambda peer_id: (-neighbours[peer_id].worth, self._dice()))
        if len(neighbours) > settings.most:
            rest = by_worth[settings.target - settings.by_chance :]
            for _ in range(settings.by_chance):
                rest.remove(self._any_of(rest))
            return rest
        if len(neighbours) <= self._enough or now < self._part_by_chance:
            return []
        self._part_by_chance = now + (pause_s := self._pause_s(now))
        tried = [peer_id for peer_id in by_worth if now - neighbours[peer_id].since >= pause_s]
        return tried[-1:]

    @property
    def _enough(self) -> int:
        return self._settings.target + self._settings.by_chance

    def _room(self, neighbours: int, dialling: int) -> int:
        return 2 * (self._settings.target - neighbours) - dialling

    def _pause_s(self, now: float) -> float:
        """Short for a newcomer, which knows only the neighbourhood that it came into."""
        pause_s = min(self._settings.shuffle_s, max(SHORTEST_PAUSE_S, (now - self._started) / 2))
        return pause_s * (0.75 + 0.5 * self._dice())

    def _any_of(self, items: Sequence[T]) -> T:
        return items[int(self._dice() * len(items))]


class Usefulness:
    """Who brought something new lately: counts that halve every `HALF_LIFE_S`."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}

    def brought(self, peer_id: str, now: float) -> None:
        """A blob that was not here came from this peer."""
        self._counts[peer_id] = (self._count(peer_id, now) + 1, now)
        if len(self._counts) > MAX_REMEMBERED:
            del self._counts[min(self._counts, key=lambda known: self._counts[known][1])]

    def of(self, peer_id: str, now: float) -> float:
        """From 0, nothing, towards 1."""
        count = self._count(peer_id, now)
        return count / (count + 1)

    def _count(self, peer_id: str, now: float) -> float:
        count, at = self._counts.get(peer_id, (0.0, now))
        return float(count * 0.5 ** ((now - at) / HALF_LIFE_S))
