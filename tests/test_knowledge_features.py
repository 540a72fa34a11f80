"""What a random network sees, and the gradient of it, are those of torch's own convolutions and pooling."""

from __future__ import annotations

import pytest
import torch
from meshlore.knowledge import features as module
from meshlore.knowledge.features import features, random_network
from torch import Tensor
from torch.nn import functional as F


def _seen(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """All blocks, and the gradient of their sum at the images."""
    leaf = images.clone().requires_grad_()
    blocks = features(leaf, random_network(images.shape, 8, torch.Generator().manual_seed(0)))
    torch.stack([block.square().sum() for block in blocks]).sum().backward()
    assert leaf.grad is not None
    return [block.detach() for block in blocks], leaf.grad


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 17, 20), (4, 1, 8, 8), (2, 2, 9, 13), (2, 3, 40, 40)])
def test_blocks_and_gradients_are_those_of_torch(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    blocks, gradient = _seen(images)

    monkeypatch.setattr(module, "FEW_CHANNELS", 0)
    monkeypatch.setattr(module, "average_pool", lambda block: F.avg_pool2d(block, 2))
    expected, expected_gradient = _seen(images)

    torch.testing.assert_close(blocks, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-2)
