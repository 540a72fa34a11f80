"""Your own model: name it as ``my_model:network`` where meshlore is started in this folder."""

from __future__ import annotations

import meshlore
from torch import nn


def network(space: meshlore.Space) -> nn.Module:
    """From float32 (n, channels, height, width) in [-1, 1] to logits (n, classes).

    Prefer GroupNorm to BatchNorm: batches mix own images with those that others made.
    """
    cells = -(-space.height // 4) * -(-space.width // 4)
    return nn.Sequential(
        nn.Conv2d(space.channels, 24, 5, stride=2, padding=2),
        nn.GroupNorm(4, 24),
        nn.GELU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.GroupNorm(4, 48),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(48 * cells, len(space.classes)),
    )
