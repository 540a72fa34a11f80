"""A skill: one small packet about a few classes, cut out of the packets of many authors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ..errors import PacketError
from .data import Images
from .models import logits
from .packet import SamplePacket, coarse, encode
from .space import Space

SKILL = "skill"
"""The `SamplePacket.source` of what was made for one who asked; it is not published."""
PER_CLASS = 64


def cut(
    classifier: nn.Module, packets: Sequence[SamplePacket], labels: Sequence[int], space: Space, *, most_bytes: int
) -> SamplePacket | None:
    """The samples of these classes with what ``classifier`` says about them; None when there are none.

    Nothing is in it that was not published before but these answers.

    Args:
        packets: aligned to ``space``, those to prefer first; a class takes turns among them.
        labels: the classes wanted.
        most_bytes: what the packet may take once it is encoded.
    """
    per_class = PER_CLASS
    while per_class:
        parts = [(label, _interleaved(packets, label)[:per_class]) for label in labels]
        images = np.concatenate([part for _, part in parts])
        if not len(images):
            return None
        packet = SamplePacket(
            space.id,
            SKILL,
            images,
            np.concatenate([np.full(len(part), label, np.int64) for label, part in parts]),
            coarse(logits(classifier, images, space)),
            _counts(packets, [label for label, part in parts if len(part)], space),
            added=space.added_classes,
        )
        if _fits(packet, most_bytes):
            return packet
        per_class //= 2
    return None


def without(packet: SamplePacket, known: Sequence[SamplePacket]) -> SamplePacket | None:
    """What a packet shows that none of ``known`` shows; None: nothing. A sample is the same when each value is."""
    seen = {image.tobytes() for other in known for image in other.images}
    new = np.array([image.tobytes() not in seen for image in packet.images], bool)
    if not new.any():
        return None
    said = None if packet.logits is None else packet.logits[new]
    return replace(packet, images=packet.images[new], labels=packet.labels[new], logits=said)


def _interleaved(packets: Sequence[SamplePacket], label: int) -> Images:
    """Each packet's first sample of a class, then each one's second, and so on; the same sample once."""
    shown = [packet.images[packet.labels == label] for packet in packets]
    turns = [part[turn] for turn in range(max(map(len, shown), default=0)) for part in shown if turn < len(part)]
    once = list({image.tobytes(): image for image in turns}.values())
    return np.stack(once) if once else np.zeros((0, *packets[0].images.shape[1:]), np.uint8)


def _counts(packets: Sequence[SamplePacket], labels: Sequence[int], space: Space) -> np.ndarray:
    counts = np.zeros(space.num_classes, np.int64)
    counts[list(labels)] = np.sum([packet.class_counts[list(labels)] for packet in packets], axis=0)
    return counts


def _fits(packet: SamplePacket, most_bytes: int) -> bool:
    try:
        return len(encode(packet)) <= most_bytes
    except PacketError:
        return False
