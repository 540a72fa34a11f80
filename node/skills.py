"""Skills: the models of a node at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..knowledge.generators import Generator


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
