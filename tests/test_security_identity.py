"""Peer ids, signatures, HPKE."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import BadSignature, DecodeError, SecurityError, StateError
from meshlore.security.identity import (
    HPKE_OVERHEAD_BYTES,
    HPKE_PUBLIC_KEY_BYTES,
    Identity,
    encrypt_to,
    peer_id_of,
    public_key_of,
    verify,
)

ALICE = Identity(bytes(range(128)))
BOB = Identity(bytes(range(128, 256)))


def test_the_peer_id_is_the_one_that_libp2p_computes() -> None:
    ed25519 = pytest.importorskip("libp2p.crypto.ed25519")
    from libp2p.peer.id import ID

    pair = ed25519.create_new_key_pair(ALICE.private_key_bytes)
    assert str(ID.from_pubkey(pair.public_key)) == ALICE.peer_id


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_gives_its_public_key_back(public_key: bytes) -> None:
    peer_id = peer_id_of(public_key)
    assert peer_id.startswith("12D3Koo")
    assert public_key_of(peer_id) == public_key


@given(
    st.text(max_size=80)
    | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=52, max_size=52)
)
def test_other_text_is_no_peer_id(text: str) -> None:
    with pytest.raises(DecodeError):
        public_key_of(text)


@given(st.integers(0, 51), st.sampled_from("123zZ0OIl "))
def test_an_altered_peer_id_is_another_peer_or_none(position: int, letter: str) -> None:
    text = ALICE.peer_id[:position] + letter + ALICE.peer_id[position + 1 :]
    with contextlib.suppress(DecodeError):
        assert (public_key_of(text) == ALICE.public_key) == (text == ALICE.peer_id)


def test_a_signature_holds_for_its_author_domain_and_message_only() -> None:
    signature = ALICE.sign("packet", b"message")
    verify(ALICE.public_key, "packet", b"message", signature)
    for key, domain, message, given_signature in [
        (BOB.public_key, "packet", b"message", signature),
        (ALICE.public_key, "certificate", b"message", signature),
        (ALICE.public_key, "packe", b"tmessage", signature),
        (ALICE.public_key, "packet", b"massage", signature),
        (ALICE.public_key, "packet", b"message", signature[:-1]),
        (ALICE.public_key, "packet", b"message", bytes(64)),
        (b"short", "packet", b"message", signature),
    ]:
        with pytest.raises(BadSignature):
            verify(key, domain, message, given_signature)


def test_only_the_addressee_opens_a_sealed_secret_and_only_in_its_context() -> None:
    sealed = encrypt_to(BOB.hpke_public_key, b"secret", b"context")
    assert len(sealed) == len(b"secret") + HPKE_OVERHEAD_BYTES
    assert BOB.decrypt(sealed, b"context") == b"secret"
    for identity, ciphertext, info in [
        (ALICE, sealed, b"context"),
        (BOB, sealed, b"other"),
        (BOB, sealed[:-1], b"context"),
        (BOB, b"", b"context"),
        (BOB, bytes([sealed[0] ^ 1]) + sealed[1:], b"context"),
    ]:
        with pytest.raises(SecurityError, match="not for this device"):
            identity.decrypt(ciphertext, info)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        bytes(HPKE_PUBLIC_KEY_BYTES - 1),
        b"\xff" * HPKE_PUBLIC_KEY_BYTES,
        ALICE.hpke_public_key[:-32] + bytes(32),
    ],
    ids=["empty", "short", "out of range", "low order"],
)
def test_a_bad_hpke_key_is_a_decode_error(key: bytes) -> None:
    with pytest.raises(DecodeError):
        encrypt_to(key, b"secret", b"context")


def test_an_identity_is_made_once_and_loaded_from_then_on(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "identity.key")
    loaded = Identity.load_or_create(tmp_path / "identity.key")
    assert (loaded.peer_id, loaded.hpke_public_key) == (made.peer_id, made.hpke_public_key)
    assert made.peer_id != Identity.generate().peer_id


def test_a_missing_identity_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is missing: run: meshlore init, or meshlore join"):
        Identity.load(tmp_path / "identity.key")


def test_a_wrong_passphrase_is_a_clear_state_error(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "identity.key", "right")
    with pytest.raises(StateError, match="passphrase does not open"):
        Identity.load(tmp_path / "identity.key", "wrong")
    assert Identity.load(tmp_path / "identity.key", "right").peer_id == ALICE.peer_id


def test_no_secret_shows_in_a_representation() -> None:
    assert repr(ALICE) == f"Identity({ALICE.peer_id})"
