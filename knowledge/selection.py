"""Which synthetic samples leave a device, and how many: what every way of making them has in common.

Each class has a quota; more than that are made, because the copy filter drops some; what is left is cut to the
size that it may have.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .copies import Guard, distinct
from .data import Dataset
from .models import to_images, to_tensor
from .packet import MAX_IMAGE_BYTES, MAX_LOGIT_BYTES, MAX_SAMPLES
from .space import Space

FEWEST_EVER = 3

Quota = Mapping[int, int]
Draw = Callable[[Quota], tuple[Tensor, Tensor]]
"""Makes so many samples of each class: float32 (n, c, h, w) in [-1, 1] and int64 (n,), sorted by class."""
Improve = Callable[[Tensor, Tensor], Tensor]
"""Better samples in the place of samples and their labels, as many."""


@dataclass(frozen=True)
class Samples:
    """Synthetic images uint8 (n, c, h, w) in 0..levels-1 and their labels int64 (n,), sorted by class."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SampleSettings:
    """How much is made of how much.

    ``per_class`` is an upper bound; a class gives at most half as many samples as it has private images
    (but three), and none below ``class_minimum`` images; where all classes are that small, those of three images
    or more are used. ``size_limit_bytes`` bounds the images, compressed with zlib. Many classes share what one
    packet holds. ``guard`` says which of the samples made may leave the device, comparing them in ``dimensions``
    principal components. Images travel in so many ``shades``: more cost bytes and teach nothing.
    """

    per_class: int = 40
    class_minimum: int = 10
    size_limit_bytes: int | None = None
    dimensions: int = 20
    shades: int = 32
    guard: Guard = field(default=distinct, repr=False)


def select(
    data: Dataset,
    settings: SampleSettings,
    draw: Draw,
    *,
    improve: Improve | None = None,
    spare: float,
    most_spare: int | None = None,
) -> Samples:
    """What may be published of the samples that ``draw`` makes; empty when no class has enough images.

    Args:
        improve: is given those that are in question, before they are chosen from.
        spare: how many are made per sample wanted.
        most_spare: of one class, beyond those wanted.
    """
    quota = _quotas(torch.from_numpy(data.counts()), settings)
    if not quota:
        return Samples(np.zeros((0, *data.space.shape), np.uint8), np.zeros(0, np.int64))
    quota = _shrunk(quota, _most_in_a_packet(data.space), data.counts())
    made, labels = draw(_with_spare(quota, spare, most_spare))
    if settings.size_limit_bytes is not None:
        each = _compressed(_coarse(to_images(made, data.space), data.space, settings.shades)) / len(made)
        quota = _shrunk(quota, int(settings.size_limit_bytes / each), data.counts())
        keep = _first(labels, _with_spare(quota, spare, most_spare))
        made, labels = made[keep], labels[keep]
    if improve is not None:
        made = improve(made, labels)
    images = _coarse(to_images(made, data.space), data.space, settings.shades)
    return _publishable(images, labels, data, quota, settings)


def _publishable(images: np.ndarray, labels: Tensor, data: Dataset, quota: Quota, settings: SampleSettings) -> Samples:
    real, real_labels = to_tensor(data.images, data.space), torch.from_numpy(data.labels)
    kept = settings.guard(real, real_labels, to_tensor(images, data.space), labels, settings.dimensions)
    images, labels = images[kept.numpy()], labels[kept]
    first = _first(labels, quota).numpy()
    images, final = images[first], labels.numpy()[first]
    limit = settings.size_limit_bytes
    while limit is not None and len(images) and _compressed(images) > limit:
        excess = math.ceil(len(images) * (1 - limit / _compressed(images)))
        for _ in range(max(1, excess)):
            fullest = np.bincount(final).argmax()
            last = np.flatnonzero(final == fullest)[-1]
            images, final = np.delete(images, last, axis=0), np.delete(final, last)
    return Samples(images, final)


def _quotas(counts: Tensor, settings: SampleSettings) -> Quota:
    minimum = settings.class_minimum if int(counts.max()) >= settings.class_minimum else FEWEST_EVER
    return {
        label: min(settings.per_class, max(3, count // 2))
        for label, count in enumerate(counts.tolist())
        if count >= minimum
    }


def _most_in_a_packet(space: Space) -> int:
    """Samples of which the images, and everybody's float16 answers, fit one packet."""
    answer_bytes = 2 * space.num_classes
    return min(MAX_SAMPLES, MAX_IMAGE_BYTES // math.prod(space.shape), MAX_LOGIT_BYTES // answer_bytes)


def _shrunk(quota: Quota, total: int, counts: np.ndarray) -> Quota:
    """The quotas with the highest common ceiling under which their sum fits ``total``.

    Where not even one sample per class fits, the classes with most private images give one each.
    """
    for ceiling in range(max(quota.values()), 1, -1):
        lowered = {label: min(ceiling, count) for label, count in quota.items()}
        if sum(lowered.values()) <= total:
            return lowered
    largest = sorted(quota, key=lambda label: (-int(counts[label]), label))[: max(1, total)]
    return dict.fromkeys(largest, 1)


def _with_spare(quota: Quota, spare: float, most: int | None) -> Quota:
    made = {label: math.ceil(count * spare) for label, count in quota.items()}
    return made if most is None else {label: min(count, quota[label] + most) for label, count in made.items()}


def _first(labels: Tensor, quota: Quota) -> Tensor:
    """Mask of the first ``quota[label]`` samples of each class."""
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in quota.items():
        kept[torch.where(labels == label)[0][:count]] = True
    return kept


def _coarse(images: np.ndarray, space: Space, shades: int) -> np.ndarray:
    """Images in few of the levels of their space; rows of a table keep theirs."""
    if space.is_table or space.levels <= shades:
        return images
    apart = (space.levels - 1) / (shades - 1)
    return np.round(np.round(images / apart) * apart).astype(np.uint8)


def _compressed(images: np.ndarray) -> int:
    return len(zlib.compress(images.tobytes(), 9))
