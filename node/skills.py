"""Skills: the models of a node at one moment, and how a part of what they know is made for another node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..knowledge.data import Dataset, Images
from ..knowledge.generators import Generator
from ..knowledge.packet import SamplePacket
from ..knowledge.personal import personal_logits
from ..knowledge.space import Space


@dataclass(frozen=True)
class Skills:
    """The models of one moment, replaced as a whole.

    Attributes:
        classifier_before, generator_before: as they were before the mesh taught them.
        public: what others may hear of, where that is not the classifier (`PrivateLearner`).
        expert: the classifier before it learned from others' answers, where it has: it learned more from the private
            data, others heard it, and the personal head asks it too.
    """

    classifier: nn.Module
    classifier_before: nn.Module
    generator: Generator | None = None
    generator_before: Generator | None = None
    public: nn.Module | None = None
    expert: nn.Module | None = None

    @property
    def expert_of_next(self) -> nn.Module:
        """Who will be asked at home beside what the next refinement makes of the classifier."""
        return self.expert or self.classifier

    def at_home(
        self, images: Images, space: Space, *, prior: NDArray[np.float64], held_out: Dataset | None
    ) -> NDArray[np.float32]:
        """What the personal head says; arguments and result as in `personal_logits`."""
        return personal_logits(
            self.classifier,
            self.classifier_before,
            images,
            space,
            prior=prior,
            held_out=held_out,
            expert=self.expert,
        )


def grown_skills(skills: Skills, wider: Callable[[nn.Module], nn.Module | None], space: Space) -> Skills | None:
    """The same models for a space with more classes.

    Args:
        wider: makes a classifier for ``space`` from one of these.

    Returns:
        None: a classifier cannot be carried over, and all must be trained anew.
    """
    made: dict[int, nn.Module] = {}
    for model in (skills.classifier, skills.classifier_before, skills.expert, skills.public):
        if model is not None and id(model) not in made:
            grown = wider(model)
            if grown is None:
                return None
            made[id(model)] = grown
    both = (skills.generator, skills.generator_before)
    generators = {id(generator): generator.grown(space) for generator in both if generator is not None}
    return Skills(
        made[id(skills.classifier)],
        made[id(skills.classifier_before)],
        generators.get(id(skills.generator)),
        generators.get(id(skills.generator_before)),
        made.get(id(skills.public)),
        made.get(id(skills.expert)),
    )


class SkillMaker(Protocol):
    """Who makes skill packets: `Learner` cuts them out of published ones; an anchor may know better."""

    def make_skill(
        self, skills: Skills, packets: Sequence[SamplePacket], labels: Sequence[int], most_bytes: int
    ) -> SamplePacket | None:
        """One packet (of the source `meshlore.knowledge.cutting.SKILL`) that teaches some classes.

        Args:
            skills: what this node may show to others.
            packets: trusted sample packets, this node's own and others', in its own labels.
            labels: the classes wanted. most_bytes: what the packet may take once it is encoded.

        Returns:
            None: this node has nothing to teach about them.
        """
