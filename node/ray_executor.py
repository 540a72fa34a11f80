"""Gradients and drawings by stateless workers in Ray: a `meshlore.knowledge.executor.Executor`.

Weights travel with every step and nothing stays with a worker, so one that is killed costs the step in flight: Ray
starts another and gives it the same work. When Ray itself is gone, the work goes on in this process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from ..knowledge.data import Images, Labels
from ..knowledge.executor import IN_PROCESS, Executor, Loss, average, shards_of, split
from ..knowledge.generators import Generator
from .settings import Anchor

log = structlog.get_logger("meshlore.ray")
T = TypeVar("T")

ANSWER_S = 120.0
RETRIES = 5


class Worker:
    """Runs in Ray. Remembers the last model and generator that it was sent, to be sent them once only."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._known: dict[str, tuple[int, Any]] = {}

    def gradient(
        self, number: int, model: list[Any], weights: list[np.ndarray], loss: Loss, batch: list[np.ndarray]
    ) -> list[np.ndarray | None]:
        """Of the loss of a part of a batch, one per parameter.

        Args:
            number: of the model; model: a reference to it; weights: all tensors of its state, in their order.
        """
        net: nn.Module = self._get("model", number, model)
        with torch.no_grad():
            for tensor, value in zip(net.state_dict().values(), weights, strict=True):
                tensor.copy_(torch.tensor(value))
        IN_PROCESS.gradient(net, loss, [torch.tensor(part) for part in batch])
        return [None if weight.grad is None else weight.grad.numpy() for weight in net.parameters()]

    def draw(self, number: int, generator: list[Any], labels: Labels, seed: int) -> Images:
        drawn: Images = self._get("generator", number, generator).sample(labels, seed=seed)
        return drawn

    def process_id(self) -> int:
        import os

        return os.getpid()

    def _get(self, kind: str, number: int, reference: list[Any]) -> Any:
        import ray

        if self._known.get(kind, (-1, None))[0] != number:
            self._known[kind] = (number, ray.get(reference[0]))
        return self._known[kind][1]


class RayExecutor:
    """Works on the Ray that this process is connected to.

    Args:
        ray: the module, connected (`meshlore.node.ray_session`).
        workers: processes of one CPU each.
    """

    def __init__(self, ray: Any, workers: int) -> None:
        self._ray = ray
        remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Worker)
        self._workers = [remote.remote() for _ in range(workers)]
        self._sent: dict[str, tuple[int, Any, Any]] = {}
        self._gone = False

    def process_ids(self) -> list[int]:
        """Of the workers, once they are up."""
        found: list[int] = self._ray.get([worker.process_id.remote() for worker in self._workers], timeout=ANSWER_S)
        return found

    def gradient(self, model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> None:
        """As `Executor`. What normalises over a batch cannot be computed in parts, and is computed here."""
        if self._gone or any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
            IN_PROCESS.gradient(model, loss, batch)
            return

        def on_workers() -> list[list[Tensor | None]]:
            number, sent = self._send("model", model)
            weights = self._ray.put([tensor.detach().cpu().numpy() for tensor in model.state_dict().values()])
            how = self._ray.put(loss)
            asked = [
                worker.gradient.remote(number, sent, weights, how, [tensor.detach().cpu().numpy() for tensor in part])
                for worker, part in zip(self._workers, parts, strict=False)
            ]
            answers = self._ray.get(asked, timeout=ANSWER_S)
            return [[None if grad is None else torch.tensor(grad) for grad in answer] for answer in answers]

        parts = split(batch, len(self._workers))
        gradients = self._or_here(on_workers)
        if gradients is None:
            IN_PROCESS.gradient(model, loss, batch)
            return
        joined = average(gradients, [len(part[0]) for part in parts])
        for weight, gradient in zip(model.parameters(), joined, strict=True):
            weight.grad = None if gradient is None else gradient.to(weight.device)

    def draw(self, generator: Generator, labels: Labels, seed: int) -> Images:
        """As `Executor`."""

        def on_workers() -> list[Images]:
            number, sent = self._send("generator", generator)
            asked = [
                self._workers[place % len(self._workers)].draw.remote(number, sent, part, own_seed)
                for place, (part, own_seed) in enumerate(shards_of(labels, seed))
            ]
            drawn: list[Images] = self._ray.get(asked, timeout=ANSWER_S * (1 + len(asked) // len(self._workers)))
            return drawn

        drawn = self._or_here(on_workers) if len(labels) and not self._gone else None
        return IN_PROCESS.draw(generator, labels, seed) if drawn is None else np.concatenate(drawn)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _send(self, kind: str, value: Any) -> tuple[int, list[Any]]:
        """The number of a model and a reference to it; it is sent when it is another one than before."""
        number, known, reference = self._sent.get(kind, (0, None, None))
        if known is not value:
            # a worker may have no GPU
            sent = copy.deepcopy(value).cpu() if isinstance(value, nn.Module) else value
            number, reference = number + 1, self._ray.put(sent)
            self._sent[kind] = (number, value, reference)
        return number, [reference]

    def _or_here(self, work: Callable[[], T]) -> T | None:
        """None when Ray fails for good; from then on all is computed here."""
        try:
            return work()
        except self._ray.exceptions.RayError as error:
            self._gone = True
            log.warning("Ray does not answer; going on without it", because=str(error).splitlines()[0])
            return None


@contextmanager
def executor_of(settings: Anchor, roles: frozenset[str]) -> Iterator[Executor]:
    """What an anchor's settings say; for all other nodes, and without an address, this process.

    Raises:
        ConfigError, Unreachable: Ray cannot be used (`ray_session`).
    """
    if not settings.ray or "anchor" not in roles:
        yield IN_PROCESS
        return
    from .ray_session import ray_session

    with ray_session(settings.ray, cpus=settings.workers) as ray:
        executor = RayExecutor(ray, settings.workers)
        try:
            yield executor
        finally:
            executor.close()
