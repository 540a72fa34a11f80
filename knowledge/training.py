"""Training a classifier on a device's own samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Dataset
from .device import CPU
from .models import to_tensor
from .space import is_rows

Step = Callable[[float], None]
"""Called between optimisation steps with the fraction done (0 to 1). It may raise `Cancelled`, and it may
take its time: the compute lane runs urgent work inside it."""


def no_step(fraction: float) -> None:
    """The `Step` of a caller that neither watches nor interrupts."""


def half(step: Step, part: int) -> Step:
    """The `Step` of the first (0) or second (1) half of a longer work."""
    return lambda fraction: step((part + fraction) / 2)


@dataclass(frozen=True)
class FitSettings:
    """How `fit_classifier` learns; the defaults suit a few hundred to a few thousand samples."""

    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    shift_fraction: float = 0.08
    """Samples are shifted at random by up to this part of their side (at least one pixel); 0: never."""


def fit_classifier(
    model: nn.Module,
    data: Dataset,
    *,
    steps: int,
    seed: int,
    step: Step = no_step,
    settings: FitSettings | None = None,
    device: torch.device = CPU,
) -> nn.Module:
    """A trained copy of a model; the model given is left alone and may go on serving.

    AdamW with a cosine schedule on the cross-entropy of random batches, shifted by a few pixels.

    Args:
        model: maps float32 (n, c, h, w) in [-1, 1] to logits (n, num_classes).
        data: at least one sample.
        steps: optimisation steps.
        seed: of batches and shifts.
        step: called after each optimisation step; what it raises ends the training.
        settings: batch size, rates, augmentation.
        device: where it is trained; what comes back is on the CPU.

    Raises:
        ValueError: no samples.
    """
    if len(data) == 0:
        raise ValueError("a classifier needs at least one sample to learn from")
    chosen = settings or FitSettings()
    random = torch.Generator().manual_seed(seed)
    images, labels = to_tensor(data.images, data.space).to(device), torch.from_numpy(data.labels).to(device)
    shift_px = max(1, round(chosen.shift_fraction * min(data.space.shape[1:]))) if chosen.shift_fraction > 0 else 0
    student = copy.deepcopy(model).to(device).train()
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True
    )
    for done in range(steps):
        rate = cosine(done / steps, chosen.learning_rate, floor=0.05)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = torch.randint(len(images), (chosen.batch_size,), generator=random)
        loss = F.cross_entropy(student(shift(images[batch], shift_px, random)), labels[batch])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step((done + 1) / steps)
    return student.cpu().eval()


def fit_private(model: nn.Module, data: Dataset, **how: Any) -> nn.Module:
    """As `fit_classifier`, but samples of one class leave the model what it was: there is nothing to tell apart, and
    from weights that say one class whatever they see, lessons begin badly."""
    if len(data) and np.count_nonzero(data.counts()) < 2:
        return copy.deepcopy(model).eval()
    return fit_classifier(model, data, **how)


def cosine(fraction: float, peak: float, *, floor: float) -> float:
    """A cosine schedule from ``peak`` at 0 down to ``floor * peak`` at 1."""
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction)))


def shift(images: Tensor, most_px: int, random: torch.Generator) -> Tensor:
    """Each image (n, c, h, w) moved by up to ``most_px`` pixels, the uncovered edge dark (-1); rows stay."""
    if most_px == 0 or is_rows(images.shape):
        return images
    n, channels, height, width = images.shape
    padded = F.pad(images, (most_px,) * 4, value=-1.0)
    down = torch.randint(2 * most_px + 1, (n, 1, 1), generator=random)
    right = torch.randint(2 * most_px + 1, (n, 1, 1), generator=random)
    rows, columns = torch.arange(height)[:, None] + down, torch.arange(width) + right
    pixels = (rows * padded.shape[3] + columns).view(n, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels.to(images.device)).view(images.shape)
