"""The benchmarks of the mesh: a short churn of real daemons, and judges that can say no."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import netns
from benchmarks.churn import SHORT, Outcome, churn, targets
from benchmarks.churn_audit import damage, lost_work
from benchmarks.faults import Fault
from benchmarks.fleet import found_fleet
from benchmarks.scale import Figures, judge

GOOD = Outcome(SHORT, "loopback", converged_s=3.0, acknowledged=5, numbers=9, ghosts_s=[6.0])
ROW = Figures("memory", 50, 1, 2, 4, 2, 1, 1e5, 9e4, 250, 0, 8, 12, 2e5, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_daemons_survive_a_short_churn() -> None:
    outcome = asyncio.run(churn(SHORT))
    assert [line for line in targets(outcome) if not line[2]] == [], outcome.problems
    assert outcome.done[Fault.KILL] == SHORT.kills
    assert outcome.left_out or outcome.frames_lost > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"converged_s": None},
        {"converged_s": 121.0},
        {"damaged": 1},
        {"reused_numbers": 1},
        {"lost": 1},
        {"acknowledged": 0},
        {"hangs": 1},
        {"ghosts_s": [21.0]},
    ],
)
def test_one_failure_misses_one_target(bad: dict[str, object]) -> None:
    assert all(reached for _, _, reached in targets(GOOD))
    assert sum(not reached for _, _, reached in targets(replace(GOOD, **bad))) == 1


def test_the_audit_finds_damage_and_lost_work(tmp_path: Path) -> None:
    (device,) = found_fleet(tmp_path, 1, None, seed=0)
    assert damage(device) == []
    assert lost_work(device, {"ab" * 16}) == [f"{device.name}: fine-tuning {'ab' * 16} is lost"]
    (device.home / "private").mkdir()
    (device.home / "private" / f"{'ab' * 16}.npz").touch()
    assert lost_work(device, {"ab" * 16}) == []
    (device.home / "packets" / ("0" * 64)).write_bytes(b"other bytes")
    assert len(damage(device)) == 1
    (device.home / "state" / "journal.bin").write_bytes(b"torn")
    assert len(damage(device)) == 1


def test_growth_beyond_the_packets_and_the_logarithm_misses_a_target() -> None:
    large = replace(ROW, nodes=200, spread_bytes=5e5, spread_s=10, single_s=3)
    assert all(verdict.reached for verdict in judge([ROW, large]))
    for bad in (
        {"spread_bytes": 6e5},
        {"spread_s": 11},
        {"single_s": 4},
        {"idle_bytes_per_s": 400},
        {"transferred_again": 1},
        {"neighbours_max": 13},
    ):
        assert sum(not verdict.reached for verdict in judge([ROW, replace(large, **bad)])) == 1


@pytest.fixture
def network() -> Iterator[netns.Network]:
    if not netns.allowed():
        pytest.skip("needs the right to make network namespaces")
    network = netns.Network(2, seed=0)
    yield network
    network.close()


ECHO = "import socket; s = socket.create_server(('10.99.0.2', 9)); c = s.accept()[0]; c.sendall(c.recv(9)); c.recv(9)"
ASK = """
import socket, time
deadline = time.monotonic() + 10
while True:
    try:
        asker = socket.create_connection(("10.99.0.2", 9), 5)
        break
    except ConnectionRefusedError:
        assert time.monotonic() < deadline
asker.sendall(b"hello")
print(asker.recv(9).decode())
"""


async def test_namespaces_reach_each_other_over_the_switch_and_not_over_a_partition(network: netns.Network) -> None:
    network.start()
    listener = await _in(network.namespaces[1], ECHO)
    asker = await _in(network.namespaces[0], ASK)
    assert (await asker.communicate())[0] == b"hello\n"
    await listener.wait()
    assert network.frames > 0
    network.part({0})
    frames = network.frames
    cut_off = await _in(network.namespaces[0], "import socket; socket.create_connection(('10.99.0.2', 9), 0.5)")
    assert await cut_off.wait() != 0
    assert network.frames == frames


async def _in(namespace: str, program: str) -> asyncio.subprocess.Process:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
