"""Every way in which a dial fails has a reason of its own, on the wire and in memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from meshlore.errors import MeshloreError, NotAMember, Revoked
from meshlore.mesh.failures import root_cause
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryNetwork, MemoryTransport
from meshlore.mesh.reasons import Reason, reason_of, refused_by_peer
from meshlore.mesh.transport import Transport
from meshlore.security.certificates import DAY_S
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from quiet import Quiet

Start = Callable[[Credentials], Awaitable[Transport]]


class World:
    """One mesh root; its members can be issued in the past and in the future."""

    def __init__(self) -> None:
        self._root, self._charter = MeshRoot.create("testers", {}, time.time())
        self._keyring = Keyring.generate()

    def member(self, days_ahead: float = 0) -> Credentials:
        identity, now = Identity.generate(), time.time() + days_ahead * DAY_S
        certificate = self._root.issue(identity.peer_id, "ann", ("node",), identity.hpke_public_key, now)
        return Credentials(identity, self._charter, certificate, self._keyring)


@pytest.fixture(params=["memory", "libp2p"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    network, running = MemoryNetwork(), []

    async def start_one(credentials: Credentials) -> Transport:
        memory = request.param == "memory"
        transport = MemoryTransport(credentials, network) if memory else Libp2pTransport(credentials)
        await transport.start(Quiet())
        running.append(transport)
        return transport

    yield start_one
    await asyncio.gather(*(transport.stop() for transport in running))


async def failure(transport: Transport, address: str, timeout_s: float = 5) -> MeshloreError:
    with pytest.raises(MeshloreError) as caught:
        await transport.connect(address, timeout_s)
    return caught.value


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        (0, -40, Reason.EXPIRED),
        (0, +40, Reason.EARLY),
        (-40, 0, Reason.OWN_EXPIRED),
        (+40, 0, Reason.OWN_EARLY),
    ],
)
async def test_a_certificate_out_of_its_time_is_told_from_the_other_sides(
    start: Start, mine: float, theirs: float, reason: Reason
) -> None:
    world = World()
    me, other = await start(world.member(mine)), await start(world.member(theirs))
    assert reason_of(await failure(me, other.addresses()[0])) is reason


async def test_a_node_of_another_mesh_is_told(start: Start) -> None:
    me, other = await start(World().member()), await start(World().member())
    error = await failure(me, other.addresses()[0])
    assert isinstance(error, NotAMember)
    assert reason_of(error) is Reason.OTHER_MESH


async def test_where_nothing_listens_the_port_is_closed(start: Start) -> None:
    world = World()
    me, gone = await start(world.member()), await start(world.member())
    address = gone.addresses()[0]
    await gone.stop()
    assert reason_of(await failure(me, address)) is Reason.CLOSED


@pytest.fixture
async def libp2p() -> AsyncIterator[Libp2pTransport]:
    transport = Libp2pTransport(World().member())
    await transport.start(Quiet())
    yield transport
    await transport.stop()


def address_of(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity.generate().peer_id}"


async def test_who_takes_the_connection_and_says_nothing_is_silent(libp2p: Libp2pTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reason_of(await failure(libp2p, address_of(server.getsockname()[1]), 0.5)) is Reason.SILENT


@pytest.mark.parametrize(
    ("says", "reason"), [(b"", Reason.HUNG_UP), (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason.OTHER_SERVICE)]
)
async def test_what_is_no_node_is_told_by_what_it_says(libp2p: Libp2pTransport, says: bytes, reason: Reason) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says * 20)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        assert reason_of(await failure(libp2p, address_of(server.sockets[0].getsockname()[1]))) is reason


async def test_a_node_that_is_not_who_the_address_promises_is_told(libp2p: Libp2pTransport) -> None:
    other = Libp2pTransport(World().member())
    await other.start(Quiet())
    try:
        port = int(other.addresses()[0].split("/")[4])
        assert reason_of(await failure(libp2p, address_of(port))) is Reason.OTHER_PEER
    finally:
        await other.stop()


async def test_a_host_name_that_nobody_knows_is_told(libp2p: Libp2pTransport) -> None:
    address = f"/dns4/no-such-host.invalid/tcp/4810/p2p/{Identity.generate().peer_id}"
    assert reason_of(await failure(libp2p, address)) is Reason.NO_NAME


def test_a_revoked_member_is_told_from_both_sides() -> None:
    assert reason_of(Revoked("the membership was revoked", code="revoked")) is Reason.REVOKED
    assert reason_of(refused_by_peer("the membership was revoked", "revoked")) is Reason.OWN_REVOKED


@pytest.mark.parametrize("code", ["", "brand-new", "other", 7, None, "own-expired"])
def test_a_peer_cannot_make_up_reasons(code: object) -> None:
    assert reason_of(refused_by_peer("no", code)) is Reason.REFUSED


def test_a_chain_of_causes_that_bites_its_tail_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert root_cause(first) == "second"
    assert root_cause(None) == "unknown"


async def test_the_error_of_a_refused_dial_is_not_its_own_cause(start: Start) -> None:
    me, other = await start(World().member()), await start(World().member())
    error: BaseException | None = await failure(me, other.addresses()[0])
    seen: list[BaseException] = []
    while (error := error.__cause__ if error else None) is not None and len(seen) < 50:
        seen.append(error)
    assert len(seen) < 50
