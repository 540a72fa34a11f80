"""Sealed packets: members read them, others see their outside only."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import pack, unpack
from meshlore.errors import BadSignature, DecodeError, NotAMember, SecurityError
from meshlore.security.identity import Identity
from meshlore.security.keyring import Keyring, MeshKey
from meshlore.security.membership import Credentials
from meshlore.security.root import MeshRoot
from meshlore.security.sealing import MAX_SEALED_BYTES, inspect, name_of, open_sealed, seal

NOW = 1_800_000_000.0
DAY_S = 86_400
CANARY = b"canary: a private sample of this device"
ROOT, CHARTER = MeshRoot.create("lab", {}, NOW)
KEYRING = Keyring.generate()


def member(root: MeshRoot = ROOT, *, keyring: Keyring = KEYRING, now: float = NOW) -> Credentials:
    identity = Identity.generate()
    charter = CHARTER if root is ROOT else OTHER_CHARTER
    certificate = root.issue(identity.peer_id, "alpha", ["node"], identity.hpke_public_key, now, 2 * DAY_S)
    return Credentials(identity, charter, certificate, keyring)


OTHER_ROOT, OTHER_CHARTER = MeshRoot.create("lab", {}, NOW)
ALICE, BOB = member(), member()
PACKET = seal(CANARY, credentials=ALICE, seq=7, now=NOW)


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 2**63 - 1))
def test_a_member_reads_what_another_sealed(body: bytes, seq: int) -> None:
    data = seal(body, credentials=ALICE, seq=seq, now=NOW)
    sealed = open_sealed(data, BOB, NOW)
    assert sealed.body == body
    assert (sealed.author, sealed.author_name, sealed.roles) == (ALICE.peer_id, "alpha", frozenset({"node"}))
    assert (sealed.seq, sealed.created_at, sealed.name) == (seq, NOW, name_of(data))


def test_a_packet_is_named_by_its_hash_and_its_outside_can_be_read_without_a_key() -> None:
    assert name_of(PACKET) == hashlib.sha256(PACKET).hexdigest()
    header = inspect(PACKET)
    assert (header.mesh_id, header.author, header.seq) == (CHARTER.mesh_id, ALICE.peer_id, 7)
    assert (header.epoch, header.created_at, header.size_bytes) == (1, NOW, len(PACKET))


def test_no_part_of_the_body_is_in_the_sealed_bytes() -> None:
    assert not any(CANARY[start : start + 5] in PACKET for start in range(len(CANARY) - 4))


def test_sealing_costs_less_than_600_bytes() -> None:
    assert len(PACKET) - len(CANARY) < 600


def test_the_same_body_is_never_sealed_to_the_same_bytes() -> None:
    again = seal(CANARY, credentials=ALICE, seq=7, now=NOW)
    assert again != PACKET
    assert again[-64 - 32 : -64] != PACKET[-64 - 32 : -64]


def test_a_member_with_another_mesh_key_cannot_open_it() -> None:
    for keyring, cause in [
        (Keyring.generate(), "mesh key of epoch 1 does not open"),
        (Keyring((MeshKey.generate(2),)), "no mesh key of epoch 1"),
    ]:
        with pytest.raises(SecurityError, match=cause):
            open_sealed(PACKET, replace(BOB, keyring=keyring), NOW)


def test_packets_of_earlier_epochs_stay_readable_and_new_ones_use_the_newest() -> None:
    later = Keyring((*KEYRING.keys, MeshKey.generate(2)))
    assert open_sealed(PACKET, replace(BOB, keyring=later), NOW).body == CANARY
    assert inspect(seal(b"", credentials=replace(ALICE, keyring=later), seq=8, now=NOW)).epoch == 2


def test_a_packet_of_another_mesh_is_refused() -> None:
    foreign = seal(CANARY, credentials=member(OTHER_ROOT), seq=1, now=NOW)
    with pytest.raises(NotAMember, match="of another mesh"):
        open_sealed(foreign, BOB, NOW)


def test_a_packet_from_the_future_is_refused_beyond_ten_minutes() -> None:
    open_sealed(PACKET, BOB, NOW - 600)
    with pytest.raises(SecurityError, match=r"700 s in the future: check the clocks"):
        open_sealed(PACKET, BOB, NOW - 700)


def test_an_author_that_expired_later_keeps_teaching() -> None:
    assert open_sealed(PACKET, BOB, NOW + 300 * DAY_S).body == CANARY


def test_an_author_that_was_no_member_then_is_refused_and_told_so_when_it_seals() -> None:
    expired = member(now=NOW - 10 * DAY_S)
    with pytest.raises(NotAMember, match="expired 8 d ago"):
        seal(CANARY, credentials=expired, seq=1, now=NOW)
    packet = seal(CANARY, credentials=expired, seq=1, now=NOW - 10 * DAY_S)
    late = _with_header(packet, expired, created_at=int(NOW))
    with pytest.raises(NotAMember, match="no member when it was made: the certificate expired 8 d ago"):
        open_sealed(late, BOB, NOW)


def test_nobody_can_publish_in_anothers_name() -> None:
    """Eve is a member and has the mesh key, but not Alice's."""
    eve = member()
    stolen = replace(eve, certificate=ALICE.certificate)
    with pytest.raises(NotAMember):
        seal(b"lies", credentials=stolen, seq=8, now=NOW)
    with pytest.raises(BadSignature):
        open_sealed(_with_header(PACKET, eve, seq=8), BOB, NOW)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_packet_is_refused(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(PACKET) - 1))
    byte = bytes([PACKET[position] ^ data.draw(st.integers(1, 255))])
    head, tail = PACKET[:position], PACKET[position + 1 :]
    for mutant in (head + byte + tail, head + tail, head + byte + PACKET[position:], head):
        with pytest.raises((SecurityError, DecodeError)):
            open_sealed(mutant, BOB, NOW)
        with contextlib.suppress(DecodeError):
            inspect(mutant)


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_noise_is_no_packet(noise: bytes, more: bytes) -> None:
    for data in (noise, b"MLP1" + noise, b"MLP1" + len(noise).to_bytes(2, "big") + noise + more):
        with pytest.raises(DecodeError):
            open_sealed(data, BOB, NOW)
        with pytest.raises(DecodeError):
            inspect(data)


def test_too_large_a_packet_is_neither_made_nor_read() -> None:
    largest = MAX_SEALED_BYTES - (len(PACKET) - len(CANARY))
    data = seal(bytes(largest), credentials=ALICE, seq=7, now=NOW)
    assert len(open_sealed(data, BOB, NOW).body) == largest
    with pytest.raises(DecodeError, match="at most"):
        open_sealed(data + b"x", BOB, NOW)
    with pytest.raises(ValueError, match="limit"):
        seal(bytes(largest + 100), credentials=ALICE, seq=7, now=NOW)


def test_a_bomb_of_nested_containers_is_refused_at_once() -> None:
    bomb = b"MLP1\xff\xff" + b"\x9f" * 1000 + b"\x90" * (MAX_SEALED_BYTES - 1006)
    started_s = time.monotonic()
    with pytest.raises(DecodeError):
        open_sealed(bomb, BOB, NOW)
    assert time.monotonic() - started_s < 0.05


def _with_header(packet: bytes, forger: Credentials, **changes: int) -> bytes:
    """``packet`` with other header fields, signed by ``forger`` in its author's place."""
    length = int.from_bytes(packet[4:6], "big")
    header = pack({**unpack(packet[6 : 6 + length], max_bytes=1024), **changes})
    signed = b"MLP1" + len(header).to_bytes(2, "big") + header + packet[6 + length : -64]
    return signed + forger.identity.sign("packet", signed)
