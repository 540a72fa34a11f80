"""Finding where one member listens by asking others: breadth first from the neighbours, within a budget. Pure.

Every answer is either the signed record of whom is looked for, so that nobody can make it up, or the records of those
that the answerer would ask. With about six neighbours each, two steps lead to everybody in a mesh of forty.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from .messages import KnownPeers
from .records import AddressRecord

MOST_ASKED = 24
AT_ONCE = 4
Ask = Callable[[str], Awaitable[KnownPeers]]


async def look_up(wanted: str, first: Iterable[str], ask: Ask) -> AddressRecord | None:
    """The address record of ``wanted`` (a peer id), or None if nobody of those asked knows it.

    Args:
        first: peer ids to begin with.
        ask: asks one member, by its peer id, which is of ``first`` or of somebody's answer; empty if that fails.
    """
    waiting = deque(peer_id for peer_id in first if peer_id != wanted)
    named, asked = {wanted, *waiting}, 0
    while waiting and asked < MOST_ASKED:
        turn = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting), MOST_ASKED - asked))]
        asked += len(turn)
        for records in await asyncio.gather(*(ask(peer_id) for peer_id in turn)):
            for record in records:
                if record.peer_id == wanted:
                    return record
                if record.peer_id not in named:
                    named.add(record.peer_id)
                    waiting.append(record.peer_id)
    return None
