"""Labelled samples of one space, as plain numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .space import Space

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
TUNING_SEED = 77


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with labels.

    Attributes:
        space: what the values and labels mean.
        images: uint8 (n, channels, height, width), values 0 .. space.levels - 1.
        labels: int64 (n,), values 0 .. space.num_classes - 1.

    Raises:
        ValueError: arrays that do not fit the space or each other; that is a bug of the caller.
    """

    space: Space
    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.shape[1:] != self.space.shape:
            raise ValueError(f"images {self.images.dtype}{self.images.shape} for a space of {self.space.shape}")
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise ValueError(f"labels {self.labels.dtype}{self.labels.shape} for {len(self.images)} images")
        if len(self) and int(self.images.max()) >= self.space.levels:
            raise ValueError(f"value {self.images.max()} in a space of {self.space.levels} levels")
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < self.space.num_classes:
            raise ValueError(f"label {self.labels.max()} in a space of {self.space.num_classes} classes")

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> NDArray[np.int64]:
        """Samples per class, int64 (num_classes,)."""
        return np.bincount(self.labels, minlength=self.space.num_classes).astype(np.int64)

    def prior(self) -> NDArray[np.float64]:
        """The share of each class, float64 (num_classes,), summing to 1; uniform if there are no samples."""
        counts = self.counts().astype(np.float64)
        return counts / counts.sum() if len(self) else np.full(len(counts), 1 / len(counts))

    def class_names(self) -> tuple[str, ...]:
        """The classes that have samples, in label order."""
        return tuple(self.space.classes[label] for label in np.flatnonzero(self.counts()))

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        """The samples at these positions, in this order."""
        return Dataset(self.space, self.images[indices], self.labels[indices])

    def select_classes(self, classes: Iterable[str]) -> Dataset:
        """The samples of these classes; the space, and so the labels, stay as they are.

        Raises:
            DataError: a class unknown to the space.
        """
        wanted = [self.space.label_of(name) for name in classes]
        return self.subset(np.flatnonzero(np.isin(self.labels, wanted)))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """A stratified split into (rest, held out).

        Every class gives the same fraction, rounded; a class of one sample stays in the rest, and of
        a class of two or more at least one sample stays.
        """
        rng = np.random.default_rng(seed)
        held_out = []
        for label in np.flatnonzero(self.counts()):
            members = rng.permutation(np.flatnonzero(self.labels == label))
            held_out.append(members[: min(round(fraction * len(members)), len(members) - 1)])
        mask = np.zeros(len(self), dtype=bool)
        if held_out:
            mask[np.concatenate(held_out)] = True
        return self.subset(np.flatnonzero(~mask)), self.subset(np.flatnonzero(mask))

    def tuning_split(self, held_out: int = 250) -> tuple[Dataset, Dataset]:
        """The fixed split of a *training* set into (train, validation) on which recipes are tuned.

        It is always the same one, so that nothing is ever tuned on a test set.
        """
        order = fixed_permutation(len(self), TUNING_SEED)
        return self.subset(order[held_out:]), self.subset(order[:held_out])


def concatenate(parts: Iterable[Dataset]) -> Dataset:
    """All samples of datasets of one space, in order.

    Raises:
        ValueError: no parts, or parts of different spaces.
    """
    datasets = list(parts)
    if len({part.space for part in datasets}) != 1:
        raise ValueError("datasets of exactly one space are needed")
    return Dataset(
        datasets[0].space,
        np.concatenate([part.images for part in datasets]),
        np.concatenate([part.labels for part in datasets]),
    )


def fixed_permutation(n: int, seed: int) -> NDArray[np.int64]:
    """The permutation that `torch.randperm` gives on a CPU, without importing torch.

    Fisher-Yates over 32-bit draws of a Mersenne twister: published splits were made with it.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    order = np.arange(n, dtype=np.int64)
    for i, draw in enumerate(draws.tolist()):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return order
