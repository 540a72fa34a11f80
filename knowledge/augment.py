"""Random views of image batches, drawn from a generator that the caller owns (never from global state).

Images are float32 (n, c, h, w) in [-1, 1]; -1 is the background that moves in from outside. The rows of a
table have no other views: a column that is moved is another column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .space import is_rows


@dataclass(frozen=True)
class Views:
    """How far a random view may go: degrees, then fractions of the side, then probabilities."""

    rotation_deg: float = 10.0
    scale: float = 0.0
    shift: float = 0.125
    brightness: float = 0.0
    flip_probability: float = 0.0
    cutout_probability: float = 0.0


ANSWERED = Views(rotation_deg=10.0, scale=0.1, shift=0.06)
"""How far the views go about which answers are exchanged: the label stays what it is."""


def nth_view(batch: Tensor, number: int) -> Tensor:
    """The ``number``-th view of every image; 0 is the image. The same on every device, so that answers about
    views travel without them."""
    return own_views(batch, ANSWERED, torch.Generator().manual_seed(number)) if number else batch


def same_view(batches: list[Tensor], views: Views, random: torch.Generator) -> list[Tensor]:
    """One random view applied alike to every image of every batch (Siamese augmentation, arXiv 2102.08259)."""
    if is_rows(batches[0].shape):
        return list(batches)
    side_h, side_w = batches[0].shape[-2:]
    theta = _affine(1, views, random)
    flipped = _uniform(random) < views.flip_probability
    gain = 1 + (_uniform(random) - 0.5) * 2 * views.brightness
    cut = _uniform(random) < views.cutout_probability
    top, left = int(_uniform(random) * side_h), int(_uniform(random) * side_w)
    mask = torch.ones(1, 1, side_h, side_w, device=batches[0].device)
    reach_h, reach_w = side_h // 4, side_w // 4
    if cut:
        mask[..., max(0, top - reach_h) : top + reach_h, max(0, left - reach_w) : left + reach_w] = 0
    seen = []
    for batch in batches:
        view = _warp(batch, theta)
        if flipped:
            view = view.flip(-1)
        if views.brightness or cut:
            view = (view + 1) * (gain * mask) - 1
        seen.append(view)
    return seen


def own_views(batch: Tensor, views: Views, random: torch.Generator) -> Tensor:
    """A different random view of every image; gradients are not needed and not kept."""
    if is_rows(batch.shape):
        return batch
    view = _warp(batch, _affine(len(batch), views, random))
    if views.flip_probability:
        flipped = torch.rand(len(batch), generator=random) < views.flip_probability
        view = torch.where(flipped[:, None, None, None].to(view.device), view.flip(-1), view)
    return view


def _affine(count: int, views: Views, random: torch.Generator) -> Tensor:
    angle, width, height, shift_x, shift_y = (torch.rand(5, count, generator=random) * 2 - 1).unbind()
    angle = angle * views.rotation_deg * math.pi / 180
    width, height = 1 + width * views.scale, 1 + height * views.scale
    across = torch.stack([angle.cos() * width, -angle.sin() * width, shift_x * 2 * views.shift], dim=1)
    down = torch.stack([angle.sin() * height, angle.cos() * height, shift_y * 2 * views.shift], dim=1)
    return torch.stack([across, down], dim=1)


def _warp(batch: Tensor, theta: Tensor) -> Tensor:
    """Each image moved by its own of ``theta`` (n, 2, 3), or all by the only one."""
    grid = F.affine_grid(theta.to(batch.device), [len(theta), *batch.shape[1:]], align_corners=False)
    return F.grid_sample(batch + 1, grid.expand(len(batch), -1, -1, -1), align_corners=False) - 1


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand((), generator=random))
