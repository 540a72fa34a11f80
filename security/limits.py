"""Token buckets: how often something may happen, per peer or address; and a bounded room to wait in. The caller has
the clock."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable


class TokenBucket:
    """Allows ``burst`` events at once and ``rate_per_s`` events per second in the long run."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        if not (rate_per_s > 0 and burst >= 1):
            raise ValueError(f"rate {rate_per_s}/s with burst {burst} never allows anything")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = float(burst)
        self._updated_s: float | None = None

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Whether an event may happen at ``now`` (seconds, any monotonic clock); if so, pay its ``cost``."""
        self._refill(now)
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True

    def wait_s(self, now: float, cost: float = 1.0) -> float:
        """Seconds until `take` will allow ``cost``: 0 if now, infinity if it is above the burst."""
        self._refill(now)
        if cost > self.burst:
            return float("inf")
        return max(0.0, (cost - self._tokens) / self.rate_per_s)

    def _refill(self, now: float) -> None:
        if self._updated_s is not None:
            elapsed_s = max(0.0, now - self._updated_s)
            self._tokens = min(self.burst, self._tokens + elapsed_s * self.rate_per_s)
        self._updated_s = now if self._updated_s is None else max(now, self._updated_s)


class KeyedBuckets:
    """One `TokenBucket` per key, for at most ``max_keys`` keys.

    Beyond that the key that was quiet for longest is forgotten, as its bucket is the fullest: memory is
    bounded, and only someone with more than ``max_keys`` addresses gains from it.
    """

    def __init__(self, rate_per_s: float, burst: float, max_keys: int) -> None:
        if max_keys < 1:
            raise ValueError("max_keys is at least 1")
        TokenBucket(rate_per_s, burst)  # refuses bad figures now, not at the first event
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Whether ``key`` may do this at ``now``; if so, pay."""
        return self._bucket(key).take(now, cost)

    def wait_s(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """Seconds until `take` will allow ``key`` this: 0 if now, infinity if it is above the burst."""
        return self._bucket(key).wait_s(now, cost)

    def _bucket(self, key: Hashable) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate_per_s, self._burst)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket


class WaitingRoom:
    """Where strangers are until they have shown who they are: at most ``size`` at a time.

    Whoever comes is let in. When the room is full, the one who has waited longest has to go, of the key that takes
    the most places: so those who fill it push out each other, and who needs a moment only is left in peace.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a waiting room has a place")
        self.size = size
        self._waiting: OrderedDict[Callable[[], None], Hashable] = OrderedDict()
        self._places: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, key: Hashable, leave_now: Callable[[], None]) -> None:
        """Take a place; ``leave_now`` (each its own) is called when it is lost to another."""
        if len(self._waiting) >= self.size:
            most = max(self._places.values())
            longest = next(leave for leave, held in self._waiting.items() if self._places[held] == most)
            self.leave(longest)
            longest()
        self._waiting[leave_now] = key
        self._places[key] += 1

    def leave(self, leave_now: Callable[[], None]) -> None:
        """Give the place back; nothing happens when it was lost."""
        if leave_now in self._waiting:
            key = self._waiting.pop(leave_now)
            self._places[key] -= 1
            if not self._places[key]:
                del self._places[key]
