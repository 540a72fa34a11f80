"""`Libp2pTransport`: a libp2p host (TCP, Noise, Yamux) behind asyncio.

`trio_host.TrioHost` lives wholly in the trio thread; this is its asyncio face. Between them is one
`Bridge`, and across it go only frames, bytes and names.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from multiaddr import Multiaddr

from ..errors import Cancelled, ConfigError, MeshloreError, PeerTimeout, Unreachable
from ..security.membership import Certificate, Credentials
from .admission import Door, JoinAnswerer
from .bridge import Bridge
from .calls import Reply, Request
from .dispatch import Dispatcher, body_of
from .failures import root_cause
from .frames import MAX_ID, Frame, encode
from .guard import Guard
from .interfaces import dialable
from .messages import peer_id_in
from .partials import Partial
from .transport import Body, Caller, Service, Traffic, TransportLimits
from .trio_host import CIRCUIT, TrioHost, not_connected, short

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
LONGEST_STOP_S = 2.0
T = TypeVar("T")


class Libp2pTransport:
    """The real transport.

    Args:
        credentials: who this node is; replace them with `renew` when its certificate is renewed.
        listen: multiaddresses to listen on; port 0 takes a free one.
        answer_join: answers a join request (bytes, joiner's peer id) in a worker thread, or raises
            `SecurityError` or `DecodeError`; None refuses joins.
        limits: bounds against single peers and strangers.
        guard: what the members' conduct is noted in.
    """

    def __init__(
        self,
        credentials: Credentials,
        listen: Sequence[str] = LOOPBACK,
        *,
        answer_join: JoinAnswerer | None = None,
        limits: TransportLimits | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._limits = limits or TransportLimits()
        self.guard = guard or Guard()
        self._listen = [_parse(address) for address in listen]
        self._door = Door(credentials, self._limits, answer_join, self.guard)
        self._bridge = Bridge()
        self._connected: set[str] = set()
        self._circuits: dict[str, list[str]] = {}
        self._request_ids = itertools.cycle(range(1, MAX_ID + 1))
        self._host: TrioHost | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def peer_id(self) -> str:
        return self._door.credentials.peer_id

    def renew(self, credentials: Credentials) -> None:
        """Show these, and judge by them, from the next connection on."""
        self._door.credentials = credentials

    def sign(self, domain: str, message: bytes) -> bytes:
        return self._door.credentials.identity.sign(domain, message)

    def addresses(self) -> list[str]:
        circuits = [address for addresses in self._circuits.values() for address in addresses]
        return [*dialable(self.listening()), *circuits]

    def listening(self) -> list[str]:
        """The addresses of ``listen``, in that order, with the ports that were taken."""
        return list(self._host.addresses) if self._host else []

    async def start(self, service: Service) -> None:
        """Listen and serve.

        Raises:
            ConfigError: a listen address is taken or is not this device's.
        """
        if self._running is not None:
            raise RuntimeError("a transport is started once")
        self._service = service
        await self._bridge.start()
        listening = asyncio.Event()
        self._host = TrioHost(self._door, self._limits, _Crossing(self._bridge, service, self._limits, self))
        self._running = asyncio.create_task(
            self._bridge.call(self._host.run, self._listen, lambda: self._bridge.post(listening.set))
        )
        wait = asyncio.create_task(listening.wait())
        await asyncio.wait([wait, self._running], return_when=asyncio.FIRST_COMPLETED)
        wait.cancel()
        if self._running.done():
            failure = self._running.exception()
            await self._bridge.stop()
            raise ConfigError(
                f"cannot listen on {', '.join(map(str, self._listen))} ({root_cause(failure)})",
                "choose another address or port",
            ) from failure

    async def stop(self) -> None:
        if self._running is None:
            return
        if self._host is not None:
            with suppress(Cancelled):
                await self._bridge.call(self._host.stop)
        await asyncio.wait([self._running], timeout=LONGEST_STOP_S)
        self._running.cancel()
        await asyncio.wait([self._running])
        with suppress(TimeoutError):
            await self._bridge.stop()
        for peer_id in list(self._connected):
            self.on_disconnected(peer_id)

    async def connect(self, address: str, timeout_s: float) -> str:
        try:
            target = _parse(address)
        except ConfigError as error:
            raise Unreachable(error.message, error.remedy) from None
        peer_id = peer_id_in(address)
        if peer_id is None:
            raise Unreachable(f"{address} does not end in /p2p/ and a peer id", "copy the whole address")
        if peer_id == self.peer_id:
            raise Unreachable(f"{address} is this node itself", "give the address of another node")
        await self._call(self._live_host().connect, target, peer_id, timeout_s)
        return peer_id

    async def reserve(self, relay_id: str, timeout_s: float) -> float:
        """Be reached through a connected member too: `addresses` has it while the connection lasts.

        Returns:
            For how many seconds the reservation holds; renew it before.

        Raises:
            Unreachable, PeerTimeout, Refused, DecodeError: it does not take the reservation.
        """
        addresses, lasts_s = await self._call(self._live_host().reserve, relay_id, timeout_s)
        if relay_id in self._connected:
            self._circuits[relay_id] = [f"{address}{CIRCUIT}/p2p/{self.peer_id}" for address in addresses]
        return lasts_s

    async def is_direct(self, peer_id: str) -> bool:
        """Whether a connection to that peer is there which no relay carries."""
        return await self._call(self._live_host().is_direct, peer_id)

    def remote_host(self, peer_id: str) -> str | None:
        """The IP address from which or at which a connected peer is seen."""
        return self._door.remote_host(peer_id)

    async def disconnect(self, peer_id: str) -> None:
        await self._call(self._live_host().disconnect, peer_id)

    def connected(self) -> set[str]:
        return set(self._connected)

    def certificate_of(self, peer_id: str) -> Certificate:
        certificate = self._door.certificates.get(peer_id)
        if certificate is None:
            raise not_connected(peer_id)
        return certificate

    async def request(self, peer_id: str, kind: str, body: Body, *, timeout_s: float) -> Body:
        host, number = self._live_host(), next(self._request_ids)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        settle = functools.partial(self._bridge.post, _settle, answer)
        request = Request(number, encode(Frame(kind, number, body)), settle)
        try:
            self._bridge.soon(host.ask, peer_id, request)
            async with asyncio.timeout(timeout_s):
                return body_of(await answer)
        except TimeoutError:
            message = f"{short(peer_id)} did not answer {kind!r} within {timeout_s:g} s"
            raise PeerTimeout(message, "try another peer") from None
        except Cancelled as error:
            raise Unreachable(error.message) from None
        finally:
            if answer.cancelled():
                with suppress(Cancelled):
                    self._bridge.soon(host.give_up, request)

    async def fetch(
        self, peer_id: str, name: str, *, size_limit_bytes: int, timeout_s: float, partial: Partial | None = None
    ) -> bytes:
        limit, partial = min(size_limit_bytes, self._limits.blob_bytes), partial or Partial()
        return await self._call(self._live_host().fetch, peer_id, name, limit, timeout_s, partial)

    def traffic(self) -> Traffic:
        count, blobs = self._door.count, self._host.blob_count if self._host else Counter()
        return Traffic(count.sent, count.received, blobs["sent"], blobs["received"])

    def on_connected(self, peer_id: str) -> None:
        """From the host, on the asyncio loop."""
        self._connected.add(peer_id)
        self._service.on_connected(peer_id)

    def on_disconnected(self, peer_id: str) -> None:
        """From the host, on the asyncio loop."""
        if peer_id in self._connected:
            self._connected.discard(peer_id)
            self._circuits.pop(peer_id, None)
            self._service.on_disconnected(peer_id)

    def _live_host(self) -> TrioHost:
        if self._host is None:
            raise Unreachable("the network of this node is not started")
        return self._host

    async def _call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        try:
            return await self._bridge.call(function, *args)
        except Cancelled as error:
            raise Unreachable(error.message) from None


class _Crossing:
    """The `Owner` of a trio host: carries each call over the bridge to the asyncio loop."""

    def __init__(self, bridge: Bridge, service: Service, limits: TransportLimits, face: Libp2pTransport) -> None:
        self._bridge, self._service, self._face = bridge, service, face
        self._dispatcher = Dispatcher(service, limits, face.guard)

    def answer(self, caller: Caller, request: Frame, reply: Reply) -> Callable[[], None]:
        def note(answer: bytes | None, _error: BaseException | None) -> None:
            reply(answer)

        return self._bridge.begin_asyncio(note, self._dispatcher.answer, caller, request)

    async def read_blob(self, name: str) -> bytes | None:
        return await self._bridge.call_asyncio(self._read, name)

    def connected(self, peer_id: str) -> None:
        self._bridge.post(self._face.on_connected, peer_id)

    def disconnected(self, peer_id: str) -> None:
        self._bridge.post(self._face.on_disconnected, peer_id)

    async def _read(self, name: str) -> bytes | None:
        return await asyncio.to_thread(self._service.blob, name)


def _parse(address: str) -> Multiaddr:
    try:
        return Multiaddr(address)
    except Exception as error:
        raise ConfigError(
            f"{address[:120]!r} is not a multiaddress ({error})",
            "like /ip4/192.168.1.7/tcp/4001/p2p/12D3Koo…",
        ) from None


def _settle(answer: asyncio.Future[Frame], outcome: Frame | MeshloreError) -> None:
    if answer.done():
        return
    if isinstance(outcome, Frame):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
