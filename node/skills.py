"""Skills: the models of a node at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..knowledge.generator import FlowGenerator


@dataclass(frozen=True)
class Skills:
    """The models of one moment, replaced as a whole.

    Attributes:
        classifier_before, generator_before: as they were before the mesh taught them.
        public: what others may hear of, where that is not the classifier (`PrivateLearner`).
    """

    classifier: nn.Module
    classifier_before: nn.Module
    generator: FlowGenerator | None = None
    generator_before: FlowGenerator | None = None
    public: nn.Module | None = None
