"""Signed address records: nobody can say for another where it listens."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import pack, unpack
from meshlore.errors import DecodeError
from meshlore.mesh.addresses import load_book, save_book
from meshlore.mesh.records import DOMAIN, MAX_RECORD_BYTES, issue_record, read_record
from meshlore.security.identity import Identity
from meshlore.security.invites import host_of

ANN, BEN = Identity.generate(), Identity.generate()
NOW = 1_700_000_000
RECORD = issue_record(ANN.peer_id, [f"/ip4/192.168.1.5/tcp/4810/p2p/{ANN.peer_id}"], b"instance", ANN.sign, NOW)


def signed(by: Identity = ANN, **changed: object) -> bytes:
    """A record with these fields, properly signed."""
    fields = unpack(RECORD.data, max_bytes=MAX_RECORD_BYTES) | changed
    del fields["signature"]
    return pack({**fields, "signature": by.sign(DOMAIN, pack(fields))})


def test_a_record_survives_the_wire() -> None:
    assert read_record(RECORD.data) == RECORD
    assert len(RECORD.data) < 220


def test_eight_of_the_longest_addresses_fit_a_record() -> None:
    addresses = [f"/dns4/{'x' * 170}/tcp/{number}/p2p/{ANN.peer_id}" for number in range(1, 10)]
    record = issue_record(ANN.peer_id, addresses, b"instance", ANN.sign, NOW)
    assert len(record.addresses) == 8
    with contextlib.suppress(DecodeError):
        assert read_record(record.data) == record


@pytest.mark.parametrize("position", range(0, len(RECORD.data), 7))
def test_an_altered_record_is_refused(position: int) -> None:
    altered = bytearray(RECORD.data)
    altered[position] ^= 1
    with pytest.raises(DecodeError):
        read_record(bytes(altered))


def test_a_record_signed_by_another_is_refused() -> None:
    with pytest.raises(DecodeError, match="signature"):
        read_record(signed(by=BEN))


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2},
        {"at": ["no-slash"]},
        {"at": ["/" + "x" * 300]},
        {"at": ["/dns4/é/tcp/1"]},
        {"at": ["/dns4/a\x1b[2J/tcp/1"]},
        {"at": [7]},
        {"at": ["/ip4/1.2.3.4/tcp/1"] * 9},
        {"at": {}},
        {"instance": b"short"},
        {"issued": -1},
        {"issued": 2**41},
        {"peer": b"short"},
        {"more": 1},
    ],
)
def test_a_well_signed_but_malformed_record_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        read_record(signed(**changed))


@given(st.text(max_size=250) | st.from_regex(r"/dns4/[a-z]{1,240}/tcp/1", fullmatch=True))
@settings(max_examples=60, deadline=None)
def test_what_a_record_may_say_can_be_dialled_saved_and_told_to_others(tmp_path_factory: object, address: str) -> None:
    with contextlib.suppress(DecodeError):
        record = read_record(signed(at=[address]))
        assert host_of(record.addresses[0]) == ANN.peer_id
        book: Path = tmp_path_factory.mktemp("book") / "addresses.json"  # type: ignore[attr-defined]
        save_book(book, {ANN.peer_id: record.addresses})
        assert load_book(book) == {ANN.peer_id: record.addresses}


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything_but_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read_record(data)
