"""Where the heavy part of training and drawing is computed: in this process, or by workers elsewhere.

The state (weights, optimiser, random numbers) stays with who trains. A worker gets the weights and a part of the
batch, and answers with a gradient; it keeps nothing, so losing it costs the step in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from .data import Images, Labels
    from .generators import Generator, GeneratorKind
    from .resuming import Checkpoint
    from .space import Space
    from .training import Step

DRAWN_PER_SHARD = 256


class Loss(Protocol):
    """The loss of a batch: a mean over its samples. Workers elsewhere are sent it whole."""

    def __call__(self, model: nn.Module, *batch: Tensor) -> Tensor: ...


class Executor(Protocol):
    """Used by one thread at a time."""

    @property
    def place(self) -> str:
        """Where it computes now, for the user."""

    def gradient(self, model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> None:
        """Fill the ``grad`` of every parameter of ``model`` with that of the loss of a batch (n samples a tensor)."""

    def draw(self, generator: Generator, labels: Labels, seed: int) -> Images:
        """One sample per label, the same whatever the executor: those of `shards_of`, one after the other."""


class InProcess:
    """Here, one after the other."""

    place = "in-process"

    def gradient(self, model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss(model, *batch).backward()  # type: ignore[no-untyped-call]

    def draw(self, generator: Generator, labels: Labels, seed: int) -> Images:
        drawn = [generator.sample(part, seed=own_seed) for part, own_seed in shards_of(labels, seed)]
        return np.concatenate(drawn) if drawn else generator.sample(labels, seed=seed)


IN_PROCESS = InProcess()


def shards_of(labels: Labels, seed: int) -> Iterator[tuple[Labels, int]]:
    """Labels in parts of at most `DRAWN_PER_SHARD`, each with a seed of its own; the first has the seed given."""
    for place, start in enumerate(range(0, len(labels), DRAWN_PER_SHARD)):
        yield labels[start : start + DRAWN_PER_SHARD], (seed + 1_000_003 * place) % 2**31


def split(batch: Sequence[Tensor], parts: int) -> list[tuple[Tensor, ...]]:
    """A batch in at most so many parts, none of them empty."""
    parts = min(parts, len(batch[0]))
    return list(zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True))


def average(gradients: Sequence[Sequence[Tensor | None]], sizes: Sequence[int]) -> list[Tensor | None]:
    """The gradient of a whole batch from those of its parts, one per parameter; ``sizes`` in samples."""
    whole = sum(sizes)
    joined: list[Tensor | None] = []
    for parts in zip(*gradients, strict=True):
        known = [part * (size / whole) for part, size in zip(parts, sizes, strict=True) if part is not None]
        joined.append(torch.stack(known).sum(dim=0) if known else None)
    return joined


@dataclass(frozen=True)
class Drawing:
    """A generator that draws on an executor."""

    generator: Generator
    executor: Executor

    def sample(self, labels: Labels, *, seed: int) -> Images:
        return self.executor.draw(self.generator, labels, seed)

    def state(self) -> dict[str, Tensor]:
        return self.generator.state()

    def grown(self, space: Space) -> Drawing:
        return Drawing(self.generator.grown(space), self.executor)


@dataclass(frozen=True)
class Elsewhere:
    """A kind of generators whose members draw on an executor."""

    kind: GeneratorKind
    executor: Executor

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
    ) -> Drawing:
        begun = start.generator if isinstance(start, Drawing) else start
        return Drawing(
            self.kind.fit(
                images, labels, weights, space, begun, steps=steps, seed=seed, step=step, checkpoint=checkpoint
            ),
            self.executor,
        )

    def restore(self, state: Mapping[str, Tensor], space: Space) -> Drawing | None:
        generator = self.kind.restore(state, space)
        return None if generator is None else Drawing(generator, self.executor)
