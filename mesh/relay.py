"""Circuit relay v2: a member that cannot be dialled is reached through one that can, which sees ciphertext only.

Spoken is libp2p's protocol (specs/relay/circuit-v2.md) in upstream's messages; the handlers are ours: those of
py-libp2p 0.8.1 let anybody reserve in the name of another, mix up two circuits of one source, and keep a silent
circuit for as long as it may last. The two ends do Noise and admission with each other through the circuit, as they
would over TCP; of what a relay passes on it knows the length. Everything here runs in the trio thread.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import trio

from . import upstream  # isort: skip
from libp2p.abc import IHost, IMuxedConn, INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from ..errors import DecodeError, Refused, Unreachable
from . import circuit
from .circuit import MAX_RELAY_ADDRESSES

log = logging.getLogger("meshlore.mesh")

HOP = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
DEADLINE_S = 5.0
READ_BYTES = 64 << 10


@dataclass(frozen=True)
class RelayLimits:
    """What one node does for others. Seconds, and bytes of both directions of one circuit together."""

    reservations: int = 32
    reservation_s: float = 3600.0
    circuits: int = 32
    circuits_per_peer: int = 4
    circuit_bytes: int = 1 << 30
    circuit_s: float = 6 * 3600.0
    idle_s: float = 180.0
    """Both ends beat at least once a minute, so a silent circuit is dead."""


class CircuitConnection(IRawConnection):  # type: ignore[misc]
    """A stream through a relay in the place of a TCP connection. It has no remote address of its own."""

    def __init__(self, stream: INetStream, *, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = await self._stream.read(n)
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        # no reset: it would discard what the other end has not read yet, such as why it is refused
        await self._stream.close()

    def get_remote_address(self) -> None:
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED


class Relay:
    """All three parts: reached through a relay, reaching through one, and being one.

    Args:
        own_addresses: where this node itself listens, with ``/p2p/``.
        blame: told what a member asked that no honest one asks, and who.
    """

    def __init__(
        self,
        host: IHost,
        limits: RelayLimits,
        own_addresses: Callable[[], list[str]],
        blame: Callable[[DecodeError, str], None],
    ) -> None:
        self._host, self._limits, self._own_addresses, self._blame = host, limits, own_addresses, blame
        self._swarm = host.get_network()
        self._reserved_by: dict[str, float] = {}
        self._reserved_at: set[str] = set()
        self._circuits: Counter[str] = Counter()
        self._relayed: WeakSet[IMuxedConn] = WeakSet()

    def serve(self, nursery: trio.Nursery) -> None:
        """From now on; ``nursery`` is that of the host."""
        self._nursery = nursery
        self._host.set_stream_handler(HOP, upstream.safe_handler(self._serve_hop))
        self._host.set_stream_handler(STOP, upstream.safe_handler(self._serve_stop))

    def disconnected(self, peer_id: str) -> None:
        """Reservations last as long as the connection over which they were made, on both sides."""
        self._reserved_by.pop(peer_id, None)
        self._reserved_at.discard(peer_id)

    def is_direct(self, peer_id: str) -> bool:
        """Whether there is a connection to that peer which no relay carries."""
        connections = self._swarm.get_connections(ID.from_string(peer_id))
        return any(not upstream.is_closing(each) and each.muxed_conn not in self._relayed for each in connections)

    # --- reached through a relay

    async def reserve(self, relay_id: str, stream: INetStream) -> tuple[list[str], float]:
        """Ask a connected member to be reached through it, on a stream opened with `HOP`.

        Returns:
            Its addresses with ``/p2p/``, and for how many seconds the reservation holds.

        Raises:
            Refused: it takes no (more) reservations.
            DecodeError: the answer is malformed.
        """
        answer = await _ask(stream, pb.HopMessage(type=pb.HopMessage.RESERVE))
        with upstream.shielded(1):
            await stream.close()
        reservation = circuit.read_reservation(answer, relay_id)
        self._reserved_at.add(relay_id)
        return list(reservation.addresses), max(0.0, reservation.expire - time.time())

    async def _serve_stop(self, stream: INetStream) -> None:
        """A relay says that a peer is at the other end of this stream; who that is, Noise will tell."""
        relay_id = str(stream.muxed_conn.peer_id)
        with trio.fail_after(DEADLINE_S):
            known = circuit.is_circuit(await circuit.read(stream)) and relay_id in self._reserved_at
            status = pb.OK if known else pb.PERMISSION_DENIED
            await circuit.write(stream, pb.StopMessage(type=pb.StopMessage.STATUS, status=status))
        if known:
            connection = CircuitConnection(stream, is_initiator=False)
            muxed = await self._swarm.upgrade_inbound_raw_conn(connection, Multiaddr("/p2p-circuit"))
            self._relayed.add(muxed)
            await muxed.event_closed.wait()

    # --- reaching through a relay

    async def dial(self, peer_id: ID, stream: INetStream) -> None:
        """Connect to ``peer_id`` through the relay to which ``stream`` leads, opened with `HOP`.

        Raises:
            Unreachable: the relay cannot reach it. Else as a dial over TCP.
        """
        asked = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=peer_id.to_bytes()))
        try:
            circuit.check_accepted(await _ask(stream, asked), pb.HopMessage)
        except (Refused, DecodeError) as error:
            await stream.reset()
            raise Unreachable(f"the relay cannot reach it: {error.message}", "is the node there running?") from error
        connection = await self._swarm.upgrade_outbound_raw_conn(CircuitConnection(stream, is_initiator=True), peer_id)
        self._relayed.add(connection.muxed_conn)

    # --- being a relay

    async def _serve_hop(self, stream: INetStream) -> None:
        caller = str(stream.muxed_conn.peer_id)
        try:
            with trio.fail_after(DEADLINE_S):
                asked = circuit.read_asked(await circuit.read(stream))
        except DecodeError as error:
            self._blame(error, caller)
            await _answer(stream, pb.MALFORMED_MESSAGE)
            return
        if not self.is_direct(caller):
            await _answer(stream, pb.PERMISSION_DENIED)
        elif asked.target is None:
            await self._take_reservation(caller, stream)
        else:
            await self._connect(caller, asked.target, stream)

    async def _take_reservation(self, caller: str, stream: INetStream) -> None:
        now = time.monotonic()
        self._reserved_by = {peer: ends for peer, ends in self._reserved_by.items() if ends > now}
        if caller not in self._reserved_by and len(self._reserved_by) >= self._limits.reservations:
            await _answer(stream, pb.RESERVATION_REFUSED)
            return
        self._reserved_by[caller] = now + self._limits.reservation_s
        own = self._own_addresses()[:MAX_RELAY_ADDRESSES]
        addresses = [Multiaddr(address).to_bytes() for address in own]
        expire = int(time.time() + self._limits.reservation_s)
        await _answer(stream, pb.OK, pb.Reservation(expire=expire, addrs=addresses), self._limit())

    async def _connect(self, caller: str, target: str, stream: INetStream) -> None:
        if self._reserved_by.get(target, 0.0) < time.monotonic() or not self.is_direct(target):
            await _answer(stream, pb.NO_RESERVATION)
            return
        if self._circuits.total() >= self._limits.circuits or self._circuits[caller] >= self._limits.circuits_per_peer:
            await _answer(stream, pb.RESOURCE_LIMIT_EXCEEDED)
            return
        self._circuits[caller] += 1
        try:
            await self._join(caller, ID.from_string(target), stream)
        finally:
            self._circuits[caller] -= 1
            self._circuits += Counter()  # drops those at zero

    async def _join(self, caller: str, target: ID, stream: INetStream) -> None:
        asked = pb.StopMessage(
            type=pb.StopMessage.CONNECT, peer=pb.PeerId(id=ID.from_string(caller).to_bytes()), limit=self._limit()
        )
        try:
            onward = await upstream.open_stream(self._host, self._nursery, target, STOP, DEADLINE_S)
            circuit.check_accepted(await _ask(onward, asked), pb.StopMessage)
        except Exception as error:
            log.debug("no circuit from …%s to …%s: %r", caller[-8:], str(target)[-8:], error)
            await _answer(stream, pb.CONNECTION_FAILED)
            return
        try:
            await _answer(stream, pb.OK, limit=self._limit())
            await self._pass_on(stream, onward)
        finally:
            with upstream.shielded(1), suppress(Exception):
                await onward.close()

    async def _pass_on(self, one: INetStream, other: INetStream) -> None:
        """Until either side ends, is silent for too long, or the circuit has used its bytes or its time."""
        budget = Budget(self._limits.circuit_bytes)
        with trio.move_on_after(self._limits.circuit_s):
            async with trio.open_nursery() as nursery:

                async def copy(source: INetStream, target: INetStream) -> None:
                    with suppress(Exception):
                        await pass_bytes(source, target, budget, self._limits.idle_s)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(copy, one, other)
                nursery.start_soon(copy, other, one)

    def _limit(self) -> pb.Limit:
        return pb.Limit(duration=int(self._limits.circuit_s), data=self._limits.circuit_bytes)


@dataclass
class Budget:
    """What one circuit may still pass on, in bytes."""

    left_bytes: int


async def pass_bytes(source: INetStream, target: INetStream, budget: Budget, idle_s: float) -> None:
    """Copy one direction of a circuit until it ends, is silent for ``idle_s``, or the budget is spent."""
    while True:
        with trio.fail_after(idle_s):
            data = await source.read(READ_BYTES)
        budget.left_bytes -= len(data)
        if not data or budget.left_bytes < 0:
            return
        await target.write(data)


async def _ask(stream: INetStream, asked: Any) -> bytes:
    """Send one message and read one; the stream is reset if that fails."""
    try:
        with trio.fail_after(DEADLINE_S):
            await circuit.write(stream, asked)
            return await circuit.read(stream)
    except BaseException:
        with upstream.shielded(1), suppress(Exception):
            await stream.reset()
        raise


async def _answer(
    stream: INetStream,
    status: pb.Status.ValueType,
    reservation: pb.Reservation | None = None,
    limit: pb.Limit | None = None,
) -> None:
    message = pb.HopMessage(type=pb.HopMessage.STATUS, status=status, reservation=reservation, limit=limit)
    with trio.fail_after(DEADLINE_S):
        await circuit.write(stream, message)
