"""Packets of authors that number the added classes otherwise, in one's own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .classes import columns_in, introduced, spread_logits
from .packet import LogitPacket, SamplePacket
from .space import Space, class_key


def unknown(packet: SamplePacket | LogitPacket, space: Space) -> tuple[str, ...]:
    """The names of classes that a packet brings samples of and ``space`` does not have."""
    if isinstance(packet, LogitPacket) or packet.added == space.added_classes:
        return ()
    known = {class_key(name) for name in space.classes}
    return tuple(name for name in introduced(packet.labels, packet.added, space) if class_key(name) not in known)


def aligned(packet: SamplePacket | LogitPacket, space: Space) -> SamplePacket | LogitPacket:
    """A packet with the labels and columns of ``space``; of its samples no class is `unknown`."""
    if packet.added == space.added_classes:
        return packet
    columns = columns_in(packet.added, space)
    if isinstance(packet, LogitPacket):
        logits = tuple(spread_logits(part, columns, space) for part in packet.logits)
        return replace(packet, logits=logits, added=space.added_classes)
    known = columns >= 0
    counts = np.zeros(space.num_classes, dtype=np.int64)
    counts[columns[known]] = packet.class_counts[known]
    return replace(
        packet,
        labels=columns[packet.labels],
        class_counts=counts,
        logits=None if packet.logits is None else spread_logits(packet.logits, columns, space),
        added=space.added_classes,
    )
