"""Which packets to give up when the store is over its quota. Pure.

The rule: this node's own packets stay. Of the others those go first that nothing is learned from (unreadable
ones, then those of the authors with the least weight in the last lesson); among equals those that came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """One packet on disk. ``weight`` is that of its author, 0..1, and -1 if the packet cannot be opened."""

    name: str
    size_bytes: int
    weight: float
    own: bool


def to_evict(held: Iterable[Held], quota_bytes: int) -> list[str]:
    """Names to give up, in the order in which they go; ``held`` is in the order of arrival."""
    packets = list(held)
    excess = sum(packet.size_bytes for packet in packets) - quota_bytes
    names = []
    for packet in sorted((packet for packet in packets if not packet.own), key=lambda packet: packet.weight):
        if excess <= 0:
            break
        names.append(packet.name)
        excess -= packet.size_bytes
    return names
