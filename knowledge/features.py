"""Untrained random networks, through which sets of samples are compared: the one place that knows a picture from a row.

Images pass random convolutions (Zhao & Bilen, WACV 2023), rows of a table random dense layers. A sample is
float32 (c, h, w) in [-1, 1]; a row of d numbers is (1, 1, d), and no image is one pixel high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .device import CPU
from .pooling import average_pool
from .space import is_rows

Network = list[tuple[Tensor, Tensor, int]]
"""Layers (weight, bias, stride); a weight of two dimensions is a dense layer."""

ROW_WIDENING = 4  # dense layers are cheap: this many times as wide as convolutions
ROW_LAYERS = 2
ROW_FEATURES = 128

FEW_CHANNELS = 3  # up to so many a gradient is taken as a product of matrices (`_convolved`)


def random_network(shape: Sequence[int], width: int, random: torch.Generator, device: torch.device = CPU) -> Network:
    """An untrained network for batches of ``shape`` (n, c, h, w), initialised as torch does."""
    drawn = (_random_dense if is_rows(shape) else _random_convolutions)(shape, width, random)
    return [(weight.to(device), bias.to(device), stride) for weight, bias, stride in drawn]


def _random_convolutions(shape: Sequence[int], width: int, random: torch.Generator) -> Network:
    large = max(shape[-2:]) >= 16
    depth = 4 if max(shape[-2:]) > 32 else 3
    layers = []
    channels = shape[1]
    for block in range(depth):
        kernel, stride = (5, 2) if large and block == 0 else (3, 1)
        bound = 1 / math.sqrt(channels * kernel * kernel)
        weight = (torch.rand(width, channels, kernel, kernel, generator=random) * 2 - 1) * bound
        layers.append((weight, (torch.rand(width, generator=random) * 2 - 1) * bound, stride))
        channels = width
    return layers


def features(samples: Tensor, network: Network) -> list[Tensor]:
    """What each block of a network sees in float32 (n, c, h, w); for rows also the values themselves."""
    if network[0][0].ndim == 2:
        return _dense_features(samples.flatten(1), network)
    blocks = []
    hidden = samples
    for weight, bias, stride in network:
        hidden = _convolved(hidden, weight, bias, stride)
        if hidden.shape[-1] > 2:
            hidden = F.group_norm(hidden, hidden.shape[1])
        hidden = F.relu(hidden)
        if stride == 1 and min(hidden.shape[-2:]) > 1:
            hidden = average_pool(hidden)
        blocks.append(hidden)
    return blocks


def _convolved(images: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A convolution that keeps the size (but for its stride). Where the gradient of an image of few channels is asked
    for, as a product of matrices: torch's own takes four times as long for it on a CPU."""
    kernel = weight.shape[-1]
    if not images.requires_grad or images.shape[1] > FEW_CHANNELS or images.device.type != "cpu":
        return F.conv2d(images, weight, bias, stride=stride, padding=kernel // 2)
    patches = F.unfold(images, kernel, padding=kernel // 2, stride=stride)
    height, width = ((side - 1) // stride + 1 for side in images.shape[-2:])
    return (weight.flatten(1) @ patches + bias[:, None]).view(len(images), len(weight), height, width)


def moments(block: Tensor, rank: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of features (n, ...) per class, (classes, d) each; rank int64 (n,)."""
    flat, rank = block.flatten(1), rank.to(block.device)
    counts = torch.bincount(rank, minlength=classes).clamp(min=1)[:, None]
    mean = flat.new_zeros(classes, flat.shape[1]).index_add(0, rank, flat) / counts
    square = flat.new_zeros(classes, flat.shape[1]).index_add(0, rank, (flat - mean[rank]) ** 2) / counts
    return mean, (square + 1e-4).sqrt()


def row_points(samples: Tensor, random: torch.Generator) -> Tensor:
    """float32 (n, d): the columns beside random rectified sums of them, both at unit summed variance."""
    rows = samples.flatten(1)
    weight = torch.randn(rows.shape[1], ROW_FEATURES, generator=random) / math.sqrt(rows.shape[1])
    parts = [rows, F.relu(rows @ weight)]
    return torch.cat([part / part.var(dim=0, correction=0).sum().clamp(min=1e-6).sqrt() for part in parts], dim=1)


def _random_dense(shape: Sequence[int], width: int, random: torch.Generator) -> Network:
    columns, width = shape[-1], ROW_WIDENING * width
    layers: Network = []
    for entering in [columns] + [width] * (ROW_LAYERS - 1):
        # wide enough that a sum of quantised values bends at different places for different units
        weight = torch.randn(width, entering, generator=random) * math.sqrt(2 / entering)
        layers.append((weight, torch.randn(width, generator=random) * 0.5, 1))
    return layers


def _dense_features(rows: Tensor, network: Network) -> list[Tensor]:
    blocks = [rows]
    for weight, bias, _ in network:
        blocks.append(F.relu(F.linear(blocks[-1], weight, bias)))
    return blocks
