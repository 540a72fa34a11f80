"""An anchor with a mixture of experts: taught, started again, and told to unlearn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from meshlore.errors import ModelError
from meshlore.knowledge import metrics
from meshlore.knowledge.experts import Mixture
from meshlore.knowledge.models import logits
from meshlore.knowledge.packet import coarse
from meshlore.node.actor import EdgeNode
from taught import learned, revoke_members, teach
from village import SPACE, TEST, Village, found, settled


@pytest.fixture
async def village(tmp_path: Path):
    village = Village(tmp_path, found(tmp_path), settings={"anchor": {"experts": 3}})
    yield village
    await village.stop()


def accuracy(node: EdgeNode) -> list[float]:
    return metrics.per_class_accuracy(logits(node.skills.classifier, TEST.images, SPACE), TEST.labels).tolist()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


async def test_a_revoked_author_costs_its_expert_alone_also_after_a_restart(village: Village) -> None:
    anchor = await village.start("anchor")
    await teach(village, anchor, "ann", "cid")
    first = anchor.skills.classifier
    assert isinstance(first, Mixture)
    assert len(first.experts) == 2
    assert min(accuracy(anchor)) > 0.5
    packets = [entry.packet for entry in anchor.library.samples().values()]
    skill = anchor.learner.make_skill(anchor.skills, packets, [1, 2], 100_000)
    assert set(skill.labels) == {1, 2}
    assert np.array_equal(skill.logits, coarse(logits(first.part([1, 2]), skill.images, SPACE)))
    assert len(first.part([1, 2]).experts) == 1
    await village.stop()

    revoke_members(village, "cid")
    again = await village.start("anchor")
    assert again.skills.classifier.origins == first.origins
    await settled(again, when=lambda: learned(again) == {"ann"})
    rest = again.skills.classifier
    assert len(rest.experts) == 1
    assert same(rest.experts[0], first.experts[0])
    assert accuracy(again)[3] == 0
    await village.stop()

    village.settings = {}
    with pytest.raises(ModelError, match="delete the state folder to learn anew"):
        await village.start("anchor")


async def test_when_all_teachers_are_revoked_no_expert_is_left(village: Village) -> None:
    anchor = await village.start("anchor")
    await teach(village, anchor, "ben", "cid")
    revoke_members(village, "ben", "cid")
    anchor.renew(village.members["anchor"])
    await settled(anchor, when=lambda: not learned(anchor))
    assert len(anchor.skills.classifier.experts) == 0
    assert not any(anchor.competence.classify)
