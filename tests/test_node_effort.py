"""How long a node learns: by what it learns from, unless the settings say otherwise."""

import pytest
from meshlore.knowledge.distil import DistilSettings
from meshlore.knowledge.space import Space
from meshlore.node.effort import distilling
from meshlore.node.settings import Learning
from village import SPACE

LARGE = Space((1, 28, 28), SPACE.classes)
USUAL = DistilSettings().steps


@pytest.mark.parametrize(
    ("space", "skill", "chosen", "steps"),
    [(SPACE, False, 0, USUAL), (SPACE, True, 0, 2 * USUAL), (LARGE, True, 0, 4 * USUAL), (SPACE, True, 7, 7)],
    ids=["few pixels", "a skill", "a skill of many pixels", "as the settings say"],
)
def test_a_skill_is_learned_twice_as_long_as_what_others_follow(space, skill, chosen, steps):
    assert distilling(DistilSettings(), Learning(distil_steps=chosen), space, skill=skill).steps == steps
