"""Rollback: a node must never get worse at home.

A small stratified part of the private data is never trained on. After a distillation the old and the new
model answer it, each with the node's own class mix taken into account, and the two are compared image by
image (the exact sign test behind McNemar's): only the images on which exactly one of them is right say
anything, and a surplus of losses larger than chance would give rolls the new model back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .data import Dataset
from .metrics import pooled, with_prior
from .models import logits

FRACTION = 0.12
MOST = 120
CHANCE = 0.1  # so likely may be as many losses or more from a model that is as good: two, or three, say nothing


@dataclass(frozen=True)
class Decision:
    """Whether the new model stays. ``before`` and ``after`` are accuracies on the hold-out, personal view."""

    kept: bool
    before: float
    after: float
    won: int
    lost: int
    reason: str


def hold_out(data: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """(to learn from, hold-out): a stratified eighth, at most ``MOST`` images; small classes give none.

    Split the data that a node starts with, once. What it is taught later belongs to the learning part alone:
    a new split would hold out images that the model has already learned.
    """
    fraction = min(FRACTION, MOST / max(1, len(data)))
    return data.split(fraction, seed)


def keep_better(
    before: nn.Module,
    after: nn.Module,
    holdout: Dataset,
    prior: NDArray[np.float64],
    *,
    beside: nn.Module | None = None,
) -> Decision:
    """Compare two models on the hold-out; see `decide`.

    Args:
        beside: one that is asked at home together with the other two, with as much of the vote; None: nobody.
    """
    old, new = (logits(model, holdout.images, holdout.space) for model in (before, after))
    if beside is not None:
        third = logits(beside, holdout.images, holdout.space)
        old, new = (pooled([said, third], [0.5, 0.5], prior) for said in (old, new))
    return decide(with_prior(old, prior), with_prior(new, prior), holdout.labels)


def decide(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    labels: NDArray[np.int64],
) -> Decision:
    """The decision alone, from answers (n, k) with the class mix already in them.

    The new model is rolled back when as many losses, or more, were less likely than ``CHANCE`` if it were as good:
    if an image on which exactly one is right were as likely won as lost. Without a hold-out it is kept.
    """
    if len(labels) == 0:
        return Decision(True, float("nan"), float("nan"), 0, 0, "no private samples to compare on")
    right_before, right_after = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
    won, lost = int((right_after & ~right_before).sum()), int((right_before & ~right_after).sum())
    kept = _likelihood(lost, won + lost) >= CHANCE and bool(np.isfinite(after).all())
    reason = f"{won} better and {lost} worse of {len(labels)} held-out samples"
    return Decision(kept, float(right_before.mean()), float(right_after.mean()), won, lost, reason)


def _likelihood(heads: int, tosses: int) -> float:
    """Of so many heads or more from a fair coin."""
    return sum(math.comb(tosses, count) for count in range(heads, tosses + 1)) * 0.5**tosses
