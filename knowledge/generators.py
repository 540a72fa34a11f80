"""The kinds of generators that a node can be told to train; it trains and draws with the one it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import Images, Labels
from .device import CPU
from .executor import IN_PROCESS, Executor
from .flow import FlowSettings
from .generator import FlowGenerator, fit_generator
from .resuming import Checkpoint
from .space import Space
from .training import Step


class Generator(Protocol):
    """Draws samples of a class. Used by one thread at a time."""

    def sample(self, labels: Labels, *, seed: int) -> Images:
        """One sample uint8 (n, c, h, w) per label int64 (n,), deterministic given the seed."""

    def state(self) -> dict[str, Tensor]:
        """What `GeneratorKind.restore` needs, fit for safetensors."""

    def grown(self, space: Space) -> Generator:
        """The same generator in a space with classes behind those it knows."""


class GeneratorKind(Protocol):
    """Makes generators of one kind."""

    def fit(
        self,
        images: Images,
        labels: Labels,
        weights: NDArray[np.float32],
        space: Space,
        start: Generator | None,
        *,
        steps: int,
        seed: int,
        step: Step,
        checkpoint: Checkpoint | None,
    ) -> Generator:
        """Train on samples uint8 (n, c, h, w), n >= 1, with labels int64 (n,) and weights >= 0 (n,).

        Args:
            start: a generator to go on from, where this kind gains from that.
            steps: optimisation steps; 0: as many as is usual.
        """

    def restore(self, state: Mapping[str, Tensor], space: Space) -> Generator | None:
        """The generator that was saved; None when it is of another kind, and so must be trained anew.

        Raises:
            ModelError: it is of this kind, and damaged.
        """


def usual_steps(space: Space) -> int:
    """Optimisation steps of a flow generator."""
    return 300 if space.is_small else 1500


@dataclass(frozen=True)
class Flows:
    """`FlowGenerator`: the compact kind. It always begins anew: going on from an older one was measured and is
    worse at equal cost, as the components of fewer classes suit more classes badly."""

    settings: FlowSettings
    device: torch.device = CPU
    executor: Executor = IN_PROCESS

    def fit(
        self,
        images: Images,
        labels: Labels,
        weights: NDArray[np.float32],
        space: Space,
        start: Generator | None,
        *,
        steps: int,
        seed: int,
        step: Step,
        checkpoint: Checkpoint | None,
    ) -> FlowGenerator:
        return fit_generator(
            images,
            labels,
            space,
            weights=weights,
            settings=self.settings,
            steps=steps or usual_steps(space),
            seed=seed,
            step=step,
            checkpoint=checkpoint,
            device=self.device,
            executor=self.executor,
        )

    def restore(self, state: Mapping[str, Tensor], space: Space) -> FlowGenerator | None:
        return FlowGenerator.from_state(state, space) if "codec.mean" in state else None
