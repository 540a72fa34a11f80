"""Admission: who gets a connection is decided inside the Noise upgrade, before any multiplexer.

Right after the Noise handshake the dialler writes one message over the encrypted session, and the
listener answers with one, each a 2-byte length and a canonical map of little more than 8 KiB at most:

    {"hello": certificate, "links": chain}  ->  the same of the listener    and the connection goes on to Yamux
    {"join": request}                       ->  {"answer": answer}          and it closes
    anything else                           ->  {"refused": one line}       and it closes; with a "code" if a hello

``links`` is the chain of authority (`security.authority`), so that who has not heard of a new root yet lets its
members in.

So a stranger speaks to these hundred lines, to the Noise handshake, and to nothing else.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from . import upstream  # isort: skip
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from ..codec import pack, unpack
from ..errors import DecodeError, MeshloreError, NotAMember, PeerGone, Refused, SecurityError
from ..security.authority import links_from
from ..security.limits import KeyedBuckets
from ..security.membership import Certificate, Credentials
from .conduct import SLOWED_COST
from .dispatch import one_line
from .guard import Guard
from .reasons import refused_by_peer
from .transport import TransportLimits

log = logging.getLogger("meshlore.mesh")

MAX_MESSAGE_BYTES = (8 << 10) + 64
MESSAGE_DEADLINE_S = 3.0
MAX_CONNECTIONS_PER_PEER = 8
READ_AHEAD_BYTES = 64 << 10
# what multistream-select exchanges before Noise starts, which the counters do not see: both lines, each way
NEGOTIATION_BYTES = len(b"\x13/multistream/1.0.0\n") + len(b"\x07/noise\n")
_LENGTH = struct.Struct("!H")
TOO_OFTEN = Refused("too many connections", "connect less often", code="busy")
NO_HANDSHAKE = Refused("no Noise handshake", code="handshake")
MOST_PER_READ = READ_AHEAD_BYTES * SLOWED_COST
Pay = Callable[[int], Awaitable[None]]
JoinAnswerer = Callable[[bytes, str], bytes]


@dataclass
class ByteCount:
    """Bytes on the TCP connections of one host."""

    sent: int = 0
    received: int = 0


class CountedConnection(IRawConnection):  # type: ignore[misc]
    """A raw connection that counts, and reads ahead: Noise asks for 2 bytes and then for a body."""

    def __init__(self, raw: IRawConnection, count: ByteCount) -> None:
        self._raw = raw
        self._count = count
        self._ahead = b""
        self._place = 0
        self.pay: Pay | None = None
        self.left: Callable[[], None] | None = None
        self.is_initiator = raw.is_initiator
        upstream.prompt_socket(raw)
        count.sent += NEGOTIATION_BYTES
        count.received += NEGOTIATION_BYTES

    async def read(self, n: int | None = None) -> bytes:
        if self._place >= len(self._ahead):
            self._ahead, self._place = await self._raw.read(READ_AHEAD_BYTES), 0
            self._count.received += len(self._ahead)
            if self.pay is not None:
                await self.pay(len(self._ahead))
        end = len(self._ahead) if n is None else self._place + n
        data = self._ahead[self._place : end]
        self._place += len(data)
        return data

    async def write(self, data: bytes) -> None:
        await self._raw.write(data)
        self._count.sent += len(data)

    async def close(self) -> None:
        if self.left is not None:
            self.left()
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Multiaddr]:
        addresses: list[Multiaddr] = self._raw.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()


class Door:
    """Who may come in: holds the credentials, the certificates of those inside, and a bucket per address."""

    def __init__(
        self, credentials: Credentials, limits: TransportLimits, answer_join: JoinAnswerer | None, guard: Guard
    ) -> None:
        self.credentials = credentials
        self.guard = guard
        self.answer_join = answer_join
        self.certificates: dict[str, Certificate] = {}
        self.connections: dict[str, list[CountedConnection]] = {}
        self.count = ByteCount()
        self._strangers = KeyedBuckets(limits.strangers_per_s, limits.strangers_burst, max_keys=4096)
        self._members = KeyedBuckets(limits.members_per_s, limits.members_burst, max_keys=1024)
        self._bytes = KeyedBuckets(limits.bytes_per_s, max(limits.bytes_per_s, MOST_PER_READ), max_keys=1024)

    def admit(self, address: str) -> bool:
        """Whether an address may try to come in now. Each try costs; `welcome` gives members theirs back."""
        admitted = self._strangers.take(address, time.monotonic())
        if not admitted:
            self.guard.refuse("connection", TOO_OFTEN)
        return admitted

    def hello(self) -> dict[str, Any]:
        """What this node shows."""
        links = [link.encode() for link in self.credentials.authority.links]
        return {"hello": self.credentials.certificate_bytes, "links": links}

    def judge(self, message: dict[str, Any], peer_id: str) -> Certificate:
        """The certificate in another's hello. Raises NotAMember, SecurityError, DecodeError."""
        if set(message) != {"hello", "links"} or type(message["hello"]) is not bytes:
            raise DecodeError("an admission message of an unknown kind")
        links = links_from(message["links"])
        certificate = self.credentials.check(message["hello"], peer_id, time.time(), links)
        self.guard.check(peer_id)
        return certificate

    def admit_member(self, peer_id: str) -> None:
        """Raise `Refused` for a member that connects too often."""
        if not self._members.take(peer_id, time.monotonic()):
            raise Refused(TOO_OFTEN.message, TOO_OFTEN.remedy, TOO_OFTEN.code)

    async def pay(self, peer_id: str, size_bytes: int) -> None:
        """Wait until a member's budget allows what it sent; the next read comes after that."""
        cost = size_bytes * self.guard.cost(peer_id)
        while not self._bytes.take(peer_id, time.monotonic(), cost):  # noqa: ASYNC110 -- time is what it waits for
            await trio.sleep(self._bytes.wait_s(peer_id, time.monotonic(), cost))

    def welcome(self, peer_id: str, certificate: Certificate, connection: CountedConnection) -> None:
        self.certificates[peer_id] = certificate
        self.connections[peer_id] = [*self.connections.get(peer_id, []), connection][-MAX_CONNECTIONS_PER_PEER:]
        connection.pay, connection.left = partial(self.pay, peer_id), partial(self._left, peer_id, connection)
        if not connection.is_initiator and (remote := connection.get_remote_address()):
            self._strangers.take(remote[0], time.monotonic(), cost=-1.0)

    def count_of(self, connection: IRawConnection) -> ByteCount:
        """Where to count a connection's bytes: a circuit's are those of the connection to its relay already."""
        return ByteCount() if connection.get_connection_type() is ConnectionType.RELAYED else self.count

    def remote_host(self, peer_id: str) -> str | None:
        """The IP address at the other end of the newest direct connection with a peer."""
        remotes = [connection.get_remote_address() for connection in self.connections.get(peer_id, [])]
        return next((remote[0] for remote in reversed(remotes) if remote), None)

    async def close(self, peer_id: str) -> None:
        """Close the sockets of one peer's connections, without a word."""
        for connection in self.connections.pop(peer_id, []):
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1), suppress(Exception):
                await connection.close()

    async def close_all(self) -> None:
        for peer_id in list(self.connections):
            await self.close(peer_id)

    def _left(self, peer_id: str, connection: CountedConnection) -> None:
        """One connection ends; the peer is forgotten with its last, as its next may be upgrading meanwhile."""
        rest = [other for other in self.connections.get(peer_id, []) if other is not connection]
        if rest:
            self.connections[peer_id] = rest
        else:
            self.certificates.pop(peer_id, None)
            self.connections.pop(peer_id, None)


class MemberNoise(NoiseTransport):  # type: ignore[misc]
    """libp2p's Noise (XX), with admission as the last step of the upgrade on both sides."""

    def __init__(self, key_pair: KeyPair, door: Door) -> None:
        super().__init__(key_pair, noise_privkey=new_x25519().private_key)
        self._door = door

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Raises `NotAMember` when either side does not accept the other."""
        door, raw = self._door, CountedConnection(conn, self._door.count_of(conn))
        session = await super().secure_outbound(raw, peer_id)
        await write_message(session, door.hello())
        reply = await read_message(session)
        if "refused" in reply:
            raise refused_by_peer(one_line(reply["refused"]), reply.get("code"))
        remote = str(session.get_remote_peer())
        door.welcome(remote, door.judge(reply, remote), raw)
        return session

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Raises `SecurityError` or `DecodeError` for all but members; the caller then closes."""
        door, raw = self._door, CountedConnection(conn, self._door.count_of(conn))
        with self._counting():
            session = await super().secure_inbound(raw)
            remote = str(session.get_remote_peer())
            message = await read_message(session)
        if set(message) == {"join"} and type(message["join"]) is bytes:
            await self._answer_join(session, message["join"], remote)
            raise SecurityError("a join was answered; this connection has done its work")
        try:
            certificate = door.judge(message, remote)
            door.admit_member(remote)
        except MeshloreError as error:
            # who has not proven to be a member is only counted: anybody can take anybody's certificate and show it
            door.guard.refuse("connection", error, remote if isinstance(error, Refused) else "")
            log.info("refused a connection from …%s: %s", remote[-8:], error.message)
            code = error.code if isinstance(error, NotAMember) else ""
            await write_message(session, {"refused": one_line(str(error)), "code": code})
            raise
        await write_message(session, door.hello())
        door.welcome(remote, certificate, raw)
        return session

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what does not get as far as showing a certificate or a join."""
        try:
            yield
        except MeshloreError as error:
            self._door.guard.refuse("connection", error)
            raise
        except Exception:
            self._door.guard.refuse("connection", NO_HANDSHAKE)
            raise

    async def _answer_join(self, session: ISecureConn, request: bytes, remote: str) -> None:
        if self._door.answer_join is None:
            await write_message(session, {"refused": "this node takes no joins"})
            return
        try:
            # in a thread: redeeming an invite waits for the disk
            answer = await trio.to_thread.run_sync(self._door.answer_join, request, remote)
        except (SecurityError, DecodeError) as error:
            log.warning("refused a join from …%s: %s", remote[-8:], error.message)
            self._door.guard.refuse("connection", error)
            raise  # whoever makes such a request learns nothing
        except MeshloreError as error:
            log.error("cannot answer a join: %s", error)
            await write_message(session, {"refused": "the host cannot take joins now; its log says why"})
            return
        await write_message(session, {"answer": answer})


async def write_message(session: ISecureConn, message: dict[str, Any]) -> None:
    """Send one admission message."""
    payload = pack(message)
    if len(payload) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"an admission message of {len(payload)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    await session.write(_LENGTH.pack(len(payload)) + payload)


async def read_message(session: ISecureConn) -> dict[str, Any]:
    """Receive one admission message within `MESSAGE_DEADLINE_S`.

    Raises:
        DecodeError: too long or malformed.
        PeerGone: silence, or the connection closed.
    """
    with trio.move_on_after(MESSAGE_DEADLINE_S):
        (size,) = _LENGTH.unpack(await _read_exactly(session, _LENGTH.size))
        if size > MAX_MESSAGE_BYTES:
            raise DecodeError(f"an admission message of {size} bytes; the limit is {MAX_MESSAGE_BYTES}")
        message = unpack(await _read_exactly(session, size), max_bytes=MAX_MESSAGE_BYTES, max_items=16)
        if not isinstance(message, dict):
            raise DecodeError("an admission message is a map")
        return message
    raise PeerGone(f"the peer said nothing for {MESSAGE_DEADLINE_S:.0f} s after the handshake")


async def _read_exactly(session: ISecureConn, size: int) -> bytes:
    try:
        data = await session.read(size)
    except Exception as error:
        raise PeerGone(f"the peer closed the connection ({type(error).__name__})") from error
    if len(data) != size:
        raise PeerGone("the peer closed the connection")
    return bytes(data)
