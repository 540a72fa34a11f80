"""What the mesh needs from a network, as a Protocol with two real implementations.

`host.Libp2pTransport` is libp2p over TCP with Noise; `memory.MemoryTransport` connects nodes of
one process through a network whose links can be slowed, cut and frozen. The mesh cannot tell which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..security.membership import Certificate
from .guard import Guard
from .partials import Partial

Body = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """The member at the other end of a request, as its certificate names it."""

    peer_id: str
    name: str
    roles: frozenset[str]


@dataclass(frozen=True)
class Traffic:
    """Bytes since start. ``bytes_*`` are those of the TCP streams, handshakes and framing included;
    ``blob_bytes_*`` is the part of them that was the content of blobs."""

    bytes_sent: int = 0
    bytes_received: int = 0
    blob_bytes_sent: int = 0
    blob_bytes_received: int = 0


@dataclass(frozen=True)
class TransportLimits:
    """Bounds of one node's network; each keeps one peer, or all of them together, from exhausting it."""

    requests_in_flight: int = 64
    requests_per_peer: int = 16
    blobs_per_peer: int = 4
    blob_bytes: int = 64 << 20
    connections: int = 128
    strangers_per_s: float = 1.0
    """Connections per second and address that do not end in membership (after a burst)."""
    strangers_burst: float = 16.0
    strangers_at_once: int = 64
    """Connections that have not shown a certificate yet; beyond that the longest silent go."""
    members_per_s: float = 1.0
    """Connections per second and member (after a burst)."""
    members_burst: float = 16.0
    streams_per_peer: int = 4
    """Streams of requests of one member at a time; an honest one has one."""
    bytes_per_s: float = 64 << 20
    """Bytes per second and member, of all its connections; beyond that they are read more slowly."""


class Service(Protocol):
    """What the owner of a transport answers to its peers. Called on the asyncio loop, but for ``blob``."""

    async def handle(self, caller: Caller, kind: str, body: Body) -> Mapping[str, Any]:
        """Answer one request. A `MeshloreError` reaches the caller as `Refused`, all else as "internal"."""

    def blob(self, name: str) -> bytes | None:
        """The bytes whose SHA-256 is ``name`` (hex), or None. Called on a worker thread: it may read a disk."""

    def on_connected(self, peer_id: str) -> None:
        """A connection to a member stands. Comes again when the same member connects afresh."""

    def on_disconnected(self, peer_id: str) -> None:
        """The last connection to that member is gone."""


class Transport(Protocol):
    """One node's end of the network. Every coroutine that touches a peer ends by its deadline."""

    @property
    def peer_id(self) -> str: ...

    @property
    def guard(self) -> Guard:
        """What is refused here and how the members behave; the mesh adds what it refuses."""

    def sign(self, domain: str, message: bytes) -> bytes:
        """A signature by this node's identity (`Identity.sign`)."""

    def addresses(self) -> list[str]:
        """Multiaddresses with ``/p2p/`` at which this node can be dialled now."""

    async def start(self, service: Service) -> None: ...

    async def stop(self) -> None:
        """Close everything; leaves no task and no thread. Quick also when peers are dead."""

    async def connect(self, address: str, timeout_s: float) -> str:
        """Dial one multiaddress with ``/p2p/`` and return the peer id; at once if already connected.

        Raises:
            Unreachable: nobody answers there, or someone else does.
            PeerTimeout: no connection by the deadline.
            NotAMember: one of the two does not accept the other's certificate; the message says why.
        """

    async def disconnect(self, peer_id: str) -> None:
        """Hang up, without waiting for the peer."""

    def connected(self) -> set[str]: ...

    def certificate_of(self, peer_id: str) -> Certificate:
        """The checked certificate of a connected peer; raises `Unreachable` when it is not connected."""

    async def request(self, peer_id: str, kind: str, body: Body, *, timeout_s: float) -> Body:
        """Ask a connected peer. Requests do not wait for each other.

        Raises:
            Unreachable: not connected.
            PeerTimeout, PeerGone: no answer by the deadline; the connection broke meanwhile.
            Refused: the peer answered no; ``code`` says which no.
            DecodeError: the body is too large or the answer malformed.
        """

    async def fetch(
        self, peer_id: str, name: str, *, size_limit_bytes: int, timeout_s: float, partial: Partial | None = None
    ) -> bytes:
        """Get the blob whose SHA-256 is ``name`` (hex), hashed as it arrives.

        What ``partial`` has of it is not transferred again; it grows as the rest arrives, until all is here.

        Raises: as `request`; `Refused` with code "no-such-blob", `DecodeError` when the bytes are others,
            `PeerGone` when that may be the fault of ``partial``, which is empty then.
        """

    def traffic(self) -> Traffic: ...
