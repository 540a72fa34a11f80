"""Revoking and rotating from the command line and the control API, and who may speak to that API at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from meshlore.errors import ConfigError, DaemonNotRunning
from meshlore.knowledge.space import Space
from meshlore.mesh.members import Peer, PeerState
from meshlore.node.cli import app
from meshlore.node.client import connect
from meshlore.node.control import ControlServer
from meshlore.node.control_gate import TOKEN_FILE, make_token
from meshlore.node.governing import change_at_rest, named
from meshlore.node.protocol import socket_path
from meshlore.node.store import HomeLock
from meshlore.security.governance import rotate_root
from meshlore.security.identity import Identity
from meshlore.security.invites import InviteBook
from meshlore.security.join import answer_request, build_request, finish
from meshlore.security.membership import Credentials, found_mesh
from typer.testing import CliRunner

EVE = Identity.generate().peer_id


def peer(name: str, peer_id: str) -> Peer:
    return Peer(peer_id, name, frozenset(), PeerState.LIVE, (), None, None, {}, True)


@pytest.fixture
def founded(tmp_path: Path) -> Path:
    found_mesh(tmp_path / "home", "testers", "ann", {}, ["node"], now=time.time())
    return tmp_path / "home"


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return json.loads(result.stdout) if code == 0 else result.stderr


def test_a_member_is_meant_by_its_name_or_its_peer_id_and_never_guessed() -> None:
    ben = Identity.generate().peer_id
    assert named("eve", [peer("eve", EVE), peer("ben", ben)]) == (EVE, "eve")
    assert named(EVE, [peer("eve", EVE)]) == (EVE, "eve")
    assert named(ben, []) == (ben, "")
    with pytest.raises(ConfigError, match="2 members are called"):
        named("eve", [peer("eve", EVE), peer("eve", ben)])
    with pytest.raises(ConfigError, match="no member called"):
        named("eve", [])


def test_the_founder_revokes_and_rotates_without_a_daemon(founded: Path) -> None:
    assert run("revoke", EVE, "--home", founded, "--json") == {"name": "", "peer_id": EVE, "version": 1}
    done = run("rotate-root", "--overlap-days", 2, "--home", founded, "--json")
    loaded = Credentials.load(founded)
    assert loaded.authority.revoked_at(EVE) is not None
    assert loaded.root is not None
    assert loaded.root.public_key.hex() == done["root"]
    assert not loaded.needs_renewal_by_root


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_member_with_a_signer_makes_members_while_the_founder_is_away(
    founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str | None
) -> None:
    if passphrase:
        monkeypatch.setenv("MESHLORE_SIGNER_PASSPHRASE", passphrase)
    founder, ben, file = Credentials.load(founded), Identity.generate(), tmp_path / "signer"
    assert founder.root is not None
    issued = founder.root.issue(ben.peer_id, "ben", ["node"], ben.hpke_public_key, time.time())
    Credentials(ben, founder.charter, issued, founder.keyring).save(tmp_path / "ben")
    done = run("delegate", file, "--days", 30, "--home", founded, "--json")
    assert done["encrypted"] is (passphrase is not None)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "not heard from the root" in run("use-signer", file, "--home", tmp_path / "ben", code=2)
    heard = replace(Credentials.load(tmp_path / "ben"), authority=Credentials.load(founded).authority)
    heard.save(tmp_path / "ben")
    assert run("use-signer", file, "--home", tmp_path / "ben", "--json") == {
        "signer": done["signer"],
        "until": done["until"],
    }
    assert "needs no signer" in run("use-signer", file, "--home", founded, code=2)
    holder, now = Credentials.load(tmp_path / "ben"), time.time()
    book = InviteBook(tmp_path / "invites.db", holder.mesh_id)
    invite, eve = book.create([f"/ip4/127.0.0.1/tcp/1/p2p/{ben.peer_id}"], ["node"], now), Identity.generate()
    request, pending = build_request(invite, eve, ben.peer_id, "eve")
    member = finish(pending, answer_request(request, eve.peer_id, holder, book, now), now=now).credentials()
    assert Credentials.load(founded).check(member.certificate_bytes, eve.peer_id, now).name == "eve"
    assert "does not hold the mesh's root key" in run("revoke", EVE, "--home", tmp_path / "ben", code=2)


def test_a_signers_key_is_written_once_and_never_over_a_file(founded: Path, tmp_path: Path) -> None:
    (tmp_path / "signer").write_text("mine")
    assert "exists" in run("delegate", tmp_path / "signer", "--home", founded, code=2)
    assert (tmp_path / "signer").read_text() == "mine"
    assert "366 days" in run("delegate", tmp_path / "other", "--days", 400, "--home", founded, code=2)
    assert not (tmp_path / "other").exists()


def test_whoever_is_not_the_founder_and_whoever_errs_gets_one_line(founded: Path, tmp_path: Path) -> None:
    assert "no member called" in run("revoke", "eve", "--home", founded, code=2)
    (founded / "root.key").unlink()
    assert "does not hold the mesh's root key" in run("revoke", EVE, "--home", founded, code=2)
    assert "cannot open" in run("revoke", EVE, "--home", tmp_path / "nowhere", code=4)
    assert not (tmp_path / "nowhere").exists()


def test_credentials_are_not_changed_under_a_running_daemon(founded: Path) -> None:
    before = {path.name: path.read_bytes() for path in founded.iterdir()}
    lock = HomeLock(founded)
    with pytest.raises(Exception, match="runs in"):
        change_at_rest(founded, None, rotate_root)
    lock.release()
    assert {name: (founded / name).read_bytes() for name in before} == before


class Governed:
    """What the control API reaches."""

    def status(self) -> dict[str, Any]:
        return {"space": Space((1, 8, 8), ("cat", "dog")).to_map()}

    async def revoke(self, who: str) -> dict[str, Any]:
        if who == "nobody":
            raise ConfigError("no member called 'nobody' is known here")
        return {"name": who, "peer_id": EVE, "version": 4}

    async def rotate_root(self, overlap_s: float) -> dict[str, Any]:
        return {"root": "aa", "until": int(overlap_s)}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path, Governed())  # type: ignore[arg-type]
    await server.start()
    yield tmp_path
    await server.stop()


async def test_a_running_daemon_revokes_and_rotates(home: Path) -> None:
    mesh = connect(home)
    assert (await mesh.revoke("eve"))["version"] == 4
    assert (await mesh.rotate_root(overlap_s=60))["until"] == 60
    with pytest.raises(ConfigError, match="nobody"):
        await mesh.revoke("nobody")
    await mesh.close()
    assert (await asyncio.to_thread(run, "revoke", "eve", "--home", home, "--json"))["peer_id"] == EVE


GOOD = {"host": "meshlore"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda h: h, 200),
        (lambda h: h | {"authorization": "Bearer wrong"}, 403),
        (lambda h: {name: value for name, value in h.items() if name != "authorization"}, 403),
        (lambda h: h | {"origin": "https://evil.example"}, 403),
        (lambda h: h | {"origin": "null"}, 403),
        (lambda h: h | {"sec-fetch-site": "cross-site"}, 403),
        (lambda h: h | {"host": "127.0.0.1:8080"}, 403),
        (lambda h: h | {"host": "evil.example"}, 403),
    ],
)
async def test_a_request_passes_with_the_token_and_not_from_a_web_page(
    home: Path, change: Callable[[dict[str, str]], dict[str, str]], status: int
) -> None:
    headers = change(GOOD | {"authorization": f"Bearer {make_token(home)}"})
    transport = httpx.AsyncHTTPTransport(uds=str(socket_path(home)))
    async with httpx.AsyncClient(transport=transport, base_url="http://meshlore") as http:
        assert (await http.get("/status", headers=headers)).status_code == status


async def test_the_token_is_private_and_stays_the_same_and_another_one_is_told_apart(home: Path) -> None:
    token = home / TOKEN_FILE
    assert token.stat().st_mode & 0o777 == 0o600
    assert make_token(home) == make_token(home)
    token.write_text("another")
    with pytest.raises(DaemonNotRunning, match="refuses this client"):
        async with connect(home):
            pass
