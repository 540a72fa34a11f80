"""The toolbox: which skills come in, how long they stay, and what of them is used."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from members import mesh_of
from meshlore.errors import DecodeError, Revoked, SecurityError
from meshlore.knowledge.cutting import SKILL
from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.knowledge.space import Space
from meshlore.node.library import Library
from meshlore.node.store import PacketStore
from meshlore.node.toolbox import MAX_SKILLS, SKILL_OF, Toolbox
from meshlore.security.governance import revoke
from meshlore.security.identity import Identity
from meshlore.security.sealing import name_of, seal

SPACE = Space((1, 8, 8), ("a", "b", "c"))
SOMEBODY = Identity.generate().peer_id


@pytest.fixture
def ann(new_member):
    return new_member("ann")


@pytest.fixture
def library(tmp_path, ann):
    return Library(SPACE, ann, PacketStore(tmp_path))


@pytest.fixture
def toolbox(tmp_path, library, ann):
    return Toolbox(tmp_path, library, ann)


def samples(*labels, source=SKILL, seed=0, added=(), made_of=()):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), *SPACE.shape)).astype(np.uint8)
    counts = np.full(SPACE.num_classes + len(added), 8, np.int64)
    made_of = made_of or (SOMEBODY,) if source == SKILL else ()
    labels = np.array(labels, np.int64)
    return SamplePacket(SPACE.id, source, images, labels, None, counts, added=added, made_of=made_of)


def sealed(packet, by, seq=0):
    return seal(encode(packet), credentials=by, seq=seq, now=time.time())


def put(toolbox, by, packet, classes):
    data = sealed(packet, by)
    entry = toolbox.asked_for(data, by.peer_id, classes, time.time())
    toolbox.keep(entry, data)
    return entry


def test_a_skill_comes_in_stays_over_a_restart_and_is_for_lessons(toolbox, library, tmp_path, ann, new_member):
    ben = new_member("ben")
    entry = put(toolbox, ben, samples(1, 1, 2), ("b", "c"))
    again = Toolbox(tmp_path, library, ann)
    assert again.load(time.time()) == []
    for box in (toolbox, again):
        assert (box.names(), box.labels()) == ({entry.name}, {1, 2})
        assert [(e.author, e.packet.labels.tolist()) for e in box.entries()] == [(SKILL_OF + ben.peer_id, [1, 1, 2])]


@pytest.mark.parametrize(
    ("packet", "classes", "because"),
    [
        (samples(1, source="condensed"), ("b",), "no skill"),
        (samples(1, 2), ("b",), "not asked for"),
        (samples(1, 3, added=("d",)), ("b",), "not asked for"),
    ],
)
def test_what_was_not_asked_for_is_refused(toolbox, new_member, packet, classes, because):
    ben = new_member("ben")
    with pytest.raises(DecodeError, match=because):
        toolbox.asked_for(sealed(packet, ben), ben.peer_id, classes, time.time())


def test_a_skill_is_by_who_was_asked_and_by_a_member(toolbox, new_member):
    ben, cid = new_member("ben"), new_member("cid")
    with pytest.raises(DecodeError, match="did not make it: skill of cid"):
        toolbox.asked_for(sealed(samples(1), cid), ben.peer_id, ("b",), time.time())
    data = bytearray(sealed(samples(1), ben))
    data[-1] ^= 1
    with pytest.raises(SecurityError):
        toolbox.asked_for(bytes(data), ben.peer_id, ("b",), time.time())
    with pytest.raises(DecodeError):
        toolbox.asked_for(b"nonsense", ben.peer_id, ("b",), time.time())


def test_a_skill_is_no_publication(library, new_member):
    skill = samples(1)
    for packet in (skill, replace(skill, source="condensed"), replace(skill, made_of=())):
        data = sealed(packet, new_member("ben"), seq=7)
        with pytest.raises(DecodeError, match="no publication"):
            library.admit(name_of(data), data, time.time())


def test_a_skill_says_whose_packets_it_was_made_of(toolbox, new_member):
    ben = new_member("ben")
    with pytest.raises(DecodeError, match="does not say whose"):
        toolbox.asked_for(sealed(replace(samples(1), made_of=()), ben), ben.peer_id, ("b",), time.time())


def test_a_skill_goes_with_an_author_of_it_who_is_revoked_and_does_not_come_back(tmp_path):
    ann, ben, cid, dan = mesh_of("ann", "ben", "cid", "dan")
    toolbox = Toolbox(tmp_path, Library(SPACE, ann, PacketStore(tmp_path)), ann)
    put(toolbox, ben, samples(1, made_of=tuple(sorted([ben.peer_id, cid.peer_id]))), ("b",))
    kept = put(toolbox, ben, samples(2, made_of=(dan.peer_id,)), ("c",))
    tainted = sealed(samples(1, made_of=(cid.peer_id,), seed=1), ben)
    toolbox.renew(revoke(ann, cid.peer_id, time.time()))
    assert toolbox.names() == {kept.name}
    assert list((tmp_path / "skills").glob("[0-9a-f]*")) == [tmp_path / "skills" / kept.name]
    with pytest.raises(Revoked, match="a member that was revoked since"):
        toolbox.asked_for(tainted, ben.peer_id, ("b",), time.time())


@pytest.mark.parametrize("revoked", ["ben", "cid"])
def test_a_skill_whose_maker_or_author_is_revoked_during_its_lesson_is_not_kept(tmp_path, revoked):
    members = dict(zip(("ann", "ben", "cid"), mesh_of("ann", "ben", "cid"), strict=True))
    ann, ben, cid = members.values()
    toolbox = Toolbox(tmp_path, Library(SPACE, ann, PacketStore(tmp_path)), ann)
    data = sealed(samples(1, made_of=(cid.peer_id,)), ben)
    entry = toolbox.asked_for(data, ben.peer_id, ("b",), time.time())
    toolbox.renew(revoke(ann, members[revoked].peer_id, time.time()))
    toolbox.keep(entry, data)
    assert toolbox.names() == frozenset()
    assert not list((tmp_path / "skills").glob("[0-9a-f]*"))


def test_a_skill_goes_with_an_author_of_it_who_proves_wrong(toolbox, new_member):
    ben, cid = new_member("ben"), new_member("cid")
    put(toolbox, ben, samples(1, made_of=(cid.peer_id,)), ("b",))
    kept = put(toolbox, ben, samples(2), ("c",))
    toolbox.forget(lambda authors: frozenset(authors) & {cid.peer_id})
    assert toolbox.names() == {kept.name}


def test_a_newer_skill_takes_the_place_of_what_it_makes_needless_and_there_is_a_bound(toolbox, new_member):
    ben = new_member("ben")
    put(toolbox, ben, samples(1), ("b",))
    put(toolbox, ben, samples(2), ("c",))
    both = put(toolbox, ben, samples(1, 2, seed=1), ("b", "c"))
    assert toolbox.names() == {both.name}
    many = [put(toolbox, ben, samples(0, 1, 2, seed=2), ("a", "b", "c"))]
    for place in range(MAX_SKILLS + 3):
        entry = replace(many[0], name=f"{place:064x}", packet=samples(place % 3, seed=place))
        entry = replace(entry, packet=replace(entry.packet, labels=np.array([100 + place])))
        toolbox.keep(entry, b"data")
    assert len(toolbox.names()) == MAX_SKILLS


def test_a_damaged_skill_is_dropped_with_a_note(toolbox, library, tmp_path, ann, new_member):
    entry = put(toolbox, new_member("ben"), samples(1), ("b",))
    (tmp_path / "skills" / entry.name).write_bytes(b"damaged")
    again = Toolbox(tmp_path, library, ann)
    assert [note.startswith(f"dropped skill {entry.name[:12]}") for note in again.load(time.time())] == [True]
    assert list((tmp_path / "skills").glob("[0-9a-f]*")) == []


def test_what_an_author_published_itself_is_its_own_in_a_skill_of_another(toolbox, library, new_member):
    ben, cid = new_member("ben"), new_member("cid")
    whole = samples(1, 1, 2)
    published = replace(samples(1, 1, source="condensed"), images=whole.images[:2])
    data = sealed(published, cid, seq=1)
    library.admit(name_of(data), data, time.time())
    put(toolbox, ben, whole, ("b", "c"))
    (entry,) = toolbox.entries()
    assert np.array_equal(entry.packet.images, whole.images[2:])
    assert toolbox.labels() == {1, 2}
