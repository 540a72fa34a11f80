"""The near-copy filter: synthetic samples that come too close to a private one are not published.

It is a safety net, never a guarantee: it measures distance, and membership can leak without
near-copies (arXiv 2505.01524).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .basis import principal_components

Guard = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""As `distinct`: says of (private, private_labels, samples, labels, dimensions) which samples may leave the device."""

COMPARED = 3000  # private images of one class that samples are compared with
NEAR = 0.7  # of the usual distance; few images of many pixels are all equally far apart, their mean at 0.707


def distinct(
    private: Tensor,
    private_labels: Tensor,
    samples: Tensor,
    labels: Tensor,
    dimensions: int = 20,
    *,
    quantile: float = 0.05,
) -> Tensor:
    """Which samples may leave the device.

    A sample is dropped when it is nearer to a private image of its class than the ``quantile`` of the
    distances from each private image to its own nearest neighbour, and than ``NEAR`` times the median of those
    distances. Distances are taken in the principal
    components that the samples were drawn in: beyond them private images differ by noise that no synthetic
    image has, so that every one, even the class mean, would look near.

    Args:
        private, samples: float32 (n, c, h, w); labels int64 (n,).

    Returns:
        bool (n samples,), True where the sample is kept.
    """
    mean = private.flatten(1).mean(dim=0)
    directions, _ = principal_components(private.flatten(1) - mean, dimensions)
    own_codes, codes = (private.flatten(1) - mean) @ directions, (samples.flatten(1) - mean) @ directions
    kept = torch.ones(len(samples), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        own = own_codes[private_labels == label][:COMPARED]
        chosen = torch.where(labels == label)[0]
        if len(own) < 2:
            kept[chosen] = False
            continue
        nearest = torch.cdist(own, own).fill_diagonal_(float("inf")).min(dim=1).values
        distance = torch.cdist(codes[chosen], own).min(dim=1).values
        # identical private images make the quantile 0: a copy stays a copy
        limit = torch.minimum(torch.quantile(nearest, quantile), NEAR * nearest.median())
        kept[chosen] = (distance >= limit) & (distance > 1e-4)
    return kept


def everything(
    private: Tensor, private_labels: Tensor, samples: Tensor, labels: Tensor, dimensions: int = 20
) -> Tensor:
    """The guard of a device that guards nothing (``privacy.mode = "off"``)."""
    return torch.ones(len(samples), dtype=torch.bool)
