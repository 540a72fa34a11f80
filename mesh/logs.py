"""No flood: the same line is logged a few times a minute at most, and then says how often it would have been."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..security.limits import KeyedBuckets

LINES_AT_ONCE = 5
LINES_PER_S = 1 / 60
MAX_LINES = 512


class NoFlood(logging.Filter):
    """For a logger: lets `LINES_AT_ONCE` equal lines through, then one a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._buckets = KeyedBuckets(LINES_PER_S, LINES_AT_ONCE, MAX_LINES)
        self._held_back: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if not self._buckets.take(line, self._clock()):
            if line in self._held_back or len(self._held_back) < MAX_LINES:
                self._held_back[line] = self._held_back.get(line, 0) + 1
            return False
        if held_back := self._held_back.pop(line, 0):
            record.msg, record.args = f"{line} (and {held_back} times more since)", None
        return True
