"""Stateless workers in Ray: what they need travels with every request, so one that is killed costs the step in flight.

Ray starts another in its place and gives it the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ..errors import Unreachable
from ..knowledge.data import Images, Labels
from ..knowledge.executor import IN_PROCESS, Loss
from ..knowledge.generators import Generator
from ..knowledge.process import prepare_to_learn

T = TypeVar("T")
Arrays = list[np.ndarray]
Gradient = list[np.ndarray | None]
"""One per parameter of a model, in their order."""

ANSWER_S = 120.0
RETRIES = 5


class Worker:
    """Runs in Ray."""

    def __init__(self) -> None:
        prepare_to_learn(1)

    def gradient(self, work: bytes, batch: Arrays) -> Gradient:
        """Of the loss of a part of a batch; ``work`` is a packed (model, loss)."""
        from ray import cloudpickle

        model: nn.Module
        loss: Loss
        model, loss = cloudpickle.loads(work)
        IN_PROCESS.gradient(model, loss, [torch.tensor(part) for part in batch])
        return [None if weight.grad is None else weight.grad.numpy() for weight in model.parameters()]

    def draw(self, work: bytes, labels: Labels, seed: int) -> Images:
        """``work`` is a packed generator."""
        from ray import cloudpickle

        generator: Generator = cloudpickle.loads(work)
        return generator.sample(labels, seed=seed)

    def process_id(self) -> int:
        import os

        return os.getpid()


class Workers:
    """On the Ray that this process is connected to; a `meshlore.node.ray_executor.Crew`.

    Args:
        ray: the module, connected (`meshlore.node.ray_session`).
        count: of processes of one CPU each.
    """

    def __init__(self, ray: Any, count: int) -> None:
        self._ray = ray
        remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Worker)
        self._workers = [remote.remote() for _ in range(count)]
        self._problem = ""

    @property
    def place(self) -> str:
        return "Ray" if not self._problem else f"in-process, as Ray does not answer ({self._problem})"

    def __len__(self) -> int:
        return len(self._workers)

    def process_ids(self) -> list[int]:
        """Of the workers, once they are up."""
        return self._answers([worker.process_id.remote() for worker in self._workers], ANSWER_S)

    def gradients(self, work: bytes, parts: Sequence[Arrays]) -> list[Gradient]:
        """Of the parts of a batch, at most one per worker.

        Raises:
            Unreachable: Ray does not answer, or did not before.
        """
        sent = self._put(work)
        asked = [worker.gradient.remote(sent, part) for worker, part in zip(self._workers, parts, strict=False)]
        return self._answers(asked, ANSWER_S)

    def drawings(self, work: bytes, shards: Sequence[tuple[Labels, int]]) -> list[Images]:
        """Of shards of labels, each with its seed.

        Raises:
            Unreachable: as `gradients`.
        """
        sent, count = self._put(work), len(self._workers)
        asked = [self._workers[place % count].draw.remote(sent, *shard) for place, shard in enumerate(shards)]
        return self._answers(asked, drawing_s(len(asked), count))

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _put(self, work: bytes) -> Any:
        if self._problem:
            raise Unreachable(f"Ray does not answer ({self._problem})")
        return self._ray.put(work)

    def _answers(self, asked: list[Any], timeout_s: float) -> list[Any]:
        try:
            answers: list[Any] = self._ray.get(asked, timeout=timeout_s)
        except self._ray.exceptions.RayError as error:
            self._problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise Unreachable(f"Ray does not answer ({self._problem})") from None
        return answers


def drawing_s(shards: int, workers: int) -> float:
    """How long so many shards may take."""
    return ANSWER_S * (1 + shards // workers)
