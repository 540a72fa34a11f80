"""Skills: what is cut out of packets, and what of it is new."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from meshlore.knowledge.cutting import PER_CLASS, SKILL, cut, without
from meshlore.knowledge.lessons import assemble
from meshlore.knowledge.packet import SamplePacket, decode, encode
from meshlore.knowledge.space import Space
from meshlore.knowledge.trust import Verdict

SPACE = Space((1, 8, 8), ("a", "b", "c"))
PLENTY = 10**6


class Sure(torch.nn.Module):
    def forward(self, images):
        return torch.tensor([[0.0, 5.0, 1.0]]).expand(len(images), 3) + 0 * images.mean()


def packet(labels: str, seed: int = 0, counts: tuple[int, ...] = (8, 8, 8)) -> SamplePacket:
    numbers = np.array([SPACE.classes.index(label) for label in labels], np.int64)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), *SPACE.shape)).astype(np.uint8)
    return SamplePacket(SPACE.id, "condensed", images, numbers, None, np.array(counts, np.int64))


def test_a_skill_holds_the_wanted_classes_in_turns_with_the_answers_of_its_maker_and_can_travel():
    one, other = packet("aabbcc", 1, (8, 4, 2)), packet("bbc", 2, (0, 16, 2))
    skill = cut(Sure(), [one, other], [1], SPACE, most_bytes=PLENTY)
    assert skill is not None
    assert (skill.source, skill.labels.tolist(), skill.class_counts.tolist()) == (SKILL, [1] * 4, [0, 20, 0])
    expected = [one.images[2], other.images[0], one.images[3], other.images[1]]
    assert np.array_equal(skill.images, np.stack(expected))
    assert skill.logits is not None
    assert skill.logits.argmax(axis=1).tolist() == [1] * 4
    assert np.array_equal(decode(encode(skill), SPACE).images, skill.images)


def test_a_sample_that_several_show_is_in_it_once_and_a_class_has_a_bound():
    one = packet("b" * 40, 1)
    skill = cut(Sure(), [one, one, packet("b" * 60, 2)], [1], SPACE, most_bytes=PLENTY)
    assert skill is not None
    assert len(skill) == PER_CLASS
    assert len({image.tobytes() for image in skill.images}) == PER_CLASS


def test_nobody_has_a_skill_of_a_class_without_samples():
    assert cut(Sure(), [packet("aa")], [1, 2], SPACE, most_bytes=PLENTY) is None


def test_a_skill_is_as_small_as_it_must_be():
    whole = packet("a" * 64 + "b" * 64)
    skill = cut(Sure(), [whole], [0, 1], SPACE, most_bytes=3000)
    assert skill is not None
    assert len(encode(skill)) <= 3000
    assert np.bincount(skill.labels).tolist() == [16, 16]
    assert cut(Sure(), [whole], [0, 1], SPACE, most_bytes=10) is None


def test_what_others_show_already_is_no_part_of_what_is_new():
    one, other = packet("abc", 1), packet("abc", 2)
    both = SamplePacket(
        SPACE.id,
        SKILL,
        np.concatenate([one.images, other.images]),
        np.concatenate([one.labels, other.labels]),
        np.arange(18, dtype=np.float16).reshape(6, 3),
        one.class_counts,
    )
    new = without(both, [one])
    assert new is not None
    assert np.array_equal(new.images, other.images)
    assert new.logits is not None
    assert new.logits[0].tolist() == [9, 10, 11]
    assert without(both, [one, other]) is None


@pytest.mark.parametrize("classes", [None, {0, 1, 2}, {1}, set()])
def test_lessons_about_some_classes_give_the_others_no_weight(classes):
    lessons = assemble({"x": ("ann", packet("aabbcc"))}, [], {"ann": Verdict(1.0, "")}, SPACE).about(classes)
    taught = set(lessons.labels[lessons.weights > 0].tolist())
    assert taught == ({0, 1, 2} if classes is None else classes)
