"""Skills: fetched when others had to answer, learned, used at home from then on, and never to its harm."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fake_host import BRIGHT, DARK, IMAGES, Brightness, FakeHost
from meshlore.codec import pack
from meshlore.errors import DecodeError, InvalidTask, NoCapableNode, PeerGone, Refused
from meshlore.knowledge.cutting import SKILL
from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.node.lane import Lane
from meshlore.node.load import LoadWatch
from meshlore.node.misses import AGAIN_S, ENOUGH, Misses
from meshlore.node.results import Answer, Learned, result_from_map
from meshlore.node.router import Competence
from meshlore.node.service import TaskService
from meshlore.node.skills import Skills
from meshlore.node.tasks import Classify, Skill, to_map
from meshlore.node.toolbox import SKILL_OF
from meshlore.security.sealing import seal
from village import LEARNING, TEST, Village, found, settled, submit, until


@pytest.fixture
async def host():
    host = FakeHost(Lane("test"), Skills(Brightness(), Brightness(), None))
    yield host
    await host.lane.close()


async def asked(host, task):
    reply = await TaskService(host).submit(to_map(task), 5.0, lambda *_: None)
    assert pack(reply), "a result can travel"
    return result_from_map(reply, took_s=0.0)


def learned(task, kept=True):
    return Learned(task.classes, 3, {"b": 0.1}, {"b": 0.9}, 1.0, 1.0, kept, "", Answer("home", "home-id", "here", 0.0))


def teachable(host):
    """Let the host learn whatever it is sent; who sent it, in order."""
    holders = []

    async def learn(task, data, holder, progress):
        holders.append((holder, data))
        return learned(task)

    host.learn_skill = learn
    return holders


async def gives(_body, _timeout_s):
    return {"packet": b"skill"}


async def broken(_body, _timeout_s):
    raise PeerGone("the connection broke")


async def has_none(_body, _timeout_s):
    raise Refused("this node has nothing to teach about 'b'", code="no-skill")


async def test_the_anchor_is_asked_first_and_named_with_what_failed_before(host):
    holders = teachable(host)
    host.peers |= {"ben": (0.95, gives), "anchor": (0.9, broken), "cid": (0.8, gives)}
    result = await asked(host, Skill(("b",)))
    assert [name for name, _ in host.asked] == ["anchor", "ben"]
    assert holders == [("ben-id", b"skill")]
    assert (result.answer.node, result.answer.hop, result.answer.tried) == ("ben", "peer", ("anchor",))
    assert host.asked[0][1] == {"classes": ["b"]}


async def test_a_name_says_whom_to_ask(host):
    holders = teachable(host)
    host.peers |= {"ben": (0.3, gives), "anchor": (0.9, gives)}
    await asked(host, Skill(("b",), where="ben"))
    assert [holder for holder, _ in holders] == ["ben-id"]


async def test_a_skill_that_nobody_has_is_one_clear_line(host):
    teachable(host)
    with pytest.raises(NoCapableNode, match="no live node can teach 'b' yet"):
        await asked(host, Skill(("b",)))
    host.peers |= {"ben": (0.9, has_none), "anchor": (0.9, broken)}
    with pytest.raises(NoCapableNode, match=r"nobody could teach 'b' .the connection.*; this node has nothing"):
        await asked(host, Skill(("b",)))
    with pytest.raises(NoCapableNode, match="no live node named 'zoe' can teach 'b'"):
        await asked(host, Skill(("b",), where="zoe"))


@pytest.mark.parametrize(
    ("task", "because"),
    [
        (Skill(("z",)), "no class 'z' in this mesh: its classes are a, b"),
        (Skill(()), "name 1 to"),
        (Skill(("b",), where="here"), "comes from another node"),
    ],
)
async def test_a_skill_that_makes_no_sense_is_one_clear_line(host, task, because):
    with pytest.raises(InvalidTask, match=because):
        await asked(host, task)


@pytest.mark.parametrize("reply", [{}, {"packet": "text"}, {"packet": b"", "more": 1}])
async def test_a_malformed_answer_sends_the_asker_to_the_next(host, reply):
    async def odd(_body, _timeout_s):
        return reply

    holders = teachable(host)
    host.peers |= {"anchor": (0.9, odd), "ben": (0.9, gives)}
    assert (await asked(host, Skill(("b",)))).answer.tried == ("anchor",)
    assert [holder for holder, _ in holders] == ["ben-id"]


class Asking:
    """The members' side of a mesh: who may ask what."""

    def __init__(self, host):
        self.kinds = {}
        TaskService(host).serve_members(SimpleNamespace(serve=self.serve))

    def serve(self, kind, handler, roles):
        self.kinds[kind] = (handler, roles)


async def test_skills_are_made_for_those_who_exchange_knowledge_about_classes_that_are_known(host):
    handler, roles = Asking(host).kinds["skill"]
    assert roles == {"node", "anchor"}
    wanted = []
    host.make_skill = lambda labels: wanted.append(labels) or b"sealed"
    assert await handler(None, {"classes": ["b", "of another mesh"]}) == {"packet": b"sealed"}
    assert wanted == [[1]]
    for body in ({}, {"classes": []}, {"classes": ["b", "b"]}, {"classes": [1]}, {"classes": ["b"] * 100}):
        with pytest.raises(DecodeError):
            await handler(None, body)
    host.make_skill = lambda labels: None
    for names in (["b"], ["of another mesh"]):
        with pytest.raises(Refused) as caught:
            await handler(None, {"classes": names})
        assert caught.value.code == "no-skill"


async def test_members_may_not_make_this_device_learn(host):
    with pytest.raises(Refused, match="its own user"):
        await TaskService(host).serve(to_map(Skill(("b",))))


def test_a_class_is_fetched_when_it_was_missed_often_and_not_again_too_soon():
    missed = Misses()
    missed.note({"b": ENOUGH - 1, "a": 1})
    assert missed.due(0.0) == ()
    missed.note({"b": 1})
    assert missed.due(0.0) == ("b",)
    missed.tried(("b",), 0.0)
    missed.note({"b": 10 * ENOUGH})
    assert missed.due(AGAIN_S - 1) == ()
    assert missed.due(AGAIN_S) == ("b",)


def test_load_is_told_when_it_has_changed_much():
    watch, quiet = LoadWatch(), Competence((), ())
    assert not any(watch.changed(0, 0.001) for _ in range(10))
    told = [watch.changed(30, 0.001) for _ in range(10)]
    assert told[0]
    assert sum(told) <= 5, "not at every look"
    assert 25 <= watch.seen(quiet).load <= 30
    told = [watch.changed(0, 0.5) for _ in range(10)]
    assert any(told)
    assert watch.seen(quiet).latency_s > 0.4


async def test_what_others_answer_again_and_again_is_fetched_in_the_background(host):
    def serve(skills):
        service = TaskService(FakeHost(host.lane, skills))

        async def answer(body, timeout_s):
            return await (gives(body, timeout_s) if "classes" in body else service.serve(body))

        return answer

    fetched = asyncio.Event()

    async def learn(task, data, holder, progress):
        lessons[task.classes] += 1
        fetched.set()
        return learned(task)

    lessons = Counter()
    host.learn_skill, host.fetches_skills = learn, True
    host.peers["ben"] = (0.9, serve(host.skills))
    service = TaskService(host)
    many = to_map(Classify(np.repeat(BRIGHT[None], ENOUGH, axis=0)))
    await service.submit(to_map(Classify(IMAGES)), 5.0, lambda *_: None)
    assert not lessons
    for _ in range(3):
        await service.submit(many, 5.0, lambda *_: None)
        await asyncio.wait_for(fetched.wait(), 5)
    assert lessons == {("b",): 1}
    await service.close()


async def test_a_batch_goes_in_parts_to_those_who_know_what_its_samples_probably_are(host):
    """Home takes bright samples for "b", and what it takes for "b" is mostly that; ben knows "b", cid knows "a"."""
    service = TaskService(FakeHost(host.lane, host.skills))

    async def answer(body, _timeout_s):
        return await service.serve(body)

    candidates = host.candidates

    def specialists():
        (home, *others) = candidates()
        skill = {"ben": (0.1, 0.9), "cid": (0.9, 0.1)}
        others = [SimpleNamespace(**vars(c)) for c in others]
        for other in others:
            other.competence = Competence(skill[other.name], ())
        return [home, *others]

    host.peers |= {"ben": (0.9, answer), "cid": (0.9, answer)}
    host.candidates = specialists
    host.quality = 0.4
    host.confusion = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)
    images = np.stack([DARK, BRIGHT, DARK, BRIGHT, BRIGHT])
    result = await asked(host, Classify(images))
    assert result.labels == ("a", "b", "a", "b", "b")
    assert result.by == ("cid", "ben", "cid", "ben", "ben")
    assert (result.answer.node, result.answer.hop) == ("ben, cid", "peer")
    assert {name: body["images"]["shape"][0] for name, body in host.asked} == {"ben": 3, "cid": 2}
    host.confusion = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    assert set((await asked(host, Classify(images))).by) == {"cid"}, "what home calls b is probably an a"


# --- whole nodes


@pytest.fixture
async def village(tmp_path):
    village = Village(tmp_path, found(tmp_path))
    yield village
    await village.stop()


TELLS = {"learning": LEARNING.model_copy(update={"samples_per_class": 20})}
ASKED = {"learning": LEARNING.model_copy(update={"lessons": "asked"}), "service": {"skills": "asked"}}


async def test_a_toolbox_node_learns_what_it_asks_for_and_serves_it_at_home_from_then_on(village):
    """Cid has the digits 0 and 3 and learns nothing else by itself; ben knows 1, 2 and 3."""
    ben = await village.start("ben", settings=TELLS)
    cid = await village.start("cid", "ben", settings=ASKED)
    await settled(ben, cid, when=lambda: ben.state.journal.taught_by and cid.library.samples().keys() and cid.skills)
    await until(lambda: any(c.hop != "here" for c in cid.candidates()))
    foreign = TEST.select_classes(("1", "2"))

    def right(result):
        return np.mean([TEST.space.classes.index(label) for label in result.labels] == foreign.labels)

    assert right(await submit(cid, Classify(foreign.images, where="here"))) == 0
    routed = await submit(cid, Classify(foreign.images))
    assert Counter(routed.by)["ben"] > len(foreign) / 2
    one = await submit(cid, Skill(("1",)))
    assert (one.kept, one.answer.node, one.answer.hop) == (True, "ben", "peer")
    assert one.before["1"] < 0.1
    assert one.after["1"] > 0.5
    assert one.after.keys() == {"1"}
    assert "2" not in (await submit(cid, Classify(foreign.images, where="here"))).labels, "nobody asked for it"
    await submit(cid, Skill(("2",)))
    await settled(ben, cid)
    after = await submit(cid, Classify(foreign.images))
    assert set(after.by) == {"cid"}
    assert right(after) > 0.7
    assert cid.toolbox.names() <= set(cid.state.journal.generator_taught_by)
    await village.stop("cid")
    again = await village.start("cid", "ben", settings=ASKED)
    assert again.toolbox.labels() == {1, 2}
    assert right(await submit(again, Classify(foreign.images, where="here"))) == right(after)


async def test_a_skill_that_lies_or_harms_is_not_kept_and_costs_its_maker_standing(village):
    """Ben sends zeros as ones."""
    ben = await village.start("ben")
    cid = await village.start("cid", "ben", settings=ASKED)
    await settled(ben, cid, when=lambda: cid.skills)
    zeros = cid.learner.private.images[cid.learner.private.labels == 0][:30]
    lie = np.clip(zeros.astype(int) + np.random.default_rng(0).integers(-2, 3, zeros.shape), 0, 16).astype(np.uint8)
    labels, counts = np.ones(len(lie), np.int64), np.array([0, 64, 0, 0])
    packet = SamplePacket(cid.space.id, SKILL, lie, labels, None, counts, made_of=(ben.credentials.peer_id,))
    ben.make_skill = lambda _labels: seal(encode(packet), credentials=ben.credentials, seq=0, now=time.time())
    before = await submit(cid, Classify(TEST.images, where="here"))
    result = await submit(cid, Skill(("1",)))
    assert not result.kept
    assert "is not trusted" in result.reason
    assert cid.toolbox.names() == frozenset()
    assert cid.state.journal.standing[SKILL_OF + ben.credentials.peer_id] < 1
    assert (await submit(cid, Classify(TEST.images, where="here"))).labels == before.labels
