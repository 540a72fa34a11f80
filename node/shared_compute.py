"""One computer shared by the compute lanes of many nodes, as if each had a device of its own, equally fast."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import Cancelled

T = TypeVar("T")

LOOK_S = 0.5


class SharedCompute:
    """Of the lanes that wait, the one that has computed least goes next; ``parallel`` of them at once.

    So all nodes train before the first one distils, as they would on devices of their own. The work of all runs on
    the same few threads: memory that one node gave back is the next one's.
    """

    def __init__(self, parallel: int = 1) -> None:
        self._lock = threading.Lock()
        self._free = parallel
        self._workers = ThreadPoolExecutor(parallel, thread_name_prefix="compute")
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    def run(self, work: Callable[[], T], computed_s: float, still_wanted: Callable[[], None]) -> T:
        """Wait for a turn, and do the work. ``still_wanted`` is called now and then meanwhile; it may raise.

        Raises:
            Cancelled: `close` was called before the turn came.
        """
        event = threading.Event()
        ticket = (computed_s, next(self._numbers), event)
        with self._lock:
            heapq.heappush(self._waiting, ticket)
            self._call_next()
        try:
            while not (self._closed or event.wait(LOOK_S)):
                still_wanted()
            if self._closed:
                raise Cancelled("the nodes are stopping")
            return self._workers.submit(work).result()
        finally:
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    heapq.heapify(self._waiting)
                else:
                    self._free += 1
                self._call_next()

    def close(self) -> None:
        """Nobody gets a turn any more; who waits is told at once. What runs goes on until it is told to end."""
        with self._lock:
            self._closed = True
            for _, _, event in self._waiting:
                event.set()

    def _call_next(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            heapq.heappop(self._waiting)[2].set()
