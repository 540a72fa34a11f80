"""From a running mesh to findings: what `meshlore status` says while a node looks for the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh
from meshlore.mesh.reasons import LanState, Reach
from meshlore.node.diagnosis import Finding, Severity, diagnose
from meshlore.node.facts import facts_of
from meshlore.node.settings import Settings
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, found_mesh

NewMember = Callable[..., Credentials]
SETTINGS = Settings(listen=("/ip4/192.168.1.5/tcp/4810",))


class Place:
    """Nodes on one in-memory network; all stopped at the end."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self._meshes: list[Mesh] = []

    async def add(self, credentials: Credentials, *bootstrap: str) -> Mesh:
        mesh = Mesh(MemoryTransport(credentials, self.network), store=MemoryStore())
        await mesh.start(bootstrap)
        self._meshes.append(mesh)
        return mesh

    async def stop(self) -> None:
        await asyncio.gather(*(mesh.stop() for mesh in self._meshes))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.stop()


def findings_of(mesh: Mesh, credentials: Credentials, lan: LanState = LanState.ON) -> dict[str, Finding]:
    facts = facts_of(mesh, lan, Reach.UNKNOWN, credentials, SETTINGS, time.time())
    return {finding.code: finding for finding in diagnose(facts)}


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_node_among_others_has_nothing_to_complain_of(place: Place, new_member: NewMember) -> None:
    ann = new_member("ann")
    mesh = await place.add(ann)
    await place.add(new_member("ben"), *mesh.addresses())
    await until(lambda: any(peer.connected for peer in mesh.peers()))
    assert findings_of(mesh, ann) == {}


async def test_a_dead_bootstrap_peer_isolates_until_anybody_is_found(place: Place, new_member: NewMember) -> None:
    ann, dead = new_member("ann"), f"/memory/dead/p2p/{Identity.generate().peer_id}"
    mesh = await place.add(ann, dead)
    await until(lambda: "isolated" in findings_of(mesh, ann))
    found = findings_of(mesh, ann, LanState.NO_MULTICAST)
    assert {code: finding.severity for code, finding in found.items()} == {
        "isolated": Severity.ERROR,
        "no-multicast": Severity.WARNING,
        "bootstrap-down": Severity.WARNING,
    }
    assert dead in found["bootstrap-down"].cause
    await place.add(new_member("ben"), *mesh.addresses())
    await until(lambda: list(findings_of(mesh, ann)) == ["bootstrap-down"])


async def test_a_bootstrap_peer_of_another_mesh_is_named(place: Place, new_member: NewMember, tmp_path: Path) -> None:
    foreign = found_mesh(tmp_path / "zed", "other", "zed", {}, ["node"], now=time.time())
    ann, other = new_member("ann"), await place.add(foreign)
    mesh = await place.add(ann, *other.addresses())
    await until(lambda: "wrong-mesh" in findings_of(mesh, ann))
    assert findings_of(mesh, ann)["wrong-mesh"].severity is Severity.ERROR
