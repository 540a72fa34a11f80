"""The parts of the flow generator: how images become codes and back, and the networks that move codes.

A network takes (n, d) noisy codes, (n,) times in 0..1 and (n,) labels and returns (n, d) velocities; label k
means "any class".
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from .basis import principal_components
from .space import Space

Kind = Literal["mlp", "unet"]

UNET_SMALLEST_PX = 4  # side below which a UNet halves no further
_IMPORTING = threading.Lock()


@dataclass(frozen=True)
class FlowSettings:
    """Sizes and training of the flow. ``flatten`` is the power of the standard deviation taken out of each code.

    ``network`` "mlp" moves principal components (``dimensions`` of them); "unet" moves pixels, which takes a
    hundred times as much computing.
    """

    network: Kind = "mlp"
    dimensions: int = 32
    width: int = 128
    depth: int = 3
    flatten: float = 0.5
    batch_size: int = 64
    learning_rate: float = 2e-3
    averaging: float = 0.995
    unconditional: float = 0.1

    @classmethod
    def for_space(cls, space: Space, network: Kind = "mlp") -> FlowSettings:
        """Raises ModelError when such a network cannot learn samples of this space."""
        if network == "unet":
            if space.is_table:
                raise ModelError("a UNet draws images, and this mesh has tables", 'set learning.generator = "mlp"')
            return cls("unet", width=32, learning_rate=1e-3)
        if space.is_small:
            return cls()
        return cls(dimensions=64 if space.channels == 1 else 96, width=192, flatten=1.0)


@dataclass(frozen=True)
class Codec:
    """Image <-> scaled code. mean (p,); scale (d,); directions (p, d), or None where the pixels are the code."""

    mean: Tensor
    directions: Tensor | None
    scale: Tensor

    def __len__(self) -> int:
        """Numbers in a code."""
        return len(self.scale)

    def encode(self, flat: Tensor) -> Tensor:
        centred = flat - self.mean
        return (centred if self.directions is None else centred @ self.directions) / self.scale

    def decode(self, codes: Tensor) -> Tensor:
        scaled = codes * self.scale
        return (scaled if self.directions is None else scaled @ self.directions.T) + self.mean

    @classmethod
    def fit(cls, flat: Tensor, weights: Tensor, settings: FlowSettings) -> Codec:
        share = weights / weights.sum()
        mean = share @ flat
        centred = flat - mean
        if settings.network == "unet":
            spread = (share @ centred.square()).mean().sqrt().clamp(min=1e-3)
            return cls(mean, None, spread.expand(len(mean)).clone())
        directions, variance = principal_components(centred * (share[:, None] * len(flat)).sqrt(), settings.dimensions)
        scale = (variance.sqrt() + 0.02) ** settings.flatten
        codes = centred @ directions / scale
        return cls(mean, directions, scale * (share @ codes.square()).mean().sqrt().clamp(min=1e-3))


class Velocity(nn.Module):
    """Either network. ``LABELS`` names the weights that have a row for each class and one for any class."""

    LABELS: ClassVar[str]


class CodeVelocity(Velocity):
    """A residual MLP whose blocks are modulated by time and label."""

    LABELS = "label.weight"

    def __init__(self, dimensions: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.label = nn.Embedding(classes + 1, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(dimensions, width)
        self.modulate = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.widen = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.narrow = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.leave = nn.Linear(width, dimensions)
        self.register_buffer("frequencies", torch.exp(-math.log(1000) * torch.arange(32) / 32), persistent=False)
        for silent in [self.leave, *self.modulate]:
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(silent.bias)

    def forward(self, codes: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        angles = 1000 * time[:, None] * self.frequencies[None]  # type: ignore[index]
        condition = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.label(labels))
        hidden = self.enter(codes)
        width = hidden.shape[-1]
        for modulate, widen, narrow in zip(self.modulate, self.widen, self.narrow, strict=True):
            scale, shift, gate = modulate(condition).chunk(3, dim=1)
            inner = F.layer_norm(hidden, (width,)) * (1 + scale) + shift
            hidden = hidden + (1 + gate) * narrow(F.silu(widen(inner)))
        velocity: Tensor = self.leave(F.layer_norm(hidden, (width,)))
        return velocity


class PixelVelocity(Velocity):
    """diffusers' UNet2DModel on images, enlarged at the edge to sides that can be halved; codes are their pixels."""

    LABELS = "unet.class_embedding.weight"

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        self._shape = shape
        channels, *sides = shape
        levels = max(2, 1 + int(math.log2(min(sides) / UNET_SMALLEST_PX)))
        self._multiple = 2 ** (levels - 1)
        self.unet = from_diffusers("UNet2DModel")(
            sample_size=tuple(side + -side % self._multiple for side in sides),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=tuple(width * min(2, 1 + level) for level in range(levels)),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=8,
            num_class_embeds=classes + 1,
        )

    def forward(self, codes: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        _, height, width = self._shape
        images = F.pad(codes.view(-1, *self._shape), (0, -width % self._multiple, 0, -height % self._multiple))
        velocity: Tensor = self.unet(images, 1000 * time, class_labels=labels, return_dict=False)[0]
        return velocity[..., :height, :width].flatten(1)


def build_velocity(codec: Codec, space: Space, settings: FlowSettings, seed: int = 0) -> Velocity:
    """A fresh network for codes of this codec; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.network == "unet":
            return PixelVelocity(space.shape, space.num_classes, settings.width)
        return CodeVelocity(len(codec), space.num_classes, settings.width, settings.depth)


def from_diffusers(name: str) -> Any:
    """Imported on first use, as it takes seconds; one thread at a time, as diffusers' lazy modules need."""
    with _IMPORTING:
        import diffusers

        return getattr(diffusers, name)
