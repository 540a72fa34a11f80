"""The trio side of `Libp2pTransport`: one libp2p host, its dials, its streams, and who is connected.

Everything here runs in the bridge's trio thread. What it needs from asyncio it asks for through `Owner`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio

# first of all that touches libp2p: importing libp2p sets log levels, and upstream sets ours after
from . import upstream  # isort: skip

from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from ..errors import DecodeError, MeshloreError, NotAMember, PeerGone, PeerTimeout, Refused, Unreachable
from ..security.limits import WaitingRoom
from .admission import Door, MemberNoise
from .blobs import CREDIT_BYTES, receive_blob, send_blob
from .calls import Calls, Reply, Request, serve_calls
from .failures import dial_failure, root_cause
from .frames import Frame
from .interfaces import dialable
from .messages import TEACHERS, peer_id_in
from .partials import PIECE_BYTES, Partial
from .reasons import Reason
from .relay import HOP, Relay, RelayLimits
from .streams import FrameStream
from .transport import Caller, TransportLimits

CALLS = TProtocol("/meshlore/calls/1")
BLOBS = TProtocol("/meshlore/blobs/2")
CIRCUIT = "/p2p-circuit"
CLOSE_TIMEOUT_S = 1.5
TOO_MUCH = DecodeError("a connection with more streams or unread bytes than any honest member has")


class Owner(Protocol):
    """The asyncio side, as the trio side sees it; every method may be called from the trio thread."""

    def answer(self, caller: Caller, request: Frame, reply: Reply) -> Callable[[], None]:
        """As `calls.StartAnswer`."""

    async def read_blob(self, name: str) -> bytes | None: ...

    def connected(self, peer_id: str) -> None: ...

    def disconnected(self, peer_id: str) -> None: ...


class TrioHost:
    """One libp2p host. Constructed in any thread; every method but that runs in the trio thread."""

    def __init__(self, door: Door, limits: TransportLimits, owner: Owner) -> None:
        self._door, self._limits, self._owner = door, limits, owner
        key_pair = create_new_key_pair(door.credentials.identity.private_key_bytes)
        self._libp2p = upstream.new_host(
            key_pair,
            MemberNoise(key_pair, door),
            max_connections=limits.connections,
            on_excess=lambda peer_id: door.guard.refuse("connection", TOO_MUCH, peer_id),
        )
        self._swarm = self._libp2p.get_network()
        self._relay = Relay(
            self._libp2p,
            RelayLimits(),
            lambda: dialable(self.addresses),
            blame=lambda error, peer_id: door.guard.refuse("stream", error, peer_id),
        )
        self._calls: dict[str, Calls] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._serving: Counter[tuple[str, str]] = Counter()
        self._stopping = trio.Event()
        self.blob_count: Counter[str] = Counter()
        self.addresses: list[str] = []

    async def run(self, listen: list[Multiaddr], ready: Callable[[], None]) -> None:
        """Until `stop`. Cancelling it works too, but less politely."""
        upstream.accept_with(self._libp2p, self._door.admit, WaitingRoom(self._limits.strangers_at_once))
        self._libp2p.set_stream_handler(CALLS, upstream.safe_handler(self._serve_calls))
        self._libp2p.set_stream_handler(BLOBS, upstream.safe_handler(self._serve_blob))
        self._swarm.register_notifee(_Watch(self))
        async with self._libp2p.run(listen), trio.open_nursery() as self._nursery:
            self.addresses = [str(address) for address in self._libp2p.get_addrs()]
            self._relay.serve(self._nursery)
            if len(self.addresses) < len(listen):
                raise OSError("not every address could be bound")
            ready()
            try:
                await self._stopping.wait()
            finally:
                self._stopping.set()
                await upstream.close(self._libp2p, CLOSE_TIMEOUT_S)
                await self._door.close_all()
                self._nursery.cancel_scope.cancel()

    async def stop(self) -> None:
        """Let `run` hang up on everybody and return."""
        self._stopping.set()

    async def connect(self, address: Multiaddr, peer_id: str, timeout_s: float) -> None:
        lock = self._locks.setdefault(peer_id, trio.Lock())
        with trio.move_on_after(timeout_s) as scope:
            async with lock:
                if not self._is_connected(peer_id):
                    await self._dial(address, peer_id, timeout_s)
        if not lock.locked() and not self._is_connected(peer_id):
            self._locks.pop(peer_id, None)
        if scope.cancelled_caught:
            raise PeerTimeout(f"{address} did not answer within {timeout_s:g} s", "is the node there running?")

    async def _dial(self, address: Multiaddr, peer_id: str, timeout_s: float) -> None:
        try:
            relay_address, circuit, _ = str(address).partition(CIRCUIT)
            if circuit:
                await self._dial_through(relay_address, peer_id, timeout_s)
            else:
                await upstream.dial(self._libp2p, address, id_of(peer_id))
        except Exception as error:
            raise dial_failure(error, address) from error

    async def _dial_through(self, relay_address: str, peer_id: str, timeout_s: float) -> None:
        relay_id = peer_id_in(relay_address)
        if relay_id is None or relay_id in (peer_id, str(self._libp2p.get_id())):
            raise Unreachable("no relay is named that could be asked", code=Reason.NO_ROUTE)
        if not self._relay.is_direct(relay_id):
            await self.connect(Multiaddr(relay_address), relay_id, timeout_s)
        await self._relay.dial(id_of(peer_id), await self._open(relay_id, HOP))

    async def reserve(self, relay_id: str, timeout_s: float) -> tuple[list[str], float]:
        with trio.move_on_after(timeout_s):
            stream = await self._open(relay_id, HOP)
            try:
                return await self._relay.reserve(relay_id, stream)
            except MeshloreError:
                raise
            except Exception as error:
                raise PeerGone(f"{short(relay_id)} broke off ({root_cause(error)})", "try another relay") from error
        raise PeerTimeout(f"{short(relay_id)} took no reservation within {timeout_s:g} s", "try another relay")

    async def is_direct(self, peer_id: str) -> bool:
        return self._relay.is_direct(peer_id)

    async def disconnect(self, peer_id: str) -> None:
        # the sockets first: a polite close would wait for a peer that has stopped reading
        await self._door.close(peer_id)
        with trio.move_on_after(CLOSE_TIMEOUT_S), suppress(Exception):
            await self._swarm.close_peer(id_of(peer_id))

    def ask(self, peer_id: str, request: Request) -> None:
        """Send a request; it is settled when the answer comes or cannot come. Its deadline is the asker's."""
        calls = self._calls.get(peer_id)
        if self._stopping.is_set():
            request.settle(not_connected(peer_id))
        elif calls is not None and calls.open:
            calls.ask(request)
        else:
            self._nursery.start_soon(self._ask_anew, peer_id, request)

    def give_up(self, request: Request) -> None:
        """Nobody waits for this answer any more."""
        request.given_up = True
        if request.calls is not None:
            request.calls.give_up(request)

    async def _ask_anew(self, peer_id: str, request: Request) -> None:
        try:
            calls = await self._calls_to(peer_id)
        except MeshloreError as error:
            request.settle(error)
        except trio.Cancelled:
            request.settle(not_connected(peer_id))
            raise
        else:
            calls.ask(request)

    async def fetch(self, peer_id: str, name: str, size_limit_bytes: int, timeout_s: float, partial: Partial) -> bytes:
        def count(size: int) -> None:
            self.blob_count["received"] += size

        with trio.move_on_after(timeout_s):
            stream = await self._open(peer_id, BLOBS)
            frames = FrameStream(stream)
            try:
                if size_limit_bytes > PIECE_BYTES // 2:
                    await upstream.widen(stream, 2 * CREDIT_BYTES)
                data = await receive_blob(frames, name, size_limit_bytes, count, partial)
            except BaseException:
                await frames.reset()
                raise
            await frames.close()
            return data
        raise PeerTimeout(f"{short(peer_id)} did not send {name[:12]}… within {timeout_s:g} s", "ask another")

    async def _calls_to(self, peer_id: str) -> Calls:
        async with self._locks.setdefault(peer_id, trio.Lock()):
            calls = self._calls.get(peer_id)
            if calls is None or not calls.open:
                calls = self._calls[peer_id] = Calls(await self._open(peer_id, CALLS))
                self._nursery.start_soon(calls.run)
            return calls

    async def _open(self, peer_id: str, protocol: TProtocol) -> INetStream:
        failure: Exception | None = None
        # twice: of several connections to a peer one may be breaking just now
        for _ in range(2):
            if not self._is_connected(peer_id):
                break
            try:
                return await upstream.open_stream(self._libp2p, self._nursery, id_of(peer_id), protocol)
            except trio.TooSlowError:
                raise PeerTimeout(f"{short(peer_id)} opened no stream in time", "try another peer") from None
            except Exception as error:
                failure = error
        if failure is None:
            raise not_connected(peer_id)
        raise PeerGone(f"the connection to {short(peer_id)} broke", "try again") from failure

    def _is_connected(self, peer_id: str) -> bool:
        connections = self._swarm.get_connections(id_of(peer_id))
        return any(not upstream.is_closing(connection) for connection in connections)

    async def _serve_calls(self, stream: INetStream) -> None:
        caller = self._caller(stream)
        async with self._one_of(caller, CALLS, self._limits.streams_per_peer):
            await serve_calls(stream, caller, self._owner.answer)

    async def _serve_blob(self, stream: INetStream) -> None:
        caller = self._caller(stream)

        def count(size: int) -> None:
            self.blob_count["sent"] += size

        async with self._one_of(caller, BLOBS, self._limits.blobs_per_peer):
            if not caller.roles & TEACHERS:
                raise Refused("knowledge is for nodes and anchors", code="role")
            await send_blob(stream, self._owner.read_blob, self._limits.blob_bytes, count)

    @asynccontextmanager
    async def _one_of(self, caller: Caller, protocol: TProtocol, most: int) -> AsyncIterator[None]:
        """One of the ``most`` streams of this protocol that a member may have; what ends it early is noted."""
        key = (caller.peer_id, protocol)
        try:
            if self._serving[key] >= most:
                raise Refused("too many streams at once", code="busy")
            self._serving[key] += 1
            try:
                yield
            finally:
                self._serving[key] -= 1
        except (DecodeError, Refused) as error:
            self._door.guard.refuse("stream", error, caller.peer_id)
            raise

    def _caller(self, stream: INetStream) -> Caller:
        peer_id = str(stream.muxed_conn.peer_id)
        certificate = self._door.certificates.get(peer_id)
        if certificate is None:
            raise NotAMember("a stream from a peer without a certificate")
        return Caller(peer_id, certificate.name, certificate.roles)

    def note_connected(self, peer_id: str) -> None:
        self._owner.connected(peer_id)

    def note_disconnected(self, peer_id: str) -> None:
        if self._swarm.get_connections(id_of(peer_id)):
            return
        self._relay.disconnected(peer_id)
        self._calls.pop(peer_id, None)
        self._locks.pop(peer_id, None)
        self._owner.disconnected(peer_id)


class _Watch(INotifee):  # type: ignore[misc]
    def __init__(self, host: TrioHost) -> None:
        self._host = host

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._host.note_connected(str(conn.muxed_conn.peer_id))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self._host.note_disconnected(str(conn.muxed_conn.peer_id))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


def id_of(peer_id: str) -> ID:
    try:
        return ID.from_string(peer_id)
    except Exception:
        raise Unreachable(f"{peer_id[:64]!r} is not a peer id") from None


def not_connected(peer_id: str) -> Unreachable:
    return Unreachable(f"not connected to {short(peer_id)}", "see: meshlore peers")


def short(peer_id: str) -> str:
    return f"…{peer_id[-8:]}"
