"""Nodes in Ray: what is refused before anything starts, an actor that is killed, and an end that leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from meshlore.errors import ConfigError, MeshloreError, Unreachable
from meshlore.knowledge.space import Space
from meshlore.node.cli import app
from meshlore.node.ray_actor import SKIPPED_NUMBERS, copy_home, restore_home
from meshlore.node.ray_session import LOCAL, ray_session
from meshlore.node.store import StateStore
from meshlore.security.membership import Credentials, found_mesh
from typer.testing import CliRunner

from benchmarks.raylets import raylets

ROOT = Path(__file__).resolve().parents[1]
LITTLE_WORK = {
    "samples_per_class": 4,
    "classifier_steps": 60,
    "condense_steps": 10,
    "distil_steps": 60,
    "generator_steps": 5,
}
SETTINGS = [part for name, value in LITTLE_WORK.items() for part in ("--set", f"learning.{name}={value}")]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of somebody who takes connections and is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refused(address: str) -> MeshloreError:
    with pytest.raises(MeshloreError) as caught, ray_session(address):
        pytest.fail("it connected")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def fake_ray(monkeypatch: pytest.MonkeyPatch, version: str, error: Exception | None = None) -> None:
    def init(**_: Any) -> None:
        if error is not None:
            raise error

    module = SimpleNamespace(__version__=version, init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", module)


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    error = refused(LOCAL)
    assert isinstance(error, ConfigError)
    assert "pip install 'meshlore[cluster]'" in str(error)


def test_a_ray_that_cannot_ask_for_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch, "2.51.1")
    assert "Ray 2.51.1 cannot ask for a token" in str(refused(LOCAL))


def test_a_cluster_of_another_version_is_named_with_both(
    monkeypatch: pytest.MonkeyPatch, token: Path, listening: str
) -> None:
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.12.1\nThis process on\n"
    fake_ray(monkeypatch, "2.60.0", RuntimeError(f"{said} was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"))
    error = refused(listening)
    assert f"{listening} runs Ray 2.55.0 with Python 3.12.1, this machine Ray 2.60.0 with Python 3.11.7" in str(error)
    assert "install the same Ray" in error.remedy


def test_who_is_no_ray_is_told_from_nobody(monkeypatch: pytest.MonkeyPatch, token: Path, listening: str) -> None:
    fake_ray(monkeypatch, "2.60.0", ConnectionError("Failed to connect to Ray cluster"))
    assert "does not answer as the head of a Ray does" in str(refused(listening))
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    started = time.monotonic()
    error = refused(nobody)
    assert isinstance(error, Unreachable)
    assert f"no Ray answers at {nobody}" in str(error)
    assert time.monotonic() - started < 6


def test_a_cluster_without_a_token_is_not_joined(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "RAY_AUTH_MODE=token" in str(refused(listening))


@pytest.mark.parametrize("address", ["auto", "ray://host:10001", "host", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert f"Ray address {address!r}" in str(refused(address))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ray", "--in-process"], "choose one"),
        (["10.0.0.1:6379"], "put --ray before it"),
        (["--ray", "nowhere"], "Ray address 'nowhere'"),
    ],
)
def test_the_command_refuses_in_one_line(options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["cluster", *options])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_a_home_goes_on_from_its_copy_and_never_gives_a_number_out_twice(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    credentials = found_mesh(here, "m", "ann", Space((1, 8, 8), ("a", "b")).to_map(), ["node"], now=time.time())
    assert "state/journal.bin" not in copy_home(here), "it has learned nothing yet"
    state = StateStore(here)
    numbers = [state.next_sequence() for _ in range(3)]
    copy = copy_home(here)
    numbers += [state.next_sequence() for _ in range(3)]  # what the copy does not know of
    restore_home(there, copy)
    assert Credentials.load(there, None).peer_id == credentials.peer_id
    assert StateStore(there).next_sequence() == 3 + SKIPPED_NUMBERS + 1 > max(numbers)
    assert (there / "state").stat().st_mode & 0o077 == 0


def start(tmp_path: Path, *command: str) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command, *SETTINGS, "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], path: Path, pattern: str) -> None:
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def said_by_the_command(address: str, **environment: str) -> str:
    """The one line of a cluster that cannot be had."""
    command = [sys.executable, "-m", "meshlore", "cluster", "--ray", address, "--nodes", "2", "--no-anchor"]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode in {1, 2}
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.mark.slow
def test_somebody_who_is_no_ray_is_given_up_after_one_try(token: Path, listening: str) -> None:
    said = said_by_the_command(listening, RAY_py_gcs_connect_timeout_s="2")
    assert f"whoever listens at {listening} does not answer as the head of a Ray does" in said


OTHER_VERSION = """
import sys, types
sys.modules["ray._version"] = types.ModuleType("ray._version")
sys.modules["ray._version"].version, sys.modules["ray._version"].commit = "2.99.0", ""
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_head_of_another_version_or_with_another_token_is_one_line_each(token: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_VERSION)
    (tmp_path / "other").write_text("1" * 64)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with raylets([1]) as address:
        said = said_by_the_command(address, PYTHONPATH=path)
        assert re.search(rf"{address} runs Ray [\d.]+ with Python [\d.]+, this machine Ray 2\.99\.0 with Python", said)
        said = said_by_the_command(address, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
        assert f"the Ray cluster at {address} asks for another token" in said


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_example_runs_and_killed_actors_go_on_from_their_state(tmp_path: Path) -> None:
    process = start(tmp_path, "examples/ray_cluster.py", "--nodes", "2", "--samples", "80")
    wait_for(process, tmp_path, "tmp/meshlore-*/node-2/state/classifier-*")
    homes = next(tmp_path.glob("tmp/meshlore-*/node-2")).parent
    owners = [int((homes / name / "lock").read_text()) for name in ("node-1", "node-2")]
    assert set(owners) <= {child.pid for child in below(process)}
    for owner in owners:
        os.kill(owner, signal.SIGKILL)
    shutil.rmtree(homes / "node-1")  # as when the founder's machine is gone
    out, err = process.communicate(timeout=380)
    assert process.returncode == 0, out + err
    for name in ("node-1", "node-2"):
        assert f"{name} was lost 1 x and went on from its state" in out
    assert err == ""
    assert "raylet" not in out, "standard output is for results"
    assert list((tmp_path / "tmp").glob("meshlore-*/node-*")) == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_ctrl_c_leaves_no_ray_behind(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", "meshlore", "cluster", "--ray", "--nodes", "2", "--no-anchor")
    wait_for(process, tmp_path, "tmp/meshlore-*/node-1/lock")
    children = below(process)
    assert any("raylet" in child.name() for child in children)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "meshlore: stopped"
    assert "Traceback" not in out + err
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert list((tmp_path / "tmp").glob("meshlore-*/node-*")) == []
