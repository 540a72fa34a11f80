"""A mixture of experts by task: small classifiers, each of what a few alike authors sent, and a gate between them.

An expert learns from its own authors alone (sharded as in SISA: Bourtoule et al., S&P 2021, arXiv 1912.03817), so
that a packet that comes or goes concerns one expert and the gate, and the others stay as they are. The gate
(Jacobs et al., Neural Computation 1991) learns from all packets whom to believe about which input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError
from .augment import own_views
from .device import CPU
from .distil import DistilSettings, distil
from .executor import IN_PROCESS, Executor
from .growth import grown_classifier
from .lessons import Lessons
from .models import build_model
from .space import Space
from .training import Step, cosine, no_step

ALIKE = 0.7  # cosine of two authors' shares of classes, above which they share an expert
UNSEEN = -12.0  # log-probability of a class that an expert has never seen
MATTERS = 0.1  # of the most that any expert has of a class: who has less is left out of a part about it
STEPS = 0.5  # of those that one classifier of everything takes: a few classes are learned sooner
SOURCE_BYTES = 32


@dataclass(frozen=True)
class Origin:
    """What an expert was made of.

    Attributes:
        sources: 32 bytes for each packet of samples; of one that is gone nothing may be left.
        edition: 32 bytes that change with what is said about these samples.
    """

    sources: frozenset[bytes] = frozenset()
    edition: bytes = bytes(SOURCE_BYTES)


@dataclass(frozen=True)
class Shard:
    """What one expert learns from."""

    lessons: Lessons
    origin: Origin


class Mixture(nn.Module):
    """Experts and their gate as one classifier: images (n, c, h, w) to log-probabilities (n, k).

    Attributes:
        taught: float32 (experts, k), how many samples of each class each expert was taught, by their weights.
        origins: what each expert was made of.
    """

    taught: Tensor

    def __init__(
        self,
        experts: Sequence[nn.Module],
        gate: nn.Module | None,
        taught: Tensor,
        origins: Sequence[Origin],
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate
        self.register_buffer("taught", taught)
        self.origins = tuple(origins)
        # as rows of bytes, so that a checkpoint keeps them: the expert's place, then its edition or a source
        rows = [
            bytes([place]) + name
            for place, origin in enumerate(self.origins)
            for name in (origin.edition, *sorted(origin.sources))
        ]
        self.register_buffer("made_of", torch.tensor([list(row) for row in rows], dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:
        if not len(self.experts):
            return images.new_zeros(len(images), self.taught.shape[1])
        mixed: Tensor = torch.logsumexp(self.said(images) + self._trust(images)[:, :, None], dim=1)
        return mixed

    def said(self, images: Tensor) -> Tensor:
        """Log-probabilities of each expert over the classes that it knows, float32 (n, experts, k)."""
        masked = [
            torch.log_softmax(expert(images).masked_fill(~known, -torch.inf), dim=1).clamp(min=UNSEEN)
            for expert, known in zip(self.experts, self.taught > 0, strict=True)
        ]
        return torch.stack(masked, dim=1)

    def _trust(self, images: Tensor) -> Tensor:
        """Log of how far each expert is believed about each image, float32 (n, experts)."""
        if self.gate is None:
            return images.new_zeros(len(images), len(self.experts))
        return torch.log_softmax(self.gate(images), dim=1)

    def part(self, labels: Collection[int]) -> Mixture:
        """The compact part for a task: the experts that know enough of its classes, and what of the gate is theirs."""
        if not len(self.experts):
            return self
        asked = self.taught[:, sorted(labels)]
        matters = (asked > 0) & (asked >= MATTERS * asked.max(dim=0, keepdim=True).values)
        kept = torch.where(matters.any(dim=1))[0].tolist()
        gate = None if self.gate is None or len(kept) < 2 else _Columns(self.gate, kept)
        experts = [self.experts[place] for place in kept]
        return Mixture(experts, gate, self.taught[kept], [self.origins[place] for place in kept]).eval()

    def grown(self, model: str, old: Space, new: Space, seed: int) -> Mixture | None:
        """The same mixture in a space with more classes, which nobody has seen; as `grown_classifier`."""
        experts = [grown_classifier(expert, model, old, new, seed) for expert in self.experts]
        known = [expert for expert in experts if expert is not None]
        if len(known) < len(experts):
            return None
        more = self.taught.new_zeros(len(known), new.num_classes - old.num_classes)
        return Mixture(known, self.gate, torch.cat([self.taught, more], dim=1), self.origins).eval()

    @classmethod
    def untaught(cls, space: Space) -> Mixture:
        """Without an expert: every class is as likely as any other."""
        return cls([], None, torch.zeros(0, space.num_classes), []).eval()

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], model: str, space: Space, seed: int) -> Mixture:
        """Rebuild from its state dict. Raises ModelError when it is not one of such experts in this space."""
        try:
            taught, rows = tensors["taught"], [bytes(row) for row in tensors["made_of"].tolist()]
            names = [[row[1:] for row in rows if row[0] == place] for place in range(len(taught))]
            origins = [Origin(frozenset(sources), edition) for edition, *sources in names]
            gate = build_gate(model, space, len(taught), seed) if len(taught) > 1 else None
            made = cls([build_model(model, space, seed) for _ in taught], gate, taught, origins)
            made.load_state_dict(dict(tensors))
        except (KeyError, RuntimeError, ValueError, IndexError):
            raise ModelError(
                f"the saved classifier is no mixture of {model!r} experts",
                "set anchor.experts and the model to what they were, or delete the state folder to learn anew",
            ) from None
        return made.eval()


class _Columns(nn.Module):
    """Some of the outputs of a network."""

    def __init__(self, network: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.columns = list(columns)

    def forward(self, images: Tensor) -> Tensor:
        chosen: Tensor = self.network(images)[:, self.columns]
        return chosen


def alike(counts: Mapping[str, NDArray[np.int64]], most: int) -> list[list[str]]:
    """Authors in at most ``most`` groups of like class shares (leader clustering, in the order given).

    An author that comes later leaves the groups before it as they were.

    Args:
        counts: author -> int64 (k,), how many samples of each class stand behind what it tells.
    """
    groups: list[list[str]] = []
    leaders: list[NDArray[np.float64]] = []
    for author, count in counts.items():
        share = count / max(1e-9, float(np.linalg.norm(count)))
        nearness = [float(share @ leader) for leader in leaders]
        if leaders and (max(nearness) >= ALIKE or len(leaders) >= most):
            groups[int(np.argmax(nearness))].append(author)
        else:
            groups.append([author])
            leaders.append(share)
    return groups


def learn_mixture(
    previous: Mixture,
    shards: Sequence[Shard],
    everything: Lessons,
    fresh: Callable[[], nn.Module],
    fresh_gate: Callable[[int], nn.Module],
    *,
    settings: DistilSettings,
    seed: int,
    step: Step = no_step,
    device: torch.device = CPU,
    executor: Executor = IN_PROCESS,
) -> Mixture:
    """Train the experts whose shards changed, and the gate anew.

    An expert is taken over as it is where nothing changed; one whose shard lost no source goes on from where it was;
    any other begins anew.

    Args:
        previous: what was learned before, `Mixture.untaught` at first.
        everything: the lessons of all shards together, for the gate.
        fresh: an untrained expert; ``fresh_gate``: an untrained gate for so many.
    """
    brief = replace(settings, steps=max(1, round(STEPS * settings.steps)))
    known = dict(zip(previous.origins, previous.experts, strict=True))
    parts, experts = len(shards) + 1, []
    for place, shard in enumerate(shards):
        expert = known.get(shard.origin)
        if expert is None:
            kept = [origin for origin in known if origin.sources <= shard.origin.sources]
            start = known[max(kept, key=lambda origin: len(origin.sources))] if kept else fresh()
            expert = distil(
                start,
                None,
                shard.lessons,
                settings=brief,
                seed=seed + place,
                step=_portion(step, place, parts),
                device=device,
                executor=executor,
            )
        experts.append(expert)
    taught = torch.stack([_mass(shard.lessons) for shard in shards])
    mixture = Mixture(experts, None, taught, [shard.origin for shard in shards]).eval()
    if len(experts) < 2:
        return mixture
    gate = _learn_gate(
        mixture, everything, fresh_gate(len(experts)), settings, seed, _portion(step, len(shards), parts), device
    )
    return Mixture(experts, gate, taught, mixture.origins).eval()


def build_gate(model: str, space: Space, experts: int, seed: int) -> nn.Module:
    """An untrained gate: a model of the experts' kind with an output for each of them."""
    founding = space.founding
    names = tuple(f"expert {place}" for place in range(experts))
    return build_model(model, replace(founding, classes=names), seed)


def _learn_gate(
    mixture: Mixture,
    lessons: Lessons,
    gate: nn.Module,
    settings: DistilSettings,
    seed: int,
    step: Step,
    device: torch.device,
) -> nn.Module:
    """Maximum likelihood of the mixture, with the experts as they are."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        said = torch.cat([mixture.said(part) for part in torch.split(lessons.images, 500)]).to(device)
    soft = lessons.targets(settings.temperature)
    share = settings.soft_share * soft.sum(dim=1, keepdim=True)
    wanted = (share * soft + (1 - share) * nn.functional.one_hot(lessons.labels, lessons.classes)).to(device)
    chance = lessons.weights / _mass(lessons).clamp(min=1e-6)[lessons.labels]
    drawn = torch.multinomial(chance, settings.steps * settings.lesson_batch, replacement=True, generator=random)
    chosen, images = drawn.view(settings.steps, -1), lessons.images.to(device)
    gate = gate.to(device).train()
    adam = torch.optim.AdamW(gate.parameters(), lr=0.0, weight_decay=settings.weight_decay, fused=True)
    for turn, batch in enumerate(chosen):
        adam.param_groups[0]["lr"] = cosine(turn / settings.steps, settings.learning_rate, floor=0.03)
        shown = images[batch] if settings.views is None else own_views(images[batch], settings.views, random)
        mixed = torch.logsumexp(said[batch] + torch.log_softmax(gate(shown), dim=1)[:, :, None], dim=1)
        loss = -(wanted[batch] * mixed).sum(dim=1).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        step((turn + 1) / settings.steps)
    return gate.cpu().eval()


def _mass(lessons: Lessons) -> Tensor:
    """The weight of each class, float32 (k,)."""
    return torch.zeros(lessons.classes).index_add(0, lessons.labels, lessons.weights)


def _portion(step: Step, part: int, parts: int) -> Step:
    """The `Step` of one part of a longer work."""
    return lambda fraction: step((part + fraction) / parts)
