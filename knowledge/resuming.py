"""Long optimisations that go on where a kill -9 left them, and end as if nothing had happened.

Whatever an optimisation changes (its tensors, its optimiser, its random numbers) is saved now and then, under a
name that tells this very work from any other: other data, settings or seeds never go on with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

State = Mapping[str, Tensor]
FORMAT = "1"


class Checkpoint(Protocol):
    """Where one piece of work at a time leaves what it has come to."""

    def load(self, work: str) -> State | None:
        """What was saved of this work; None when nothing was, or of another work, or what is damaged."""

    def due(self) -> bool:
        """Whether enough has happened since the last save."""

    def save(self, work: str, state: State) -> None:
        """Replace what was saved, all of it or nothing."""

    def clear(self) -> None:
        """The work is done: forget it."""


@dataclass(frozen=True)
class Optimisation:
    """All that changes from one turn to the next. ``tensors`` and the state of ``optimiser`` change in place."""

    tensors: Sequence[Tensor]
    optimiser: torch.optim.Optimizer
    random: torch.Generator

    def state(self, done: int) -> dict[str, Tensor]:
        """A flat map of tensors, on the CPU."""
        saved = {f"tensor.{place}": tensor.detach() for place, tensor in enumerate(self.tensors)}
        for place, moments in self.optimiser.state_dict()["state"].items():
            saved |= {f"optimiser.{place}.{name}": value for name, value in moments.items()}
        saved |= {"random": self.random.get_state(), "done": torch.tensor(done)}
        return {name: value.cpu().contiguous() for name, value in saved.items()}

    def restore(self, saved: State) -> int:
        """Take up a `state`; how many turns were done."""
        with torch.no_grad():
            for place, tensor in enumerate(self.tensors):
                tensor.copy_(saved[f"tensor.{place}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            kind, _, rest = key.partition(".")
            if kind == "optimiser":
                weight, _, name = rest.partition(".")
                moments.setdefault(int(weight), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.random.set_state(saved["random"])
        return int(saved["done"])


def turns(count: int, moved: Optimisation, checkpoint: Checkpoint | None, *work: Tensor | str) -> Iterator[int]:
    """The numbers of the turns still to be done, 0 to ``count`` - 1 at most; saves between turns when that is due.

    Args:
        moved: as it is before the first turn.
        work: what together decides how it ends, besides ``moved`` and ``count``.
    """
    if checkpoint is None:
        yield from range(count)
        return
    name = _name([*work, str(count), moved.random.get_state(), *moved.tensors])
    saved = checkpoint.load(name)
    for turn in range(0 if saved is None else moved.restore(saved), count):
        yield turn
        if checkpoint.due():
            checkpoint.save(name, moved.state(turn + 1))
    checkpoint.clear()


def _name(parts: Sequence[Tensor | str]) -> str:
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        text = part if isinstance(part, str) else f"{part.dtype} {tuple(part.shape)}"
        digest.update(f"{len(text)} {text}".encode())
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
