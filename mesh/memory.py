"""`MemoryTransport`: the transport between nodes of one process, for simulation and tests.

Everything is checked as on the wire: certificates on connecting, and every message passes the frame
codec as bytes. A `MemoryNetwork` can slow all links, cut one, and freeze or kill a node.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import DecodeError, NotAMember, PeerGone, PeerTimeout, Refused, Unreachable
from ..security.membership import Certificate, Credentials
from .dispatch import Dispatcher, body_of
from .frames import Decoder, Frame, encode
from .guard import Guard
from .messages import TEACHERS, peer_id_in
from .partials import PIECE_BYTES, Partial, check_name
from .reasons import Reason, refused_by_peer
from .transport import Body, Caller, Service, Traffic, TransportLimits

MAX_BLOB_BYTES = 1 << 40
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class MemoryNetwork:
    """The wires. ``delay_s`` is one way; of all messages the share ``loss`` never arrives; a frozen node says nothing
    and does not hang up, as under SIGSTOP."""

    delay_s: float = 0.0
    loss: float = 0.0
    dice: Callable[[], float] = random.random
    nodes: dict[str, MemoryTransport] = field(default_factory=dict)
    frozen: dict[str, asyncio.Event] = field(default_factory=dict)
    _cut: set[frozenset[str]] = field(default_factory=set)

    def cut(self, one: str, other: str) -> None:
        """Break the link between two nodes; dialling fails until `heal`."""
        self._cut.add(frozenset((one, other)))
        if one in self.nodes:
            self.nodes[one].drop(other)

    def heal(self, one: str, other: str) -> None:
        self._cut.discard(frozenset((one, other)))

    def freeze(self, peer_id: str) -> None:
        self.frozen[peer_id] = asyncio.Event()

    def thaw(self, peer_id: str) -> None:
        self.frozen.pop(peer_id).set()

    def kill(self, peer_id: str) -> None:
        """As kill -9: every connection of that node breaks, and nobody is at its address."""
        if node := self.nodes.pop(peer_id, None):
            for other in list(node.connected()):
                node.drop(other)

    async def travel(self) -> None:
        """One message on its way."""
        await asyncio.sleep(self.delay_s)
        if self.loss and self.dice() < self.loss:
            await asyncio.Event().wait()  # the deadline of who waits for it ends this

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cut


@dataclass(eq=False)
class _Wire:
    """One connection; both ends share it."""

    broken: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryTransport:
    """A `Transport` whose address is ``/memory/NAME/p2p/PEER``."""

    def __init__(
        self,
        credentials: Credentials,
        network: MemoryNetwork,
        *,
        limits: TransportLimits | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.guard = guard or Guard()
        self._credentials = credentials
        self._network = network
        self._limits = limits or TransportLimits()
        self._wires: dict[str, _Wire] = {}
        self._certificates: dict[str, Certificate] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sent = self._received = self._blob_sent = self._blob_received = 0

    @property
    def peer_id(self) -> str:
        return self._credentials.peer_id

    def renew(self, credentials: Credentials) -> None:
        """Show these, and judge by them, from the next connection on."""
        self._credentials = credentials

    def sign(self, domain: str, message: bytes) -> bytes:
        return self._credentials.identity.sign(domain, message)

    def addresses(self) -> list[str]:
        return [f"/memory/{self._credentials.certificate.name}/p2p/{self.peer_id}"]

    async def start(self, service: Service) -> None:
        self._service = service
        self._dispatcher = Dispatcher(service, self._limits, self.guard)
        self._network.nodes[self.peer_id] = self

    async def stop(self) -> None:
        self._network.kill(self.peer_id)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def connect(self, address: str, timeout_s: float) -> str:
        target = peer_id_in(address)
        if target is None or target == self.peer_id:
            raise Unreachable(f"{address} is not the address of another node", "copy the whole address")
        if target in self._wires:
            return target
        return await self._deadline(self._dial(target), target, timeout_s)

    async def disconnect(self, peer_id: str) -> None:
        await self._thawed(self.peer_id)
        self.drop(peer_id)

    def connected(self) -> set[str]:
        return set(self._wires)

    def certificate_of(self, peer_id: str) -> Certificate:
        if peer_id not in self._wires:
            raise Unreachable(f"not connected to …{peer_id[-8:]}")
        return self._certificates[peer_id]

    async def request(self, peer_id: str, kind: str, body: Body, *, timeout_s: float) -> Body:
        wire, remote = self._remote(peer_id)
        sent = encode(Frame(kind, 1, body))
        self._sent += len(sent)
        work = self._on_wire(wire, functools.partial(remote._answer, self.peer_id, sent))
        answer = await self._deadline(work, peer_id, timeout_s)
        self._received += len(answer)
        return body_of(_decode(answer))

    async def fetch(
        self, peer_id: str, name: str, *, size_limit_bytes: int, timeout_s: float, partial: Partial | None = None
    ) -> bytes:
        wire, remote = self._remote(peer_id)
        limit = min(size_limit_bytes, self._limits.blob_bytes)
        pull = self._pull(wire, remote, name, limit, Partial() if partial is None else partial)
        return await self._deadline(pull, peer_id, timeout_s)

    async def _pull(self, wire: _Wire, remote: MemoryTransport, name: str, limit: int, partial: Partial) -> bytes:
        """Piece by piece, each there and back."""
        begun, data, size = len(partial.data), bytearray(partial.data), MAX_BLOB_BYTES
        while len(data) < size:
            read = functools.partial(remote._read, self.peer_id, name, limit, len(data))
            size, piece = await self._on_wire(wire, read)
            data += piece
            self._blob_received += len(piece)
            self._received += len(piece)
            if len(data) < size:
                await asyncio.to_thread(partial.append, piece)
        await asyncio.to_thread(partial.discard)
        check_name(name, hashlib.sha256(data).hexdigest(), begun)
        return bytes(data)

    def traffic(self) -> Traffic:
        return Traffic(self._sent, self._received, self._blob_sent, self._blob_received)

    def drop(self, peer_id: str) -> None:
        """Break the connection to one peer; both ends notice."""
        wire = self._wires.pop(peer_id, None)
        if wire is None:
            return
        wire.broken.set()
        remote = self._network.nodes.get(peer_id)
        if remote is not None and remote._wires.get(self.peer_id) is wire:
            del remote._wires[self.peer_id]
            remote._service.on_disconnected(self.peer_id)
        self._service.on_disconnected(peer_id)

    async def _dial(self, target: str) -> str:
        await self._thawed(self.peer_id)
        await self._network.travel()
        await self._thawed(target)
        remote = self._network.nodes.get(target)
        if remote is None or self._network.is_cut(self.peer_id, target):
            raise Unreachable(f"nobody answers at …{target[-8:]}", "is the node there running?", Reason.CLOSED)
        try:
            mine = remote._judge(self._credentials)
        except NotAMember as error:
            raise refused_by_peer(str(error), error.code) from None
        theirs = self._judge(remote._credentials)
        if target not in self._wires:
            self._wires[target] = remote._wires[self.peer_id] = _Wire()
            self._certificates[target], remote._certificates[self.peer_id] = theirs, mine
            remote._service.on_connected(self.peer_id)
            self._service.on_connected(target)
        return target

    def _judge(self, other: Credentials) -> Certificate:
        links = other.authority.links
        certificate = self._credentials.check(other.certificate_bytes, other.peer_id, time.time(), links)
        self.guard.check(other.peer_id)
        return certificate

    async def _answer(self, caller: str, data: bytes) -> bytes:
        await self._thawed(self.peer_id)
        self._received += len(data)
        certificate = self._certificates[caller]
        member = Caller(caller, certificate.name, certificate.roles)
        reply = await self._dispatcher.answer(member, _decode(data))
        self._sent += len(reply)
        return reply

    async def _read(self, caller: str, name: str, limit: int, offset: int) -> tuple[int, bytes]:
        """The size of a blob, and its next piece."""
        await self._thawed(self.peer_id)
        if not TEACHERS & self._certificates[caller].roles:
            refusal = Refused("knowledge is for nodes and anchors", code="role")
            self.guard.refuse("stream", refusal, caller)
            raise refusal
        data = await asyncio.to_thread(self._service.blob, name)
        if data is None:
            raise Refused(f"the peer does not have {name[:12]}…", "ask another", code="no-such-blob")
        if len(data) > limit:
            raise Refused(f"the blob of {len(data)} bytes is larger than asked for", code="too-large")
        piece = data[offset : offset + PIECE_BYTES]
        self._blob_sent += len(piece)
        self._sent += len(piece)
        return len(data), piece

    async def _on_wire(self, wire: _Wire, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Delay each way, and `PeerGone` when the wire breaks first."""

        async def there_and_back() -> T:
            await self._thawed(self.peer_id)
            await self._network.travel()
            result = await work()
            await self._network.travel()
            return result

        answer = self._own(there_and_back())
        broken = self._own(wire.broken.wait())
        try:
            await asyncio.wait([answer, broken], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() or answer.cancelled():
                raise PeerGone("the connection broke before the answer came", "try again")
            return answer.result()
        finally:
            answer.cancel()
            broken.cancel()

    async def _deadline(self, work: Coroutine[Any, Any, T], peer_id: str, timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except TimeoutError:
            raise PeerTimeout(f"…{peer_id[-8:]} did not answer within {timeout_s:g} s", "try another peer") from None

    async def _thawed(self, peer_id: str) -> None:
        if thaw := self._network.frozen.get(peer_id):
            await thaw.wait()

    def _remote(self, peer_id: str) -> tuple[_Wire, MemoryTransport]:
        wire, remote = self._wires.get(peer_id), self._network.nodes.get(peer_id)
        if wire is None or remote is None:
            raise Unreachable(f"not connected to …{peer_id[-8:]}")
        return wire, remote

    def _own(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _decode(data: bytes) -> Frame:
    decoder = Decoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    decoder.finish()
    if frame is None:
        raise DecodeError("an empty message")
    return frame


class MemoryStore:
    """A `spreading.BlobStore` that keeps everything; for simulation and tests."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.came_from: dict[str, str] = {}

    def put(self, data: bytes) -> str:
        """Keep a blob of our own; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        self.blobs[name] = data
        return name

    def inventory(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.blobs.items()}

    def declines(self, name: str) -> bool:
        return False

    def read(self, name: str) -> bytes:
        return self.blobs[name]

    async def accept(self, name: str, data: bytes, from_peer: str) -> None:
        self.blobs[name] = data
        self.came_from[name] = from_peer
