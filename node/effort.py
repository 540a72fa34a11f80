"""How much work goes into each piece of learning: what the settings say, else what the space calls for."""

from __future__ import annotations

from dataclasses import replace

from ..knowledge.condense import CondenseSettings
from ..knowledge.copies import Guard
from ..knowledge.distil import DistilSettings
from ..knowledge.lessons import Lessons
from ..knowledge.space import Space
from .settings import Learning

MAX_SAMPLE_BYTES = 3 * 1024 * 1024


def default_classifier_steps(space: Space) -> int:
    return 150 if space.is_small else 500


def classifier_steps(settings: Learning, space: Space) -> int:
    return settings.classifier_steps or default_classifier_steps(space)


def condensing(settings: Learning, space: Space, guard: Guard) -> CondenseSettings:
    chosen = CondenseSettings.for_space(space)
    return replace(
        chosen,
        per_class=settings.samples_per_class or chosen.per_class,
        iterations=settings.condense_steps or chosen.iterations,
        size_limit_bytes=MAX_SAMPLE_BYTES,
        guard=guard,
    )


def distilling(
    chosen: DistilSettings,
    settings: Learning,
    space: Space,
    lessons: Lessons | None = None,
    *,
    skill: bool = False,
    refines: bool | None = None,
) -> DistilSettings:
    """``chosen`` for samples of this size, with the steps that the settings say.

    Args:
        lessons: what is learned from, if answers to them are worth longer learning.
        skill: they are all that will be learned of their classes.
        refines: True: others have heard what is known here, and hear nothing that comes of it. False: they will hear
            what comes of it. None: neither.
    """
    if not space.is_small:
        chosen = chosen.for_many_pixels()
        if refines is not None:
            chosen = chosen.for_listening() if refines else chosen.for_teaching()
    if skill or (not space.is_small and lessons is not None and lessons.said):
        chosen = chosen.twice_as_long()
    return replace(chosen, steps=settings.distil_steps or chosen.steps)
