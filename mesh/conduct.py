"""How members behaved: faults add up, fade with time, and slow a member down before they shut it out. Pure.

    score < 20          good
    20 <= score < 60    slowed: everything that it does costs `SLOWED_COST` times as much of its budgets
    score >= 60         dropped: hung up on, and let in again when enough has faded

The score halves every `HALF_LIFE_S`. It belongs to the member, not to a connection or an address, and is kept
across restarts (`load_conduct`, `save_conduct`), so coming back wins nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from enum import Enum, StrEnum
from pathlib import Path

from ..codec import pack, unpack
from ..errors import DecodeError
from ..security.files import write_atomic
from ..security.identity import public_key_of

log = logging.getLogger("meshlore.mesh")

SLOWED_FROM, DROPPED_FROM, MAX_SCORE = 20.0, 60.0, 240.0
HALF_LIFE_S = 900.0
SLOWED_COST = 16.0
MAX_MEMBERS = 1024
MAX_FILE_BYTES = 1 << 20
_FORGOTTEN = 0.1
Record = tuple[float, float]
"""Score, and the unix time at which it was that."""


class Fault(Enum):
    """What a member can do wrong, and what it costs."""

    MALFORMED = 10.0
    """It sent what no honest member sends, on any device: a frame, body, blob or signature that is not valid."""
    FORBIDDEN = 2.0
    """It asked for what its roles do not allow."""
    EXCESS = 0.2
    """It asked for more than its budget."""


class Standing(StrEnum):
    GOOD = "good"
    SLOWED = "slowed"
    DROPPED = "dropped"


class Conduct:
    """The scores of up to `MAX_MEMBERS` members; beyond that the lowest is forgotten. Times are unix seconds."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        self._records: dict[str, Record] = dict(records or {})

    def blame(self, peer_id: str, fault: Fault, now: float) -> Standing:
        """Note a fault; returns where the member stands after it."""
        score = min(MAX_SCORE, self.score(peer_id, now) + fault.value)
        self._records[peer_id] = (score, now)
        if len(self._records) > MAX_MEMBERS:
            del self._records[min(self._records, key=lambda known: self.score(known, now))]
        return _standing(score)

    def score(self, peer_id: str, now: float) -> float:
        """0 for who did nothing wrong lately."""
        if peer_id not in self._records:
            return 0.0
        score, at = self._records[peer_id]
        # a clock that was set back lets nothing grow
        return float(score * 0.5 ** (max(0.0, now - at) / HALF_LIFE_S))

    def standing(self, peer_id: str, now: float) -> Standing:
        return _standing(self.score(peer_id, now))

    def wait_s(self, peer_id: str, now: float) -> float:
        """Seconds until a dropped member may come back; 0 if it may now."""
        score = self.score(peer_id, now)
        return HALF_LIFE_S * math.log2(score / DROPPED_FROM) if score > DROPPED_FROM else 0.0

    def not_good(self, now: float) -> dict[str, Standing]:
        """The members that are slowed or dropped."""
        standings = {peer_id: self.standing(peer_id, now) for peer_id in self._records}
        return {peer_id: standing for peer_id, standing in standings.items() if standing is not Standing.GOOD}

    def records(self, now: float) -> dict[str, Record]:
        """What to keep: all scores that still mean something."""
        return {
            peer_id: (self.score(peer_id, now), now)
            for peer_id in self._records
            if self.score(peer_id, now) > _FORGOTTEN
        }


def load_conduct(path: Path) -> Conduct:
    """What `save_conduct` wrote. Missing: nobody did wrong; damaged: likewise, with a warning."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DecodeError("too large")
        return Conduct(_records_of(unpack(path.read_bytes(), max_bytes=MAX_FILE_BYTES)))
    except FileNotFoundError:
        return Conduct()
    except (OSError, DecodeError) as error:
        log.warning("the record of members' conduct %s is unusable (%s); starting without it", path, error)
        return Conduct()


def save_conduct(path: Path, records: Mapping[str, Record]) -> None:
    """Atomic. Raises StateError when the file cannot be written."""
    write_atomic(path, pack({peer_id: list(record) for peer_id, record in records.items()}))


def _standing(score: float) -> Standing:
    if score >= DROPPED_FROM:
        return Standing.DROPPED
    return Standing.SLOWED if score >= SLOWED_FROM else Standing.GOOD


def _records_of(value: object) -> dict[str, Record]:
    if not isinstance(value, dict) or len(value) > MAX_MEMBERS:
        raise DecodeError("not a map of members")
    records = {}
    for peer_id, record in value.items():
        public_key_of(peer_id)
        if type(record) is not list or [type(part) for part in record] != [float, float]:
            raise DecodeError("a record is a score and a time")
        if not (0 <= record[0] <= MAX_SCORE and record[1] >= 0):
            raise DecodeError("a score or time is out of range")
        records[peer_id] = (record[0], record[1])
    return records
