"""Every workaround for py-libp2p 0.8.1, each with its reason; those for Yamux and TCP are in `yamux` and `tcp`, and
shown here too.

`tests/test_mesh_upstream.py` fails when upstream no longer needs one, so that it can go.
Import this before any other part of libp2p: importing libp2p sets log levels, and we set ours after.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import libp2p
import trio
from libp2p.abc import IHost, IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from ..security.limits import WaitingRoom
from .tcp import prompt_socket
from .yamux import (
    MAX_STREAMS,
    MAX_UNREAD_BYTES,
    MeshYamux,
    patch_yamux,
    read_some,
    shielded,
    widen,
    write_all,
)

log = logging.getLogger("meshlore.mesh")

UPGRADE_TIMEOUT_S = 3.0
NEGOTIATION_TIMEOUT_S = 5.0
__all__ = [
    "MAX_STREAMS",
    "MAX_UNREAD_BYTES",
    "NOISE",
    "MeshYamux",
    "accept_with",
    "close",
    "dial",
    "is_closing",
    "new_host",
    "open_stream",
    "patch_yamux",
    "prompt_socket",
    "read_some",
    "safe_handler",
    "shielded",
    "widen",
    "write_all",
]
StreamHandler = Callable[[INetStream], Awaitable[None]]

# importing libp2p turns its loggers on; expected network failures are reported by us, once
for _name in ("libp2p", "async_service", "root", "multiaddr"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def new_host(
    key_pair: KeyPair,
    noise: NoiseTransport,
    *,
    max_connections: int,
    on_excess: Callable[[str], None] = MeshYamux.on_excess,
) -> IHost:
    """A host that speaks TCP with this Noise and Yamux, and nothing else: no identify, no own dialling."""
    patch_yamux()
    muxer = type("HostYamux", (MeshYamux,), {"on_excess": staticmethod(on_excess)})
    host = libp2p.new_host(
        key_pair=key_pair,
        # the default also accepts plaintext and secio
        sec_opt={NOISE: noise},
        muxer_opt={TProtocol(yamux.PROTOCOL_ID): muxer},
        negotiate_timeout=int(NEGOTIATION_TIMEOUT_S),
        # its max_connections admits one less than it says and can end at 0, so it is set out of reach
        # and ConnectionConfig's, which is exact, counts
        resource_manager=ResourceManager(
            limits=ResourceLimits(max_connections=max_connections * 8, max_memory_mb=512, max_streams=4096),
            connections_per_peer_per_sec=5.0,
            burst_connections_per_peer=20.0,
            enable_memory_limits=False,
        ),
        connection_config=ConnectionConfig(
            max_connections=max_connections,
            high_watermark=max_connections,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=4,
            inbound_upgrade_timeout=UPGRADE_TIMEOUT_S,
            outbound_upgrade_timeout=UPGRADE_TIMEOUT_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_TIMEOUT_S,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_TIMEOUT_S,
        ),
        disable_identify_address_discovery=True,
    )
    swarm = host.get_network()
    _make_connections_of(muxer, swarm.upgrader.muxer_multistream)
    # retries inside a dial hide its deadline and its reason; we have our own back-off
    swarm.retry_config = RetryConfig(max_retries=0)
    # the auto-connector dials whom it likes; the mesh decides whom to dial
    swarm.auto_connector.maybe_connect = _nothing
    # identify tells every peer all our protocols and addresses and costs kilobytes; hello does that job
    for notifee in list(swarm.notifees):
        if type(notifee).__name__ == "_IdentifyNotifee":
            swarm.remove_notifee(notifee)
    host.get_mux().handlers.clear()
    return host


def _make_connections_of(muxer: type[MeshYamux], multistream: Any) -> None:
    """Upstream negotiates Yamux and then makes a connection of its own class, whatever class it was given."""

    async def new_conn(conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await multistream._selector.select(conn, conn.is_initiator, multistream.negotiate_timeout)
        connection = muxer(conn, peer_id, is_initiator=conn.is_initiator, on_close=_nothing)
        annotated: IMuxedConn = multistream._annotate_connection(connection, conn, protocol)
        return annotated

    multistream.new_conn = new_conn


def accept_with(host: IHost, admit: Callable[[str], bool], room: WaitingRoom) -> None:
    """Ask ``admit(ip)`` before each inbound upgrade, and give the inbound slot back when a connection ends.

    Upstream keeps slot and task of every connection ever accepted until the host stops, so a node
    refuses everybody after ``max_connections`` reconnects; and its gate cannot count. Its slots are shared by
    members and by those who have not said a word yet, so the silent could keep all others out: those get a
    ``room`` of their own.
    """
    swarm = host.get_network()
    swarm._inbound_limiter.total_tokens = swarm.connection_config.max_connections + 2 * room.size

    async def handle(stream: ReadWriteCloser, listener: Multiaddr, _failure: object) -> None:
        remote = stream.get_remote_address()
        address, raw, muxed = remote[0] if remote else "", RawConnection(stream, False), None
        try:
            if admit(address):
                with trio.CancelScope() as waiting:
                    room.enter(address, waiting.cancel)
                    try:
                        muxed = await swarm.upgrade_inbound_raw_conn(raw, listener)
                    finally:
                        room.leave(waiting.cancel)
            if muxed is not None:
                await muxed.event_closed.wait()
        finally:
            with shielded(1), suppress(Exception):
                await raw.close()

    swarm._do_handle_inbound_connection = handle


async def dial(host: IHost, address: Multiaddr, peer_id: ID) -> INetConn:
    """Dial exactly this address.

    ``host.connect`` sleeps 0.25 s on every dial (happy eyeballs), tries one address of those it has
    stored, and refuses a peer for 60 s after a failure.
    """
    return await host.get_network().dial_addr(address, peer_id)


def is_closing(connection: INetConn) -> bool:
    """Whether a connection that the swarm still lists is of no use any more; it lists them for 0.1 s longer."""
    return bool(connection.is_closed or connection.muxed_conn.event_shutting_down.is_set())


def safe_handler(serve: StreamHandler) -> StreamHandler:
    """A stream handler whose exceptions stay its own: one that escapes ends the whole host."""

    async def handle(stream: INetStream) -> None:
        end = stream.reset
        try:
            await serve(stream)
            end = stream.close
        except Exception as error:
            log.debug("stream ended: %r", error)
        finally:
            with shielded(1), suppress(Exception):
                await end()

    return handle


async def open_stream(
    host: IHost,
    nursery: trio.Nursery,
    peer_id: ID,
    protocol: TProtocol,
    timeout_s: float = NEGOTIATION_TIMEOUT_S,
) -> INetStream:
    """Open a stream by a deadline.

    A cancelled ``new_stream`` leaks its stream, and after 256 leaks the next one waits for ever; so it
    runs in ``nursery``, is abandoned instead of cancelled, and reset when it arrives late.

    Raises:
        trio.TooSlowError: not open by the deadline.
        Exception: whatever libp2p raises.
    """
    ended = trio.Event()
    stream: INetStream | None = None
    failure: Exception | None = None
    abandoned = False

    async def open_it() -> None:
        nonlocal stream, failure
        try:
            with trio.CancelScope(deadline=trio.current_time() + timeout_s + 5, shield=True):
                stream = await host.new_stream(peer_id, [protocol])
        except Exception as error:
            failure = error
        ended.set()
        if abandoned and stream is not None:
            with shielded(1), suppress(Exception):
                await stream.reset()

    nursery.start_soon(open_it)
    try:
        with trio.fail_after(timeout_s):
            await ended.wait()
    finally:
        abandoned = not ended.is_set()
    if failure is not None:
        raise failure
    if stream is None:
        raise trio.TooSlowError("no stream")
    return stream


async def close(host: IHost, timeout_s: float) -> None:
    """Close connections at the same time and then the listeners, shielded.

    Leaving ``host.run()`` leaves the listener accepting, and closes connections one after the other
    with two naps of 0.1 s each.
    """
    swarm = host.get_network()
    swarm._closing = True

    async def hang_up(connection: INetConn) -> None:
        with suppress(Exception):
            await connection.close()

    with shielded(timeout_s):
        async with trio.open_nursery() as nursery:
            for connection in swarm.get_connections():
                nursery.start_soon(hang_up, connection)
        swarm._closing = False
        with suppress(Exception):
            await host.close()


async def _nothing(*_: object) -> None:
    return None
