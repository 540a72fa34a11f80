"""Invite codes and the book that lets each in once."""

from __future__ import annotations

import base64
import itertools
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.codec import pack
from meshlore.errors import DecodeError, InviteError, StateError
from meshlore.security.identity import peer_id_of
from meshlore.security.invites import PREFIX, Invite, InviteBook, _checksum, host_of

NOW = 1_800_000_000.0
MESH_ID = "ab" * 32
HOST = peer_id_of(bytes(32))
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{HOST}"

invites = st.builds(
    Invite,
    mesh_id=st.binary(min_size=32, max_size=32).map(bytes.hex),
    addresses=st.lists(
        st.builds("/ip4/192.0.2.{}/tcp/{}/p2p/{}".format, st.integers(0, 255), st.integers(1, 65535), st.just(HOST)),
        min_size=1,
        max_size=8,
    ).map(tuple),
    secret=st.binary(min_size=16, max_size=16),
    roles=st.frozensets(st.sampled_from(["node", "anchor", "requester"]), min_size=1),
    expires_at=st.integers(0, 2**40),
)


@given(invites)
def test_a_code_gives_its_invite_back(invite: Invite) -> None:
    code = invite.code()
    assert code.startswith(PREFIX)
    assert "\n" not in code
    assert Invite.parse(code) == invite


@given(invites, st.data())
def test_an_altered_code_is_an_invite_error(invite: Invite, data: st.DataObject) -> None:
    code = invite.code()
    position = data.draw(st.integers(0, len(code) - 1))
    letter = data.draw(
        st.characters(exclude_categories=["Cs", "Z", "Cc"]).filter(lambda letter: letter != code[position])
    )
    with pytest.raises(InviteError):
        Invite.parse(code[:position] + letter + code[position + 1 :])
    with pytest.raises(InviteError):
        Invite.parse(code[:position])


@given(st.text(max_size=200), st.binary(max_size=200))
def test_other_text_is_an_invite_error(text: str, noise: bytes) -> None:
    sealed_noise = base64.urlsafe_b64encode(noise + _checksum(noise)).decode().rstrip("=")
    for candidate in (text, PREFIX + text, PREFIX + sealed_noise):
        with pytest.raises(InviteError):
            Invite.parse(candidate)


def test_blanks_and_line_breaks_from_copying_do_not_matter() -> None:
    invite = Invite(MESH_ID, (ADDRESS,), bytes(16), frozenset({"node"}), int(NOW))
    code = invite.code()
    assert Invite.parse(f"  {code[:80]}\r\n{code[80:]} \n") == invite


def test_what_is_no_code_at_all_is_told_what_to_copy() -> None:
    with pytest.raises(InviteError, match=r"does not begin with .*: copy the line that meshlore invite prints"):
        Invite.parse("hello")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2), ("mesh_id", b"short"), ("secret", b"short"), ("roles", ["king"]), ("roles", []),
        ("addresses", []), ("addresses", [ADDRESS] * 9), ("addresses", [1]),
        ("addresses", ["/ip4/192.0.2.1/tcp/1"]), ("addresses", [f"/ip4/{'1' * 256}/p2p/{HOST}"]),
        ("expires_at", -1), ("more", 1),
    ],
)  # fmt: skip
def test_a_well_formed_code_with_an_unusable_field_is_refused(field: str, value: object) -> None:
    fields = {
        "v": 1, "mesh_id": bytes(32), "addresses": [ADDRESS], "secret": bytes(16),
        "roles": ["node"], "expires_at": 1,
    }  # fmt: skip
    payload = pack({**fields, field: value})
    code = PREFIX + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")
    with pytest.raises(InviteError, match="damaged"):
        Invite.parse(code)


@pytest.mark.parametrize(
    "address", ["", "x", f"/p2p/{HOST}", f"192.0.2.1/p2p/{HOST}", f"/ip4/1 2/p2p/{HOST}", "/ip4/1/p2p/x"]
)
def test_an_address_names_its_peer_or_is_refused(address: str) -> None:
    with pytest.raises(DecodeError):
        host_of(address)
    assert host_of(ADDRESS) == HOST


def test_an_invite_is_used_once(tmp_path: Path) -> None:
    book = InviteBook(tmp_path / "invites.db", MESH_ID)
    invite = book.create([ADDRESS], ["anchor", "node"], NOW)
    assert invite.expires_at == NOW + 900
    assert book.redeem(invite.secret_hash, NOW) == {"anchor", "node"}
    with pytest.raises(InviteError, match="used before: ask for a new one"):
        InviteBook(tmp_path / "invites.db", MESH_ID).redeem(invite.secret_hash, NOW)


def test_an_expired_invite_is_refused_and_an_unknown_one_too(tmp_path: Path) -> None:
    book = InviteBook(tmp_path / "invites.db", MESH_ID)
    invite = book.create([ADDRESS], ["node"], NOW)
    with pytest.raises(InviteError, match="expired 2 min ago"):
        book.redeem(invite.secret_hash, NOW + 1020)
    with pytest.raises(InviteError, match="does not know this invite"):
        book.redeem(bytes(32), NOW)
    assert book.redeem(invite.secret_hash, NOW + 900) == {"node"}


def test_the_book_is_private_and_does_not_hold_what_would_let_its_thief_in(tmp_path: Path) -> None:
    invite = InviteBook(tmp_path / "invites.db", MESH_ID).create([ADDRESS], ["node"], NOW)
    content = (tmp_path / "invites.db").read_bytes()
    assert stat.S_IMODE((tmp_path / "invites.db").stat().st_mode) == 0o600
    assert invite.secret_hash in content
    assert invite.secret not in content
    assert invite.signing_seed not in content


def test_a_loose_or_damaged_book_is_a_state_error(tmp_path: Path) -> None:
    path = tmp_path / "invites.db"
    book = InviteBook(path, MESH_ID)
    invite = book.create([ADDRESS], ["node"], NOW)
    path.chmod(0o644)
    with pytest.raises(StateError, match="run: chmod 600"):
        book.redeem(invite.secret_hash, NOW)
    path.chmod(0o600)
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(StateError, match="cannot be used"):
        book.redeem(invite.secret_hash, NOW)
    with pytest.raises(StateError, match="cannot be used"):
        InviteBook(tmp_path / "nowhere" / "invites.db", MESH_ID).redeem(invite.secret_hash, NOW)


@pytest.mark.parametrize(
    ("addresses", "roles", "lifetime_s"),
    [
        ([], ["node"], 900),
        ([ADDRESS], [], 900),
        ([ADDRESS], ["king"], 900),
        ([ADDRESS], ["node"], 0),
        ([ADDRESS], ["node"], 1e6),
    ],
)
def test_an_invite_that_could_not_be_used_is_not_made(
    tmp_path: Path, addresses: list[str], roles: list[str], lifetime_s: float
) -> None:
    with pytest.raises(InviteError):
        InviteBook(tmp_path / "invites.db", MESH_ID).create(addresses, roles, NOW, lifetime_s)


def test_old_invites_are_swept_out(tmp_path: Path) -> None:
    book = InviteBook(tmp_path / "invites.db", MESH_ID)
    old = book.create([ADDRESS], ["node"], NOW)
    book.create([ADDRESS], ["node"], NOW + 30 * 86_400)
    with pytest.raises(InviteError, match="does not know"):
        book.redeem(old.secret_hash, NOW + 30 * 86_400)


REDEEMER = """
import sys
from pathlib import Path
from meshlore.errors import InviteError
from meshlore.security.invites import InviteBook

book = InviteBook(Path(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    try:
        book.redeem(bytes.fromhex(line), 1_800_000_000)
        print(line.strip(), flush=True)
    except InviteError:
        print("refused", flush=True)
"""


def start_redeemer(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", REDEEMER, str(path), MESH_ID],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_three_processes_that_use_the_same_invites_at_once_each_invite_lets_one_in(tmp_path: Path) -> None:
    book = InviteBook(tmp_path / "invites.db", MESH_ID)
    hashes = [book.create([ADDRESS], ["node"], NOW).secret_hash.hex() for _ in range(25)]
    processes = [start_redeemer(tmp_path / "invites.db") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n".join(hashes) + "\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    redeemed = [answer for answer in itertools.chain(*answers) if answer != "refused"]
    assert sorted(redeemed) == sorted(hashes)
    assert [len(answer) for answer in answers] == [25, 25, 25]


def test_an_invite_that_was_used_before_a_kill_9_stays_used(tmp_path: Path) -> None:
    book = InviteBook(tmp_path / "invites.db", MESH_ID)
    hashes = [book.create([ADDRESS], ["node"], NOW).secret_hash.hex() for _ in range(60)]
    process = start_redeemer(tmp_path / "invites.db")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n".join(hashes) + "\n")
    process.stdin.flush()
    acknowledged = [process.stdout.readline().strip() for _ in range(20)]
    process.kill()
    acknowledged += process.communicate()[0].split()
    assert acknowledged[:20] == hashes[:20]
    for line in hashes[: len(acknowledged)]:
        with pytest.raises(InviteError, match="used before"):
            book.redeem(bytes.fromhex(line), NOW)
    book.redeem(bytes.fromhex(book.create([ADDRESS], ["node"], NOW).secret_hash.hex()), NOW)
