"""Anti-entropy: what two nodes hold is compared by digests of buckets, and only what differs is told. Pure.

News travels by announcements; this finds whatever those missed, and brings a newcomer up to date. A set of
names falls into `BUCKETS` by the first bits of the names (which are SHA-256, so evenly); sets that are equal
cost one small message, sets of 10,000 names that differ in one cost the names of one bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BUCKETS = 32
BUCKET_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Answer:
    """What one node tells another that sent its digests.

    Attributes:
        have: (name, size in bytes) of all that the answerer holds in the ``told`` buckets.
        differ: bucket numbers where the two differ. told: those of them that fitted into the answer.
    """

    have: list[tuple[str, int]]
    differ: frozenset[int]
    told: frozenset[int]


def bucket_of(name: str) -> int:
    return int(name[:2], 16) * BUCKETS >> 8


def bucket_digests(names: Iterable[str]) -> bytes:
    """`BUCKETS` digests of `BUCKET_DIGEST_BYTES` each, end to end."""
    buckets: list[list[bytes]] = [[] for _ in range(BUCKETS)]
    for name in sorted(names):
        buckets[bucket_of(name)].append(bytes.fromhex(name))
    return b"".join(hashlib.sha256(b"".join(bucket)).digest()[:BUCKET_DIGEST_BYTES] for bucket in buckets)


def compare(mine: Mapping[str, int], theirs: bytes, *, max_names: int, chance: float) -> Answer:
    """Answer another node's digests with what ``mine`` has (name to size in bytes) where they differ.

    Whole buckets, from one picked by ``chance`` (0 to 1, new for each answer) on, as many as have room; of one that
    alone has too many names, a part, picked by what is left of ``chance``: every part may meet every bucket.
    """
    first, part = divmod(chance * BUCKETS, 1.0)
    own = bucket_digests(mine)
    differ = frozenset(bucket for bucket in range(BUCKETS) if _digest(own, bucket) != _digest(theirs, bucket))
    held: dict[int, list[tuple[str, int]]] = {bucket: [] for bucket in differ}
    for name, size_bytes in mine.items():
        if (bucket := bucket_of(name)) in differ:
            held[bucket].append((name, size_bytes))
    have: list[tuple[str, int]] = []
    told = set()
    for bucket in sorted(differ, key=lambda bucket: (bucket - first) % BUCKETS):
        if len(have) + len(held[bucket]) <= max_names:
            have += held[bucket]
            told.add(bucket)
        elif not have:
            start = int(part * len(held[bucket]))
            have = (held[bucket][start:] + held[bucket][:start])[:max_names]
    return Answer(have, differ, frozenset(told))


def _digest(digests: bytes, bucket: int) -> bytes:
    return digests[bucket * BUCKET_DIGEST_BYTES : (bucket + 1) * BUCKET_DIGEST_BYTES]
