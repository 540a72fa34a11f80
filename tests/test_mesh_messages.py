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
from meshlore.mesh.addresses import load_book, save_book
from meshlore.mesh.dispatch import ERROR, body_of
from meshlore.mesh.frames import Frame
from meshlore.mesh.messages import Hello
from meshlore.security.identity import Identity
from meshlore.security.invites import host_of

ANN, BEN = Identity.generate().peer_id, Identity.generate().peer_id
NAME = "ab" * 32


def test_a_hello_survives_the_wire_and_shortens_known_addresses() -> None:
    hello = Hello(
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ANN}",), {"skill": 3}, [(BEN, (f"/ip4/1.2.3.5/tcp/2/p2p/{BEN}",))], bytes(16)
    )
    body = messages.hello_body(hello)
    assert body["peers"] == [[BEN, ["/ip4/1.2.3.5/tcp/2"]]]
    assert messages.read_hello(body, ANN) == hello


def test_nobody_can_give_out_an_address_under_another_peer_id() -> None:
    body = messages.hello_body(Hello((f"/ip4/1.2.3.4/tcp/1/p2p/{BEN}",), {}, [], bytes(16)))
    assert messages.read_hello(body, ANN).addresses == (f"/ip4/1.2.3.4/tcp/1/p2p/{BEN}/p2p/{ANN}",)
    assert messages.peer_id_in(messages.read_hello(body, ANN).addresses[0]) == ANN


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
    [
        [["a/b", []]],
        [["", []]],
        [[ANN, ["no-slash"]]],
        [[ANN, ["/" + "x" * 300]]],
        [[ANN, ["/dns4/" + "x" * 190 + "/tcp/1"]]],
        [[ANN, ["/dns4/é/tcp/1"]]],
        [[ANN, ["/dns4/a\x1b[2J/tcp/1"]]],
        [[ANN, [f"/p2p/{ANN}"]]],
        [["no peer id", ["/ip4/1.2.3.4/tcp/1"]]],
        [[ANN, [7]]],
        [[ANN]],
        [[ANN, []]] * (messages.MAX_PEERS + 1),
    ],
)
def test_malformed_lists_of_peers_are_refused(peers: list[Any]) -> None:
    with pytest.raises(DecodeError):
        messages.read_peers({"peers": peers})


@given(st.text(max_size=250) | st.from_regex(r"/dns4/[a-z]{1,240}/tcp/1", fullmatch=True))
@settings(max_examples=60, deadline=None)
def test_what_a_peer_may_say_can_be_dialled_saved_and_told_to_others(tmp_path_factory: Any, address: str) -> None:
    book = tmp_path_factory.mktemp("book") / "addresses.json"
    with contextlib.suppress(DecodeError):
        ((_, addresses),) = messages.read_peers({"peers": [[ANN, [address]]]})
        assert host_of(addresses[0]) == ANN
        save_book(book, {ANN: addresses})
        assert load_book(book) == {ANN: addresses}


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
        st.sampled_from(["addresses", "advert", "peers", "digest", "have"]), st.integers() | st.lists(st.binary())
    )
)
@settings(max_examples=60, deadline=None)
def test_no_body_raises_anything_but_decode_error(body: dict[str, Any]) -> None:
    for read in (
        lambda b: messages.read_hello(b, ANN),
        messages.read_announce,
        messages.read_peers,
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
