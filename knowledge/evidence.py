"""Evidence: every author's samples as points in which "looks like" is a distance.

Linear discriminant analysis: principal components of coarse values and random features, in which the spread
within classes is then divided out. A sample looks like a class when it is near the class's mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .basis import principal_components
from .data import Dataset
from .features import row_points
from .models import to_tensor
from .packet import SamplePacket
from .space import Space, is_rows

Packets = Mapping[str, tuple[str, SamplePacket]]
"""Packet name (SHA-256 hex) -> (author, packet), in the order of their arrival."""

DIMENSIONS = 40
PER_CLASS = 128  # samples of one author and class that are looked at; with 64 of 100 it hung on which these were
FEWEST = 4  # samples from which a class mean is believed
AT_ONCE = 500  # images whose features are computed together: 32 channels of 20,000 would take half a gigabyte
FAINTEST = 0.01  # standard deviation of light in 0..1: what has less contrast has nothing to bring out
DIMMEST = 0.1  # mean light of a channel in 0..1: what has less is not made up for
CLEAR = 0.5  # of the samples of its fullest class; under differential privacy fewer of a class means mostly noise


@dataclass(frozen=True)
class Cloud:
    """One author's samples as points: float32 (n, d), int64 (n,).

    ``drowned``: labels whose mean, by the author's own account, is mostly noise; it says little about others.
    ``blurred``: under differential privacy, so that all its means are a little off.
    """

    points: Tensor
    labels: Tensor
    drowned: frozenset[int] = frozenset()
    blurred: bool = False


@dataclass(frozen=True)
class Reach:
    """Squared distances from its class mean within which half and nine tenths of a usual author's samples lie."""

    core: float
    most: float


def clouds(private: Dataset | None, packets: Packets, space: Space, seed: int) -> tuple[dict[str, Cloud], Cloud | None]:
    """Every author's samples, and the private ones, as points whose spread within classes is round.

    Authors come in the order in which their first packet arrived.
    """
    images: dict[str, list[np.ndarray]] = {author: [] for author, _ in packets.values()}
    labels: dict[str, list[np.ndarray]] = {author: [] for author, _ in packets.values()}
    for _, (author, packet) in sorted(packets.items()):
        images[author].append(packet.images)
        labels[author].append(packet.labels)
    sources = [(author, np.concatenate(images[author]), np.concatenate(labels[author])) for author in images]
    if private is not None and len(private):
        sources.append(("", private.images, private.labels))
    # what is looked at of one author does not hang on who else is there, or came first
    thinned = [(author, *_thin(pictures, truth, np.random.default_rng(seed))) for author, pictures, truth in sources]
    thinned = [entry for entry in thinned if len(entry[2])]
    if not thinned:
        return {}, None
    features = _features(to_tensor(np.concatenate([entry[1] for entry in thinned]), space), seed)
    directions, _ = principal_components(features - features.mean(dim=0), DIMENSIONS)
    points = (features - features.mean(dim=0)) @ directions
    split = torch.split(points, [len(entry[2]) for entry in thinned])
    under_privacy = {author for author, packet in packets.values() if packet.epsilon is not None}
    found = {
        entry[0]: Cloud(part, torch.from_numpy(entry[2]).long(), _drowned(entry[0], packets), entry[0] in under_privacy)
        for entry, part in zip(thinned, split, strict=True)
    }
    whiten = _whitening(list(found.values()))
    found = {author: replace(cloud, points=cloud.points @ whiten) for author, cloud in found.items()}
    home = found.pop("", None)
    return found, home


def reach(known: list[Cloud]) -> Reach:
    """How far a usual author's samples lie from the means of their classes."""
    each = []
    for cloud in known:
        away = []
        for label in sorted(set(cloud.labels.tolist())):
            own = cloud.points[cloud.labels == label]
            if len(own) >= FEWEST:
                correction = len(own) / (len(own) - 1)
                away.append((own - own.mean(dim=0)).square().sum(dim=1) * correction)
        if away:
            each.append(torch.quantile(torch.cat(away), torch.tensor([0.5, 0.9])))
    if not each:
        return Reach(DIMENSIONS, 1.5 * DIMENSIONS)
    core, most = torch.stack(each).median(dim=0).values.tolist()
    return Reach(core, most)


def _drowned(author: str, packets: Packets) -> frozenset[int]:
    """Labels that are mostly noise in packets under differential privacy; a packet of another kind makes them clear."""
    faint: set[int] = set()
    clear: set[int] = set()
    for packet in (packet for who, packet in packets.values() if who == author and len(packet.labels)):
        counts = np.bincount(packet.labels)
        few = (counts < CLEAR * counts.max()) if packet.epsilon is not None else np.zeros(len(counts), bool)
        faint |= set(np.flatnonzero(few & (counts > 0)).tolist())
        clear |= set(np.flatnonzero(~few & (counts > 0)).tolist())
    return frozenset(faint - clear)


def _thin(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # copies of one image are one piece of evidence
        _, first = np.unique(images[members].reshape(len(members), -1), axis=0, return_index=True)
        chosen.append(rng.permutation(members[first])[:PER_CLASS])
    places = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return images[places], labels[places].astype(np.int64)


def _features(images: Tensor, seed: int) -> Tensor:
    """float32 (n, d): coarse pixels beside two layers of random convolutions, both at unit mean variance."""
    random = torch.Generator().manual_seed(seed)
    if is_rows(images.shape):
        return row_points(images, random)
    weight = torch.randn(32, images.shape[1], 3, 3, generator=random) / (3 * images.shape[1] ** 0.5)
    each = [_looks_of(part, weight) for part in torch.split(images, AT_ONCE)]
    parts = [torch.cat(column) for column in zip(*each, strict=True)]
    return torch.cat([part / part.var(dim=0, correction=0).sum().clamp(min=1e-6).sqrt() for part in parts], dim=1)


def _looks_of(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse pixels, and random convolutions of finer ones, float32 (n, d) each."""
    # cameras differ in the balance of colours (taken for grey on average: Buchsbaum, 1980), in brightness and contrast,
    # and that is no lie
    light = (images + 1) / 2
    channels = light.mean(dim=(2, 3), keepdim=True).clamp(min=DIMMEST)
    images = light * (channels.mean(dim=1, keepdim=True) / channels)
    spread = images.std(dim=(1, 2, 3), keepdim=True).clamp(min=FAINTEST)
    images = (images - images.mean(dim=(1, 2, 3), keepdim=True)) / spread
    coarse = F.adaptive_avg_pool2d(images, (min(images.shape[-2], 8), min(images.shape[-1], 8)))
    small = F.adaptive_avg_pool2d(images, (min(images.shape[-2], 16), min(images.shape[-1], 16)))
    hidden = F.adaptive_avg_pool2d(F.relu(F.conv2d(small, weight, padding=1)), (4, 4))
    return coarse.flatten(1), hidden.flatten(1)


def _whitening(known: list[Cloud]) -> Tensor:
    """(d, d) map after which the spread within a class of one author is about the identity."""
    width = known[0].points.shape[1]
    scatters = []
    for cloud in known:
        centred = [
            cloud.points[cloud.labels == label] - cloud.points[cloud.labels == label].mean(dim=0)
            for label in sorted(set(cloud.labels.tolist()))
        ]
        rows = torch.cat(centred)
        freedom = max(1, len(rows) - len(centred))
        scatters.append((rows.T @ rows / freedom, freedom))
    # mixed-up labels spread a class; who does that must not blur the picture for the others
    usual = float(np.median([float(scatter.trace()) for scatter, _ in scatters]))
    tight = [(scatter, freedom) for scatter, freedom in scatters if float(scatter.trace()) <= 1.3 * usual]
    total = sum(freedom for _, freedom in tight)
    within = torch.stack([scatter * (freedom / total) for scatter, freedom in tight]).sum(dim=0)
    within = within + (0.1 * within.diagonal().mean() + 1e-6) * torch.eye(width)
    variance, axes = torch.linalg.eigh(within)
    whitening: Tensor = axes / variance.clamp(min=1e-6).sqrt()
    return whitening
