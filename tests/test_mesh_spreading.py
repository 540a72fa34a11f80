"""Blobs that spread over both transports: to all, from whoever has them, and past disks and peers that fail."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from meshes import Cluster, NewMember, neighbours, peer, until
from meshlore.errors import DecodeError, SecurityError, StateError
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh


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

    monkeypatch.setattr("meshlore.mesh.addresses.save_book", save)
    slow = Slow()
    slow.put(b"blob")
    await memory_cluster.add("ann", store=slow if what == "read" else MemoryStore())
    ben = await memory_cluster.add("ben", address_book=tmp_path / "book" if what == "save" else None)
    await until(lambda: neighbours(ben) and peer(ben, "ann").addresses)
    if what == "save":
        await ben.stop()
    await until(lambda: threads)
    assert threading.main_thread() not in threads


IDLE_S = 6.0  # several beats, so that one more of them in it changes little


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
        await asyncio.sleep(IDLE_S)
        later = [mesh.traffic() for mesh in meshes]
    finally:
        await cluster.stop()
    for before, after in zip(settled, later, strict=True):
        assert before.bytes_sent < 16_000
        assert (after.bytes_sent - before.bytes_sent) / IDLE_S * 60 < 35_000
