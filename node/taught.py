"""What lessons come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..knowledge.trust import Verdict


@dataclass(frozen=True)
class Taught:
    """What a distillation came to. ``classifier`` is the old one when ``kept`` is False; ``public``: see `Skills`.

    ``at_home``: accuracy on the private hold-out before and after, where there is one.
    """

    classifier: nn.Module
    kept: bool
    reason: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    public: nn.Module | None = None
    at_home: tuple[float, float] | None = None


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning came to: accuracies on the images taught, and at home (private hold-out).

    ``untaught``: what `Skills.classifier_before` becomes, as the private data have become more.
    """

    classifier: nn.Module
    untaught: nn.Module
    before: float
    after: float
    home_before: float
    home_after: float
    kept: bool
