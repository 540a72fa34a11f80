"""The store's quota: what goes first, what never goes, and that nothing given up comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import SecurityError
from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.knowledge.space import Space
from meshlore.node.eviction import Held, to_evict
from meshlore.node.library import Library
from meshlore.node.store import MAX_DECLINED, PacketStore
from meshlore.security.membership import Credentials
from meshlore.security.sealing import name_of, seal

SPACE = Space((1, 8, 8), ("a", "b"), levels=17)

PACKETS = st.lists(
    st.builds(
        Held,
        st.uuids().map(str),
        st.integers(1, 100),
        st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
        st.booleans(),
    ),
    unique_by=lambda held: held.name,
)


def sealed(author: Credentials, seq: int, now: float) -> tuple[str, bytes]:
    images = np.random.default_rng(seq).integers(0, 16, (2, *SPACE.shape), dtype=np.uint8)
    packet = SamplePacket(SPACE.id, "condensed", images, np.array([0, 1]), None, np.array([5, 5]))
    data = seal(encode(packet), credentials=author, seq=seq, now=now)
    return name_of(data), data


@given(PACKETS, st.integers(0, 1000))
def test_the_quota_is_kept_with_as_few_of_the_least_weight_as_do_and_never_an_own_one(
    held: list[Held], quota_bytes: int
) -> None:
    names = to_evict(held, quota_bytes)
    gone, kept = [h for h in held if h.name in names], [h for h in held if h.name not in names]
    assert not any(packet.own for packet in gone)
    assert sum(h.size_bytes for h in kept) <= quota_bytes or all(packet.own for packet in kept)
    for other in kept:
        assert other.own or all(packet.weight <= other.weight for packet in gone)
    if names:
        last = next(packet for packet in held if packet.name == names[-1])
        assert sum(h.size_bytes for h in kept) + last.size_bytes > quota_bytes


def test_among_equals_those_that_came_first_go_first() -> None:
    held = [Held(name, 10, 0.5, own=False) for name in "abcd"]
    assert to_evict(held, 20) == ["a", "b"]


def test_a_full_store_gives_up_what_is_trusted_least_and_does_not_take_it_again(
    tmp_path: Path, new_member: Callable[..., Credentials]
) -> None:
    me, liar, friend, other = (new_member(name) for name in ("me", "liar", "friend", "other"))
    now = float(me.certificate.not_before + 1)
    packets = {member.certificate.name: sealed(member, 1, now) for member in (me, liar, friend, other)}
    size_bytes = max(len(data) for _, data in packets.values())
    store = PacketStore(tmp_path, quota_bytes=3 * size_bytes)
    library = Library(SPACE, me, store)
    weights = {liar.peer_id: 0.0, friend.peer_id: 1.0}
    library.weight_of = lambda author: weights.get(author, 0.5)
    for name, data in packets.values():
        library.admit(name, data, now)
    evicted = packets["liar"][0]
    assert set(store.inventory()) == {name for who, (name, _) in packets.items() if who != "liar"}
    assert {entry.author_name for entry in library.of_others()} == {"friend", "other"}
    assert store.declines(evicted)
    assert PacketStore(tmp_path).declines(evicted), "it is known after a restart, too"


def test_a_smaller_quota_is_kept_from_the_next_start_on(tmp_path: Path, new_member: Callable[..., Credentials]) -> None:
    me, ann, ben = (new_member(name) for name in ("me", "ann", "ben"))
    now = float(me.certificate.not_before + 1)
    library = Library(SPACE, me, PacketStore(tmp_path))
    for member in (me, ann, ben):
        library.admit(*sealed(member, 1, now), now)
    again = Library(SPACE, me, PacketStore(tmp_path, quota_bytes=1))
    assert [note[:15] for note in again.load(now)] == ["gave up packet "] * 2
    assert again.own_samples() is not None
    assert again.of_others() == []


def test_what_something_newer_replaced_is_not_transferred_again(
    tmp_path: Path, new_member: Callable[..., Credentials]
) -> None:
    me, ann = new_member("me"), new_member("ann")
    now = float(me.certificate.not_before + 1)
    store = PacketStore(tmp_path)
    library = Library(SPACE, me, store)
    oldest, older, newer = (sealed(ann, number, now) for number in (1, 2, 3))
    library.admit(*older, now)
    library.admit(*newer, now)
    with pytest.raises(SecurityError, match="superseded"):
        library.admit(*oldest, now)
    assert set(store.inventory()) == {newer[0]}
    assert store.declines(older[0])
    assert store.declines(oldest[0])


def test_the_names_given_up_are_bounded_and_a_torn_line_is_harmless(tmp_path: Path) -> None:
    store = PacketStore(tmp_path)
    for number in range(2 * MAX_DECLINED + 1):
        store.give_up(f"{number:064x}")
    assert not store.declines(f"{0:064x}")
    file = tmp_path / "packets" / "declined"
    assert len(file.read_text().split()) == MAX_DECLINED
    with file.open("a") as torn:
        torn.write("00ff")
    again = PacketStore(tmp_path)
    assert again.declines(f"{2 * MAX_DECLINED:064x}")
    assert again.inventory() == {}
