"""How good answers are: over all classes alike, and at home."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .data import Labels

PRIOR_FLOOR = 1e-3


def accuracy(logits: NDArray[np.floating], labels: Labels) -> float:
    """The share of samples whose largest logit is at their label; NaN without samples.

    Args:
        logits: (n, num_classes).
        labels: int64 (n,).
    """
    if len(labels) == 0:
        return float("nan")
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def per_class_accuracy(logits: NDArray[np.floating], labels: Labels) -> NDArray[np.float64]:
    """Accuracy on the samples of each class, float64 (num_classes,); NaN where a class has none."""
    num_classes = logits.shape[1]
    right = np.bincount(labels[np.argmax(logits, axis=1) == labels], minlength=num_classes)
    total = np.bincount(labels, minlength=num_classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def global_accuracy(logits: NDArray[np.floating], labels: Labels) -> float:
    """The mean of the accuracies of all classes that have samples: each class counts the same."""
    if len(labels) == 0:
        return float("nan")
    return float(np.nanmean(per_class_accuracy(logits, labels)))


def personal_accuracy(logits: NDArray[np.floating], labels: Labels, prior: NDArray[np.float64]) -> float:
    """Accuracy where the classes occur as often as at one node, and the node makes use of that.

    The log of the node's class mix is added to the logits, and the accuracy of each class counts as
    often as the node meets that class. Classes that the test samples lack are left out.

    Args:
        logits: (n, num_classes) on a test set of all classes.
        labels: int64 (n,).
        prior: float64 (num_classes,), the node's class mix; see `Dataset.prior`.
    """
    per_class = per_class_accuracy(with_prior(logits, prior), labels)
    tested = ~np.isnan(per_class)
    weight = prior[tested].sum()
    return float((per_class[tested] * prior[tested]).sum() / weight) if weight > 0 else float("nan")


def with_prior(logits: NDArray[np.floating], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits for a place with this class mix, from logits of a model of the balanced world."""
    return np.asarray(logits + np.log(prior + PRIOR_FLOOR), dtype=np.float64)


def pooled(
    said: Sequence[NDArray[np.float32]], shares: Sequence[float], prior: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Logits float32 (n, k) that, with the class mix added, are the log of the pool of all posteriors.

    Args:
        said: float32 (n, k) of each classifier, without the class mix.
        shares: what each has of the vote; they sum to 1.
        prior: float64 (k,).
    """
    mix = with_prior(np.zeros(said[0].shape[1]), prior[: said[0].shape[1]])
    votes = [_log_softmax(part + mix) + np.log(share) for part, share in zip(said, shares, strict=True)]
    pool: NDArray[np.float32] = (np.logaddexp.reduce(votes) - mix).astype(np.float32)
    return pool


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
