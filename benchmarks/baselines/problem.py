"""What a baseline is given and what it returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.space import Space
from numpy.typing import NDArray
from torch import nn

FLOAT32_BYTES = 4
Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Problem:
    """Clients with private data, and samples to measure with that nobody learns from.

    Attributes:
        clients: private data of each.
        public: uint8 (n, c, h, w) images without labels that everybody may see; only FedDF looks at them.
        model: the name of everybody's classifier.
    """

    clients: tuple[Dataset, ...]
    test: Dataset
    public: NDArray[np.uint8]
    model: str
    seed: int

    @property
    def space(self) -> Space:
        return self.test.space

    def fresh(self, offset: int = 0) -> nn.Module:
        return build_model(self.model, self.space, self.seed + offset)

    def answer(self, model: nn.Module) -> Logits:
        """Logits on the test samples."""
        return logits(model, self.test.images, self.space)

    def counts(self) -> NDArray[np.int64]:
        """int64 (clients, k): samples of each class."""
        return np.stack([client.counts() for client in self.clients])


@dataclass(frozen=True)
class Moment:
    """Where a method was on its way: accuracy of the model that all clients have then."""

    bytes_moved: int
    cpu_s: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Solution:
    """What a method came to.

    Attributes:
        logits: on the test samples, one array per client; the same array where all have one model.
        bytes_up, bytes_down: per client, over the whole method.
        client_cpu_s: mean over the clients; ``server_cpu_s``: where somebody has to do it for all.
    """

    logits: Sequence[Logits]
    bytes_up: int = 0
    bytes_down: int = 0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    curve: Sequence[Moment] = field(default=())


class Meter:
    """CPU seconds of the calling thread, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started


def size_bytes(model: nn.Module) -> int:
    """All weights as float32, as they travel."""
    return FLOAT32_BYTES * sum(int(value.numel()) for value in model.state_dict().values())


def average(models: Sequence[nn.Module], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of all weights (McMahan et al., 2017, arXiv 1602.05629).

    Args:
        weights: one per model, >= 0 with a positive sum; they are normalised.
    """
    total = float(sum(weights))
    states = [model.state_dict() for model in models]
    return {
        name: sum(
            (state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)),
            torch.zeros_like(states[0][name], dtype=torch.float64),
        ).to(states[0][name].dtype)
        for name in states[0]
    }
