"""Misses of the toolbox: classes of which others answered, again and again, what this node should know. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

ENOUGH = 16
"""Samples of a class that were answered elsewhere: from here on it is worth a lesson."""
AGAIN_S = 3600.0
"""Not sooner than this is a class fetched once more."""
MOST_AT_ONCE = 8


class Misses:
    """Counts, per class name. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._tried: dict[str, float] = {}

    def note(self, samples: Mapping[str, int]) -> None:
        """Others answered for so many samples of these classes."""
        self._counts.update(samples)

    def due(self, now: float) -> tuple[str, ...]:
        """The classes to fetch now, those missed most first."""
        ready = [name for name, _ in self._counts.most_common() if self._counts[name] >= ENOUGH]
        rested = [name for name in ready if now - self._tried.get(name, -AGAIN_S) >= AGAIN_S]
        return tuple(rested[:MOST_AT_ONCE])

    def tried(self, names: Collection[str], now: float) -> None:
        """A lesson about these classes begins."""
        for name in names:
            self._tried[name] = now
            del self._counts[name]
