"""Condensation: private images become a few synthetic ones that teach nearly as well.

Distribution matching (Zhao & Bilen, WACV 2023): synthetic images are optimised until, seen through
fresh random convolutional networks, each class has the mean and the spread of the private class. They
start from a Gaussian in a local PCA space, never from private images, and near-copies are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .augment import Views, same_view
from .basis import principal_components
from .data import Dataset
from .device import CPU
from .features import features, moments, random_network
from .models import to_tensor
from .resuming import Checkpoint, Optimisation, turns
from .selection import Quota, Samples, SampleSettings, select
from .space import Space
from .training import Step, cosine, no_step

SPARE, MOST_SPARE = 1.3, 12  # made per sample wanted, because the copy filter drops some; so many of a class at most
CLASSES_AT_ONCE = 16


@dataclass(frozen=True)
class CondenseSettings(SampleSettings):
    """How much is made of how much (`SampleSettings`), and how long it is improved."""

    iterations: int = 50
    learning_rate: float = 0.1
    width: int = 32
    real_per_class: int = 64
    spread_weight: float = 0.5
    views: Views = field(default_factory=Views)

    @classmethod
    def for_space(cls, space: Space) -> CondenseSettings:
        if space.is_small:
            return cls()
        flip = 0.5 if space.channels == 3 else 0.0
        views = Views(15.0, 0.2, 0.125, 0.3, flip, 0.5)
        return cls(per_class=100, iterations=100, dimensions=32, views=views)


def condense(
    data: Dataset,
    *,
    settings: CondenseSettings | None = None,
    seed: int,
    step: Step = no_step,
    checkpoint: Checkpoint | None = None,
    device: torch.device = CPU,
) -> Samples:
    """Condense private data; empty when no class has enough images. Deterministic given the seed and the device."""
    settings = settings or CondenseSettings.for_space(data.space)
    random = torch.Generator().manual_seed(seed)
    real, labels = to_tensor(data.images, data.space), torch.from_numpy(data.labels).long()
    return select(
        data,
        settings,
        lambda quota: gaussian_start(real, labels, quota, settings.dimensions, random),
        improve=lambda start, wanted: _match(real, labels, start, wanted, settings, random, step, checkpoint, device),
        spare=SPARE,
        most_spare=MOST_SPARE,
    )


def gaussian(data: Dataset, *, settings: CondenseSettings | None = None, seed: int) -> Samples:
    """The start alone: per-class Gaussians in a local PCA space. Cheaper, and teaches a little less."""
    settings = settings or CondenseSettings.for_space(data.space)
    return condense(data, settings=replace(settings, iterations=0), seed=seed)


def gaussian_start(
    real: Tensor, labels: Tensor, quota: Quota, dimensions: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``quota[label]`` images of each class from a shrunk Gaussian in the PCA space of ``real``.

    Returns:
        float32 (n, c, h, w) in [-1, 1] and int64 (n,), sorted by class.
    """
    flat = real.flatten(1)
    mean = flat.mean(dim=0)
    basis, _ = principal_components(flat - mean, dimensions)
    codes = (flat - mean) @ basis
    overall = codes.var(dim=0, correction=0) + 1e-4
    drawn, drawn_labels = [], []
    for label, count in sorted(quota.items()):
        own = codes[labels == label]
        shrink = min(0.9, 10 / len(own))
        spread = own.var(dim=0, correction=0).mean() if len(own) > 1 else overall.mean()
        covariance = (1 - shrink) * _covariance(own - own.mean(dim=0)) + shrink * spread * torch.eye(codes.shape[1])
        factor = torch.linalg.cholesky(covariance + 1e-4 * torch.eye(codes.shape[1]))
        noise = torch.randn(count, codes.shape[1], generator=random)
        drawn.append((own.mean(dim=0) + noise @ factor.T) @ basis.T + mean)
        drawn_labels.append(torch.full((count,), label))
    images = torch.cat(drawn).view(-1, *real.shape[1:]).clamp(-1, 1)
    return images, torch.cat(drawn_labels)


def _match(
    real: Tensor,
    labels: Tensor,
    start: Tensor,
    wanted: Tensor,
    settings: CondenseSettings,
    random: torch.Generator,
    step: Step,
    checkpoint: Checkpoint | None,
    device: torch.device,
) -> Tensor:
    """Move the start images until random features of each class have the private mean and spread."""
    real = real.to(device)
    made = start.to(device, copy=True).requires_grad_(True)
    adam = torch.optim.Adam([made], lr=settings.learning_rate, betas=(0.7, 0.99))
    members = {label: torch.where(labels == label)[0] for label in sorted(set(wanted.tolist()))}
    moved = Optimisation([made], adam, random)
    for iteration in turns(settings.iterations, moved, checkpoint, real, labels, wanted, repr(settings)):
        progress = iteration / settings.iterations
        adam.param_groups[0]["lr"] = cosine(progress, settings.learning_rate, floor=0.1)
        chosen = sorted(members)
        if len(chosen) > CLASSES_AT_ONCE:
            order = torch.randperm(len(chosen), generator=random)[:CLASSES_AT_ONCE]
            chosen = sorted(chosen[place] for place in order.tolist())
        picked = [
            members[label][torch.randperm(len(members[label]), generator=random)[: settings.real_per_class]]
            for label in chosen
        ]
        rank = torch.full((int(wanted.max()) + 1,), -1)
        rank[chosen] = torch.arange(len(chosen))
        subset = torch.where(rank[wanted] >= 0)[0]
        truth_rank = torch.cat([torch.full((len(group),), place) for place, group in enumerate(picked)])
        truth, views = same_view([real[torch.cat(picked)], made[subset]], settings.views, random)
        network = random_network(real.shape, settings.width, random, device)
        with torch.no_grad():
            target = [moments(block, truth_rank, len(chosen)) for block in features(truth, network)]
        loss = torch.zeros((), device=device)
        for (mean, spread), block in zip(target, features(views, network), strict=True):
            mean_made, spread_made = moments(block, rank[wanted[subset]], len(chosen))
            scale = mean.var(dim=0).mean() if len(chosen) > 1 else (mean**2).mean() * 0.2
            loss = loss + ((mean - mean_made) ** 2).mean(dim=1).sum() / (scale + 1e-4)
            gap = ((spread - spread_made) ** 2).mean(dim=1).sum()
            loss = loss + settings.spread_weight * gap / (scale + 1e-4)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            made.clamp_(-1, 1)
        step((iteration + 1) / settings.iterations)
    return made.detach().cpu()


def _covariance(centred: Tensor) -> Tensor:
    return centred.T @ centred / max(1, len(centred))
