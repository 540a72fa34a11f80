"""The mesh's own messages: strict in what they accept from other members."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import ConfigError, DecodeError, Refused
from meshlore.mesh import messages
from meshlore.mesh.addresses import load_book
from meshlore.mesh.dispatch import ERROR, body_of
from meshlore.mesh.frames import Frame
from meshlore.mesh.messages import Hello, Introduction
from meshlore.mesh.records import AddressRecord, issue_record
from meshlore.security.identity import Identity

IDENTITIES = {identity.peer_id: identity for identity in (Identity.generate(), Identity.generate())}
ANN, BEN = IDENTITIES
NAME = "ab" * 32


def record_of(peer_id: str, *addresses: str) -> AddressRecord:
    whole = [f"{address}/p2p/{peer_id}" for address in addresses]
    return issue_record(peer_id, whole, b"instance", IDENTITIES[peer_id].sign, 1_700_000_000)


def introduction_of(peer_id: str, *known: bytes) -> Introduction:
    return Introduction(record_of(peer_id, "/ip4/1.2.3.4/tcp/1"), 1_700_000_001, frozenset(known))


def test_a_hello_survives_the_wire() -> None:
    hello = Hello(introduction_of(ANN, b"1234", b"0000"), {"skill": 3}, bytes(16), [record_of(BEN)])
    assert messages.read_hello(messages.hello_body(hello), ANN) == hello


def test_nobody_introduces_itself_with_the_record_of_another() -> None:
    with pytest.raises(DecodeError, match="another"):
        messages.read_hello(messages.hello_body(Hello(introduction_of(BEN), {}, bytes(16))), ANN)
    with pytest.raises(DecodeError, match="another"):
        messages.read_introduction(messages.introduction_body(introduction_of(BEN)), ANN)


@pytest.mark.parametrize("change", [{"known": b"12345"}, {"known": bytes(4 * 513)}, {"time": -1}, {"time": 2**41}])
def test_a_malformed_introduction_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        messages.read_introduction(messages.introduction_body(introduction_of(ANN)) | change, ANN)


@pytest.mark.parametrize(
    "body",
    [
        {"have": [[b"short", 1]]},
        {"have": [[bytes(32), 0]]},
        {"have": [[bytes(32), -5]]},
        {"have": [[bytes(32), True]]},
        {"have": [[bytes(32)]]},
        {"have": [[bytes(32), 1]] * (messages.MAX_NAMES + 1)},
        {"have": {}, "more": 1},
    ],
)
def test_malformed_announcements_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        messages.read_announce(body)


def test_an_announcement_survives_the_wire() -> None:
    assert messages.read_announce(messages.announce_body([(NAME, 20_000)])) == [(NAME, 20_000)]


@pytest.mark.parametrize(
    "peers",
    [[b""], [b"no record"], [[ANN, []]], [7], [record_of(ANN).data[:-1]], [record_of(ANN).data] * 65],
)
def test_malformed_lists_of_peers_are_refused(peers: list[Any]) -> None:
    with pytest.raises(DecodeError):
        messages.read_peers({"peers": peers})


def test_an_address_book_with_bad_entries_keeps_the_good_ones(tmp_path: Path) -> None:
    good = f"/ip4/1.2.3.4/tcp/1/p2p/{BEN}"
    content = {
        BEN: [good, "/dns4/" + "x" * 300 + f"/p2p/{BEN}", 7, f"/ip4/1.2.3.4/tcp/1/p2p/{ANN}"],
        ANN: 3,
        "a": [good],
    }
    (tmp_path / "book").write_text(json.dumps(content))
    assert load_book(tmp_path / "book") == {BEN: (good,)}


def test_an_advert_over_the_limit_is_refused_on_both_sides() -> None:
    big = {"text": "x" * messages.MAX_ADVERT_BYTES}
    with pytest.raises(ConfigError, match="bytes"):
        messages.check_advert(big)
    with pytest.raises(DecodeError):
        messages.read_advert({"advert": big})


def test_the_digest_is_of_the_set_and_not_of_its_order() -> None:
    other = "cd" * 32
    assert messages.digest_of([NAME, other]) == messages.digest_of([other, NAME]) != messages.digest_of([NAME])


@given(
    st.dictionaries(
        st.sampled_from(["record", "time", "known", "advert", "peers", "digest", "have"]),
        st.integers() | st.lists(st.binary()),
    )
)
@settings(max_examples=60, deadline=None)
def test_no_body_raises_anything_but_decode_error(body: dict[str, Any]) -> None:
    for read in (
        lambda b: messages.read_hello(b, ANN),
        messages.read_announce,
        messages.read_peers,
        lambda b: messages.read_introduction(b, ANN),
        messages.read_advert,
    ):
        with contextlib.suppress(DecodeError):
            read(body)


def test_an_error_of_a_peer_is_shown_cut_and_on_one_printable_line() -> None:
    ugly = "\x1b[2J\x1b]0;pwned\x07\nmeshlore: all is well\u202e" + "x" * 1000
    with pytest.raises(Refused) as caught:
        body_of(Frame(ERROR, 1, {"code": ugly, "message": ugly, "remedy": ugly}))
    for text in (caught.value.code, caught.value.message, caught.value.remedy):
        assert text.isprintable()
        assert text.startswith("[2J ]0;pwned meshlore: all is well x")
        assert len(text) <= 300
