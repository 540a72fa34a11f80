"""The mesh over both transports: discovery, adverts, requests, spreading blobs, and peers that fail."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from meshlore.errors import ConfigError, DecodeError, PeerTimeout, Refused, SecurityError, StateError
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import HeartbeatSettings, Peer, PeerState
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.mesh.transport import Body, Caller, Transport
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials

QUICK = MeshSettings(
    heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1), tick_s=0.05, relay_delay_s=0.3, request_timeout_s=2
)
NewMember = Callable[..., Credentials]


class Cluster:
    """Meshes that the test starts, each with its store, all stopped at the end."""

    def __init__(self, new_member: NewMember, kind: str) -> None:
        self._new_member, self._kind = new_member, kind
        self.network = MemoryNetwork(delay_s=0.001)
        self.meshes: list[Mesh] = []
        self.stores: dict[str, MemoryStore] = {}

    def transport(self, credentials: Credentials) -> Transport:
        if self._kind == "memory":
            return MemoryTransport(credentials, self.network)
        return Libp2pTransport(credentials)

    async def add(self, name: str, bootstrap: list[str] | None = None, **kwargs: object) -> Mesh:
        credentials = kwargs.pop("credentials", None) or self._new_member(name)
        store = kwargs.pop("store", None) or MemoryStore()
        mesh = Mesh(self.transport(credentials), store=store, **{"settings": QUICK, **kwargs})  # type: ignore[arg-type]
        if bootstrap is None:
            bootstrap = self.meshes[0].addresses()[:1] if self.meshes else []
        await mesh.start(bootstrap)
        self.meshes.append(mesh)
        self.stores[mesh.peer_id] = store  # type: ignore[assignment]
        return mesh

    async def stop(self) -> None:
        await asyncio.gather(*(mesh.stop() for mesh in self.meshes))


@pytest.fixture(params=["memory", "libp2p"])
async def cluster(request: pytest.FixtureRequest, new_member: NewMember) -> AsyncIterator[Cluster]:
    cluster = Cluster(new_member, request.param)
    yield cluster
    await cluster.stop()


@pytest.fixture
async def memory_cluster(new_member: NewMember) -> AsyncIterator[Cluster]:
    cluster = Cluster(new_member, "memory")
    yield cluster
    await cluster.stop()


async def until(condition: Callable[[], object], timeout_s: float = 8) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def neighbours(mesh: Mesh) -> set[str]:
    return {peer.name for peer in mesh.peers() if peer.connected}


def peer(mesh: Mesh, name: str) -> Peer:
    return next(peer for peer in mesh.peers() if peer.name == name)


async def test_nodes_that_know_one_bootstrap_peer_find_all_others(cluster: Cluster) -> None:
    names = ["ann", "ben", "cid", "dan"]
    for name in names:
        await cluster.add(name)
    await until(lambda: all(len(neighbours(mesh)) == 3 for mesh in cluster.meshes))
    await until(lambda: peer(cluster.meshes[3], "cid").addresses)
    found = peer(cluster.meshes[3], "cid")
    assert found.state is PeerState.LIVE
    assert found.roles == {"node"}
    assert found.addresses[0] == cluster.meshes[2].addresses()[0]


async def test_two_islands_that_meet_become_one(memory_cluster: Cluster) -> None:
    ann, ben = await memory_cluster.add("ann"), await memory_cluster.add("ben")
    cid = await memory_cluster.add("cid", bootstrap=[])
    dan = await memory_cluster.add("dan", bootstrap=cid.addresses())
    await until(lambda: neighbours(ann) == {"ben"} and neighbours(dan) == {"cid"})
    await memory_cluster.add("bridge", bootstrap=[ben.addresses()[0], dan.addresses()[0]])
    await until(lambda: all(len(neighbours(mesh)) == 4 for mesh in memory_cluster.meshes))


async def test_adverts_come_with_the_greeting_and_again_when_they_change(cluster: Cluster) -> None:
    seen: list[int] = []
    ann = await cluster.add("ann", on_peer=lambda peer: seen.append(peer.advert.get("skill", 0)))
    ben = await cluster.add("ben")
    ben.set_advert({"skill": 1})
    await until(lambda: neighbours(ann) and peer(ann, "ben").advert == {"skill": 1})
    ben.set_advert({"skill": 2})
    await until(lambda: peer(ann, "ben").advert == {"skill": 2})
    assert seen[-1] == 2
    with pytest.raises(ConfigError):
        ben.set_advert({"text": "x" * 9000})


async def test_requests_reach_handlers_and_roles_are_asked_for(cluster: Cluster) -> None:
    ann, ben = await cluster.add("ann"), await cluster.add("ben")

    async def add(caller: Caller, body: Body) -> Body:
        return {"sum": body["a"] + body["b"], "for": caller.name}

    ann.serve("add", add)
    ann.serve("rule", add, roles=frozenset({"anchor"}))
    await until(lambda: neighbours(ben))
    assert await ben.request(ann.peer_id, "add", {"a": 1, "b": 2}, 2) == {"sum": 3, "for": "ben"}
    for kind, code in (("rule", "role"), ("fly", "unknown-kind"), ("mesh.fly", "unknown-kind")):
        with pytest.raises(Refused) as caught:
            await ben.request(ann.peer_id, kind, {}, 2)
        assert caught.value.code == code
    with pytest.raises(ValueError, match="own"):
        ann.serve("mesh.mine", add)


async def test_an_announced_blob_reaches_everybody(cluster: Cluster) -> None:
    for name in ("ann", "ben", "cid"):
        await cluster.add(name)
    await until(lambda: all(len(neighbours(mesh)) == 2 for mesh in cluster.meshes))
    ann = cluster.meshes[0]
    name = cluster.stores[ann.peer_id].put(bytes(100_000))
    ann.announce(name)
    await until(lambda: all(name in store.blobs for store in cluster.stores.values()))


async def test_a_newcomer_gets_the_blobs_of_an_author_that_left(cluster: Cluster) -> None:
    ann = await cluster.add("ann")
    ben = await cluster.add("ben")
    name = cluster.stores[ben.peer_id].put(b"what ben knew")
    ben.announce(name)
    await until(lambda: name in cluster.stores[ann.peer_id].blobs)
    await ben.stop()
    cid = await cluster.add("cid", bootstrap=ann.addresses())
    await until(lambda: name in cluster.stores[cid.peer_id].blobs)
    assert cluster.stores[cid.peer_id].came_from[name] == ann.peer_id


async def test_a_stopped_peer_is_gone_at_once_and_found_again_when_it_returns(
    cluster: Cluster, new_member: NewMember
) -> None:
    ann = await cluster.add("ann")
    credentials = new_member("ben")
    ben = await cluster.add("ben", credentials=credentials)
    await until(lambda: neighbours(ann) == {"ben"})
    started = time.monotonic()
    await ben.stop()
    await until(lambda: peer(ann, "ben").state is PeerState.GONE)
    assert time.monotonic() - started < 1.5
    await cluster.add("ben", credentials=credentials)
    await until(lambda: peer(ann, "ben").state is PeerState.LIVE)


async def test_a_frozen_peer_is_suspect_then_gone_and_comes_back(memory_cluster: Cluster) -> None:
    states: list[PeerState] = []
    ann = await memory_cluster.add("ann", on_peer=lambda peer: states.append(peer.state))
    ben = await memory_cluster.add("ben")
    await until(lambda: neighbours(ann))
    started = time.monotonic()
    memory_cluster.network.freeze(ben.peer_id)
    await until(lambda: peer(ann, "ben").state is PeerState.GONE)
    assert time.monotonic() - started < 4 * QUICK.heartbeat.interval_s
    assert PeerState.SUSPECT in states
    memory_cluster.network.thaw(ben.peer_id)
    await until(lambda: peer(ann, "ben").state is PeerState.LIVE)


async def test_a_cut_link_heals_by_itself(memory_cluster: Cluster) -> None:
    ann, ben = await memory_cluster.add("ann"), await memory_cluster.add("ben")
    await until(lambda: neighbours(ann))
    memory_cluster.network.cut(ann.peer_id, ben.peer_id)
    assert not neighbours(ann)
    await asyncio.sleep(0.3)
    memory_cluster.network.heal(ann.peer_id, ben.peer_id)
    await until(lambda: neighbours(ann) and neighbours(ben))


async def test_a_dead_bootstrap_peer_is_one_warning_and_found_when_it_comes_up(
    memory_cluster: Cluster, new_member: NewMember, caplog: pytest.LogCaptureFixture
) -> None:
    late = new_member("late")
    address = MemoryTransport(late, memory_cluster.network).addresses()[0]
    with caplog.at_level(logging.WARNING, "meshlore.mesh"):
        ann = await memory_cluster.add("ann", bootstrap=[address])
        await asyncio.sleep(1)
    assert [record.getMessage()[:12] for record in caplog.records] == ["cannot reach"]
    await memory_cluster.add("late", bootstrap=[], credentials=late)
    await until(lambda: neighbours(ann) == {"late"})


async def test_a_bootstrap_address_that_is_not_valid_is_refused_at_start(memory_cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="/p2p/"):
        await memory_cluster.add("ann", bootstrap=["/ip4/127.0.0.1/tcp/4001"])
    with pytest.raises(ConfigError, match="multiaddr"):
        await memory_cluster.add("ann", bootstrap=[f"/dns4/é/tcp/1/p2p/{Identity.generate().peer_id}"])


async def test_a_blob_that_the_store_refuses_is_pulled_once_and_goes_no_further(memory_cluster: Cluster) -> None:
    class Picky(MemoryStore):
        asked = 0

        async def accept(self, name: str, data: bytes, from_peer: str) -> None:
            self.asked += 1
            raise DecodeError("not a packet")

    picky = Picky()
    ann = await memory_cluster.add("ann")
    ben = await memory_cluster.add("ben", store=picky)
    cid = await memory_cluster.add("cid", bootstrap=ben.addresses())
    memory_cluster.network.cut(ann.peer_id, cid.peer_id)
    await until(lambda: neighbours(ben) == {"ann", "cid"})
    ann.announce(memory_cluster.stores[ann.peer_id].put(b"rubbish"))
    await until(lambda: picky.asked)
    await asyncio.sleep(0.5)
    assert picky.asked == 1
    assert memory_cluster.stores[cid.peer_id].blobs == {}


async def test_when_a_holder_fails_the_pull_goes_on_with_another(memory_cluster: Cluster) -> None:
    class Forgetful(MemoryStore):
        def read(self, name: str) -> bytes:
            return b"not what was promised"

    data = bytes(1000)
    forgetful = Forgetful()
    name = forgetful.put(data)
    ann = await memory_cluster.add("ann", store=forgetful)
    ben = await memory_cluster.add("ben", bootstrap=[])
    memory_cluster.stores[ben.peer_id].put(data)
    cid = await memory_cluster.add("cid", bootstrap=[ann.addresses()[0], ben.addresses()[0]])
    await until(lambda: name in memory_cluster.stores[cid.peer_id].blobs)
    assert memory_cluster.stores[cid.peer_id].blobs[name] == data


async def test_addresses_are_remembered_without_a_bootstrap_peer(
    memory_cluster: Cluster, tmp_path: Path, new_member: NewMember
) -> None:
    book, credentials = tmp_path / "addresses.json", new_member("ben")
    ann = await memory_cluster.add("ann")
    ben = await memory_cluster.add("ben", credentials=credentials, address_book=book)
    await until(lambda: neighbours(ben) and peer(ben, "ann").addresses)
    await ben.stop()
    again = await memory_cluster.add("ben", credentials=credentials, address_book=book, bootstrap=[])
    await until(lambda: neighbours(again) == {"ann"})
    assert peer(again, "ann").peer_id == ann.peer_id


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": ["/x/p2p/b"]}', "\x00\xff", "{" * 10_000])
async def test_a_damaged_address_book_is_a_warning(
    memory_cluster: Cluster, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    book = tmp_path / "addresses.json"
    book.write_text(content)
    with caplog.at_level(logging.WARNING, "meshlore.mesh"):
        mesh = await memory_cluster.add("ann", address_book=book)
    assert "unusable" in caplog.text
    assert mesh.peers() == []


async def test_what_this_node_alone_refuses_does_not_part_it_from_the_holder(memory_cluster: Cluster) -> None:
    refused: set[str] = set()

    class Conservative(MemoryStore):
        async def accept(self, name: str, data: bytes, from_peer: str) -> None:
            if data.startswith(b"second"):
                refused.add(name)
                raise SecurityError("signed two packets with the same number")
            await super().accept(name, data, from_peer)

    ann = await memory_cluster.add("ann")
    ben = await memory_cluster.add("ben", store=Conservative())
    await until(lambda: neighbours(ben))
    held = memory_cluster.stores[ann.peer_id]
    for number in range(5):
        held.put(b"second %d" % number)
    await until(lambda: len(refused) == 5 and ben.missing() == 0)
    good = held.put(b"first")
    await until(lambda: good in memory_cluster.stores[ben.peer_id].blobs)


async def test_a_full_disk_is_not_met_with_the_same_pull_again_and_again(memory_cluster: Cluster) -> None:
    class Full(MemoryStore):
        pulled = 0

        async def accept(self, name: str, data: bytes, from_peer: str) -> None:
            self.pulled += 1
            if self.pulled < 3:
                raise StateError("no space left", "make room")
            await super().accept(name, data, from_peer)

    full, now = Full(), [0.0]
    ann = await memory_cluster.add("ann")
    await memory_cluster.add("ben", store=full, clock=lambda: time.monotonic() + now[0])
    name = memory_cluster.stores[ann.peer_id].put(b"large")
    await until(lambda: full.pulled == 1)
    now[0] += 3
    await until(lambda: full.pulled == 2)
    now[0] += 3
    await asyncio.sleep(0.3)
    assert full.pulled == 2
    now[0] += 3
    await until(lambda: name in full.blobs)


async def test_dead_peers_with_many_addresses_do_not_keep_a_live_one_waiting(memory_cluster: Cluster) -> None:
    class Patient(MemoryTransport):
        async def connect(self, address: str, timeout_s: float) -> str:
            if "/dead/" in address:
                await asyncio.sleep(timeout_s)
                raise PeerTimeout("nobody answers")
            return await super().connect(address, timeout_s)

    ann = await memory_cluster.add("ann", bootstrap=[])
    memory_cluster.transport = lambda credentials: Patient(credentials, memory_cluster.network)  # type: ignore[method-assign]
    dead = [Identity.generate().peer_id for _ in range(10)]
    nowhere = [f"/memory/{number}/dead/p2p/{peer_id}" for peer_id in dead for number in range(8)]
    few = replace(QUICK, parallel_dials=2, dial_timeout_s=0.2)
    ben = await memory_cluster.add("ben", bootstrap=[*nowhere, *ann.addresses()], settings=few)
    await until(lambda: neighbours(ben) == {"ann"}, timeout_s=3)


@pytest.mark.parametrize("what", ["read", "save"])
async def test_a_slow_disk_does_not_hold_up_the_loop(
    memory_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    threads: list[threading.Thread] = []

    class Slow(MemoryStore):
        def read(self, name: str) -> bytes:
            threads.append(threading.current_thread())
            return super().read(name)

    def save(path: Path, book: object) -> None:
        threads.append(threading.current_thread())

    monkeypatch.setattr("meshlore.mesh.acquaintance.save_book", save)
    slow = Slow()
    slow.put(b"blob")
    await memory_cluster.add("ann", store=slow if what == "read" else MemoryStore())
    ben = await memory_cluster.add("ben", address_book=tmp_path / "book" if what == "save" else None)
    await until(lambda: neighbours(ben) and peer(ben, "ann").addresses)
    if what == "save":
        await ben.stop()
    await until(lambda: threads)
    assert threading.main_thread() not in threads


async def test_stopping_with_dead_and_frozen_peers_is_quick_and_leaves_no_task(memory_cluster: Cluster) -> None:
    nowhere = f"/memory/nobody/p2p/{Identity.generate().peer_id}"
    ann = await memory_cluster.add("ann", bootstrap=[nowhere])
    ben = await memory_cluster.add("ben", bootstrap=ann.addresses())
    await until(lambda: neighbours(ann))
    memory_cluster.network.freeze(ben.peer_id)
    await asyncio.sleep(0.4)
    started = time.monotonic()
    await ann.stop()
    assert time.monotonic() - started < 1
    assert not [task for task in asyncio.all_tasks() if "Mesh" in repr(task) and ann.peer_id[-8:] in repr(task)]


async def test_six_nodes_in_full_mesh_stay_within_their_byte_budget(new_member: NewMember) -> None:
    cluster = Cluster(new_member, "libp2p")
    meshes: list[Mesh] = []
    bootstrap: list[str] = []
    for number in range(6):
        mesh = Mesh(Libp2pTransport(new_member(f"node{number}")), store=MemoryStore())
        await mesh.start(bootstrap)
        mesh.set_advert({"accuracy": [0.5] * 10, "model": "cnn-small"})
        bootstrap = bootstrap or mesh.addresses()
        meshes.append(mesh)
    cluster.meshes = meshes
    try:
        await until(lambda: all(len(neighbours(mesh)) == 5 for mesh in meshes))
        await asyncio.sleep(1.5)
        settled = [mesh.traffic() for mesh in meshes]
        await asyncio.sleep(3)
        later = [mesh.traffic() for mesh in meshes]
    finally:
        await cluster.stop()
    for before, after in zip(settled, later, strict=True):
        assert before.bytes_sent < 16_000
        assert (after.bytes_sent - before.bytes_sent) / 3 * 60 < 35_000
