"""The library: which packets are taken, which of them count, and what comes back after a restart."""

import sys
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from members import mesh_of
from meshlore.errors import DecodeError, NotAMember, Revoked, SecurityError
from meshlore.knowledge.packet import LogitPacket, SamplePacket, encode
from meshlore.knowledge.space import Space
from meshlore.node import library as subject
from meshlore.node.library import Entry, Library
from meshlore.node.store import PacketStore
from meshlore.security.governance import revoke
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from meshlore.security.sealing import name_of, seal

SPACE = Space((1, 8, 8), ("a", "b"), levels=17)
NOW = time.time()


def samples(space: Space = SPACE, level: int = 3) -> SamplePacket:
    images = np.full((2, *space.shape), level, np.uint8)
    return SamplePacket(space.id, "condensed", images, np.array([0, 1]), None, np.array([5, 5]))


def answers(about: str) -> LogitPacket:
    return LogitPacket(SPACE.id, (about,), (np.zeros((2, 2), np.float16),))


def sealed(packet, author: Credentials, seq: int, now: float | None = None) -> tuple[str, bytes]:
    data = seal(encode(packet), credentials=author, seq=seq, now=NOW if now is None else now)
    return name_of(data), data


@dataclass
class Shelf:
    """A library over a folder, which can be opened again."""

    owner: Credentials
    home: object

    def __post_init__(self):
        self.packets = PacketStore(self.home)
        self.library = Library(SPACE, self.owner, self.packets)

    def take(self, packet, author: Credentials, seq: int, now: float | None = None) -> Entry:
        return self.library.admit(*sealed(packet, author, seq, now), NOW)

    def reopened(self) -> tuple["Shelf", list[str]]:
        again = Shelf(self.owner, self.home)
        return again, again.library.load(NOW)


@pytest.fixture(autouse=True)
def _today(monkeypatch):
    """Certificates are of the time of the test, which may come long after this file was read."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", time.time())


@pytest.fixture
def people(new_member):
    return {name: new_member(name) for name in ("ann", "ben", "cid")}


@pytest.fixture
def shelf(people, tmp_path):
    return Shelf(people["ann"], tmp_path)


def test_an_admitted_packet_is_kept_on_disk_and_opened(shelf, people):
    entry = shelf.take(samples(), people["ben"], 1)
    assert (entry.author, entry.author_name, entry.seq) == (people["ben"].peer_id, "ben", 1)
    assert np.array_equal(entry.packet.images, samples().images)
    assert set(shelf.packets.inventory()) == {entry.name}
    assert shelf.library.get(entry.name) is entry


def test_of_each_author_the_newest_counts_in_whatever_order_packets_come(shelf, people):
    first = shelf.take(samples(level=1), people["ben"], 1)
    third = shelf.take(samples(level=3), people["ben"], 3)
    with pytest.raises(SecurityError, match="superseded by 3"):
        shelf.take(samples(level=2), people["ben"], 2)
    other = shelf.take(samples(level=9), people["cid"], 1)
    assert set(shelf.library.samples()) == {third.name, other.name}
    assert set(shelf.packets.inventory()) == {third.name, other.name}, "nobody can fill a device"
    with pytest.raises(SecurityError, match="two packets with the number 1"):
        shelf.take(samples(level=4), people["ben"], first.seq)
    assert shelf.library.newest_number(people["ben"].peer_id) == 3
    assert shelf.library.newest_number("nobody") == 0


def test_samples_and_answers_are_counted_apart_and_answers_come_in_the_order_of_their_making(shelf, people):
    mine = shelf.take(samples(level=5), people["ann"], 1)
    late = shelf.take(answers(mine.name), people["ben"], 9, now=NOW - 10)
    early = shelf.take(answers(mine.name), people["cid"], 1, now=NOW - 90)
    first = shelf.take(samples(), people["ben"], 3)
    assert list(shelf.library.answers()) == [early.name, late.name]
    assert shelf.library.of_others() == [first, early, late]
    assert shelf.library.own_samples() == mine


def test_two_packets_with_one_sequence_number_are_refused(shelf, people):
    kept = shelf.take(samples(level=1), people["ben"], 4)
    with pytest.raises(SecurityError, match="two packets with the number 4"):
        shelf.take(samples(level=2), people["ben"], 4)
    assert set(shelf.packets.inventory()) == {kept.name}
    shelf.take(samples(level=2), people["cid"], 4)


def test_the_same_packet_again_changes_nothing(shelf, people):
    name, data = sealed(samples(), people["ben"], 1)
    assert shelf.library.admit(name, data, NOW).name == shelf.library.admit(name, data, NOW).name
    assert len(shelf.library.samples()) == 1


def test_a_packet_of_another_mesh_is_refused(shelf):
    root, charter = MeshRoot.create("others", {}, NOW)
    identity = Identity.generate()
    certificate = root.issue(identity.peer_id, "eve", ["node"], identity.hpke_public_key, NOW)
    stranger = Credentials(identity, charter, certificate, Keyring.generate())
    with pytest.raises(NotAMember):
        shelf.take(samples(), stranger, 1)
    assert shelf.packets.inventory() == {}


def test_a_packet_of_another_space_is_refused(shelf, people):
    with pytest.raises(DecodeError):
        shelf.take(samples(replace(SPACE, version=2)), people["ben"], 1)
    assert shelf.packets.inventory() == {}


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:80] + bytes([d[80] ^ 1]) + d[81:], lambda _d: b"x"])
def test_damaged_bytes_are_refused_under_their_own_name_and_under_the_old_one(shelf, people, change):
    name, data = sealed(samples(), people["ben"], 1)
    damaged = change(data)
    for claimed in (name, name_of(damaged)):
        with pytest.raises((DecodeError, SecurityError)):
            shelf.library.admit(claimed, damaged, NOW)
    assert shelf.packets.inventory() == {}
    assert shelf.library.of_others() == []


def test_a_restart_opens_again_what_was_admitted(shelf, people):
    mine = shelf.take(samples(level=5), people["ann"], 1)
    theirs = shelf.take(samples(), people["ben"], 2)
    said = shelf.take(answers(mine.name), people["ben"], 3)
    again, notes = shelf.reopened()
    assert notes == []
    assert [entry.name for entry in again.library.of_others()] == [theirs.name, said.name]
    assert again.library.own_samples().name == mine.name
    with pytest.raises(SecurityError, match="two packets"):
        again.take(samples(level=7), people["ben"], 2)


def test_loading_drops_damaged_files_with_a_note_each_and_keeps_the_rest(shelf, people):
    good = shelf.take(samples(), people["ben"], 1)
    damaged = shelf.take(samples(), people["cid"], 1)
    path = shelf.home / "packets" / damaged.name
    path.write_bytes(path.read_bytes()[:100])
    again, notes = shelf.reopened()
    assert set(again.packets.inventory()) == {good.name}
    assert not path.exists(), "so that it can be pulled again, whole"
    assert len(notes) == 1
    assert damaged.name[:12] in notes[0]
    again.take(samples(), people["cid"], 1)


def test_packets_may_come_while_somebody_looks(shelf, people):
    """`admit` runs beside the event loop: a thread may add a packet in the middle of anybody's look."""
    shelf.take(samples(), people["ben"], 1)
    shelf.take(samples(), people["cid"], 1)
    entries, comings = shelf.library._entries, []

    class Watched(LogitPacket):
        @property
        def __class__(self):  # isinstance() asks for this: the look is under way
            if not comings:
                comings.append(threading.Thread(target=shelf.take, args=(samples(), people["ben"], 10)))
                comings[0].start()
                comings[0].join(0.5)  # it may have to wait for the end of the look
            return LogitPacket

    watched = Watched(SPACE.id, ("a" * 64,), (np.zeros((2, 2), np.float16),))
    first = Entry("w", "someone", "someone", 1, NOW, watched)
    shelf.library._entries = {"w": first} | entries
    assert people["ben"].peer_id in {entry.author for entry in shelf.library.of_others()}
    comings[0].join(5)
    assert shelf.library.newest_number(people["ben"].peer_id) == 10


def test_a_packet_that_is_opened_while_its_author_is_revoked_does_not_stay(tmp_path, monkeypatch):
    ann, ben = mesh_of("ann", "ben")
    shelf = Shelf(ann, tmp_path)
    opened = shelf.library._open

    def open_and_be_overtaken(*arguments):
        entry = opened(*arguments)
        shelf.library.renew(revoke(ann, ben.peer_id, time.time()))
        return entry

    monkeypatch.setattr(shelf.library, "_open", open_and_be_overtaken)
    with pytest.raises(Revoked):
        shelf.take(samples(), ben, 1)
    assert not shelf.library.of_others()
    assert not shelf.packets.inventory()


def test_what_is_put_in_order_while_the_space_grows_is_put_in_order_anew(shelf, people, monkeypatch):
    aligned, wider = subject.aligned, SPACE.grown(["c"])
    shelf.take(samples(), people["ben"], 1)

    def align_and_be_overtaken(packet, space):
        monkeypatch.setattr(subject, "aligned", aligned)
        if space is SPACE:
            shelf.library.grow(wider)
        return aligned(packet, space)

    monkeypatch.setattr(subject, "aligned", align_and_be_overtaken)
    shelf.library.samples()
    (entry,) = shelf.library.samples().values()
    assert len(entry.packet.class_counts) == wider.num_classes


def test_of_two_packets_with_one_number_that_come_at_once_one_is_refused(shelf, people, monkeypatch):
    both_opened, results = threading.Barrier(2, timeout=5), []
    opened = shelf.library._open

    def slow_open(*arguments):
        entry = opened(*arguments)
        both_opened.wait()
        return entry

    monkeypatch.setattr(shelf.library, "_open", slow_open)
    put = shelf.packets.put

    def slow_put(name, data):
        time.sleep(0.05)
        put(name, data)

    monkeypatch.setattr(shelf.packets, "put", slow_put)

    def admit(packet):
        try:
            results.append(shelf.take(packet, people["ben"], 4))
        except SecurityError as error:
            results.append(error)

    threads = [threading.Thread(target=admit, args=(samples(level=level),)) for level in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(isinstance(result, SecurityError) for result in results) == [False, True]
    assert len(shelf.packets.inventory()) == 1
