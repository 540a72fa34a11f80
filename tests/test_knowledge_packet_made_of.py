"""A packet names whose packets it was made of: as sorted PeerIDs, and only if there are any."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import unpack
from meshlore.errors import PacketError
from meshlore.knowledge import packet
from meshlore.knowledge.packet import decode, encode
from meshlore.security.identity import peer_id_of
from packets import DIGITS, assert_same, changed, samples

peer_ids = st.binary(min_size=32, max_size=32).map(peer_id_of)


@settings(max_examples=30, deadline=None)
@given(st.sets(peer_ids, max_size=6))
def test_whose_packets_it_was_made_of_survives_the_wire(authors):
    sent = samples(made_of=tuple(sorted(authors)))
    assert_same(decode(encode(sent), DIGITS), sent)


SOMEBODY, ANOTHER = sorted(peer_id_of(bytes([byte]) * 32) for byte in (1, 2))
MANY = sorted(peer_id_of(place.to_bytes(32)) for place in range(packet.MAX_MADE_OF + 1))


def test_a_packet_of_the_authors_own_making_has_one_form_on_the_wire():
    assert "made_of" not in unpack(encode(samples()), max_bytes=2**22)
    with pytest.raises(PacketError, match="made of"):
        decode(changed(encode(samples()), made_of=[]), DIGITS)


@pytest.mark.parametrize(
    "authors",
    [[ANOTHER, SOMEBODY], [SOMEBODY] * 2, MANY, [SOMEBODY[:-1]], [SOMEBODY[:-1] + "0"], [SOMEBODY + "1"], [b"x" * 52]],
    ids=["unsorted", "twice", "too many", "short", "no base58", "long", "bytes"],
)
def test_authors_that_are_no_sorted_peer_ids_are_refused(authors):
    data = changed(encode(samples(made_of=(SOMEBODY,))), made_of=authors)
    with pytest.raises(PacketError, match="made of"):
        decode(data, DIGITS)
    if authors != [b"x" * 52]:
        with pytest.raises(PacketError, match="made of"):
            encode(samples(made_of=tuple(authors)))
