"""Whole nodes over the in-memory network: they teach each other, survive, and obey their user.

One small village is taught once for this file; most tests start from a copy of its homes.
"""

import asyncio
import shutil
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled, DataError, DecodeError, NoCapableNode, SecurityError
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.trust import Verdict
from meshlore.mesh.memory import MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh
from meshlore.node import build
from meshlore.node.checkpoints import FileCheckpoint
from meshlore.node.status import describe
from meshlore.node.store import private_additions
from meshlore.node.tasks import Classify, Evaluate, FineTune, Generate
from meshlore.security.sealing import seal
from village import LEARNING, QUICK, SPACE, TEST, Village, digits, found, packets_of, settled, submit, until


def weights_of(model: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    return {} if model is None else {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """``(folder, members, facts)``: homes of a village that has settled, and what its nodes said of themselves."""
    folder = tmp_path_factory.mktemp("village")
    members = found(folder)

    async def teach() -> dict[str, dict[str, Any]]:
        village = Village(folder, members)
        nodes = {name: await village.start(name, "" if name == "ann" else "ann") for name in ("ann", "ben", "anchor")}
        await settled(*nodes.values(), when=lambda: all(node.state.journal.taught_by for node in nodes.values()))
        facts = {}
        for name, node in nodes.items():
            facts[name] = {
                "status": describe(node),
                "samples_from": packets_of(node, SamplePacket),
                "answers_from": packets_of(node, LogitPacket),
                "before": await submit(node, Evaluate(TEST.images, TEST.labels, version="before")),
                "now": await submit(node, Evaluate(TEST.images, TEST.labels)),
                "drawn": await submit(node, Generate("0", 3, where="here")),
                "answered": (await submit(node, Classify(TEST.images[:3]))).answer.node,
                "weights": weights_of(node.skills.classifier),
                "expert": weights_of(node.skills.expert),
            }
        await village.stop()
        return facts

    return folder, members, asyncio.run(teach())


@pytest.fixture
async def village(taught, tmp_path):
    """A copy of the taught village; nobody runs yet."""
    shutil.copytree(taught[0], tmp_path / "homes")
    village = Village(tmp_path / "homes", taught[1])
    yield village
    await village.stop()


def test_nodes_publish_gather_distil_answer_and_settle(taught):
    ann, ben, anchor = (taught[2][name] for name in ("ann", "ben", "anchor"))
    for fact in (ann, ben, anchor):
        assert (fact["status"]["stage"], fact["status"]["settled"]) == ("taught", True)
        assert fact["drawn"].images.shape == (3, *SPACE.shape)
    assert (ann["samples_from"], ann["answers_from"]) == ({"ben"}, {"ben", "anchor"})
    assert (ann["status"]["taught_by"], ben["status"]["taught_by"]) == (["anchor", "ben"], ["anchor", "ann"])
    assert [fact["status"]["sequence"] for fact in (ann, ben)] == [2, 2], "samples once, then logits"


def test_what_a_node_was_when_it_answered_stays_as_its_expert(taught):
    ann, anchor = taught[2]["ann"], taught[2]["anchor"]
    assert any(not torch.equal(value, ann["weights"][key]) for key, value in ann["expert"].items())
    assert not anchor["expert"], "an anchor has no personal head"


def test_each_learns_the_class_that_only_the_other_has_and_forgets_nothing(taught):
    for name, unseen in (("ann", "3"), ("ben", "0")):
        before, now = taught[2][name]["before"], taught[2][name]["now"]
        assert before.per_class[unseen] < 0.1
        assert now.per_class[unseen] > 0.5
        assert now.personal > before.personal - 0.05


def test_an_anchor_learns_from_packets_only_and_publishes_answers_only(taught):
    anchor = taught[2]["anchor"]
    assert (anchor["status"]["samples"], anchor["now"].personal) == (0, None)
    assert anchor["before"].balanced < 0.5
    assert anchor["now"].balanced > 0.7
    assert "anchor" not in taught[2]["ann"]["samples_from"]
    assert "anchor" in taught[2]["ann"]["answers_from"]


async def test_a_restart_goes_on_without_retraining(village, taught):
    then = taught[2]["ann"]
    ann = await village.start("ann")
    journal = ann.state.journal
    assert (journal.version, journal.sequence) == (then["status"]["version"], then["status"]["sequence"])
    await settled(ann)
    assert ann.state.journal == journal
    assert describe(ann)["taught_by"] == then["status"]["taught_by"]
    for model, known in ((ann.skills.classifier, "weights"), (ann.skills.expert, "expert")):
        assert model.state_dict().keys() == then[known].keys()
        assert all(torch.equal(value, then[known][key]) for key, value in model.state_dict().items())
    assert (await submit(ann, Evaluate(TEST.images, TEST.labels))).per_class == then["now"].per_class
    assert (await submit(ann, Evaluate(TEST.images, TEST.labels, version="before"))).per_class == then[
        "before"
    ].per_class


async def test_a_restarted_node_catches_up_on_an_author_that_is_offline_by_now(village):
    ben, cid = await village.start("ben"), await village.start("cid", "ben")
    await until(lambda: "cid" in packets_of(ben, SamplePacket))
    await village.stop("cid")
    ann = await village.start("ann", "ben")
    old = ann.state.journal
    await settled(ann, when=lambda: "cid" in describe(ann)["taught_by"])
    assert "cid" not in {peer.name for peer in ann.neighbourhood.live()}
    assert np.array_equal(
        next(e.packet.images for e in ann.library.samples().values() if e.author_name == "cid"),
        cid.library.own_samples().packet.images,
    )
    assert ann.state.journal.sequence >= old.sequence
    numbers = [seq for author, seq in ann.library._by_number if author == ann.credentials.peer_id]
    assert sorted(numbers) == list(range(1, ann.state.journal.sequence + 1)), "none reused, none lost"


async def test_who_answers_after_patience_ran_out_is_heard_then(tmp_path):
    """cid takes long for its first lesson; the others learn from each other's answers, and from its own once it has."""
    go_on = threading.Event()

    def slow(node):
        distil = node.learner.distil

        def late(*arguments, **more):
            go_on.wait(30)
            return distil(*arguments, **more)

        node.learner.distil = late

    village = Village(tmp_path, found(tmp_path), settings={"learning": LEARNING.model_copy(update={"patience_s": 1.0})})
    ann = await village.start("ann")
    ben = await village.start("ben", "ann")
    cid = await village.start("cid", "ann", node=slow)
    try:
        early = {village.members[name].peer_id for name in ("ann", "ben")}
        await until(lambda: all(len(early & {*node.state.journal.heard}) == 1 and node.settled for node in (ann, ben)))
        late = village.members["cid"].peer_id
        assert all(late not in node.state.journal.heard for node in (ann, ben))
        then = [node.state.journal.refined for node in (ann, ben)]
        go_on.set()
        await settled(ann, ben, cid, when=lambda: all(late in node.state.journal.heard for node in (ann, ben)))
        assert [node.state.journal.refined - before for node, before in zip((ann, ben), then, strict=True)] == [1, 1]
    finally:
        go_on.set()
        await village.stop()


async def test_a_peer_answers_by_name_and_its_death_is_noticed(village):
    ben, ann = await village.start("ben"), await village.start("ann", "ben")
    await until(lambda: any(c.name == "ben" for c in ann.candidates()))
    assert (await submit(ann, Classify(TEST.images[:3], where="ben"))).answer.node == "ben"
    village.network.kill(ben.credentials.peer_id)
    with pytest.raises(NoCapableNode):
        await submit(ann, Classify(TEST.images[:3], where="ben"))
    assert (await submit(ann, Classify(TEST.images[:3]))).answer.node == "ann"


async def test_fine_tuning_is_on_disk_when_its_result_comes_and_there_after_a_restart(village):
    ann = await village.start("ann")
    await settled(ann)
    version, sequence, samples = ann.state.journal.version, ann.state.journal.sequence, len(ann.learner.private)
    more = digits("3", most=20)
    result = await submit(ann, FineTune(more.images, more.labels, steps=30))
    assert (result.kept, result.images) == (True, 20)
    assert ann.state.journal.version == version + 1
    assert len(private_additions(village.folder / "ann")) == 1
    assert len(ann.learner.private) == samples + 20
    await settled(ann)
    assert ann.library.own_samples().seq > sequence, "fresh samples for the others"
    assert 3 in ann.library.own_samples().packet.labels
    weights, journal = ann.skills.classifier.state_dict(), ann.state.journal
    await village.stop()
    again = await village.start("ann")
    await settled(again)
    assert (len(again.learner.private), again.state.journal) == (samples + 20, journal)
    assert all(torch.equal(value, weights[key]) for key, value in again.skills.classifier.state_dict().items())


async def test_fine_tuning_that_makes_the_node_worse_at_home_is_rolled_back(village):
    ann = await village.start("ann")
    await settled(ann)
    journal, skills = ann.state.journal, ann.skills
    wrong = digits("012")
    images, labels = np.tile(wrong.images, (4, 1, 1, 1)), np.tile((wrong.labels + 1) % 3, 4)
    result = await submit(ann, FineTune(images, labels, steps=150))
    assert not result.kept
    assert result.home_after < result.home_before
    assert (ann.state.journal, ann.skills) == (journal, skills)
    assert private_additions(village.folder / "ann") == []


async def test_stopping_ends_fine_tunings_in_flight_and_waiting_with_a_typed_error(village):
    ann = await village.start("ann")
    await settled(ann)
    more = digits("3", most=20)
    asked = [asyncio.create_task(submit(ann, FineTune(more.images, more.labels, steps=20_000))) for _ in range(3)]
    await until(lambda: ann.lane.state.label == "fine-tuning")
    await asyncio.wait_for(village.stop(), 3)
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 2)
    assert [type(outcome) for outcome in outcomes] == [Cancelled] * 3


async def test_stopping_in_the_middle_of_training_is_quick_and_leaves_the_state_before_it(village):
    def trains_for_ever(node):
        node.learner.settings = LEARNING.model_copy(update={"classifier_steps": 1_000_000})

    cid = await village.start("cid", node=trains_for_ever)
    await until(lambda: cid.lane.state.fraction > 0)
    await asyncio.wait_for(village.stop(), 3)
    assert cid.state.journal.version == 0
    assert [path.name for path in (village.folder / "cid" / "state").iterdir()] == []


async def test_condensing_that_was_stopped_goes_on_after_a_restart(village, monkeypatch):
    monkeypatch.setattr(build, "FileCheckpoint", partial(FileCheckpoint, every_s=0))
    enough = asyncio.Event()

    def stopped_in_the_middle(node):
        loop, condense = asyncio.get_running_loop(), node.learner.condense

        def watched(step):
            def watch(fraction):
                if fraction > 0.5:
                    loop.call_soon_threadsafe(enough.set)
                    raise Cancelled("stopped")
                step(fraction)

            return condense(watch)

        node.learner.condense = watched

    told = []

    def listened_to(node):
        condense = node.learner.condense
        node.learner.condense = lambda step: condense(lambda fraction: (told.append(fraction), step(fraction)))

    await village.start("cid", node=stopped_in_the_middle)
    await asyncio.wait_for(enough.wait(), 60)
    await village.stop()
    cid = await village.start("cid", node=listened_to)
    await until(lambda: cid.state.journal.published)
    assert told[0] == pytest.approx(0.5 + 1 / LEARNING.condense_steps)
    assert not cid.state.in_progress.exists()


async def test_garbage_packets_are_refused_and_nothing_breaks(village):
    ann = await village.start("ann")
    await settled(ann)
    journal, known = ann.state.journal, set(ann.packets.inventory())
    eve, store = village.members["cid"], MemoryStore()
    blobs = [b"garbage", seal(b"garbage", credentials=eve, seq=1, now=time.time()), b"x" * 300_000]
    names = {store.put(blob) for blob in blobs}
    refused = set()
    accept = ann.shelf.accept

    async def watched(name, data, from_peer):
        try:
            await accept(name, data, from_peer)
        except (SecurityError, DecodeError):
            refused.add(name)
            raise

    ann.shelf.accept = watched
    mesh = Mesh(MemoryTransport(eve, village.network), settings=QUICK, store=store)
    await mesh.start([f"/memory/ann/p2p/{ann.credentials.peer_id}"])
    try:
        await until(lambda: refused == names)
        await settled(ann)
    finally:
        await mesh.stop()
    assert (ann.state.journal, set(ann.packets.inventory())) == (journal, known)
    assert not ann.running.done()
    assert (await submit(ann, Classify(TEST.images[:2]))).answer.node == "ann"


@pytest.mark.parametrize("kind", [ZeroDivisionError, DataError])
async def test_an_error_in_learning_ends_the_node_with_that_error(village, kind):
    def broken(node):
        node.learner.train = lambda _step: (_ for _ in ()).throw(kind("in training"))

    cid = await village.start("cid", node=broken)
    with pytest.raises(kind, match="in training"):
        await asyncio.wait_for(cid.running, 5)


@pytest.mark.parametrize("work", ["distil", "fit_generator"])
async def test_an_error_in_learning_from_others_is_set_aside_and_costs_them_standing(village, work):
    def broken(node):
        if work == "distil":
            node.learner.distil = lambda *_, **__: (_ for _ in ()).throw(ZeroDivisionError("poison"))
        else:
            fit = node.learner.fit_generator
            node.learner.fit_generator = lambda foreign, *rest: fit(foreign, *rest) if not foreign else 1 / 0

    shutil.rmtree(village.folder / "ann" / "state")
    ann = await village.start("ann", node=broken)
    await settled(ann)
    assert ann.skills is not None
    assert ann.state.journal.standing
    assert all(factor < 1 for factor in ann.state.journal.standing.values())
    assert (await submit(ann, Classify(TEST.images[:2]))).answer.node == "ann"


async def test_an_anchor_that_trusts_nobody_waits(village):
    def distrustful(node):
        node.learner.weigh = lambda foreign, _standing: {entry.author: Verdict(0.0, "no") for entry in foreign}

    shutil.rmtree(village.folder / "anchor" / "state")
    anchor = await village.start("anchor", node=distrustful)
    await settled(anchor, timeout_s=10)
    assert anchor.skills is None


async def test_an_anchor_without_anything_to_generate_from_waits(village):
    def nothing(node):
        node.learner.fit_generator = lambda *_: None

    shutil.rmtree(village.folder / "anchor" / "state")
    anchor = await village.start("anchor", node=nothing)
    await settled(anchor, timeout_s=10)
    assert anchor.skills.generator is None


async def test_a_node_that_lost_its_state_learns_anew_and_still_reuses_no_number(village):
    old = await village.start("ann")
    newest = old.state.journal.sequence
    await village.stop()
    shutil.rmtree(village.folder / "ann" / "state")
    ann = await village.start("ann")
    await settled(ann)
    assert ann.library.own_samples().seq > newest
