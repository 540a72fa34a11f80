"""What the root says after the founding: who is revoked, which root follows, who else may sign."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.codec import pack
from meshlore.errors import (
    BadSignature,
    ConfigError,
    DecodeError,
    MeshloreError,
    NotAMember,
    Revoked,
    SecurityError,
    StateError,
)
from meshlore.security import governance
from meshlore.security.authority import MAX_LINKS, MAX_REVOKED, Authority, Link, Revocations
from meshlore.security.certificates import DAY_S, MAX_LIFETIME_S
from meshlore.security.governance import delegate, renewed, revoke, rotate_root
from meshlore.security.home import NEXT_ROOT_FILE, ROOT_FILE
from meshlore.security.identity import Identity
from meshlore.security.invites import InviteBook
from meshlore.security.join import answer_request, build_request, finish
from meshlore.security.keyring import MAX_EPOCHS
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from meshlore.security.sealing import open_sealed, seal

NOW = 1_800_000_000
ROOT, CHARTER = MeshRoot.create("testers", {}, NOW)
KEYS = Keyring.generate()
ANN, BEN, EVE = (Identity.generate() for _ in range(3))


def member(identity: Identity, root: MeshRoot = ROOT, authority: Authority | None = None) -> Credentials:
    certificate = root.issue(identity.peer_id, "member", ["node"], identity.hpke_public_key, NOW)
    return Credentials(identity, CHARTER, certificate, KEYS, authority=authority or Authority())


FOUNDER = replace(member(ANN), root=ROOT)


def heard(own: Credentials, of: Credentials) -> Credentials:
    """What ``own`` is after it heard what ``of`` knows of the root."""
    document = Authority.decode(of.authority.encode(), CHARTER)
    return replace(own, authority=own.authority.followed_by(document))


def test_a_revoked_member_is_refused_by_all_who_heard_and_its_packets_whenever_they_were_made() -> None:
    eve, ben = member(EVE), member(BEN)
    packet = seal(b"knowledge", credentials=eve, seq=1, now=NOW)
    assert open_sealed(packet, ben, NOW).body == b"knowledge"
    ben = heard(ben, revoke(FOUNDER, EVE.peer_id, NOW + 5))
    with pytest.raises(Revoked, match="revoked"):
        ben.check(eve.certificate_bytes, EVE.peer_id, NOW + 6)
    with pytest.raises(Revoked):
        open_sealed(packet, ben, NOW + 6)
    assert ben.check(FOUNDER.certificate_bytes, ANN.peer_id, NOW + 6)


def test_after_a_revocation_members_seal_under_a_key_that_the_revoked_one_never_gets() -> None:
    founder = revoke(FOUNDER, EVE.peer_id, NOW)
    ben = heard(member(BEN), founder)
    assert ben.lacks_keys
    assert not founder.lacks_keys
    ben = ben.with_keyring(founder.keyring.encode())
    assert not ben.lacks_keys
    packet = seal(b"for members", credentials=ben, seq=1, now=NOW)
    assert open_sealed(packet, founder, NOW).body == b"for members"
    with pytest.raises(StateError, match="newer mesh key"):
        open_sealed(packet, member(EVE), NOW)
    before = seal(b"from before", credentials=member(BEN), seq=0, now=NOW)
    assert open_sealed(before, ben, NOW).body == b"from before"


def test_keys_that_the_root_did_not_sign_are_refused() -> None:
    ben = heard(member(BEN), revoke(FOUNDER, EVE.peer_id, NOW))
    for keyring in (KEYS, KEYS.followed()):
        with pytest.raises(SecurityError, match="not those of the root"):
            ben.with_keyring(keyring.encode())
    with pytest.raises(SecurityError, match="not those of the root"):
        member(BEN).with_keyring(KEYS.encode())


def test_the_signed_keys_stay_when_the_root_is_handed_on_and_old_lists_without_them_stay_valid() -> None:
    founder = rotate_root(revoke(FOUNDER, EVE.peer_id, NOW), NOW)
    assert not founder.lacks_keys
    assert heard(member(BEN), founder).lacks_keys
    old = governance._signed(Revocations(1, ((EVE.peer_id, NOW),)), ROOT)
    read = Authority.decode(Authority.of(CHARTER, (), old).encode(), CHARTER)
    assert read.revocations == old
    assert not replace(member(BEN), authority=read).lacks_keys


def test_a_keyring_forgets_its_oldest_keys() -> None:
    keyring = KEYS
    for _ in range(MAX_EPOCHS + 3):
        keyring = keyring.followed()
    assert [key.epoch for key in keyring.keys] == list(range(5, MAX_EPOCHS + 5))
    assert Keyring.decode(keyring.encode()) == keyring


def test_a_revoked_member_gets_no_new_certificate() -> None:
    founder = revoke(FOUNDER, EVE.peer_id, NOW)
    with pytest.raises(Revoked):
        renewed(founder, member(EVE).certificate, NOW + 1)
    assert renewed(founder, member(BEN).certificate, NOW + 1).peer_id == BEN.peer_id


def test_the_list_of_revocations_rises_and_revoking_twice_changes_nothing() -> None:
    once = revoke(FOUNDER, EVE.peer_id, NOW)
    twice = revoke(once, BEN.peer_id, NOW)
    assert [c.authority.revocations.version for c in (FOUNDER, once, twice)] == [0, 1, 2]
    assert revoke(twice, EVE.peer_id, NOW + 9) is twice


def test_only_the_root_revokes_and_never_itself() -> None:
    with pytest.raises(ConfigError, match="root key"):
        revoke(member(BEN), EVE.peer_id, NOW)
    with pytest.raises(ConfigError, match="itself"):
        revoke(FOUNDER, ANN.peer_id, NOW)
    with pytest.raises(DecodeError):
        revoke(FOUNDER, "eve", NOW)
    with pytest.raises(ConfigError, match="root key"):
        revoke(replace(FOUNDER, root=MeshRoot(b"x" * 32, FOUNDER.mesh_id)), EVE.peer_id, NOW)


def test_a_list_that_the_root_did_not_sign_is_refused() -> None:
    genuine = revoke(FOUNDER, EVE.peer_id, NOW).authority.revocations
    forged = replace(genuine, revoked=((BEN.peer_id, NOW),))
    for bad in (forged, replace(genuine, version=2), replace(genuine, signature=bytes(64))):
        with pytest.raises(BadSignature):
            Authority.of(CHARTER, (), bad)
    other_root, other_charter = MeshRoot.create("others", {}, NOW)
    other = replace(member(BEN), charter=other_charter, root=other_root)
    with pytest.raises(BadSignature):
        Authority.decode(revoke(other, EVE.peer_id, NOW).authority.encode(), CHARTER)


def test_an_older_list_changes_nothing_and_a_newer_one_may_not_forget() -> None:
    old = revoke(FOUNDER, EVE.peer_id, NOW)
    new = revoke(old, BEN.peer_id, NOW)
    assert new.authority.followed_by(old.authority) is new.authority
    assert old.authority.followed_by(new.authority) is new.authority
    forgetful = governance._signed(Revocations(3), ROOT)
    with pytest.raises(SecurityError, match="forgets"):
        new.authority.followed_by(Authority.of(CHARTER, (), forgetful))


def test_a_full_list_says_so_and_still_fits_its_document() -> None:
    ids = sorted(Identity.generate().peer_id for _ in range(3))
    full = Revocations(7, tuple((ids[i % 3] + str(i), NOW) for i in range(MAX_REVOKED)))
    with pytest.raises(ConfigError, match="revoked already"):
        revoke(replace(FOUNDER, authority=Authority((), full)), EVE.peer_id, NOW)


def test_old_and_new_root_count_together_and_then_only_the_new_one() -> None:
    founder = rotate_root(FOUNDER, NOW, overlap_s=7 * DAY_S)
    ben = heard(member(BEN), founder)
    assert founder.mesh_id == FOUNDER.mesh_id
    assert founder.root is not None
    assert founder.root.public_key != ROOT.public_key
    assert ben.check(member(EVE).certificate_bytes, EVE.peer_id, NOW + 7 * DAY_S)
    with pytest.raises(NotAMember, match="forged"):
        ben.check(member(EVE).certificate_bytes, EVE.peer_id, NOW + 7 * DAY_S + 1)
    assert ben.check(founder.certificate_bytes, ANN.peer_id, NOW + 8 * DAY_S)


def test_a_member_follows_a_new_root_by_having_its_certificate_renewed() -> None:
    founder = rotate_root(FOUNDER, NOW)
    ben = heard(member(BEN), founder)
    assert ben.needs_renewal_by_root
    assert not founder.needs_renewal_by_root
    ben = ben.with_certificate(renewed(founder, ben.certificate, NOW).encode(), NOW)
    assert not ben.needs_renewal_by_root
    assert ben.check(ben.certificate_bytes, BEN.peer_id, NOW + MAX_LIFETIME_S)


def test_who_has_not_heard_of_the_new_root_accepts_a_member_that_shows_the_chain() -> None:
    founder = rotate_root(FOUNDER, NOW)
    ben = member(BEN)
    with pytest.raises(NotAMember, match="forged"):
        ben.check(founder.certificate_bytes, ANN.peer_id, NOW)
    assert ben.check(founder.certificate_bytes, ANN.peer_id, NOW, founder.authority.links)
    ben = replace(ben, authority=revoke(FOUNDER, EVE.peer_id, NOW).authority)
    eve = member(EVE, founder.root or ROOT)
    with pytest.raises(Revoked):
        ben.check(eve.certificate_bytes, EVE.peer_id, NOW, founder.authority.links)


def test_a_chain_that_the_root_did_not_begin_convinces_nobody() -> None:
    thief = MeshRoot(b"t" * 32, CHARTER.mesh_id)
    draft = Link(CHARTER.mesh_id, 1, "root", thief.public_key, NOW, NOW, bytes(64), bytes(64))
    own = thief.sign("authority-link", draft.signed_bytes())
    eve = member(EVE, thief)
    with pytest.raises(BadSignature):
        member(BEN).check(
            eve.certificate_bytes, EVE.peer_id, NOW, (replace(draft, root_signature=own, key_signature=own),)
        )


def test_two_heirs_of_one_root_are_told_apart_from_a_longer_chain() -> None:
    one, other = rotate_root(FOUNDER, NOW), rotate_root(rotate_root(FOUNDER, NOW), NOW)
    with pytest.raises(SecurityError, match="contradict"):
        one.authority.followed_by(other.authority)
    with pytest.raises(SecurityError, match="contradict"):
        heard(member(BEN), one).check(other.certificate_bytes, ANN.peer_id, NOW, other.authority.links)


def test_a_signer_issues_and_renews_until_its_end_and_does_not_govern() -> None:
    founder, signer = delegate(FOUNDER, NOW, lifetime_s=100 * DAY_S)
    assert not founder.needs_renewal_by_root
    holder = replace(heard(member(BEN), founder), root=signer)
    eve = replace(member(EVE, signer), authority=founder.authority)
    assert holder.check(eve.certificate_bytes, EVE.peer_id, NOW)
    assert renewed(holder, eve.certificate, NOW + DAY_S).not_after > eve.certificate.not_after
    with pytest.raises(NotAMember, match="forged"):
        holder.check(eve.certificate_bytes, EVE.peer_id, NOW + 101 * DAY_S)
    for act in (lambda: revoke(holder, EVE.peer_id, NOW), lambda: rotate_root(holder, NOW)):
        with pytest.raises(ConfigError, match="root key"):
            act()


def test_a_signer_ends_with_the_root_that_made_it() -> None:
    founder, signer = delegate(FOUNDER, NOW)
    founder = rotate_root(founder, NOW, overlap_s=0)
    with pytest.raises(NotAMember, match="forged"):
        founder.check(member(EVE, signer).certificate_bytes, EVE.peer_id, NOW + 1)


def test_an_invite_still_makes_members_after_the_root_was_handed_on(tmp_path: Path) -> None:
    founder = rotate_root(FOUNDER, NOW, overlap_s=0)
    book = InviteBook(tmp_path / "invites.db", founder.mesh_id)
    invite = book.create([f"/ip4/127.0.0.1/tcp/1/p2p/{ANN.peer_id}"], ["node"], NOW)
    request, pending = build_request(invite, EVE, ANN.peer_id, "eve")
    admission = finish(pending, answer_request(request, EVE.peer_id, founder, book, NOW + 1), now=NOW + 1)
    credentials = admission.credentials()
    assert credentials.authority.links == founder.authority.links
    assert founder.check(credentials.certificate_bytes, EVE.peer_id, NOW + 1)


def test_what_the_root_said_is_kept_across_restarts(tmp_path: Path) -> None:
    founder = revoke(rotate_root(FOUNDER, NOW), EVE.peer_id, NOW)
    founder.save(tmp_path / "home", "secret")
    loaded = Credentials.load(tmp_path / "home", "secret")
    assert loaded.authority == founder.authority
    assert loaded.root is not None
    assert loaded.root.public_key == founder.authority.root_key(CHARTER)
    assert revoke(loaded, BEN.peer_id, NOW).authority.revocations.version == founder.authority.revocations.version + 1


def test_a_crash_while_the_root_is_handed_on_leaves_the_old_or_the_new_root(tmp_path: Path) -> None:
    FOUNDER.save(tmp_path)
    founder = rotate_root(FOUNDER, NOW)
    assert founder.root is not None
    founder.root.save(tmp_path / NEXT_ROOT_FILE)
    assert Credentials.load(tmp_path).root is not None
    assert not (tmp_path / NEXT_ROOT_FILE).exists(), "the chain does not lead to it: it never counted"
    founder.root.save(tmp_path / NEXT_ROOT_FILE)
    founder.save_authority(tmp_path)
    loaded = Credentials.load(tmp_path)
    assert loaded.root is not None
    assert loaded.root.public_key == founder.root.public_key
    assert loaded.needs_renewal_by_root
    assert (tmp_path / ROOT_FILE).exists()
    assert not (tmp_path / NEXT_ROOT_FILE).exists()


def test_a_root_that_was_handed_on_elsewhere_is_not_used_any_more(tmp_path: Path) -> None:
    heard(FOUNDER, rotate_root(FOUNDER, NOW)).save_authority(tmp_path)
    replace(FOUNDER, authority=Authority()).save(tmp_path)
    assert Credentials.load(tmp_path).root is None


def test_a_root_is_handed_on_only_so_often() -> None:
    founder = FOUNDER
    for _ in range(MAX_LINKS):
        founder = rotate_root(founder, NOW)
    with pytest.raises(ConfigError, match="handed on"):
        rotate_root(founder, NOW)
    assert Authority.decode(founder.authority.encode(), CHARTER) == founder.authority
    with pytest.raises(ConfigError, match="out of range"):
        rotate_root(FOUNDER, NOW, overlap_s=-1)


DOCUMENT = revoke(rotate_root(FOUNDER, NOW), EVE.peer_id, NOW).authority.encode()


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_a_document_with_any_byte_changed_is_refused(place: int, flip: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[place] ^= flip
    with pytest.raises((DecodeError, BadSignature)):
        Authority.decode(bytes(changed), CHARTER)


@pytest.mark.parametrize(
    "fields",
    [
        {"v": 2, "links": [], "revocations": Revocations().to_map()},
        {"v": 1, "links": [b"x"], "revocations": Revocations().to_map()},
        {"v": 1, "links": [1], "revocations": Revocations().to_map()},
        {"v": 1, "links": [], "revocations": Revocations().to_map() | {"keys": 7}},
        {"v": 1, "links": [], "revocations": Revocations().to_map() | {"keys": b"short"}},
        {"v": 1, "links": [], "revocations": {"version": 0, "revoked": [[b"k" * 32, 1]], "signature": bytes(64)}},
        {"v": 1, "links": [], "revocations": {"version": 1, "revoked": [[b"k", 1]], "signature": bytes(64)}},
        {"v": 1, "links": [], "revocations": {"version": 1, "revoked": [b"k"], "signature": bytes(64)}},
    ],
)
def test_a_malformed_document_is_a_typed_error(fields: dict[str, object]) -> None:
    with pytest.raises(MeshloreError):
        Authority.decode(pack(fields), CHARTER)
