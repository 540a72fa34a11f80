"""Skills: the models of a node at one moment, and how a part of what they know is made for another node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from ..knowledge.generators import Generator
from ..knowledge.packet import SamplePacket


@dataclass(frozen=True)
class Skills:
    """The models of one moment, replaced as a whole.

    Attributes:
        classifier_before, generator_before: as they were before the mesh taught them.
        public: what others may hear of, where that is not the classifier (`PrivateLearner`).
    """

    classifier: nn.Module
    classifier_before: nn.Module
    generator: Generator | None = None
    generator_before: Generator | None = None
    public: nn.Module | None = None


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
