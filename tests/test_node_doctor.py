"""`meshlore doctor`: what it finds on a device whose daemon does not run, and what a running one tells it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from meshlore.knowledge.space import Space
from meshlore.mesh.addresses import save_book
from meshlore.node.cli import app
from meshlore.node.control import ControlServer
from meshlore.node.setup import ADDRESS_BOOK
from meshlore.security.files import make_private_folder
from meshlore.security.identity import Identity
from meshlore.security.membership import CERTIFICATE_FILE
from typer.testing import CliRunner, Result

PEER = Identity.generate().peer_id
BROKEN = {"code": "isolated", "severity": "error", "cause": "nobody is there", "remedy": "call [them]"}
ODD = BROKEN | {"code": "bootstrap-down", "severity": "warning"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MESHLORE_HOME", "MESHLORE_CONFIG", "MESHLORE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def founded(home: Path) -> Path:
    assert run("init", "--data", "digits", "--home", home, "--name", "ann").exit_code == 0
    return home


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def examined(home: Path, code: int) -> dict[str, dict[str, str]]:
    result = run("doctor", "--json", "--home", home)
    assert result.exit_code == code, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["healthy"] == (code == 0)
    assert not document["running"]
    return {finding["code"]: finding for finding in document["findings"]}


def configure(home: Path, **settings: object) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (home / "config.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_new_founder_is_healthy_and_told_how_others_can_come(founded: Path) -> None:
    assert list(examined(founded, 0)) == ["listens-locally", "no-addresses"]


def test_a_closed_port_of_the_only_known_member_is_an_error(founded: Path) -> None:
    address = f"/ip4/127.0.0.1/tcp/{closed_port()}/p2p/{PEER}"
    configure(founded, bootstrap=[address])
    findings = examined(founded, 1)
    assert "port closed" in findings["isolated"]["cause"]
    assert address in findings["isolated"]["cause"]
    assert findings["bootstrap-down"]["severity"] == "warning"


def test_addresses_remembered_from_last_time_are_tried_too(founded: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        save_book(founded / ADDRESS_BOOK, {PEER: (f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{PEER}",)})
        assert examined(founded, 0) == {}
    assert list(examined(founded, 1)) == ["isolated"]


def test_an_unknown_host_name_is_told_from_a_closed_port(founded: Path) -> None:
    configure(founded, bootstrap=[f"/dns4/no-such-host.invalid/tcp/1/p2p/{PEER}"])
    assert "host name that is not known" in examined(founded, 1)["bootstrap-down"]["cause"]


def test_a_port_in_use_is_named(founded: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        configure(founded, listen=[f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/0"])
        finding = examined(founded, 1)["cannot-listen"]
    assert f"/ip4/127.0.0.1/tcp/{port}" in finding["cause"]
    assert "in use" in finding["cause"]


def test_a_home_without_keys_is_a_finding_and_not_a_traceback(home: Path, founded: Path) -> None:
    (founded / CERTIFICATE_FILE).unlink()
    assert "meshlore join" in examined(founded, 1)["home-unusable"]["remedy"]


def test_locked_keys_are_a_finding(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLORE_PASSPHRASE", "secret")
    assert run("init", "--data", "digits", "--home", home, "--name", "ann").exit_code == 0
    assert "home-unusable" not in examined(home, 0)
    monkeypatch.delenv("MESHLORE_PASSPHRASE")
    assert "passphrase" in examined(home, 1)["home-unusable"]["cause"]


class Talking:
    """A daemon that says what is wrong with it."""

    def __init__(self, *findings: dict[str, str]) -> None:
        self.findings = list(findings)

    def status(self) -> dict[str, Any]:
        return {"name": "fake", "space": Space((1, 8, 8), ("a", "b")).to_map(), "findings": self.findings}


@pytest.fixture
async def daemon(home: Path) -> AsyncIterator[Talking]:
    make_private_folder(home)
    node = Talking()
    server = ControlServer(home, node)  # type: ignore[arg-type]
    await server.start()
    yield node
    await server.stop()


async def test_a_running_daemon_is_asked_and_its_errors_decide_the_exit_code(home: Path, daemon: Talking) -> None:
    daemon.findings = [BROKEN, ODD]
    result = await asyncio.to_thread(run, "doctor", "--json", "--home", home)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"running": True, "healthy": False, "findings": [BROKEN, ODD]}
    daemon.findings = [ODD]
    assert (await asyncio.to_thread(run, "doctor", "--home", home)).exit_code == 0


async def test_in_words_each_finding_is_a_cause_and_what_to_do(home: Path, daemon: Talking) -> None:
    daemon.findings = [BROKEN]
    result = await asyncio.to_thread(run, "doctor", "--home", home)
    assert result.stdout.splitlines()[1:] == ["error nobody is there [isolated]", "  → call [them]"]
    daemon.findings = []
    assert "nothing is wrong" in (await asyncio.to_thread(run, "doctor", "--home", home)).stdout
