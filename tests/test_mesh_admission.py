"""The door: strangers get no further than the Noise upgrade, joins are answered there, floods are bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.transport.tcp.tcp import TCP
from meshlore.codec import pack
from meshlore.errors import InviteError, PeerError, Unreachable
from meshlore.mesh.admission import MAX_MESSAGE_BYTES, CountedConnection, Door
from meshlore.mesh.bridge import Bridge
from meshlore.mesh.guard import Guard
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.join import join_mesh
from meshlore.mesh.transport import TransportLimits
from meshlore.security.identity import Identity
from meshlore.security.invites import InviteBook
from meshlore.security.join import answer_request
from meshlore.security.membership import Credentials, found_mesh
from multiaddr import Multiaddr
from quiet import Quiet

NewMember = Callable[..., Credentials]


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[Libp2pTransport]]]:
    running: list[Libp2pTransport] = []

    async def start_one(credentials: Credentials, **kwargs: object) -> Libp2pTransport:
        transport = Libp2pTransport(credentials, **kwargs)  # type: ignore[arg-type]
        await transport.start(Quiet())
        running.append(transport)
        return transport

    yield start_one
    await asyncio.gather(*(transport.stop() for transport in running))


async def say_after_handshake(address: str, data: bytes) -> bytes:
    """What the listener answers to a stranger that says ``data`` after a proper Noise handshake."""

    async def talk() -> bytes:
        key_pair = create_new_key_pair()
        noise = NoiseTransport(key_pair, noise_privkey=new_x25519().private_key)
        raw = await TCP().dial(Multiaddr(address))
        heard = b""
        try:
            host_id = ID.from_string(address.rpartition("/")[2])
            session = await SecurityMultistream({PROTOCOL_ID: noise}).secure_outbound(raw, host_id)
            await session.write(data)
            with trio.fail_after(6):
                while piece := await session.read(None):
                    heard += piece
        except trio.TooSlowError:
            raise
        except Exception:
            return heard
        finally:
            await raw.close()
        return heard

    bridge = Bridge()
    await bridge.start()
    try:
        return await bridge.call(talk)
    finally:
        await bridge.stop()


def framed(message: object) -> bytes:
    payload = pack(message)
    return len(payload).to_bytes(2, "big") + payload


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (framed({"hello": b"no certificate"}), True),
        (framed({"hello": 7}), True),
        (framed({"hello": b"", "join": b""}), True),
        (framed({}), True),
        (framed([1]), False),
        (b"\xff\xff", False),
        (b"\x00\x05hello", False),
        ((MAX_MESSAGE_BYTES + 1).to_bytes(2, "big"), False),
        (b"\x00\x13/multistream/1.0.0\n\x0d/yamux/1.0.0\n", False),
    ],
)
async def test_a_stranger_is_refused_whatever_it_says(
    start: Callable[..., Awaitable[Libp2pTransport]], new_member: NewMember, data: bytes, answered: bool
) -> None:
    host = await start(new_member("host"))
    heard = await say_after_handshake(host.addresses()[0], data)
    assert (b"refused" in heard) == answered
    assert b"yamux" not in heard
    assert host.connected() == set()
    member = await start(new_member("member"))
    await member.connect(host.addresses()[0], 5)


async def test_a_silent_stranger_is_hung_up_on_in_a_few_seconds(
    start: Callable[..., Awaitable[Libp2pTransport]], new_member: NewMember
) -> None:
    host = await start(new_member("host"))
    started = time.monotonic()
    assert await say_after_handshake(host.addresses()[0], b"") == b""
    assert time.monotonic() - started < 5


async def test_a_flood_from_one_address_is_cut_off_and_members_do_not_pay(
    start: Callable[..., Awaitable[Libp2pTransport]], new_member: NewMember
) -> None:
    limits = TransportLimits(strangers_per_s=0.5, strangers_burst=6)
    host = await start(new_member("host"), limits=limits)
    member = await start(new_member("member"))
    for _ in range(12):
        await member.connect(host.addresses()[0], 5)
        await member.disconnect(host.peer_id)
        while member.connected():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    port = int(host.addresses()[0].split("/")[4])
    refused = 0
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(0.3):
                refused += await reader.read(1) == b""
        except TimeoutError:
            pass
        except ConnectionError:
            refused += 1
        writer.close()
    assert refused >= 3


@pytest.fixture
def founder(tmp_path: Path) -> tuple[Credentials, InviteBook]:
    home = tmp_path / "founder"
    credentials = found_mesh(home, "testers", "founder", {"kind": "test"}, ["node"], now=time.time())
    return credentials, InviteBook(home / "invites.db", credentials.mesh_id)


async def test_an_invite_makes_a_member_once(
    start: Callable[..., Awaitable[Libp2pTransport]], founder: tuple[Credentials, InviteBook]
) -> None:
    credentials, book = founder
    host = await start(
        credentials, answer_join=lambda data, joiner: answer_request(data, joiner, credentials, book, time.time())
    )
    invite = book.create(host.addresses(), ["node"], time.time())
    admission = await join_mesh(invite, Identity.generate(), "new")
    assert admission.certificate.name == "new"
    member = await start(admission.credentials())
    assert await member.connect(host.addresses()[0], 5) == host.peer_id
    assert host.certificate_of(member.peer_id).name == "new"
    with pytest.raises(InviteError, match="used"):
        await join_mesh(invite, Identity.generate(), "thief")


async def test_a_host_that_takes_no_joins_says_so(
    start: Callable[..., Awaitable[Libp2pTransport]], founder: tuple[Credentials, InviteBook]
) -> None:
    credentials, book = founder
    host = await start(credentials)
    invite = book.create(host.addresses(), ["node"], time.time())
    with pytest.raises(InviteError, match="takes no joins"):
        await join_mesh(invite, Identity.generate(), "new")


async def test_joining_where_nobody_is_or_someone_else_is_fails_with_the_reason(
    start: Callable[..., Awaitable[Libp2pTransport]],
    founder: tuple[Credentials, InviteBook],
    new_member: NewMember,
) -> None:
    credentials, book = founder
    nowhere = book.create([f"/ip4/127.0.0.1/tcp/9/p2p/{credentials.peer_id}"], ["node"], time.time())
    with pytest.raises(Unreachable, match="no host of the invite"):
        await join_mesh(nowhere, Identity.generate(), "new")
    other = await start(new_member("other"))
    elsewhere = other.addresses()[0].replace(other.peer_id, credentials.peer_id)
    wrong = book.create([elsewhere], ["node"], time.time())
    with pytest.raises(PeerError):
        await join_mesh(wrong, Identity.generate(), "new")


async def test_an_expired_invite_is_refused_before_anybody_is_dialled(founder: tuple[Credentials, InviteBook]) -> None:
    credentials, book = founder
    invite = book.create([f"/ip4/127.0.0.1/tcp/9/p2p/{credentials.peer_id}"], ["node"], time.time() - 1000, 60)
    with pytest.raises(InviteError, match="expired"):
        await join_mesh(invite, Identity.generate(), "new")


def test_the_late_end_of_an_old_connection_does_not_take_the_name_from_the_next(new_member: NewMember) -> None:
    ann, ben = new_member("ann"), new_member("ben")
    door = Door(ann, TransportLimits(), None, Guard())
    peer_id = ben.identity.peer_id

    class Socket:
        is_initiator = True

        async def close(self) -> None: ...

    async def come_and_go() -> None:
        old, new = (CountedConnection(Socket(), door.count) for _ in range(2))  # type: ignore[arg-type]
        door.welcome(peer_id, ben.certificate, old)
        await door.close(peer_id)
        assert peer_id not in door.certificates
        door.welcome(peer_id, ben.certificate, new)
        await old.close()
        assert door.certificates[peer_id] == ben.certificate
        await new.close()
        assert peer_id not in door.certificates
        assert not door.connections

    trio.run(come_and_go)
