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


@pytest.mark.parametrize(
    ("space", "refines", "private"),
    [(SPACE, False, 32), (SPACE, True, 32), (LARGE, False, 128), (LARGE, True, 2), (LARGE, None, 16)],
)
def test_samples_of_many_pixels_are_learned_beside_much_private_data_by_who_tells_and_little_by_who_listens(
    space, refines, private
):
    assert distilling(DistilSettings(), Learning(), space, refines=refines).private_batch == private
    assert distilling(DistilSettings.for_anchor(), Learning(), space, refines=refines).private_batch == 0
