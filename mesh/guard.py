"""What this node refuses, from whom, and what follows from it: every refusal is counted, and some are held against
the member that caused them (`conduct`). Shared by the door, the streams and the mesh, so callable from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Literal

from ..errors import BadSignature, DecodeError, MeshloreError, Misbehaved, Refused, code_of
from .conduct import SLOWED_COST, Conduct, Fault, Standing, load_conduct, save_conduct

log = logging.getLogger("meshlore.mesh")

SAVE_S = 5.0
Place = Literal["connection", "stream", "request", "packet"]
_FAULTS_OF_CODES = {"role": Fault.FORBIDDEN, "busy": Fault.EXCESS}


class Guard:
    """One node's refusals, and the conduct of its members. ``path``: where the conduct is kept, or None."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._conduct = load_conduct(path) if path is not None else Conduct()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._blamed = False

    def refuse(self, place: Place, error: MeshloreError, peer_id: str = "") -> None:
        """Count a refusal; ``peer_id`` is the member that caused it, empty for who has not proven to be one."""
        with self._lock:
            self._counts[place, code_of(error)] += 1
        fault = fault_of(error)
        if peer_id and fault is not None:
            self._blame(peer_id, fault, error)

    def check(self, peer_id: str) -> None:
        """Raise `Misbehaved` while a member is dropped."""
        with self._lock:
            wait_s = self._conduct.wait_s(peer_id, time.time())
        if wait_s > 0:
            raise Misbehaved(
                "the member sent too much that is not valid or allowed", f"come back in {wait_s:.0f} s", "misbehaved"
            )

    def cost(self, peer_id: str) -> float:
        """What one unit costs this member of its budgets: 1, and more when it is slowed."""
        with self._lock:
            return 1.0 if self._conduct.standing(peer_id, time.time()) is Standing.GOOD else SLOWED_COST

    def refusals(self) -> dict[str, dict[str, int]]:
        """Place to reason to count, since the start."""
        with self._lock:
            counts = sorted(self._counts.items())
        places: dict[str, dict[str, int]] = {}
        for (place, reason), count in counts:
            places.setdefault(place, {})[reason] = count
        return places

    def not_good(self) -> dict[str, Standing]:
        """The members that are slowed or dropped now."""
        with self._lock:
            return self._conduct.not_good(time.time())

    async def keep(self) -> None:
        """Write the conduct down whenever it changed, until cancelled; the last time then."""
        try:
            while True:
                await asyncio.sleep(SAVE_S)
                await asyncio.to_thread(self.save)
        finally:
            self.save()

    def save(self) -> None:
        """Write the conduct down if it changed. Some kB at most; an error is one warning."""
        with self._lock:
            changed, self._blamed = self._blamed, False
            records = self._conduct.records(time.time())
        if changed and self._path is not None:
            try:
                save_conduct(self._path, records)
            except MeshloreError as error:
                log.warning("the members' conduct was not saved: %s", error)

    def _blame(self, peer_id: str, fault: Fault, error: MeshloreError) -> None:
        with self._lock:
            before = self._conduct.standing(peer_id, time.time())
            after = self._conduct.blame(peer_id, fault, time.time())
            self._blamed = True
        if after is not before:
            log.warning("…%s is %s now, for what it sent: %s", peer_id[-8:], after, error.message)


def fault_of(error: MeshloreError) -> Fault | None:
    """What a refusal says of the member that caused it; None for what may befall honest ones, too."""
    if isinstance(error, DecodeError | BadSignature):
        return Fault.MALFORMED
    return _FAULTS_OF_CODES.get(error.code) if isinstance(error, Refused) else None
