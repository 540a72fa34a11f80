"""Pooling gives what torch's own does: values and gradients, for any size."""

from __future__ import annotations

import pytest
import torch
from meshlore.knowledge.pooling import MaxPool, average_pool
from torch import Tensor
from torch.nn import functional as F

SHAPES = [(3, 4, 28, 28), (2, 3, 7, 7), (2, 1, 8, 5), (1, 2, 2, 2)]


def _with_gradient(pool: object, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    pooled = pool(leaf)  # type: ignore[operator]
    weights = torch.arange(pooled.numel(), dtype=torch.float32).view_as(pooled)
    (pooled * weights).sum().backward()
    assert leaf.grad is not None
    return pooled.detach(), leaf.grad


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    for ours, theirs in ((MaxPool(), F.max_pool2d), (average_pool, F.avg_pool2d)):
        values, gradient = _with_gradient(ours, images)
        expected, expected_gradient = _with_gradient(lambda batch, pool=theirs: pool(batch, 2), images)
        torch.testing.assert_close(values, expected)
        torch.testing.assert_close(gradient, expected_gradient)


def test_of_equal_pixels_one_gets_the_gradient() -> None:
    values, gradient = _with_gradient(MaxPool(), torch.ones(1, 1, 4, 4))

    assert torch.equal(values, torch.ones(1, 1, 2, 2))
    assert gradient.count_nonzero() == 3, "the first window's weight is 0"
    assert gradient.sum() == 0 + 1 + 2 + 3


def test_not_a_number_is_not_swallowed() -> None:
    images = torch.zeros(1, 1, 2, 2)
    images[..., 1, 1] = torch.nan

    assert MaxPool()(images).isnan().all()
