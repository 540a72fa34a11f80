"""A mesh with two anchors, with none, and with one that is gone: what it alone knew is all that is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from meshlore.errors import NoCapableNode
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.node.tasks import Classify, Evaluate
from village import TEST, Village, found, packets_of, settled, submit, until


@pytest.fixture
async def village(tmp_path: Path):
    village = Village(tmp_path, found(tmp_path))
    yield village
    await village.stop()


async def test_without_an_anchor_the_nodes_teach_each_other(village: Village) -> None:
    ann, ben = await village.start("ann"), await village.start("ben", "ann")
    await settled(ann, ben, when=lambda: ann.state.journal.taught_by and ben.state.journal.taught_by)
    for node, unseen in ((ann, "3"), (ben, "0")):
        assert (await submit(node, Evaluate(TEST.images, TEST.labels))).per_class[unseen] > 0.5


async def test_two_anchors_serve_one_mesh_and_losing_both_leaves_what_they_passed_on(village: Village) -> None:
    names = ("ann", "ben", "anchor", "anchor-2")
    nodes = {name: await village.start(name, "" if name == "ann" else "ann") for name in names}
    ann = nodes["ann"]
    await settled(*nodes.values(), when=lambda: packets_of(ann, LogitPacket) == {"ben", "anchor", "anchor-2"})
    for name in ("anchor", "anchor-2"):
        result = await submit(ann, Evaluate(TEST.images, TEST.labels, where=name))
        assert (result.answer.hop, min(result.per_class.values()) > 0.5) == ("anchor", True)

    await village.stop("anchor")
    assert (await submit(ann, Classify(TEST.images[:3], where="anchor-2"))).answer.node == "anchor-2"
    await village.stop("anchor-2", "ben")
    await until(lambda: not ann.neighbourhood.live())
    with pytest.raises(NoCapableNode):
        await submit(ann, Classify(TEST.images[:3], where="anchor-2"))
    assert (await submit(ann, Evaluate(TEST.images, TEST.labels))).per_class["3"] > 0.5

    cid = await village.start("cid", "ann")
    await settled(
        cid, when=lambda: packets_of(cid, LogitPacket) >= {"anchor", "anchor-2"} and cid.state.journal.taught_by
    )
    assert packets_of(cid, SamplePacket) == {"ann", "ben"}
    assert min((await submit(cid, Evaluate(TEST.images, TEST.labels))).per_class.values()) > 0.5
