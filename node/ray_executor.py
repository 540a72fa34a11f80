"""Gradients and drawings by workers in Ray: a `meshlore.knowledge.executor.Executor`.

The state stays here. Where Ray does not answer, this process computes in its place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Unreachable
from ..knowledge.data import Images, Labels
from ..knowledge.executor import IN_PROCESS, Executor, Loss, average, shards_of, split
from ..knowledge.generators import Generator
from .ray_driver import Driver
from .ray_workers import Arrays, Gradient
from .settings import Anchor


class Crew(Protocol):
    """Workers, by way of this process (`Workers`) or of another one (`Driver`)."""

    @property
    def place(self) -> str: ...

    def __len__(self) -> int: ...

    def gradients(self, work: bytes, parts: Sequence[Arrays]) -> list[Gradient]: ...

    def drawings(self, work: bytes, shards: Sequence[tuple[Labels, int]]) -> list[Images]: ...


class RayExecutor:
    """Has a crew compute what can be computed elsewhere."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    @property
    def place(self) -> str:
        return self._crew.place

    def gradient(self, model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> None:
        """As `Executor`. What normalises over a batch cannot be computed in parts, and is computed here."""
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
            IN_PROCESS.gradient(model, loss, batch)
            return
        parts = split(batch, len(self._crew))
        arrays = [[tensor.detach().cpu().numpy() for tensor in part] for part in parts]
        try:
            gradients = self._crew.gradients(_packed((_on_cpu(model), loss)), arrays)
        except Unreachable:
            IN_PROCESS.gradient(model, loss, batch)
            return
        tensors = [[None if value is None else torch.tensor(value) for value in gradient] for gradient in gradients]
        joined = average(tensors, [len(part[0]) for part in parts])
        for weight, gradient in zip(model.parameters(), joined, strict=True):
            weight.grad = None if gradient is None else gradient.to(weight.device)

    def draw(self, generator: Generator, labels: Labels, seed: int) -> Images:
        """As `Executor`."""
        shards = list(shards_of(labels, seed))
        try:
            drawn = self._crew.drawings(_packed(generator), shards) if shards else []
        except Unreachable:
            drawn = []
        return np.concatenate(drawn) if drawn else IN_PROCESS.draw(generator, labels, seed)


@contextmanager
def executor_of(settings: Anchor, roles: frozenset[str]) -> Iterator[Executor]:
    """What an anchor's settings say; for all other nodes, and without an address, this process.

    Raises:
        ConfigError, Unreachable: Ray cannot be used (`ray_session`).
    """
    if not settings.ray or "anchor" not in roles:
        yield IN_PROCESS
        return
    driver = Driver(settings.ray, settings.workers)
    try:
        yield RayExecutor(driver)
    finally:
        driver.close()


def _packed(value: Any) -> bytes:
    """Once, whoever it goes to. Not by `pickle`, which does not take classes of a script."""
    from ray import cloudpickle

    packed: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return packed


def _on_cpu(model: nn.Module) -> nn.Module:
    """A worker may have no GPU."""
    return model if all(weight.device.type == "cpu" for weight in model.parameters()) else copy.deepcopy(model).cpu()
