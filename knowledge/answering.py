"""Answers: what a classifier says about samples of others, and about views of them.

A sample of many pixels travels at the price of a hundred answers. So answers about views of it (which every
device makes alike, see `meshlore.knowledge.augment.nth_view`) are the cheap way to tell what a model knows:
students learn from the mean of all teachers on many more inputs than were ever sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .augment import nth_view
from .models import to_tensor
from .packet import MAX_ABOUT, MAX_LOGIT_BYTES, LogitPacket, SamplePacket, coarse
from .space import Space

MOST_VIEWS = 8
MOST_ANSWERS = 12_000
AT_ONCE = 500


def answer(classifier: nn.Module, about: Sequence[tuple[str, SamplePacket]], space: Space) -> LogitPacket:
    """What ``classifier`` says about sample packets (by name) and views of them, as many as fit one packet."""
    views = _views(sum(len(packet) for _, packet in about), space)
    answered: list[tuple[str, SamplePacket]] = []
    left_bytes = MAX_LOGIT_BYTES
    for name, packet in about[:MAX_ABOUT]:
        left_bytes -= 2 * views * len(packet) * space.num_classes
        if left_bytes >= 0:
            answered.append((name, packet))
    return LogitPacket(
        space.id,
        tuple(name for name, _ in answered),
        tuple(_say(classifier, to_tensor(packet.images, space), views) for _, packet in answered),
    )


def _views(samples: int, space: Space) -> int:
    """How many views of every one of so many samples; a small sample costs no more than its answers."""
    if space.is_small or space.is_table:
        return 1
    return max(1, min(MOST_VIEWS, MOST_ANSWERS // max(1, samples)))


@torch.no_grad()
def _say(classifier: nn.Module, images: Tensor, views: int) -> NDArray[np.float16]:
    seen = torch.cat([nth_view(images, view) for view in range(views)])
    parts = [seen[start : start + AT_ONCE] for start in range(0, len(seen), AT_ONCE)]
    return coarse(torch.cat([classifier(part) for part in parts]).numpy())
