"""Each test here fails when py-libp2p no longer needs a workaround of `mesh/upstream.py`, which can then go.

Those for Yamux have `test_mesh_upstream_yamux.py`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace

import libp2p
import pytest
import trio
import trio.testing
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network import swarm
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from meshlore.mesh import upstream
from meshlore.security.limits import WaitingRoom
from multiaddr import Multiaddr

TEACH = "upstream changed: read the new code, then drop or adapt the workaround"


def test_the_workarounds_are_for_the_version_that_is_installed() -> None:
    assert version("libp2p").startswith("0.8."), TEACH


def test_the_default_host_still_accepts_plaintext() -> None:
    host = libp2p.new_host(key_pair=create_new_key_pair())
    assert len(host.get_network().upgrader.security_multistream.transports) > 1, TEACH


def test_an_inbound_connection_still_keeps_its_slot_until_the_host_stops() -> None:
    source = inspect.getsource(swarm.Swarm._do_handle_inbound_connection)
    assert "wait_finished" in source, TEACH


class _Silent:
    """A socket that was accepted, and on which nobody says a word."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.closed = False

    def get_remote_address(self) -> tuple[str, int]:
        return self._address, 4001

    async def read(self, _most: int | None = None) -> bytes:
        await trio.sleep_forever()
        return b""

    async def write(self, _data: bytes) -> None: ...

    async def close(self) -> None:
        self.closed = True


async def _is_another_let_in(prepare: Callable[[IHost], None]) -> bool:
    """Whether a node still takes a connection after one address has opened as many as it can and said nothing."""
    few = ConnectionConfig(max_connections=4, high_watermark=4, low_watermark=0, min_connections=0)
    host = libp2p.new_host(key_pair=create_new_key_pair(), connection_config=few)
    prepare(host)
    network, listener, honest = host.get_network(), Multiaddr("/ip4/127.0.0.1/tcp/4001"), _Silent("203.0.113.2")
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(network._handle_inbound_connection, _Silent("203.0.113.1"), listener)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(network._handle_inbound_connection, honest, listener)
        await trio.testing.wait_all_tasks_blocked()
        let_in = not honest.closed
        nursery.cancel_scope.cancel()
    return let_in


def test_upstreams_connection_gate_still_lets_one_silent_address_take_every_slot_and_ours_does_not() -> None:
    assert not trio.run(_is_another_let_in, lambda _host: None), TEACH
    assert trio.run(_is_another_let_in, lambda host: upstream.accept_with(host, lambda _address: True, WaitingRoom(4)))


def test_upstreams_connection_gate_still_knows_addresses_and_not_how_often_they_come() -> None:
    gate = libp2p.new_host(key_pair=create_new_key_pair()).get_network().connection_gate

    async def let_in() -> int:
        return sum([await gate.is_allowed(Multiaddr("/ip4/203.0.113.1/tcp/4001")) for _ in range(1000)])

    assert trio.run(let_in) == 1000, f"{TEACH}: its gate may do what `accept_with` asks the door"


def test_dials_still_sleep_for_happy_eyeballs() -> None:
    assert swarm._HAPPY_EYEBALLS_DELAY > 0, TEACH
    assert "move_on_after(_HAPPY_EYEBALLS_DELAY)" in inspect.getsource(swarm.Swarm.dial_peer), TEACH


def test_an_exception_in_a_stream_handler_still_reaches_the_connections_nursery() -> None:
    source = inspect.getsource(swarm_connection.SwarmConn._handle_muxed_stream)
    assert "except" not in source.partition("common_stream_handler")[2], TEACH


def test_a_dial_still_refuses_a_peer_for_a_while_after_a_failure_and_tries_again_by_itself() -> None:
    assert "_negative_peer_cache.is_blocked" in inspect.getsource(swarm.Swarm.dial_peer), TEACH
    assert RetryConfig().max_retries > 0, f"{TEACH}: retry_config need not be set"


def test_a_host_still_dials_whom_it_likes_and_tells_all_peers_about_itself() -> None:
    host = libp2p.new_host(key_pair=create_new_key_pair())
    network = host.get_network()
    assert "self.auto_connector.maybe_connect" in inspect.getsource(swarm.Swarm), TEACH
    assert "_IdentifyNotifee" in {type(notifee).__name__ for notifee in network.notifees}, TEACH
    assert host.get_mux().handlers, TEACH


def test_a_connection_that_comes_up_still_counts_twice_with_the_resource_manager() -> None:
    source = inspect.getsource(swarm.Swarm)
    assert "pre_scope = self._resource_manager.open_connection(" in source, TEACH
    assert "conn_scope = self._resource_manager.open_connection(" in source, TEACH


def test_closing_a_connection_still_naps_and_leaving_the_host_still_leaves_its_listeners() -> None:
    assert "await trio.sleep(0.1)" in inspect.getsource(yamux.Yamux.close), TEACH
    assert "self.close()" not in inspect.getsource(type(libp2p.new_host(key_pair=create_new_key_pair())).run), TEACH


def test_importing_libp2p_still_sets_up_logging() -> None:
    assert "\nsetup_logging()" in inspect.getsource(libp2p), TEACH


def test_importing_libp2p_does_not_leave_its_loggers_on() -> None:
    assert logging.getLogger("libp2p").level == logging.CRITICAL


async def test_a_host_of_ours_speaks_noise_only_and_none_of_libp2ps_own_protocols() -> None:
    from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
    from libp2p.security.noise.transport import Transport

    key_pair = create_new_key_pair()
    noise = Transport(key_pair, noise_privkey=new_x25519().private_key)
    host = upstream.new_host(key_pair, noise, max_connections=8)
    assert list(host.get_network().upgrader.security_multistream.transports) == [upstream.NOISE]
    assert host.get_mux().handlers == {}


def test_a_handler_that_raises_takes_only_its_stream_with_it() -> None:
    ended: list[str] = []

    class Stream:
        async def reset(self) -> None:
            ended.append("reset")

        async def close(self) -> None:
            ended.append("close")

    async def crash(_: object) -> None:
        raise RuntimeError("boom")

    async def fine(_: object) -> None:
        return None

    async def main() -> None:
        await upstream.safe_handler(crash)(Stream())
        await upstream.safe_handler(fine)(Stream())

    trio.run(main)
    assert ended == ["reset", "close"]


class _Agreed:
    """A negotiation that always ends with Yamux."""

    async def select(self, *_: object) -> tuple[str, type]:
        return yamux.PROTOCOL_ID, upstream.MeshYamux


class _Session:
    is_initiator = True


@pytest.mark.parametrize(("ours", "expected"), [(False, yamux.Yamux), (True, upstream.MeshYamux)])
def test_upstream_makes_connections_of_its_own_class_and_we_of_ours(ours: bool, expected: type) -> None:
    multistream = MuxerMultistream({yamux.PROTOCOL_ID: upstream.MeshYamux})
    multistream._selector = _Agreed()
    if ours:
        upstream._make_connections_of(upstream.MeshYamux, multistream)
    peer_id = ID.from_pubkey(create_new_key_pair().public_key)
    assert type(trio.run(multistream.new_conn, _Session(), peer_id)) is expected


async def _reserve_for(victim: ID, asker: ID) -> bool:
    """Whether upstream's relay keeps a place for the victim after somebody else asked for one in its name."""
    host = libp2p.new_host(key_pair=create_new_key_pair())
    protocol = CircuitV2Protocol(host, allow_hop=True)
    stream = SimpleNamespace(muxed_conn=SimpleNamespace(peer_id=asker), is_open=lambda: False, write=_swallow)
    asked = HopMessage(type=HopMessage.RESERVE, peer=PeerId(id=victim.to_bytes()))
    await protocol._handle_reserve(stream, asked)
    return victim in protocol.resource_manager._reservations


async def _swallow(data: bytes) -> None:
    assert data


def test_upstreams_relay_still_takes_reservations_in_the_name_of_another() -> None:
    victim, asker = (ID.from_pubkey(create_new_key_pair().public_key) for _ in range(2))
    assert trio.run(_reserve_for, victim, asker), f"{TEACH}: mesh/relay.py may use upstream's handlers"


def test_upstreams_relay_still_knows_one_circuit_per_source_and_no_end_of_silence() -> None:
    assert "self._active_relays[source_addr] = " in inspect.getsource(CircuitV2Protocol._handle_connect), TEACH
    source = inspect.getsource(CircuitV2Protocol._read_stream_with_retry)
    assert "fail_after" not in source, TEACH
