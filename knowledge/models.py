"""Classifiers: the built-in ones, and those of users, checked before they are trusted.

Every model maps float32 (n, channels, height, width) in [-1, 1] to logits float32 (n, classes); a row of a
table is (1, 1, columns), which convolutions refuse.
GroupNorm instead of batch norm: batches are small, skewed, and mixed from private and foreign samples.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from .data import Images
from .pooling import MaxPool
from .space import Space

Factory = Callable[[Space], nn.Module]


class ConvNet(nn.Module):
    """Two blocks of conv 3x3, GroupNorm, max-pool, ReLU; then a hidden layer and the head."""

    def __init__(self, space: Space, widths: tuple[int, int], hidden: int) -> None:
        super().__init__()
        first, second = widths
        stem_stride = 2 if max(space.height, space.width) > 32 else 1
        # at most 8x8 cells reach the dense layer, so that large samples do not make a large model
        cells = [min(-(-side // stem_stride) // 4, 8) for side in (space.height, space.width)]
        self.features = nn.Sequential(
            nn.Conv2d(space.channels, first, 3, stem_stride, padding=1),
            group_norm(first),
            MaxPool(),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            group_norm(second),
            MaxPool(),
            nn.ReLU(),
            Resized(cells[0], cells[1]),
            nn.Flatten(),
            nn.Linear(second * cells[0] * cells[1], hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, space.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class Resized(nn.AdaptiveAvgPool2d):
    """Averages (n, c, h, w) down to so many cells, where it is not of that size already."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__((height, width))

    def forward(self, images: Tensor) -> Tensor:
        return images if images.shape[-2:] == self.output_size else super().forward(images)


class Perceptron(nn.Module):
    """Two hidden layers on the flattened sample."""

    def __init__(self, space: Space, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(space.channels * space.height * space.width, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
        )
        self.head = nn.Linear(second, space.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., 2016, arXiv 1512.03385)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False),
            group_norm(width_out),
            nn.ReLU(),
            nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False),
            group_norm(width_out),
        )
        same_shape = width_in == width_out and stride == 1
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem and three residual blocks, averaged over the picture."""

    def __init__(self, space: Space, width: int) -> None:
        super().__init__()
        stem_stride = 2 if max(space.height, space.width) > 16 else 1
        self.features = nn.Sequential(
            nn.Conv2d(space.channels, width, 3, stem_stride, 1, bias=False),
            group_norm(width),
            nn.ReLU(),
            ResidualBlock(width, width, 1),
            ResidualBlock(width, 2 * width, 2),
            ResidualBlock(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, space.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8 if width % 8 == 0 else 4, width)


def _is_small(space: Space) -> bool:
    return space.is_table or max(space.height, space.width) <= 16


MODELS: dict[str, Factory] = {
    "cnn-small": lambda space: ConvNet(space, (16, 32), 64),
    "cnn-medium": lambda space: ConvNet(space, (32, 64) if _is_small(space) else (24, 48), 96),
    "cnn-large": lambda space: ConvNet(space, (48, 96), 160),
    "mlp": lambda space: Perceptron(space, (128, 64) if _is_small(space) else (256, 128)),
    "mlp-large": lambda space: Perceptron(space, (512, 256)),
    "resnet-tiny": lambda space: ResNet(space, 12),
    "resnet-small": lambda space: ResNet(space, 32),
}
TABLE_MODELS = frozenset(("mlp", "mlp-large"))


def default_model(space: Space, role: str) -> str:
    """The model for ``"node"`` or ``"anchor"`` when none is chosen."""
    if space.is_table:
        return "mlp-large" if role == "anchor" else "mlp"
    return "cnn-large" if role == "anchor" else "cnn-small"


def build_model(name: str, space: Space, seed: int) -> nn.Module:
    """A freshly initialised classifier that is known to fit the space.

    Args:
        name: one of `MODELS`, or ``"package.module:factory"``, imported from the current folder too;
            ``factory(space)`` returns a torch module.
        space: what the model will see and say.
        seed: of the initial weights; the caller's random state is left alone.

    Raises:
        ModelError: no such model, its code fails, or its output is not what the space needs.
    """
    factory = find_model(name)
    if space.is_table and name in MODELS.keys() - TABLE_MODELS:
        raise ModelError(f"model {name!r} is for images, not for tables", f"use {' or '.join(sorted(TABLE_MODELS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = factory(space)
        except Exception as error:
            raise ModelError(
                f"model {name!r} cannot be built ({_one_line(error)})",
                "its factory takes the space and returns a torch.nn.Module",
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"model {name!r} is a {type(model).__name__}", "its factory returns a torch.nn.Module")
        # a copy, so that the check leaves no trace in running statistics or gradients
        _check_model(name, copy.deepcopy(model), space)
    return model


def find_model(name: str) -> Factory:
    """The factory of a model name, as `build_model` takes it; the model itself is not made.

    Raises:
        ModelError: no such model, or its code cannot be imported.
    """
    if name in MODELS:
        return MODELS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ModelError(
            f"no model is named {name!r}",
            f"use one of {', '.join(MODELS)}, or your own as package.module:factory",
        )
    # as `python -m` does, but last, so that nothing of the user's shadows an installed package
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except AttributeError:
        raise ModelError(f"module {module_name!r} has no {attribute!r}", f"define {attribute}(space) in it") from None
    except Exception as error:
        raise ModelError(
            f"model {name!r} cannot be imported ({_one_line(error)})",
            "start meshlore where `python -c 'import " + module_name + "'` works",
        ) from error
    if not callable(factory):
        raise ModelError(f"{name!r} is a {type(factory).__name__}", f"define it as {attribute}(space)")
    checked: Factory = factory
    return checked


def _check_model(name: str, model: nn.Module, space: Space) -> None:
    wanted = f"float32 logits of shape (n, {space.num_classes}) for samples (n, {', '.join(map(str, space.shape))})"
    for batch_size in (3, 1):
        model.train(batch_size > 1)
        try:
            output = model(torch.rand(batch_size, *space.shape) * 2 - 1)
        except Exception as error:
            raise ModelError(
                f"model {name!r} fails on {batch_size} samples of shape {space.shape} ({_one_line(error)})",
                f"return {wanted}",
            ) from error
        if not isinstance(output, Tensor):
            raise ModelError(f"model {name!r} returns a {type(output).__name__}", f"return {wanted}")
        if tuple(output.shape) != (batch_size, space.num_classes) or output.dtype != torch.float32:
            got = f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
            raise ModelError(
                f"model {name!r} returns {got} where float32 ({batch_size}, {space.num_classes}) is needed",
                f"return {wanted}",
            )
        if not torch.isfinite(output).all():
            raise ModelError(f"model {name!r} returns NaN or infinity", f"return {wanted}")
        if batch_size > 1:
            _check_gradients(name, model, output)


def _check_gradients(name: str, model: nn.Module, output: Tensor) -> None:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trainable and output.requires_grad:
        F.cross_entropy(output, torch.arange(len(output)) % output.shape[1]).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in trainable if parameter.grad is not None]
        if any(bool(gradient.abs().sum() > 0) for gradient in gradients):
            return
    raise ModelError(
        f"model {name!r} cannot learn: no gradient reaches its parameters",
        "return raw logits of trainable layers, not detached and not rounded",
    )


def to_tensor(images: Images, space: Space) -> Tensor:
    """uint8 (n, c, h, w) in 0 .. levels - 1 to float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).float().mul_(2 / (space.levels - 1)).sub_(1)


def to_images(tensor: Tensor, space: Space) -> Images:
    """The inverse of `to_tensor`: clamped to [-1, 1] and rounded to the nearest level."""
    levels = ((tensor.detach() + 1) * ((space.levels - 1) / 2)).round().clamp(0, space.levels - 1)
    images: Images = levels.to(torch.uint8).cpu().numpy()
    return images


def logits(model: nn.Module, images: Images, space: Space, *, batch_size: int = 500) -> NDArray[np.float32]:
    """What a model answers, float32 (n, num_classes), without gradients.

    The model's training mode is put back afterwards, so this may be called between training steps.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            batches = [
                model(to_tensor(images[start : start + batch_size], space))
                for start in range(0, len(images), batch_size)
            ]
    finally:
        model.train(was_training)
    if not batches:
        return np.zeros((0, space.num_classes), dtype=np.float32)
    answer: NDArray[np.float32] = torch.cat(batches).numpy()
    return answer


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:200]}"
