"""An anchor that serves many tasks with a mixture of experts in place of one flat classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import ModelError
from ..knowledge.distil import DistilSettings
from ..knowledge.experts import Mixture, Origin, Shard, alike, build_gate, learn_mixture
from ..knowledge.models import default_model
from ..knowledge.packet import SamplePacket
from ..knowledge.space import Space
from ..knowledge.training import Step
from ..knowledge.trust import Verdict
from .effort import distilling
from .learner import Learner
from .library import Entry
from .settings import Learning
from .skills import Skills
from .taught import Taught


class AnchorLearner(Learner):
    """A `Learner` without private data whose classifier is a `Mixture`.

    Args:
        model: of each expert and of the gate; the compact one if empty.
        experts: how many there may be at most.
    """

    def __init__(self, space: Space, model: str, settings: Learning, seed: int, *, experts: int, **more: Any) -> None:
        super().__init__(space, "anchor", model or default_model(space, "node"), None, settings, seed, **more)
        self._most = experts

    def fresh(self) -> Mixture:
        super().fresh()
        return Mixture.untaught(self.space)

    def restore(self, tensors: Mapping[str, Any], space: Space) -> Mixture:
        return Mixture.from_state(tensors, self.model, space, self.seed)

    def unlearned(self, skills: Skills) -> nn.Module:
        """As it is: each expert knows what it was made of, and begins anew where something of that is gone."""
        return skills.classifier

    def distil(
        self,
        classifier: nn.Module,
        own: Entry | None,
        foreign: Sequence[Entry],
        standing: Mapping[str, float],
        *,
        turn: int,
        step: Step,
        about: frozenset[int] | None = None,
        refines: bool = False,
        beside: nn.Module | None = None,
    ) -> Taught:
        """Learn what changed of the packets; the rest of the mixture stays."""
        verdicts = self.weigh(foreign, standing)
        shards = self._shards(foreign, verdicts, about)
        if not shards:
            return Taught(self.fresh(), False, "nobody's knowledge is trusted", verdicts)
        student = learn_mixture(
            _mixture(classifier),
            shards,
            self._lessons(None, foreign, verdicts).about(about),
            super().fresh,
            lambda count: build_gate(self.model, self.space, count, self.seed),
            settings=distilling(DistilSettings.for_anchor(), self.settings, self.space),
            seed=self.seed + 1000 * (turn + 1),
            step=step,
            device=self._device,
            executor=self.executor,
        )
        return Taught(student, True, f"{len(shards)} experts", verdicts)

    def make_skill(
        self, skills: Skills, packets: Sequence[SamplePacket], labels: Sequence[int], most_bytes: int
    ) -> SamplePacket | None:
        """As of any holder, with the answers of the experts for these classes alone."""
        part = _mixture(skills.classifier).part(labels)
        return super().make_skill(replace(skills, classifier=part), packets, labels, most_bytes)

    def _wider(self, model: nn.Module, old: Space, new: Space) -> Mixture | None:
        return _mixture(model).grown(self.model, old, new, self.seed)

    def _shards(
        self, foreign: Sequence[Entry], verdicts: Mapping[str, Verdict], about: frozenset[int] | None
    ) -> list[Shard]:
        counts = {
            entry.author: entry.packet.class_counts
            for entry in foreign
            if isinstance(entry.packet, SamplePacket) and verdicts[entry.author].weight > 0
        }
        shards = []
        for group in alike(counts, self._most):
            entries = [entry for entry in foreign if entry.author in group]
            lessons = self._lessons(None, entries, verdicts).about(about)
            if bool((lessons.weights > 0).any()):
                shards.append(Shard(lessons, _origin(entries, verdicts)))
        return shards


def _mixture(classifier: nn.Module) -> Mixture:
    if not isinstance(classifier, Mixture):
        raise ModelError("the saved classifier is no mixture of experts", "set anchor.experts to what it was")
    return classifier


def _origin(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> Origin:
    """A packet of samples counts as another one when other classes of it are believed."""
    samples = [
        f"{entry.name} {sorted(verdicts[entry.author].refuted)}"
        for entry in entries
        if isinstance(entry.packet, SamplePacket)
    ]
    return Origin(frozenset(map(_digest, samples)), _digest(" ".join(sorted(entry.name for entry in entries))))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
