"""Principal components of image sets, by whichever of the two Gram matrices is the smaller one."""

from __future__ import annotations

import torch
from torch import Tensor

COMPARED = 1500  # images that the components are computed from, at most


def principal_components(centred: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """The directions of largest variance.

    Args:
        centred: float32 (n, d), mean already taken off.
        dimensions: how many directions; fewer come back when n or d is smaller.

    Returns:
        directions float32 (d, k) with orthonormal columns, and the variance along each, (k,), falling.
    """
    count, width = centred.shape
    rows = centred
    if width > count or count > 4 * COMPARED:
        stride = max(1, count // COMPARED)
        rows = centred[::stride][:COMPARED]
    dimensions = max(1, min(dimensions, width, len(rows) - 1))
    if width <= len(rows):
        variance, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
        chosen = directions[:, -dimensions:].flip(1)
        return chosen.contiguous(), variance[-dimensions:].flip(0).clamp(min=0)
    variance, mixing = torch.linalg.eigh(rows @ rows.T / len(rows))
    variance = variance[-dimensions:].flip(0).clamp(min=1e-12)
    directions = rows.T @ mixing[:, -dimensions:].flip(1) / (variance * len(rows)).sqrt()
    return directions.contiguous(), variance
