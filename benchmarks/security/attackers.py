"""What an attacker does to get in: each a try that ends as "in", or with how it was refused. Trio side."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from meshlore.mesh import upstream  # isort: skip
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.transport.tcp.tcp import TCP
from meshlore.errors import MeshloreError
from meshlore.mesh.admission import read_message, write_message
from meshlore.security.identity import Identity
from meshlore.security.invites import Invite
from meshlore.security.join import build_request, finish
from multiaddr import Multiaddr

TRY_S = 20.0
Try = Callable[[], Awaitable[str]]


async def repeat(attempt: Try, tries: int) -> dict[str, int]:
    """How ``tries`` tries ended, most frequent first."""
    ends: dict[str, int] = {}
    for _ in range(tries):
        with trio.move_on_after(TRY_S) as scope:
            end = await attempt()
        end = "no answer" if scope.cancelled_caught else end
        ends[end] = ends.get(end, 0) + 1
    return dict(sorted(ends.items(), key=lambda item: -item[1]))


def plaintext(address: str) -> Try:
    """A libp2p client that offers plaintext only, as libp2p's default host would accept."""
    key_pair = create_new_key_pair()

    async def attempt() -> str:
        raw = await TCP().dial(Multiaddr(address))
        try:
            security = SecurityMultistream({PLAINTEXT_PROTOCOL_ID: InsecureTransport(key_pair)})
            await security.secure_outbound(raw, _id_in(address))
        except Exception as error:
            return f"refused ({type(error).__name__})"
        finally:
            await _close(raw)
        return "in"

    return attempt


def showing(address: str, identity: Identity, hello: dict[str, object]) -> Try:
    """A proper Noise handshake as ``identity``, and then this instead of a member's hello."""
    key_pair = create_new_key_pair(identity.private_key_bytes)

    async def attempt() -> str:
        try:
            reply = await _say(address, key_pair, hello)
        except MeshloreError as error:
            return error.message[:60]
        return "in" if "hello" in reply else str(reply.get("refused"))[:80]

    return attempt


def joining(address: str, invite: Invite) -> Try:
    """A new device that asks to join with an invite that was used."""

    async def attempt() -> str:
        identity = Identity.generate()
        request, pending = build_request(invite, identity, str(_id_in(address)), "thief")
        try:
            reply = await _say(address, create_new_key_pair(identity.private_key_bytes), {"join": request})
            finish(pending, reply["answer"], now=time.time())
        except MeshloreError as error:
            return error.message[:60]
        return "in"

    return attempt


def replaying(address: str, recorded: bytes, served: Callable[[], int]) -> Try:
    """The bytes that a member sent with a request, sent again on a new connection."""
    host, port = address.split("/")[2], int(address.split("/")[4])

    async def attempt() -> str:
        before = served()
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            try:
                await stream.send_all(recorded)
                with trio.move_on_after(2):
                    while await stream.receive_some(4096):
                        continue
            except trio.BrokenResourceError:
                pass
        return "in" if served() > before else "hung up on"

    return attempt


class Recorder:
    """A TCP proxy in front of ``address`` that keeps what the dialler sends."""

    def __init__(self, address: str) -> None:
        self._to = (address.split("/")[2], int(address.split("/")[4]))
        self.sent = b""

    async def run(self, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; starts with the port."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._relay, listeners)

    async def _relay(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(*self._to)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream, *, record: bool) -> None:
            try:
                while data := await source.receive_some(65536):
                    self.sent += data if record else b""
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            await sink.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pump(client, server, record=True))
            nursery.start_soon(lambda: pump(server, client, record=False))


async def _say(address: str, key_pair: object, message: dict[str, object]) -> dict:
    noise = NoiseTransport(key_pair, noise_privkey=new_x25519().private_key)
    raw = await TCP().dial(Multiaddr(address))
    try:
        session = await SecurityMultistream({upstream.NOISE: noise}).secure_outbound(raw, _id_in(address))
        await write_message(session, message)
        return await read_message(session)
    finally:
        await _close(raw)


async def _close(raw: object) -> None:
    with upstream.shielded(1):
        await raw.close()


def _id_in(address: str) -> ID:
    return ID.from_string(address.rpartition("/")[2])
