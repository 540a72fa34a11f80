"""The mesh over both transports: discovery, adverts, requests, and peers that fail."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
from meshes import QUICK, Cluster, NewMember, neighbours, peer, until
from meshlore.errors import ConfigError, PeerTimeout, Refused
from meshlore.mesh.members import PeerState
from meshlore.mesh.memory import MemoryTransport
from meshlore.mesh.transport import Body, Caller
from meshlore.security.identity import Identity


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
