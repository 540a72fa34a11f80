"""Members on one local network find each other without any address, in network namespaces of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lan_nodes import Lan, until
from meshlore.errors import DecodeError
from meshlore.mesh.interfaces import dialable, own_addresses
from meshlore.mesh.lan import LanDiscovery, properties_of, record_in, tag_of
from meshlore.mesh.records import AddressRecord, issue_record
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, found_mesh
from namespaces import why_not

ANN = Identity.generate()
MESH = "ab" * 32
NewMember = Callable[..., Credentials]


def record_with(addresses: int) -> AddressRecord:
    whole = [f"/ip4/192.168.1.5/tcp/{4810 + number}/p2p/{ANN.peer_id}" for number in range(addresses)]
    return issue_record(ANN.peer_id, whole, b"instance", ANN.sign, 1_700_000_000)


@pytest.mark.parametrize("addresses", [0, 1, 8])
def test_an_address_record_survives_its_way_through_dns(addresses: int) -> None:
    record = record_with(addresses)
    properties = properties_of(tag_of(MESH), record)
    assert all(len(key) + 1 + len(value) <= 255 for key, value in properties.items())
    assert record_in(tag_of(MESH), dict(properties)) == record


def test_nodes_of_other_meshes_are_passed_over_and_no_id_is_told() -> None:
    properties = properties_of(tag_of(MESH), record_with(1))
    assert record_in(tag_of("cd" * 32), dict(properties)) is None
    assert MESH.encode() not in b"".join(properties.values())
    assert bytes.fromhex(MESH) not in b"".join(properties.values())


@given(st.dictionaries(st.sampled_from([b"r0", b"r1", b"r6", b"x"]), st.none() | st.binary(max_size=255)))
@settings(max_examples=80, deadline=None)
def test_no_service_raises_anything_but_decode_error(properties: dict[bytes, bytes | None]) -> None:
    with pytest.raises(DecodeError):
        record_in(tag_of(MESH), {b"mesh": tag_of(MESH), **properties})


def test_all_interfaces_become_the_addresses_that_others_can_dial() -> None:
    peer = f"/tcp/4810/p2p/{ANN.peer_id}"
    assert dialable([f"/ip4/0.0.0.0{peer}", f"/ip4/1.2.3.4{peer}"]) == [
        *(f"/ip4/{host}{peer}" for host in own_addresses() or ["127.0.0.1"]),
        f"/ip4/1.2.3.4{peer}",
    ]


@pytest.fixture
async def lan(tmp_path: Path) -> AsyncIterator[Lan]:
    if reason := why_not():
        pytest.skip(reason)
    lan = Lan(tmp_path)
    yield lan
    await lan.close()


async def test_members_on_one_network_meet_and_strangers_there_do_not(
    lan: Lan, new_member: NewMember, tmp_path: Path
) -> None:
    members = {name: await lan.start(name, new_member(name)) for name in ("ann", "ben")}
    foreign = found_mesh(tmp_path / "zed", "other", "zed", {}, ["node"], now=1_790_000_000)
    stranger = await lan.start("zed", foreign)
    await until(lambda: members["ann"].said.get("peers") == ["ben"] and members["ben"].said.get("peers") == ["ann"])
    await until(lambda: stranger.said.get("lan") == "on")
    late = await lan.start("cid", new_member("cid"))
    await until(lambda: late.said.get("peers") == ["ann", "ben"])
    assert lan.network.address("cid") in str(late.said["addresses"])
    assert stranger.said["known"] == [], "who is of another mesh is not even dialled"


async def test_an_interface_without_multicast_is_noticed(lan: Lan) -> None:
    namespace = lan.network.device("tunnel")
    lan.network.no_multicast("tunnel")
    program = "from meshlore.mesh.interfaces import multicast_works; print(multicast_works())"
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[0] == b"False\n"


async def test_discovery_waits_for_a_network_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlore.mesh.lan.multicast_works", lambda: False)
    discovery = LanDiscovery(MESH, lambda: record_with(1), lambda _record: None)
    running = asyncio.create_task(discovery.run())
    await until(lambda: discovery.state == "no-multicast")
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
