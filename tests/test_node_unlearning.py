"""What authors taught who are revoked or prove wrong does not stay in the models of those they taught."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from meshlore.knowledge import metrics
from meshlore.knowledge.models import logits
from meshlore.knowledge.packet import encode
from meshlore.knowledge.trust import Verdict
from meshlore.node.actor import EdgeNode
from meshlore.node.tasks import Skill
from meshlore.security.membership import Credentials
from meshlore.security.sealing import name_of, seal
from taught import learned, packet_of, revoke_members, teach
from village import FOUNDER, LEARNING, SPACE, TEST, Village, found, settled

TOOLBOX = {"learning": LEARNING.model_copy(update={"lessons": "asked"}), "service": {"skills": "asked"}}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Credentials]]:
    """Homes of the village after ann and ben have taught the anchor, and its members."""
    folder = tmp_path_factory.mktemp("village")
    members = found(folder)

    async def taught() -> None:
        village = Village(folder, members)
        await teach(village, await village.start("anchor"), "ann", "ben")
        await village.stop()

    asyncio.run(taught())
    return folder, members


@pytest.fixture
def village(homes: tuple[Path, dict[str, Credentials]], tmp_path: Path) -> Village:
    shutil.copytree(homes[0], tmp_path / "homes")
    return Village(tmp_path / "homes", dict(homes[1]))


@pytest.fixture
async def anchor(village: Village) -> AsyncIterator[EdgeNode]:
    """The anchor alone; those who taught it are gone."""
    yield await village.start("anchor")
    await village.stop()


def knows(node: EdgeNode, label: int) -> float:
    said = logits(node.skills.classifier, TEST.images, SPACE)
    return float(metrics.per_class_accuracy(said, TEST.labels)[label])


async def test_a_new_packet_teaches_the_anchor_without_starting_over(village: Village, anchor: EdgeNode) -> None:
    starts = []
    anchor.learner.distil = watched(anchor.learner.distil, starts)
    before = anchor.skills.classifier
    assert knows(anchor, 1) > 0.5
    await teach(village, anchor, "cid")
    assert starts == [before]
    assert learned(anchor) == {"ann", "ben", "cid"}


async def test_what_a_revoked_author_alone_knew_is_unlearned_and_the_rest_stays(
    village: Village, anchor: EdgeNode
) -> None:
    assert knows(anchor, 3) > 0.5
    assert anchor.skills.generator.seen.tolist() == [True] * 4
    revoke_members(village, "ben")
    anchor.renew(village.members["anchor"])
    await settled(anchor, when=lambda: learned(anchor) == {"ann"})
    assert knows(anchor, 3) < 0.2
    assert min(knows(anchor, label) for label in (0, 1, 2)) > 0.5
    assert anchor.skills.generator.seen.tolist() == [True, True, True, False]
    assert anchor.competence.classify[3] == 0


async def test_a_revocation_that_came_while_the_anchor_was_off_is_heeded_at_its_start(
    village: Village, anchor: EdgeNode
) -> None:
    await village.stop("anchor")
    revoke_members(village, "ben")
    again = await village.start("anchor")
    await settled(again, when=lambda: learned(again) == {"ann"})
    assert knows(again, 3) < 0.2


async def test_an_anchor_whose_teachers_are_all_revoked_knows_nothing(village: Village, anchor: EdgeNode) -> None:
    revoke_members(village, "ben", "cid")
    founder = village.members[FOUNDER]
    anchor.library._store.drop(next(e.name for e in anchor.library.of_others() if e.author == founder.peer_id))
    anchor.library._entries = {k: e for k, e in anchor.library._entries.items() if e.author != founder.peer_id}
    anchor.renew(village.members["anchor"])
    await settled(anchor, when=lambda: not learned(anchor))
    assert anchor.skills.classifier is anchor.skills.classifier_before
    assert anchor.skills.generator is None
    await village.stop("anchor")
    again = await village.start("anchor")
    await settled(again)
    assert again.skills.generator is None


async def test_an_author_that_proves_wrong_is_unlearned(village: Village, anchor: EdgeNode) -> None:
    ben, starts = village.members["ben"].peer_id, []
    weigh = anchor.learner.weigh

    def found_out(*arguments: object) -> dict[str, Verdict]:
        return {**weigh(*arguments), ben: Verdict(0.0, "as the test says")}

    anchor.learner.weigh = found_out
    anchor.learner.distil = watched(anchor.learner.distil, starts)
    tainted, untaught = anchor.skills.classifier, anchor.skills.classifier_before
    await teach(village, anchor, "cid")
    await settled(anchor, when=lambda: learned(anchor) == {"ann", "cid"})
    assert starts == [tainted, untaught]
    assert ben not in anchor.state.journal.generator_learned_from


async def test_when_learning_anew_fails_nothing_of_the_revoked_author_is_left(
    village: Village, anchor: EdgeNode
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("poison")

    anchor.learner.distil = anchor.learner.fit_generator = broken
    revoke_members(village, "ben")
    anchor.renew(village.members["anchor"])
    await settled(anchor, when=lambda: not learned(anchor))
    assert anchor.skills.classifier is anchor.skills.classifier_before
    assert anchor.skills.generator is None


async def test_a_node_that_unlearns_goes_on_from_what_its_own_data_taught(village: Village) -> None:
    cid = await village.start("cid")
    try:
        await teach(village, cid, "ann", "ben")
        assert knows(cid, 1) > 0.5
        revoke_members(village, "ben")
        cid.renew(village.members["cid"])
        await settled(cid, when=lambda: learned(cid) == {"ann"})
        assert min(knows(cid, label) for label in (0, 1, 3)) > 0.5
    finally:
        await village.stop()


async def learn_skill_of_ben(village: Village, anchor: EdgeNode, ann: EdgeNode) -> None:
    """Ann learns the class 3, of which ben alone published samples, from a skill of the anchor."""
    data, holder = anchor.make_skill([3]), village.members["anchor"].peer_id
    result = await ann.learn_skill(Skill(("3",)), data, holder, lambda *_: None)
    assert result.kept
    assert learned_in_skills(village, ann) == {"ben"}


def learned_in_skills(village: Village, node: EdgeNode) -> set[str]:
    names = {member.peer_id: name for name, member in village.members.items()}
    return {names[author] for author in node.state.journal.learned_from if author in names}


async def test_a_skill_is_unlearned_when_an_author_of_its_samples_is_revoked(village: Village) -> None:
    anchor = await village.start("anchor")
    ann = await village.start("ann", settings=TOOLBOX)
    try:
        await settled(ann, when=lambda: ann.skills and ann.skills.generator)
        await learn_skill_of_ben(village, anchor, ann)
        await settled(ann)
        assert knows(ann, 3) > 0.5
        assert ann.skills.generator.seen.tolist() == [True] * 4
        revoke_members(village, "ben")
        ann.renew(village.members["ann"])
        await settled(ann, when=lambda: not ann.state.journal.learned_from)
        assert ann.toolbox.names() == frozenset()
        assert knows(ann, 3) < 0.2
        assert ann.skills.generator.seen.tolist() == [True, True, True, False]
    finally:
        await village.stop()


async def test_a_skill_is_unlearned_when_an_author_of_its_samples_proves_wrong(village: Village) -> None:
    anchor = await village.start("anchor")
    ann = await village.start("ann", settings=TOOLBOX)
    try:
        await settled(ann, when=lambda: ann.skills)
        await learn_skill_of_ben(village, anchor, ann)
        ben, weigh = village.members["ben"].peer_id, ann.learner.weigh
        ann.learner.weigh = lambda *given: {**weigh(*given), ben: Verdict(0.0, "as the test says")}
        data = seal(encode(packet_of("cid")), credentials=village.members["cid"], seq=1, now=time.time())
        await ann.accept(name_of(data), data, "cid")
        await settled(ann, when=lambda: learned_in_skills(village, ann) == {"cid"})
        assert ann.toolbox.names() == frozenset()
        assert knows(ann, 3) < 0.2
        again = await ann.learn_skill(
            Skill(("3",)), anchor.make_skill([3]), anchor.credentials.peer_id, lambda *_: None
        )
        assert (again.kept, again.reason) == (False, "an author of its samples is not trusted")
    finally:
        await village.stop()


def watched(distil: Callable[..., object], starts: list[object]) -> Callable[..., object]:
    def distil_watched(classifier: object, *arguments: object, **more: object) -> object:
        starts.append(classifier)
        return distil(classifier, *arguments, **more)

    return distil_watched
