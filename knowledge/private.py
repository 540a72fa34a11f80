"""Knowledge under differential privacy: noisy statistics of each class, once, and samples made from these alone.

Every private record becomes a bounded vector (a constant, its low-frequency coordinates, their products); the
sums per class, plus Gaussian noise (Dwork & Roth 2014; calibrated tightly as in Balle & Wang, ICML 2018,
arXiv 1805.06530), are all that is ever computed from it. What follows is post-processing and costs nothing.
Neighbouring data sets differ by one record more or less.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codec import expect_map, pack, pack_array, unpack, unpack_array
from ..errors import DecodeError, PacketError
from .data import Dataset
from .packet import MAX_IMAGE_BYTES, MAX_LOGIT_BYTES, MAX_SAMPLES, SamplePacket
from .selection import Samples
from .space import Space, is_rows

SOURCE = "private"
SENSITIVITY = 1.0
"""How far one record moves all statistics together, in L2 norm."""

COORDINATES = 64  # of large images; more of them are drowned by noise, fewer blur
COORDINATES_SMALL = 36
ROUGHNESS = 0.5  # exponent by which higher frequencies, which are weaker, are amplified
RADIUS = 0.8  # of the norm that a record could have at most: what is beyond is shortened to it
MEAN_SHARE, SECOND_SHARE = 0.5, 0.85
COUNT_SHARE = math.sqrt(1 - MEAN_SHARE**2 - SECOND_SHARE**2)
PER_CLASS = 64
DROWNED = 0.35  # noise of a class mean, over the radius, from which on the class is not worth telling
GRID = 2.0**-10
MAX_BYTES = 64 * 1024 * 1024
VERSION = 1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coordinates:
    """A public linear view of the samples of a space: nothing in it comes from data.

    Attributes:
        basis: float64 (k, d), orthonormal rows; d values of a sample in [-1, 1], flattened.
        scale: float64 (k,), factors on the coordinates.
        origin: the value that is taken off first.
        radius: to which the norm of scaled coordinates is bounded.
    """

    basis: Floats
    scale: Floats
    origin: float
    radius: float

    def __len__(self) -> int:
        return len(self.basis)

    def of(self, values: Floats) -> Floats:
        """Values (n, d) as vectors (n, k) of norm 1 at most."""
        scaled: Floats = (values - self.origin) @ self.basis.T * (self.scale / self.radius)
        norms = np.linalg.norm(scaled, axis=1, keepdims=True)
        bounded: Floats = scaled / np.maximum(norms * (1 + 1e-9), 1.0)
        return bounded

    def values(self, vectors: Floats) -> Floats:
        """The values (n, d) in [-1, 1] nearest to vectors (n, k)."""
        clipped: Floats = np.clip((vectors * (self.radius / self.scale)) @ self.basis + self.origin, -1, 1)
        return clipped


@dataclass(frozen=True, eq=False)
class Statistics:
    """Noisy sums per class: all that is ever told about private records.

    Attributes:
        space_id: of the space they belong to.
        classes: the class names of that space when they were taken, one per row.
        noise: standard deviation of the noise in every number, in units of `SENSITIVITY`.
        sums: float64 (len(classes), 1 + k + k (k + 1) / 2): count, coordinates, their products.
    """

    space_id: str
    classes: tuple[str, ...]
    noise: float
    sums: Floats

    def to_bytes(self) -> bytes:
        fields = {"v": VERSION, "space": self.space_id, "classes": list(self.classes), "noise": self.noise}
        return pack(fields | {"sums": pack_array(self.sums.astype(np.float32))})

    @property
    def name(self) -> str:
        """What the ledger calls them."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, space: Space) -> Statistics:
        """Raises PacketError when the bytes are damaged or of another space."""
        try:
            fields = expect_map(
                unpack(data, max_bytes=MAX_BYTES),
                {"v": int, "space": str, "classes": list, "noise": float, "sums": dict},
            )
            sums = unpack_array(fields["sums"], dtypes=("float32",), max_bytes=MAX_BYTES).astype(np.float64)
        except DecodeError as error:
            raise PacketError(error.message, error.remedy) from None
        if (
            fields["v"] != VERSION
            or fields["space"] != space.id
            or not all(name in space.classes for name in fields["classes"])
            or sums.shape != (len(fields["classes"]), _width_of(space))
            or not np.isfinite(sums).all()
            or not 0 < fields["noise"] < math.inf
        ):
            raise PacketError("the statistics are of another space or version", "let them be measured anew")
        return cls(fields["space"], tuple(fields["classes"]), fields["noise"], sums)


def measure(data: Dataset, noise: float, random: np.random.Generator) -> Statistics:
    """Noisy statistics of private data. Nothing else in DP mode may look at it and be published.

    Args:
        noise: standard deviation over `SENSITIVITY`, from the ledger; > 0.
        random: unpredictable to others, used once.
    """
    noisy = exact_sums(data) + random.normal(0.0, noise * SENSITIVITY, (data.space.num_classes, _width_of(data.space)))
    # a grid far finer than the noise: the last bits of a float would tell of the sum that they came from
    rounded = np.round(noisy / GRID) * GRID
    return Statistics(data.space.id, data.space.classes, noise, rounded.astype(np.float32).astype(np.float64))


def exact_sums(data: Dataset) -> Floats:
    """The sums without noise, to be published by nobody: one record more or less moves them by at most 1 (L2)."""
    view = coordinates(data.space)
    k = len(view)
    rows, columns, double = _products(k)
    sums = np.zeros((data.space.num_classes, _width_of(data.space)))
    for label in np.flatnonzero(data.counts()).tolist():
        vectors = view.of(_values(data.images[data.labels == label], data.space))
        sums[label, 0] = COUNT_SHARE * len(vectors)
        sums[label, 1 : k + 1] = MEAN_SHARE * vectors.sum(axis=0)
        sums[label, k + 1 :] = SECOND_SHARE * (vectors.T @ vectors)[rows, columns] * double
    return sums


def record_vectors(data: Dataset) -> Floats:
    """What each record adds to the row of its class, (n, 1 + k + k (k + 1) / 2): of norm 1 at most."""
    vectors = coordinates(data.space).of(_values(data.images, data.space))
    rows, columns, double = _products(vectors.shape[1])
    products = vectors[:, rows] * vectors[:, columns] * double
    constant = np.full((len(vectors), 1), COUNT_SHARE)
    return np.concatenate([constant, MEAN_SHARE * vectors, SECOND_SHARE * products], axis=1)


def condense_private(statistics: Statistics, space: Space, *, per_class: int = 0, seed: int) -> Samples:
    """Samples whose mean and covariance per class are the noisy ones, as far as the noise lets them be known.

    A pure function of its arguments. Empty when the noise drowns every class.
    """
    view = coordinates(space)
    random = np.random.default_rng(seed)
    counts = noisy_counts(statistics, space)
    labels = np.flatnonzero(counts)
    most = min(MAX_SAMPLES, MAX_IMAGE_BYTES // math.prod(space.shape), MAX_LOGIT_BYTES // (2 * space.num_classes))
    wanted = min(per_class or PER_CLASS, most // max(1, len(labels)))
    # the more a class is drowned, the less is said about it
    clear = 1 - _error(statistics, counts[labels].astype(np.float64), len(view)) / DROWNED
    quotas = np.clip(np.round(wanted * clear), 1, max(1, wanted)).astype(np.int64)
    images = [np.zeros((0, *space.shape), np.uint8)]
    for label, quota in zip(labels.tolist(), quotas.tolist(), strict=True):
        mean, factor = _gaussian(statistics, statistics.classes.index(space.classes[label]), len(view))
        vectors = mean + random.standard_normal((quota, factor.shape[1])) @ factor.T
        images.append(_images(view.values(vectors), space))
    return Samples(np.concatenate(images), np.repeat(labels.astype(np.int64), quotas))


def private_packet(
    statistics: Statistics, space: Space, epsilon: float, *, per_class: int = 0, seed: int
) -> SamplePacket | None:
    """What a node in DP mode publishes, a function of the noisy statistics alone; None when they tell nothing."""
    samples = condense_private(statistics, space, per_class=per_class, seed=seed)
    if not len(samples):
        return None
    counts = noisy_counts(statistics, space)
    return SamplePacket(space.id, SOURCE, samples.images, samples.labels, None, counts, epsilon)


def noisy_counts(statistics: Statistics, space: Space) -> NDArray[np.int64]:
    """Records per class as the statistics tell, int64 (num_classes,); 0 where the noise drowns the class."""
    counts = statistics.sums[:, 0] / COUNT_SHARE
    known = (_error(statistics, counts, len(coordinates(space))) < DROWNED) & (
        counts > 4 * statistics.noise / COUNT_SHARE
    )
    found = np.zeros(space.num_classes, np.int64)
    found[[space.classes.index(name) for name in statistics.classes]] = np.where(known, np.round(counts), 0)
    return found


class LowPass(nn.Module):
    """A classifier that sees of a sample what the statistics see: real and synthetic samples then look alike.

    Without it a classifier tells classes by their sharpness: its own private samples are sharp, others' are not.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        super().__init__()
        self.model = model
        view = coordinates(space)
        self._origin = view.origin
        self.register_buffer("_basis", torch.from_numpy(view.basis).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        basis: Any = self._basis
        if len(basis) == basis.shape[1]:
            seen = images
        else:
            flat = images.flatten(1) - self._origin
            seen = ((flat @ basis.T) @ basis + self._origin).clamp(-1, 1).view(images.shape)
        logits: Tensor = self.model(seen)
        return logits


def coordinates(space: Space) -> Coordinates:
    """The public coordinates of a space: lowest frequencies of images (DCT-II), columns of rows."""
    values = math.prod(space.shape)
    if is_rows(space.shape):
        rows = np.eye(values)
        if values > COORDINATES:
            rows = np.linalg.qr(np.random.default_rng(0).standard_normal((values, COORDINATES)))[0].T
        return Coordinates(rows, np.ones(len(rows)), 0.0, RADIUS * math.sqrt(values))
    channels, height, width = space.shape
    down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    frequency = np.hypot(down, across)
    # grey first, then the differences of colours, which are weaker
    mixing = np.eye(1) if channels == 1 else _grey_first(channels)
    order = np.concatenate([(frequency + (2.0 + frequency if mix else 0.0)).ravel() for mix in range(channels)])
    chosen = np.argsort(order, kind="stable")[: COORDINATES_SMALL if space.is_small else COORDINATES]
    rows = np.zeros((len(chosen), channels, height, width))
    dct_h, dct_w = _dct(height), _dct(width)
    for place, index in enumerate(chosen.tolist()):
        mix, where = divmod(index, height * width)
        pattern = np.outer(dct_h[where // width], dct_w[where % width])
        rows[place] = mixing[mix][:, None, None] * pattern
    scale = (1 + order[chosen]) ** ROUGHNESS
    return Coordinates(rows.reshape(len(chosen), -1), scale, -1.0, RADIUS * 2 * math.sqrt(values))


def _error(statistics: Statistics, counts: Floats, k: int) -> Floats:
    """The norm of the noise in the mean of classes, over the radius."""
    error: Floats = statistics.noise / MEAN_SHARE * math.sqrt(k) / np.maximum(counts, 1)
    return error


def _gaussian(statistics: Statistics, row: int, k: int) -> tuple[Floats, Floats]:
    """Mean (k,) and a factor (k, r) of the covariance of one class, without what may be noise alone."""
    sums, (rows, columns, double) = statistics.sums[row], _products(k)
    count = sums[0] / COUNT_SHARE
    mean = sums[1 : k + 1] / MEAN_SHARE / count
    second = np.zeros((k, k))
    second[rows, columns] = sums[k + 1 :] / SECOND_SHARE / count / double
    second = second + second.T - np.diag(np.diag(second))
    variance, directions = np.linalg.eigh(second - np.outer(mean, mean))
    # the largest eigenvalue of a symmetric matrix of such noise (Wigner)
    noise = statistics.noise / SECOND_SHARE / count / math.sqrt(2) * 2 * math.sqrt(k)
    kept = variance > noise
    return mean, directions[:, kept] * np.sqrt(variance[kept])


def _products(k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Rows and columns of the upper triangle of a k x k matrix, and factors that keep the norm of the whole."""
    rows, columns = np.triu_indices(k)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2))


def _values(images: NDArray[np.uint8], space: Space) -> Floats:
    values: Floats = images.reshape(len(images), -1).astype(np.float64) * (2 / (space.levels - 1)) - 1
    return values


def _images(values: Floats, space: Space) -> NDArray[np.uint8]:
    levels = np.round((values + 1) * ((space.levels - 1) / 2))
    return np.clip(levels, 0, space.levels - 1).astype(np.uint8).reshape(-1, *space.shape)


def _dct(n: int) -> Floats:
    angle = np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n
    rows: Floats = np.cos(angle) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows


def _grey_first(channels: int) -> Floats:
    start = np.eye(channels)
    start[:, 0] = 1.0
    rows: Floats = np.linalg.qr(start)[0].T
    return rows


def _width_of(space: Space) -> int:
    k = len(coordinates(space))
    return 1 + k + k * (k + 1) // 2
