"""A stranger becomes a member, once, and nobody else does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meshlore.codec import pack, unpack
from meshlore.errors import (
    BadSignature,
    ConfigError,
    DecodeError,
    InviteError,
    NotAMember,
    SecurityError,
)
from meshlore.security.identity import Identity, sign_with_seed
from meshlore.security.invites import Invite, InviteBook
from meshlore.security.join import MAX_MESSAGE_BYTES, PendingJoin, answer_request, build_request, finish
from meshlore.security.keyring import Keyring
from meshlore.security.membership import Credentials, found_mesh
from meshlore.security.root import MeshRoot

NOW = 1_800_000_000.0
SPACE = {"classes": [str(number) for number in range(10)]}
JOINER = Identity.generate()
STRANGER = Identity.generate()


class Host:
    """A founder's device with its invite book."""

    def __init__(self, home: Path) -> None:
        self.credentials = found_mesh(home, "lab", "alpha", SPACE, ["node"], now=NOW)
        self.book = InviteBook(home / "invites.db", self.credentials.mesh_id)
        self.peer_id = self.credentials.peer_id

    def invite(self) -> Invite:
        return self.book.create([f"/ip4/192.0.2.1/tcp/1/p2p/{self.peer_id}"], ["node"], NOW)

    def answer(self, request: bytes, remote_peer_id: str = JOINER.peer_id, now: float = NOW) -> bytes:
        return answer_request(request, remote_peer_id, self.credentials, self.book, now)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def ask(host: Host, invite: Invite | None = None, joiner: Identity = JOINER) -> tuple[bytes, PendingJoin]:
    return build_request(invite or host.invite(), joiner, host.peer_id, "beta")


@pytest.fixture
def asked(host: Host) -> tuple[bytes, PendingJoin]:
    return ask(host)


@pytest.fixture
def answer(host: Host, asked: tuple[bytes, PendingJoin]) -> bytes:
    return host.answer(asked[0])


def test_an_invite_makes_a_stranger_a_member(host: Host, tmp_path: Path) -> None:
    request, pending = ask(host)
    answer = host.answer(request)
    assert len(request) <= MAX_MESSAGE_BYTES
    assert len(answer) <= MAX_MESSAGE_BYTES
    member = finish(pending, answer, now=NOW).credentials()
    assert member.certificate.name == "beta"
    assert member.certificate.roles == {"node"}
    assert member.charter == host.credentials.charter
    assert member.keyring == host.credentials.keyring
    assert member.root is None
    host.credentials.check(member.certificate_bytes, JOINER.peer_id, NOW)
    member.check(host.credentials.certificate_bytes, host.peer_id, NOW)
    member.save(tmp_path / "member")
    assert Credentials.load(tmp_path / "member").certificate == member.certificate


def test_the_largest_charter_and_keyring_fit_the_answer(tmp_path: Path) -> None:
    space = {"classes": ["x" * 36] * 100}
    credentials = found_mesh(tmp_path / "host", "m" * 40, "n" * 40, space, ["node"], now=NOW)
    assert len(credentials.charter.encode()) > 4000
    keys = tuple(replace(credentials.keyring.current, epoch=2**31 - 16 + number) for number in range(16))
    host = Host.__new__(Host)
    host.credentials, host.peer_id = replace(credentials, keyring=Keyring(keys)), credentials.peer_id
    host.book = InviteBook(tmp_path / "host" / "invites.db", credentials.mesh_id)
    request, pending = ask(host)
    answer = host.answer(request)
    assert len(answer) <= MAX_MESSAGE_BYTES
    assert finish(pending, answer).keyring == host.credentials.keyring


def largest_host(home: Path) -> Host:
    host = Host.__new__(Host)
    credentials = found_mesh(home, "m" * 40, "n" * 40, {"classes": ["x" * 36] * 100}, ["node"], now=NOW)
    keys = tuple(replace(credentials.keyring.current, epoch=2**31 - 16 + number) for number in range(16))
    host.credentials, host.peer_id = replace(credentials, keyring=Keyring(keys)), credentials.peer_id
    host.book = InviteBook(home / "invites.db", credentials.mesh_id)
    return host


def test_a_welcome_tells_as_many_addresses_as_fit_and_only_valid_ones(tmp_path: Path, host: Host) -> None:
    peer_id = STRANGER.peer_id
    bad = ["/dns4/é/tcp/1/p2p/" + peer_id, "/dns4/" + "x" * 300 + "/p2p/" + peer_id, "/ip4/192.0.2.2/tcp/1"]
    good = [f"/dns4/{'x' * 180}{number}/tcp/1/p2p/{peer_id}" for number in range(8)]
    for admitting in (host, largest_host(tmp_path / "largest")):
        request, pending = ask(admitting)
        answer = answer_request(request, JOINER.peer_id, admitting.credentials, admitting.book, NOW, [*bad, *good])
        assert len(answer) <= MAX_MESSAGE_BYTES
        told = finish(pending, answer, now=NOW).peers
        assert 0 < len(told) <= len(good)
        assert list(told) == good[: len(told)]


def test_a_welcome_that_cannot_fit_does_not_use_the_invite_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    invite = host.invite()
    request, pending = ask(host, invite)
    with monkeypatch.context() as patch:
        patch.setattr("meshlore.security.join.MAX_CERTIFICATE_BYTES", MAX_MESSAGE_BYTES)
        with pytest.raises(InviteError, match="too large"):
            finish(pending, host.answer(request))
    finish(pending, host.answer(request))


def test_a_bad_address_in_a_welcome_keeps_nobody_out(host: Host) -> None:
    request, pending = ask(host)
    root, good = host.credentials.root, f"/ip4/192.0.2.2/tcp/1/p2p/{STRANGER.peer_id}"
    assert root is not None
    welcome = unpack(host.answer(request), max_bytes=MAX_MESSAGE_BYTES)
    told = ["/dns4/é/tcp/1", 7, good, "x" * 300]
    assert finish(pending, signed({**welcome, "peers": told}, root)).peers == (good,)


def test_neither_the_invites_secret_nor_a_mesh_key_is_in_what_travels(host: Host) -> None:
    invite = host.invite()
    request, _ = ask(host, invite)
    answer = host.answer(request)
    for secret in (invite.secret, invite.signing_seed, host.credentials.keyring.current.key):
        assert secret not in request + answer


def test_a_second_device_with_the_same_invite_is_told_that_it_was_used(host: Host) -> None:
    invite = host.invite()
    host.answer(ask(host, invite)[0])
    request, pending = ask(host, invite, STRANGER)
    with pytest.raises(InviteError, match="used before"):
        finish(pending, host.answer(request, STRANGER.peer_id))


def test_a_replayed_request_gets_nobody_in(host: Host) -> None:
    request, pending = ask(host)
    host.answer(request)
    with pytest.raises(InviteError, match="used before"):
        finish(pending, host.answer(request))
    with pytest.raises(SecurityError, match="another peer"):
        host.answer(request, STRANGER.peer_id)


def test_a_refused_stranger_does_not_use_the_invite_up(host: Host) -> None:
    invite = host.invite()
    request, pending = ask(host, invite)
    with pytest.raises(SecurityError):
        host.answer(request, STRANGER.peer_id)
    with pytest.raises(BadSignature):
        host.answer(altered(request, name="eve"))
    with pytest.raises(DecodeError):
        host.answer(resigned(request, invite, hpke_public_key=b"no key"))
    finish(pending, host.answer(request))


def test_an_expired_invite_is_told_so(host: Host) -> None:
    request, pending = ask(host)
    with pytest.raises(InviteError, match="expired 2 min ago: ask for a new one"):
        finish(pending, host.answer(request, now=NOW + 900 + 120))


def test_an_invite_that_this_mesh_never_gave_is_unknown(host: Host) -> None:
    forged = replace(host.invite(), secret=bytes(16))
    request, pending = ask(host, forged)
    with pytest.raises(InviteError, match="does not know this invite"):
        finish(pending, host.answer(request))


def test_an_invite_of_another_mesh_is_refused(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    with pytest.raises(InviteError, match="not the host that the invite names"):
        build_request(other.invite(), JOINER, host.peer_id, "beta")
    mixed = replace(host.invite(), mesh_id=other.credentials.mesh_id)
    request, pending = ask(host, mixed)
    with pytest.raises(InviteError, match="for another mesh"):
        finish(pending, host.answer(request))


def test_a_request_for_another_host_is_refused(host: Host, tmp_path: Path) -> None:
    request, _ = ask(host)
    with pytest.raises(SecurityError, match="another host"):
        Host(tmp_path / "other").answer(request)


def test_a_host_without_the_root_says_who_can_admit(host: Host) -> None:
    request, pending = ask(host)
    answer = answer_request(request, JOINER.peer_id, replace(host.credentials, root=None), host.book, NOW)
    with pytest.raises(InviteError, match="cannot admit members: ask the mesh's founder"):
        finish(pending, answer)


def test_a_replayed_answer_is_refused(host: Host) -> None:
    first, _ = ask(host)
    answer = host.answer(first)
    _, pending = ask(host)
    with pytest.raises(SecurityError, match="another join request"):
        finish(pending, answer)


def test_an_impostor_with_a_mesh_of_its_own_cannot_welcome(host: Host) -> None:
    """Not even one that read the whole invite, its secret included."""
    invite = host.invite()
    request, pending = ask(host, invite)
    root, charter = MeshRoot.create("lab", SPACE, NOW)
    genuine = unpack(host.answer(request), max_bytes=MAX_MESSAGE_BYTES)
    certificate = root.issue(JOINER.peer_id, "beta", ["node"], JOINER.hpke_public_key, NOW).encode()
    own_mesh = {**genuine, "charter": charter.encode(), "certificate": certificate}
    with pytest.raises(InviteError, match="another mesh than the invite"):
        finish(pending, signed(own_mesh, root))
    with pytest.raises(BadSignature):
        finish(pending, signed({**genuine, "certificate": certificate}, root))


def test_a_welcome_with_a_certificate_for_someone_else_is_refused(host: Host) -> None:
    request, pending = ask(host)
    welcome = unpack(host.answer(request), max_bytes=MAX_MESSAGE_BYTES)
    root = host.credentials.root
    assert root is not None
    for identity, hpke_key, cause in [
        (STRANGER, STRANGER.hpke_public_key, "another peer"),
        (JOINER, STRANGER.hpke_public_key, "another HPKE key"),
    ]:
        certificate = root.issue(identity.peer_id, "beta", ["node"], hpke_key, NOW).encode()
        with pytest.raises(NotAMember, match=cause):
            finish(pending, signed({**welcome, "certificate": certificate}, root))


def test_a_joiner_whose_clock_is_wrong_is_told_so(host: Host) -> None:
    request, pending = ask(host)
    with pytest.raises(NotAMember, match="check the clocks"):
        finish(pending, host.answer(request), now=NOW - 86_400)


def test_an_unusable_name_is_refused_before_anything_is_sent(host: Host) -> None:
    with pytest.raises(ConfigError, match="node name"):
        build_request(host.invite(), JOINER, host.peer_id, "two\nlines")


def test_a_refusal_cannot_write_to_the_joiners_terminal(host: Host) -> None:
    _, pending = ask(host)
    for reason in ("\x1b[2J", "x" * 301):
        answer = pack({"v": 1, "kind": "refused", "request": pending.request_hash, "reason": reason, "remedy": ""})
        with pytest.raises(DecodeError):
            finish(pending, answer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_mutated_request_is_refused(host: Host, asked: tuple[bytes, PendingJoin], data: st.DataObject) -> None:
    request, _ = asked
    with pytest.raises((SecurityError, DecodeError)):
        host.answer(mutate(request, data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_mutated_answer_is_refused(asked: tuple[bytes, PendingJoin], answer: bytes, data: st.DataObject) -> None:
    _, pending = asked
    with pytest.raises((SecurityError, DecodeError)):
        finish(pending, mutate(answer, data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=2000))
def test_noise_is_refused_on_both_sides(host: Host, asked: tuple[bytes, PendingJoin], noise: bytes) -> None:
    _, pending = asked
    with pytest.raises(DecodeError):
        host.answer(noise)
    with pytest.raises(DecodeError):
        finish(pending, noise)


ANSWERER = """
import sys
from pathlib import Path
from meshlore.security.invites import InviteBook
from meshlore.security.join import answer_request
from meshlore.security.membership import Credentials

home = Path(sys.argv[1])
credentials = Credentials.load(home)
book = InviteBook(home / "invites.db", credentials.mesh_id)
print("ready", flush=True)
for line in sys.stdin:
    peer_id, request = line.split()
    answer = answer_request(bytes.fromhex(request), peer_id, credentials, book, 1_800_000_000.0)
    print(answer.hex(), flush=True)
"""


def test_an_invite_used_twice_across_two_processes_gets_in_once(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    invites = [host.invite() for _ in range(10)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ANSWERER, str(tmp_path / "host")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    asked = [[ask(host, invite, joiner) for invite in invites] for joiner in (JOINER, STRANGER)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process, joiner, requests in zip(processes, (JOINER, STRANGER), asked, strict=True):
        assert process.stdin is not None
        process.stdin.write("".join(f"{joiner.peer_id} {request.hex()}\n" for request, _ in requests))
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    for number in range(len(invites)):
        outcomes = [got_in(asked[who][number][1], bytes.fromhex(answers[who][number])) for who in range(2)]
        assert sorted(outcomes) == [False, True]


def got_in(pending: PendingJoin, answer: bytes) -> bool:
    try:
        finish(pending, answer)
    except InviteError:
        return False
    return True


def altered(request: bytes, **changes: object) -> bytes:
    return pack({**unpack(request, max_bytes=MAX_MESSAGE_BYTES), **changes})


def resigned(request: bytes, invite: Invite, **changes: object) -> bytes:
    fields = {**unpack(request, max_bytes=MAX_MESSAGE_BYTES), **changes}
    del fields["proof"]
    return pack({**fields, "proof": sign_with_seed(invite.signing_seed, "join-request", pack(fields))})


def signed(welcome: dict[str, object], root: MeshRoot) -> bytes:
    fields = {name: value for name, value in welcome.items() if name != "signature"}
    return pack({**fields, "signature": root.sign("join-answer", pack(fields))})


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
