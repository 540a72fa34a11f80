"""Charters, certificates, mesh keys, and the home folder that holds them."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.codec import pack
from meshlore.errors import BadSignature, ConfigError, DecodeError, NotAMember, SecurityError, StateError
from meshlore.security import files, keyfile, membership
from meshlore.security.certificates import DAY_S, MAX_CERTIFICATE_BYTES, MAX_LIFETIME_S, Certificate, Charter
from meshlore.security.identity import Identity
from meshlore.security.keyring import MAX_EPOCHS, Keyring, MeshKey
from meshlore.security.membership import Credentials, check_home, found_mesh, needs_renewal
from meshlore.security.root import MeshRoot

NOW = 1_800_000_000.0
SPACE = {"shape": [1, 8, 8], "classes": ["zero", "one"], "levels": 17, "version": 1}
ROOT, CHARTER = MeshRoot.create("lab", SPACE, NOW)
OTHER_ROOT, OTHER_CHARTER = MeshRoot.create("lab", SPACE, NOW)
ALICE, BOB = Identity.generate(), Identity.generate()


def issue(identity: Identity, *, root: MeshRoot = ROOT, lifetime_s: float = DAY_S) -> Certificate:
    return root.issue(identity.peer_id, "alpha", {"node"}, identity.hpke_public_key, NOW, lifetime_s)


MESH = Credentials(ALICE, CHARTER, issue(ALICE), Keyring.generate(), ROOT)

names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=10)


def test_a_member_is_recognised_with_name_and_roles() -> None:
    certificate = MESH.check(issue(BOB).encode(), BOB.peer_id, NOW)
    assert (certificate.peer_id, certificate.name, certificate.roles) == (
        BOB.peer_id,
        "alpha",
        frozenset({"node"}),
    )


@pytest.mark.parametrize(
    ("certificate", "moment", "cause"),
    [
        (issue(BOB, root=OTHER_ROOT), NOW, "of another mesh"),
        (replace(issue(BOB), roles=frozenset({"anchor"})), NOW, "forged"),
        (replace(issue(BOB, root=OTHER_ROOT), mesh_id=ROOT.mesh_id), NOW, "forged"),
        (issue(ALICE), NOW, "belongs to another peer"),
        (issue(BOB), NOW + DAY_S + 2 * 3600, "expired 2 h ago: check the clocks"),
        (issue(BOB), NOW - DAY_S, "not valid for another 24 h: check the clocks"),
    ],
    ids=["other mesh", "altered", "self-made", "stolen", "expired", "not yet valid"],
)
def test_who_is_no_member_is_told_why(certificate: Certificate, moment: float, cause: str) -> None:
    with pytest.raises(NotAMember, match=cause):
        MESH.check(certificate.encode(), BOB.peer_id, moment)


def test_a_certificate_tolerates_clocks_ten_minutes_behind() -> None:
    MESH.check(issue(BOB).encode(), BOB.peer_id, NOW - 600)


@given(names, st.sets(st.sampled_from(["node", "anchor", "requester"]), min_size=1), st.floats(1, MAX_LIFETIME_S))
def test_a_certificate_survives_the_wire(name: str, roles: set[str], lifetime_s: float) -> None:
    certificate = ROOT.issue(BOB.peer_id, name, roles, BOB.hpke_public_key, NOW, lifetime_s)
    assert Certificate.decode(certificate.encode()) == certificate
    certificate.verify(ROOT.public_key)


def test_the_largest_certificate_is_about_400_bytes() -> None:
    roles = ("node", "anchor", "requester")
    certificate = ROOT.issue(BOB.peer_id, "n" * 40, roles, BOB.hpke_public_key, NOW, epoch=2**31 - 1)
    assert len(certificate.encode()) <= 400 < MAX_CERTIFICATE_BYTES


@given(st.data())
def test_no_mutation_of_a_certificate_is_accepted(data: st.DataObject) -> None:
    with pytest.raises(NotAMember):
        MESH.check(mutate(issue(BOB).encode(), data), BOB.peer_id, NOW)


@given(st.data())
def test_no_mutation_of_a_charter_is_accepted(data: st.DataObject) -> None:
    with pytest.raises((DecodeError, BadSignature)):
        Charter.decode(mutate(CHARTER.encode(), data))


def test_a_charter_survives_the_wire() -> None:
    assert Charter.decode(CHARTER.encode()) == CHARTER
    assert CHARTER.space == SPACE


@given(st.binary(max_size=600))
def test_noise_is_no_certificate_charter_or_keyring(data: bytes) -> None:
    with pytest.raises(NotAMember):
        MESH.check(data, BOB.peer_id, NOW)
    for decode in (Charter.decode, Keyring.decode):
        with pytest.raises((DecodeError, SecurityError)):
            decode(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2), ("name", ""), ("name", "x" * 41), ("name", "two\nlines"), ("name", " x"),
        ("name", "\x1b[2J"), ("name", "a\u202eb"), ("roles", []), ("roles", ["root"]),
        ("roles", ["node", "anchor"]), ("roles", ["node", "node"]), ("roles", [1]),
        ("peer_id", "alice"), ("mesh_id", b""), ("serial", -1),
        ("epoch", 2**31), ("not_after", 0), ("not_after", 2**40 + 1), ("signature", b"x"), ("extra", 1),
    ],
)  # fmt: skip
def test_a_certificate_with_an_unusable_field_is_refused_whoever_signed_it(field: str, value: object) -> None:
    fields = {**issue(BOB)._signed_fields(), "signature": bytes(64), field: value}
    with pytest.raises(DecodeError):
        Certificate.decode(pack(fields))


def test_a_certificate_never_lives_longer_than_30_days() -> None:
    with pytest.raises(ValueError, match="lives at most"):
        issue(BOB, lifetime_s=MAX_LIFETIME_S + 1)


def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_stays_the_same_otherwise() -> None:
    old = issue(BOB, lifetime_s=30 * DAY_S)
    assert not needs_renewal(old, NOW + 19 * DAY_S)
    assert needs_renewal(old, NOW + 20 * DAY_S)
    new = ROOT.renew(old, NOW + 20 * DAY_S)
    assert new.not_after == NOW + 50 * DAY_S
    assert new.serial != old.serial
    assert (new.peer_id, new.name, new.roles, new.hpke_key_hash) == (
        old.peer_id, old.name, old.roles, old.hpke_key_hash,
    )  # fmt: skip
    member = Credentials(BOB, CHARTER, old, MESH.keyring)
    assert member.with_certificate(new.encode(), NOW + 21 * DAY_S).certificate == new


def test_only_own_and_genuine_certificates_are_renewed_or_adopted() -> None:
    with pytest.raises(BadSignature):
        ROOT.renew(issue(BOB, root=OTHER_ROOT), NOW)
    with pytest.raises(NotAMember, match="another peer"):
        MESH.with_certificate(issue(BOB).encode(), NOW)
    swapped = ROOT.issue(ALICE.peer_id, "alpha", {"node"}, BOB.hpke_public_key, NOW)
    with pytest.raises(NotAMember, match="another HPKE key"):
        MESH.with_certificate(swapped.encode(), NOW)


def test_only_a_longer_certificate_with_the_same_name_and_roles_renews() -> None:
    own = issue(BOB, lifetime_s=20 * DAY_S)
    member = Credentials(BOB, CHARTER, own, MESH.keyring)

    def other(name: str = own.name, roles: frozenset[str] = own.roles) -> bytes:
        return ROOT.issue(BOB.peer_id, name, roles, BOB.hpke_public_key, NOW, 25 * DAY_S).encode()

    for certificate, cause in (
        (own.encode(), "not valid for longer"),
        (issue(BOB, lifetime_s=19 * DAY_S).encode(), "not valid for longer"),
        (other(name="mallory"), "another name"),
        (other(roles=frozenset({"anchor"})), "other roles"),
    ):
        with pytest.raises(NotAMember, match=cause):
            member.with_certificate(certificate, NOW)
    assert member.with_certificate(other(), NOW).certificate.not_after == NOW + 25 * DAY_S


@given(st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=MAX_EPOCHS))
def test_a_keyring_survives_the_wire_and_seals_with_its_last_key(epochs: set[int]) -> None:
    keyring = Keyring(tuple(MeshKey.generate(epoch) for epoch in sorted(epochs)))
    assert Keyring.decode(keyring.encode()) == keyring
    assert keyring.current.epoch == max(epochs)
    assert keyring.key_of(min(epochs)).epoch == min(epochs)


def test_an_unknown_epoch_is_a_security_error() -> None:
    with pytest.raises(SecurityError, match="epoch 7"):
        MESH.keyring.key_of(7)


def test_no_secret_shows_in_a_representation() -> None:
    assert repr(MESH.keyring.current.key)[2:-1] not in repr(MESH) + repr(MESH.keyring)
    assert repr(ROOT) == f"MeshRoot({ROOT.mesh_id})"


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_founded_home_is_private_and_loads_again(tmp_path: Path, passphrase: str | None) -> None:
    home = tmp_path / "home"
    founded = found_mesh(home, "lab", "alpha", SPACE, ["node"], passphrase, now=NOW)
    loaded = Credentials.load(home, passphrase)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == dict.fromkeys(
        ["identity.key", "root.key", "mesh.key", "charter.bin", "member.cert"], 0o600
    )
    assert (loaded.peer_id, loaded.charter, loaded.certificate, loaded.keyring) == (
        founded.peer_id, founded.charter, founded.certificate, founded.keyring,
    )  # fmt: skip
    assert loaded.root is not None
    loaded.check(loaded.certificate_bytes, loaded.peer_id, NOW)


def test_a_wrong_passphrase_for_a_home_is_a_clear_state_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    found_mesh(home, "lab", "alpha", SPACE, ["node"], "right", now=NOW)
    with pytest.raises(StateError, match="passphrase does not open"):
        Credentials.load(home, "wrong")


def test_founding_keeps_an_identity_that_is_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    ALICE.save(home / "identity.key")
    assert found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW).peer_id == ALICE.peer_id


def test_a_home_is_founded_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    with pytest.raises(StateError, match="already belongs to a mesh"):
        found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    assert Credentials.load(home).mesh_id == first.mesh_id


def test_a_home_of_another_mesh_is_not_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    with pytest.raises(StateError, match="belongs to another mesh"):
        MESH.save(home)
    check_home(tmp_path / "new", MESH.mesh_id)


@pytest.mark.parametrize(
    ("mesh", "node", "roles", "cause"),
    [
        ("", "alpha", ["node"], "mesh name"),
        ("lab", "two\nlines", ["node"], "printable"),
        ("lab", "alpha", ["king"], "roles"),
        ("lab", "alpha", [], "roles"),
    ],
)
def test_unusable_names_and_roles_are_refused_before_anything_is_written(
    tmp_path: Path, mesh: str, node: str, roles: list[str], cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause):
        found_mesh(tmp_path / "home", mesh, node, SPACE, roles, now=NOW)
    assert not (tmp_path / "home").exists()


def test_a_space_that_does_not_fit_the_charter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"32768 is the limit: use shorter or fewer class names"):
        found_mesh(tmp_path / "home", "lab", "alpha", {"classes": ["x" * 50] * 1000}, ["node"], now=NOW)


def test_an_empty_home_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not the home of a member: run: meshlore init, or meshlore join"):
        Credentials.load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["identity.key", "root.key", "mesh.key", "charter.bin", "member.cert"])
def test_a_damaged_missing_or_loose_file_of_a_home_is_named(tmp_path: Path, file: str) -> None:
    home = tmp_path / "home"
    found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    content = (home / file).read_bytes()
    (home / file).write_bytes(content[:-1])
    with pytest.raises(StateError, match=f"{file} is damaged"):
        Credentials.load(home)
    (home / file).write_bytes(content)
    (home / file).chmod(0o644)
    with pytest.raises(StateError, match=rf"{file} is open to other users .*: run: chmod 600"):
        Credentials.load(home)
    (home / file).unlink()
    if file == "root.key":
        assert Credentials.load(home).root is None
    else:
        with pytest.raises(StateError, match=r"missing|not the home of a member"):
            Credentials.load(home)


@pytest.mark.parametrize("file", ["identity.key", "root.key", "charter.bin", "member.cert"])
def test_files_of_two_homes_are_not_mixed(tmp_path: Path, file: str) -> None:
    for name in ("left", "right"):
        found_mesh(tmp_path / name, "lab", "alpha", SPACE, ["node"], now=NOW)
    (tmp_path / "left" / file).write_bytes((tmp_path / "right" / file).read_bytes())
    with pytest.raises(StateError, match="mixed"):
        Credentials.load(tmp_path / "left")


@pytest.mark.parametrize("written", range(5))
def test_an_interrupted_founding_is_told_and_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    home = tmp_path / "home"
    done = 0

    def write_then_crash(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal done
        if done == written + 1:  # the identity is written twice: made, then saved with the rest
            raise KeyboardInterrupt
        done += 1
        files.write_atomic(path, data, mode)

    with monkeypatch.context() as patch:
        for module in (keyfile, membership):
            patch.setattr(module, "write_atomic", write_then_crash)
        with pytest.raises(KeyboardInterrupt):
            found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    with pytest.raises(StateError, match="not the home of a member"):
        Credentials.load(home)
    if (home / "root.key").exists():
        with pytest.raises(StateError, match=r"interrupted: delete .*root\.key"):
            found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
        (home / "root.key").unlink()
    found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
    Credentials.load(home)


def mutate(data: bytes, draw: st.DataObject) -> bytes:
    """``data`` with a byte altered, removed or added, or cut."""
    position = draw.draw(st.integers(0, len(data) - 1))
    kind = draw.draw(st.sampled_from(["alter", "remove", "add", "cut"]))
    byte = bytes([data[position] ^ draw.draw(st.integers(1, 255))])
    head, tail = data[:position], data[position + 1 :]
    return {
        "alter": head + byte + tail,
        "remove": head + tail,
        "add": head + byte + data[position:],
        "cut": head,
    }[kind]
