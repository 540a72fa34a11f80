"""Tasks on their way: the best node first, another when it fails, in pieces, within the deadline."""

import asyncio
import itertools
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from fake_host import BRIGHT, DARK, IMAGES, SPACE, Brightness, FakeHost, Painter
from meshlore.codec import pack, pack_array, unpack_array
from meshlore.errors import DeadlineExceeded, InvalidTask, NoCapableNode, PeerGone, PeerTimeout, Refused
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.space import Space
from meshlore.node.forwarding import AT_ONCE
from meshlore.node.lane import MAX_URGENT, Lane
from meshlore.node.pieces import LOCAL_CHUNK
from meshlore.node.results import result_from_map
from meshlore.node.service import TaskService
from meshlore.node.skills import Skills
from meshlore.node.tasks import CHUNK_BYTES, Classify, Evaluate, FineTune, Generate, to_map


@pytest.fixture
async def host():
    host = FakeHost(Lane("test"), Skills(Brightness(), Brightness(turned=-1), Painter(), None))
    yield host
    await host.lane.close()


@pytest.fixture
async def served(host):
    """``served(...)``: what a peer with the same skills answers."""
    service = TaskService(FakeHost(host.lane, host.skills))

    async def answer(body, _timeout_s):
        return await service.serve(body)

    return answer


async def submit(host, task, timeout_s=5.0):
    said = []
    reply = await TaskService(host).submit(to_map(task), timeout_s, lambda *news: said.append(news))
    assert pack(reply), "a result can travel"
    return result_from_map(reply, took_s=0.0), said


def tried(host):
    return [name for name, _ in host.asked]


async def hangs(_body, timeout_s):
    await asyncio.sleep(timeout_s)
    raise PeerTimeout("it did not answer")


async def gives_up_early(_body, timeout_s):
    await asyncio.sleep(0.9 * timeout_s)
    raise PeerTimeout("it did not answer")


async def broken(_body, _timeout_s):
    raise PeerGone("the connection broke")


async def test_a_task_is_done_here_when_nobody_is_better(host, served):
    host.peers["ben"] = (0.5, served)
    result, said = await submit(host, Classify(IMAGES))
    assert result.labels == ("a", "b", "b")
    assert all(0.99 < share <= 1 for share in result.confidence)
    assert (result.answer.node, result.answer.peer_id, result.answer.hop) == ("home", "home-id", "here")
    assert said == [(1.0, "classify on home")]
    assert host.asked == []


async def test_the_better_node_is_asked_and_named(host, served):
    host.peers |= {"ben": (0.7, served), "anchor": (0.9, served)}
    result, _ = await submit(host, Classify(IMAGES))
    assert result.labels == ("a", "b", "b")
    assert (result.answer.node, result.answer.hop, result.answer.tried) == ("anchor", "anchor", ())
    assert tried(host) == ["anchor"]


@pytest.mark.parametrize("failure", [broken, hangs])
async def test_who_fails_is_followed_by_the_next_and_is_named_as_tried(host, served, failure):
    host.peers |= {"bad": (0.9, failure), "ben": (0.8, served)}
    started = time.monotonic()
    result, _ = await submit(host, Classify(IMAGES), timeout_s=1.0)
    assert time.monotonic() - started < 1.0
    assert (result.answer.node, result.answer.tried) == ("ben", ("bad",))


async def test_a_node_that_hangs_leaves_time_for_two_more(host, served):
    host.peers |= {"one": (0.9, hangs), "two": (0.8, hangs), "ben": (0.7, served)}
    result, _ = await submit(host, Classify(IMAGES), timeout_s=2.0)
    assert (result.answer.node, result.answer.tried) == ("ben", ("one", "two"))


def reply_of(images=DARK[None], **changes):
    async def answer(_body, _timeout_s):
        return {"images": pack_array(images), "confidence": 1.0} | changes

    return answer


def logits_of(array):
    async def answer(_body, _timeout_s):
        return {"logits": pack_array(array)}

    return answer


@pytest.mark.parametrize(
    ("task", "liar"),
    [
        (Classify(IMAGES), logits_of(np.zeros((2, 2), np.float32))),
        (Classify(IMAGES), logits_of(np.zeros((3, 3), np.float32))),
        (Classify(IMAGES), logits_of(np.zeros((3, 2), np.uint8))),
        (Classify(IMAGES), logits_of(np.full((3, 2), np.nan, np.float32))),
        (Classify(IMAGES), reply_of()),
        (Generate("a", 2), reply_of()),
        (Generate("a", 1), reply_of(DARK[None] + 17)),
        (Generate("a", 1), reply_of(confidence=1.5)),
        (Generate("a", 1), reply_of(confidence=True)),
        (Generate("a", 1), reply_of(images=DARK[None, :, :7])),
        (Generate("a", 1), logits_of(np.zeros((1, 2), np.float32))),
    ],
)
async def test_a_reply_that_does_not_fit_the_task_is_refused_and_another_node_is_asked(host, task, liar):
    host.peers["liar"] = (0.9, liar)
    result, _ = await submit(host, task)
    assert (result.answer.node, result.answer.tried) == ("home", ("liar",))


async def test_when_everyone_fails_the_error_says_why(host):
    host.quality, host.peers["ben"] = 0.0, (0.9, broken)
    with pytest.raises(NoCapableNode, match="the connection broke"):
        await submit(host, Classify(IMAGES))


@pytest.mark.parametrize("slow", [hangs, gives_up_early])
@pytest.mark.parametrize("where", ["best", "ben"])
async def test_the_only_node_that_hangs_costs_the_deadline_and_no_more(host, where, slow):
    host.quality, host.peers["ben"] = 0.0, (0.9, slow)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await submit(host, Classify(IMAGES, where=where), timeout_s=0.4)
    assert 0.3 < time.monotonic() - started < 0.8


async def test_work_here_that_takes_too_long_ends_at_the_deadline(host):
    running, release = threading.Event(), threading.Event()

    def slow(_step):
        running.set()
        return release.wait(5)

    long = asyncio.create_task(host.lane.train("slow", slow))
    assert await asyncio.to_thread(running.wait, 5)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="classify"):
        await submit(host, Classify(IMAGES), timeout_s=0.2)
    assert time.monotonic() - started < 0.7
    release.set()
    await long


async def test_a_big_batch_goes_in_pieces_that_fit_and_comes_back_in_order(host, served):
    host.peers["ben"] = (0.9, served)
    bright = np.random.default_rng(0).random(2 * LOCAL_CHUNK + 5) < 0.5
    result, said = await submit(host, Classify(np.where(bright[:, None, None, None], BRIGHT, DARK)))
    assert result.labels == tuple("b" if one else "a" for one in bright)
    assert len(host.asked) == 3
    assert all(len(pack(body)) < CHUNK_BYTES + 1000 for _, body in host.asked)
    assert [fraction for fraction, _ in said] == [1 / 3, 2 / 3, 1.0]


async def test_images_of_the_largest_size_are_sent_in_frames_of_less_than_a_mebibyte(host):
    large = Space((3, 64, 64), ("a", "b"))
    host.space = large

    async def answer(body, _timeout_s):
        return {"logits": pack_array(np.zeros((body["images"]["shape"][0], 2), np.float32))}

    host.peers["ben"] = (0.9, answer)
    result, _ = await submit(host, Classify(np.zeros((100, *large.shape), np.uint8)))
    assert len(result.labels) == 100
    assert max(len(pack(body)) for _, body in host.asked) < 2**20


async def test_a_node_that_dies_in_the_middle_of_a_batch_costs_only_the_rest(host, served):
    answers = iter([served])

    async def dies_after_one(body, timeout_s):
        return await next(answers, broken)(body, timeout_s)

    host.peers["ben"] = (0.9, dies_after_one)
    result, _ = await submit(host, Classify(np.repeat(IMAGES, LOCAL_CHUNK, axis=0)))
    assert result.labels == ("a",) * LOCAL_CHUNK + ("b",) * 2 * LOCAL_CHUNK
    assert (result.answer.node, result.answer.tried, result.answer.hop) == ("home, ben", ("ben",), "peer")
    assert result.by == ("ben",) * LOCAL_CHUNK + ("home",) * 2 * LOCAL_CHUNK


async def test_generated_images_are_of_the_class_and_every_piece_has_a_seed_of_its_own(host):
    result, _ = await submit(host, Generate("b", 2 * LOCAL_CHUNK + 1, seed=2**31 - 1))
    assert result.images.shape == (2 * LOCAL_CHUNK + 1, 1, 8, 8)
    assert np.all(result.images == 16)
    assert (result.label, result.confidence) == ("b", 1.0)
    assert len(set(host.skills.generator.seeds)) == 3
    host.skills = replace(host.skills, classifier=Brightness(turned=-1))
    assert (await submit(host, Generate("b", 4)))[0].confidence == 0.0, "by the maker's own classifier"


async def test_an_evaluation_says_all_four_shares(host):
    host.prior = np.array([0.25, 0.75])
    host.skills = replace(host.skills, classifier_before=host.skills.classifier)
    images, labels = np.stack([DARK, BRIGHT, BRIGHT, DARK]), [0, 1, 1, 1]
    result, _ = await submit(host, Evaluate(images, labels))
    assert (result.images, result.accuracy) == (4, 0.75)
    assert result.per_class == pytest.approx({"a": 1.0, "b": 2 / 3})
    assert result.balanced == pytest.approx(5 / 6)
    assert result.personal == pytest.approx(0.25 + 0.75 * 2 / 3)


async def test_before_is_the_classifier_as_it_was_here_and_is_shown_to_nobody_else(host, served):
    host.peers["ben"] = (0.9, served)
    then, _ = await submit(host, Evaluate(IMAGES, [0, 1, 1], version="before"))
    assert (then.accuracy, then.answer.node) == (0.0, "home")
    with pytest.raises(InvalidTask, match="their own device only"):
        await submit(host, Evaluate(IMAGES, [0, 1, 1], where="ben", version="before"))
    with pytest.raises(Refused, match="this device's own user"):
        await TaskService(host).serve(to_map(Generate("a", version="before")))
    with pytest.raises(NoCapableNode, match="no generator yet"):
        await submit(host, Generate("a", version="before"))


async def test_the_personal_head_knows_the_own_class_mix_and_is_for_this_devices_user(host, served):
    host.peers["ben"] = (0.9, served)
    with pytest.raises(InvalidTask, match="no personal head"):
        await submit(host, Classify(IMAGES, head="personal"))
    host.prior = np.array([0.9, 0.1])
    # both have half of the vote and contradict each other: the class mix at home decides
    assert (await submit(host, Classify(IMAGES, head="personal")))[0].labels == ("a", "a", "a")
    # what the mesh taught and what it knows alone disagree, and the latter is sound: it has most of the vote
    host.held_out = Dataset(SPACE, np.stack([DARK, BRIGHT]), np.array([1, 0]))
    result, _ = await submit(host, Classify(IMAGES, head="personal"))
    assert (result.labels, result.answer.node) == (("b", "a", "a"), "home")
    assert (await submit(host, Evaluate(IMAGES, [1, 0, 0])))[0].personal == 1.0
    with pytest.raises(InvalidTask, match="its own device only"):
        await submit(host, Classify(IMAGES, head="personal", where="ben"))
    with pytest.raises(Refused, match="this device's own user"):
        await TaskService(host).serve(to_map(Classify(IMAGES, head="personal")))


async def test_where_names_the_node_that_answers_or_nobody_does(host, served):
    host.peers |= {"ben": (0.3, served), "bad": (0.9, broken)}
    for where, node in (("ben", "ben"), ("ben-id", "ben"), ("here", "home"), ("home", "home")):
        result, _ = await submit(host, Classify(IMAGES, where=where))
        assert result.answer.node == node
    with pytest.raises(NoCapableNode, match="connection broke"):
        await submit(host, Classify(IMAGES, where="bad"))
    for task in (Classify(IMAGES, where="zoe"), Generate("a", where="zoe")):
        with pytest.raises(NoCapableNode, match="no live node named 'zoe'"):
            await submit(host, task)


async def test_a_task_served_for_a_peer_is_done_here_and_never_forwarded(host, served):
    host.quality = 0.1
    host.peers["ben"] = (0.9, served)
    for where in ("best", "ben", "here"):
        reply = await TaskService(host).serve(to_map(Classify(IMAGES, where=where)))
        assert set(reply) == {"logits", "added"}
    assert host.asked == []


@pytest.mark.parametrize("task", [Generate("a", 4096), Classify(np.repeat(IMAGES, 100, axis=0)), {"kind": "?"}, None])
async def test_a_peer_cannot_ask_for_more_than_one_piece_or_for_nonsense(host, task):
    with pytest.raises(InvalidTask):
        await TaskService(host).serve(task if task is None or isinstance(task, dict) else to_map(task))


async def test_fine_tuning_is_not_for_peers_and_a_node_that_still_learns_says_so(host):
    with pytest.raises(Refused) as caught:
        await TaskService(host).serve(to_map(FineTune(IMAGES, [0, 1, 1])))
    assert caught.value.code == "role"
    host.skills = None
    with pytest.raises(Refused) as caught:
        await TaskService(host).serve(to_map(Classify(IMAGES)))
    assert caught.value.code == "not-ready"
    with pytest.raises(NoCapableNode, match="still learning"):
        await submit(host, Classify(IMAGES))


async def test_near_copies_of_private_images_are_not_drawn_for_others(host):
    task = to_map(Generate("a", n=6))
    host.unlike_private = lambda images, _label: np.arange(len(images)) % 2 == 0
    reply = await TaskService(host).serve(task)
    assert unpack_array(reply["images"], max_bytes=10_000).shape == (6, *host.space.shape)
    host.unlike_private = lambda images, _label: np.zeros(len(images), bool)
    with pytest.raises(Refused, match="too like its own images"):
        await TaskService(host).serve(task)
    mine, _ = await submit(host, Generate("a", n=6))
    assert len(mine.images) == 6


async def test_a_full_lane_sends_the_task_elsewhere_or_says_so_in_one_line(host, served):
    running, release = threading.Event(), threading.Event()

    def slow():
        running.set()
        release.wait(5)

    full = [asyncio.create_task(host.lane.serve(slow))]
    assert await asyncio.to_thread(running.wait, 5)
    full += [asyncio.create_task(host.lane.serve(lambda: None)) for _ in range(MAX_URGENT)]
    await asyncio.sleep(0)
    host.confusion = np.eye(2, dtype=np.float32)
    with pytest.raises(NoCapableNode, match=r"this node has too many tasks waiting: try again in a moment"):
        await submit(host, Classify(IMAGES))
    free = Lane("free")
    service = TaskService(FakeHost(free, host.skills))

    async def answer(body, _timeout_s):
        return await service.serve(body)

    host.peers["ben"] = (0.5, answer)
    result, _ = await submit(host, Classify(IMAGES))
    assert (result.answer.node, result.answer.tried) == ("ben", ("home",))
    release.set()
    await asyncio.gather(*full)
    await free.close()


class FullNowAndThen(Lane):
    """Has no room for some pieces, counted from 0."""

    def __init__(self, refused):
        super().__init__("full now and then")
        self._refused, self._asked = refused, itertools.count()

    async def serve(self, work):
        if next(self._asked) in self._refused:
            raise Refused("this node has too many tasks waiting", "try again in a moment", code="busy")
        return await super().serve(work)


@pytest.fixture
async def full(request, host):
    await host.lane.close()
    host.lane = FullNowAndThen(request.param)


@pytest.mark.parametrize("full", [range(AT_ONCE, AT_ONCE + 3)], indirect=True)
async def test_a_task_that_is_being_done_waits_for_room_on_the_lane(host, full):
    result, _ = await submit(host, Generate("b", n=8 * LOCAL_CHUNK))
    assert len(result.images) == 8 * LOCAL_CHUNK
    assert result.answer.tried == ()


@pytest.mark.parametrize("full", [range(AT_ONCE, sys.maxsize)], indirect=True)
async def test_a_lane_that_stays_full_costs_the_deadline(host, full):
    with pytest.raises(DeadlineExceeded, match="give it more time"):
        await submit(host, Generate("b", n=8 * LOCAL_CHUNK), timeout_s=1.0)
