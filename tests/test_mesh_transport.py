"""What every transport promises, asked of both: the one in memory and real libp2p on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from meshlore.errors import (
    DecodeError,
    InvalidTask,
    NotAMember,
    PeerGone,
    PeerTimeout,
    Refused,
    Unreachable,
)
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryNetwork, MemoryTransport
from meshlore.mesh.partials import Partial
from meshlore.mesh.transport import Body, Caller, Transport, TransportLimits
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, MeshRoot

LIMITS = TransportLimits(requests_in_flight=12, requests_per_peer=8)


class Echo:
    """A service that answers who asked what, and keeps what it was told."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.events: list[tuple[str, str]] = []
        self.cancelled = 0

    async def handle(self, caller: Caller, kind: str, body: Body) -> Body:
        match kind:
            case "slow":
                try:
                    await asyncio.sleep(body.get("s", 30))
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            case "refuse":
                raise Refused("not today", "try tomorrow", code="today")
            case "invalid":
                raise InvalidTask("nonsense", "say something sensible")
            case "crash":
                raise RuntimeError("a secret of this node")
            case "huge":
                return {"data": bytes(2 << 20)}
        return {"caller": caller.name, "roles": sorted(caller.roles), "body": body}

    def blob(self, name: str) -> bytes | None:
        return self.blobs.get(name)

    def on_connected(self, peer_id: str) -> None:
        self.events.append(("connected", peer_id))

    def on_disconnected(self, peer_id: str) -> None:
        self.events.append(("disconnected", peer_id))

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self.blobs[name] = data
        return name


Start = Callable[[Credentials], Awaitable[tuple[Transport, Echo]]]


@pytest.fixture(params=["memory", "libp2p"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    network, running = MemoryNetwork(), []

    async def start_one(credentials: Credentials) -> tuple[Transport, Echo]:
        transport: Transport
        if request.param == "memory":
            transport = MemoryTransport(credentials, network, limits=LIMITS)
        else:
            transport = Libp2pTransport(credentials, limits=LIMITS)
        service = Echo()
        await transport.start(service)
        running.append(transport)
        return transport, service

    yield start_one
    await asyncio.gather(*(transport.stop() for transport in running))


@pytest.fixture
async def pair(start: Start, new_member: Callable[..., Credentials]) -> tuple[Transport, Echo, Transport, Echo]:
    ann, ann_service = await start(new_member("ann", ("node", "requester")))
    ben, ben_service = await start(new_member("ben"))
    await ann.connect(ben.addresses()[0], 5)
    await until(lambda: ann.connected() == {ben.peer_id} and ben.connected() == {ann.peer_id})
    return ann, ann_service, ben, ben_service


Pair = tuple[Transport, Echo, Transport, Echo]


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_both_sides_learn_of_a_connection_and_of_who_it_is(pair: Pair) -> None:
    ann, ann_service, ben, ben_service = pair
    assert ("connected", ben.peer_id) in ann_service.events
    assert ("connected", ann.peer_id) in ben_service.events
    assert ann.certificate_of(ben.peer_id).name == "ben"
    assert ben.certificate_of(ann.peer_id).roles == {"node", "requester"}


async def test_requests_go_both_ways_over_one_connection(pair: Pair) -> None:
    ann, _, ben, _ = pair
    there = await ann.request(ben.peer_id, "echo", {"n": 1}, timeout_s=5)
    assert there == {"caller": "ann", "roles": ["node", "requester"], "body": {"n": 1}}
    back = await ben.request(ann.peer_id, "echo", {"n": 2}, timeout_s=5)
    assert back["caller"] == "ben"


async def test_a_slow_request_holds_up_no_other(pair: Pair) -> None:
    ann, _, ben, _ = pair
    slow = asyncio.create_task(ann.request(ben.peer_id, "slow", {"s": 1.0}, timeout_s=5))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    for number in range(20):
        await ann.request(ben.peer_id, "echo", {"n": number}, timeout_s=5)
    assert time.monotonic() - started < 0.8
    assert not slow.done()
    await slow


async def test_a_deadline_is_kept_and_cancels_the_handler(pair: Pair) -> None:
    ann, _, ben, ben_service = pair
    started = time.monotonic()
    with pytest.raises(PeerTimeout):
        await ann.request(ben.peer_id, "slow", {}, timeout_s=0.3)
    assert time.monotonic() - started < 1.5
    if isinstance(ann, Libp2pTransport):
        await until(lambda: ben_service.cancelled == 1)


async def test_errors_of_handlers_arrive_typed_and_crashes_without_their_secrets(pair: Pair) -> None:
    ann, _, ben, _ = pair
    for kind, code in (
        ("refuse", "today"),
        ("invalid", "invalid-task"),
        ("crash", "internal"),
        ("huge", "decode-error"),
    ):
        with pytest.raises(Refused) as caught:
            await ann.request(ben.peer_id, kind, {}, timeout_s=5)
        assert caught.value.code == code
        assert "secret" not in str(caught.value)
    assert (await ann.request(ben.peer_id, "echo", {}, timeout_s=5))["caller"] == "ann"


async def test_a_peer_may_have_only_so_many_requests_in_flight(pair: Pair) -> None:
    ann, _, ben, _ = pair
    slow = [asyncio.create_task(ann.request(ben.peer_id, "slow", {}, timeout_s=2)) for _ in range(8)]
    await asyncio.sleep(0.2)
    with pytest.raises(Refused) as caught:
        await ann.request(ben.peer_id, "echo", {}, timeout_s=5)
    assert caught.value.code == "busy"
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


async def test_a_body_over_the_limit_is_an_error_here_and_harms_nothing(pair: Pair) -> None:
    ann, _, ben, _ = pair
    with pytest.raises(DecodeError, match="blobs"):
        await ann.request(ben.peer_id, "echo", {"data": bytes(2 << 20)}, timeout_s=5)
    assert (await ann.request(ben.peer_id, "echo", {"data": bytes(900_000)}, timeout_s=5))["caller"] == "ann"


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 5_000_000])
async def test_blobs_of_every_size_arrive_whole(pair: Pair, size: int) -> None:
    ann, _, ben, ben_service = pair
    name = ben_service.put(os.urandom(size))
    assert await ann.fetch(ben.peer_id, name, size_limit_bytes=8 << 20, timeout_s=20) == ben_service.blobs[name]


async def test_a_blob_that_is_not_there_too_large_or_another_is_an_error(pair: Pair) -> None:
    ann, _, ben, ben_service = pair
    with pytest.raises(Refused) as caught:
        await ann.fetch(ben.peer_id, "00" * 32, size_limit_bytes=100, timeout_s=5)
    assert caught.value.code == "no-such-blob"
    name = ben_service.put(bytes(1000))
    with pytest.raises(Refused) as caught:
        await ann.fetch(ben.peer_id, name, size_limit_bytes=999, timeout_s=5)
    assert caught.value.code == "too-large"
    ben_service.blobs["11" * 32] = b"something else"
    with pytest.raises(DecodeError, match="named after"):
        await ann.fetch(ben.peer_id, "11" * 32, size_limit_bytes=100, timeout_s=5)
    assert await ann.fetch(ben.peer_id, name, size_limit_bytes=1000, timeout_s=5)


class Cut(Partial):
    """Breaks the transfer when it has this many bytes."""

    def __init__(self, after_bytes: int) -> None:
        super().__init__()
        self._after_bytes = after_bytes

    def append(self, piece: bytes) -> None:
        super().append(piece)
        if len(self.data) >= self._after_bytes:
            raise PeerGone("the connection broke")


async def test_a_transfer_that_was_cut_goes_on_where_it_was(pair: Pair) -> None:
    ann, _, ben, ben_service = pair
    data = os.urandom(2_000_000)
    name, partial = ben_service.put(data), Cut(600_000)
    with pytest.raises(PeerGone):
        await ann.fetch(ben.peer_id, name, size_limit_bytes=8 << 20, timeout_s=20, partial=partial)
    begun = len(partial.data)
    assert 600_000 <= begun < 2_000_000
    assert bytes(partial.data) == data[:begun]
    rest = Partial(partial.data)
    assert await ann.fetch(ben.peer_id, name, size_limit_bytes=8 << 20, timeout_s=20, partial=rest) == data
    assert not rest.data
    assert ann.traffic().blob_bytes_received == 2_000_000


@pytest.mark.parametrize("begun", [b"what is not the beginning", bytes(3000)])
async def test_a_beginning_that_is_wrong_is_thrown_away_and_nobody_is_blamed(pair: Pair, begun: bytes) -> None:
    ann, _, ben, ben_service = pair
    name, partial = ben_service.put(os.urandom(2000)), Partial(bytearray(begun))
    with pytest.raises(PeerGone, match="anew"):
        await ann.fetch(ben.peer_id, name, size_limit_bytes=8 << 20, timeout_s=20, partial=partial)
    assert not partial.data
    fetched = await ann.fetch(ben.peer_id, name, size_limit_bytes=8 << 20, timeout_s=20, partial=partial)
    assert fetched == ben_service.blobs[name]


async def test_traffic_counts_what_travelled(pair: Pair) -> None:
    ann, _, ben, ben_service = pair
    before = ann.traffic()
    await ann.fetch(ben.peer_id, ben_service.put(bytes(300_000)), size_limit_bytes=1 << 20, timeout_s=5)
    after = ann.traffic()
    assert after.blob_bytes_received - before.blob_bytes_received == 300_000
    assert 300_000 <= after.bytes_received - before.bytes_received < 303_000
    assert ben.traffic().blob_bytes_sent == 300_000


async def test_hanging_up_is_noticed_by_both_and_fails_what_waits(pair: Pair) -> None:
    ann, ann_service, ben, ben_service = pair
    waiting = asyncio.create_task(ann.request(ben.peer_id, "slow", {}, timeout_s=10))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await ben.disconnect(ann.peer_id)
    with pytest.raises(PeerGone):
        await waiting
    await until(lambda: not ann.connected() and not ben.connected())
    assert time.monotonic() - started < 2
    assert ("disconnected", ben.peer_id) in ann_service.events
    assert ("disconnected", ann.peer_id) in ben_service.events
    with pytest.raises(Unreachable):
        await ann.request(ben.peer_id, "echo", {}, timeout_s=1)
    with pytest.raises(Unreachable):
        ann.certificate_of(ben.peer_id)


async def test_a_member_can_come_back_at_once_and_many_times(pair: Pair) -> None:
    ann, _, ben, _ = pair
    for _ in range(10):
        await ann.disconnect(ben.peer_id)
        await until(lambda: not ann.connected() and not ben.connected())
        await ann.connect(ben.addresses()[0], 5)
        assert (await ann.request(ben.peer_id, "echo", {}, timeout_s=5))["caller"] == "ann"


async def test_simultaneous_dials_end_with_a_working_connection(
    start: Start, new_member: Callable[..., Credentials]
) -> None:
    ann, _ = await start(new_member("ann"))
    ben, _ = await start(new_member("ben"))

    async def echoed(asker: Transport, peer_id: str) -> Body:
        """One of two connections ends soon after, with what was asked over it: then it is asked anew."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await asker.request(peer_id, "echo", {}, timeout_s=5)
                except PeerGone:
                    await asyncio.sleep(0.05)

    for _ in range(5):
        await asyncio.gather(ann.connect(ben.addresses()[0], 5), ben.connect(ann.addresses()[0], 5))
        there, back = echoed(ann, ben.peer_id), echoed(ben, ann.peer_id)
        assert [answer["caller"] for answer in await asyncio.gather(there, back)] == ["ann", "ben"]
        await ann.disconnect(ben.peer_id)
        await until(lambda: not ann.connected() and not ben.connected())


async def test_members_of_other_meshes_and_expired_members_are_told_why(
    start: Start, new_member: Callable[..., Credentials]
) -> None:
    ann, ann_service = await start(new_member("ann"))
    root, charter = MeshRoot.create("others", {}, time.time())
    identity = Identity.generate()
    foreign = root.issue(identity.peer_id, "eve", ["node"], identity.hpke_public_key, time.time())
    eve, _ = await start(replace(new_member("eve"), identity=identity, charter=charter, certificate=foreign))
    with pytest.raises(NotAMember, match="another mesh"):
        await eve.connect(ann.addresses()[0], 5)
    stolen = replace(new_member("tom"), certificate=new_member("tim").certificate)
    tom, _ = await start(stolen)
    with pytest.raises(NotAMember, match="another peer"):
        await tom.connect(ann.addresses()[0], 5)
    assert ann_service.events == []


async def test_addresses_where_nobody_or_nothing_sensible_is_are_unreachable(pair: Pair) -> None:
    ann, _, ben, _ = pair
    gone = ben.addresses()[0].replace(ben.peer_id, Identity.generate().peer_id)
    for address in (gone, "/ip4/127.0.0.1/tcp/9/p2p/" + Identity.generate().peer_id, "nonsense", ann.addresses()[0]):
        started = time.monotonic()
        with pytest.raises(Unreachable):
            await ann.connect(address, 3)
        assert time.monotonic() - started < 3.5


async def test_stopping_is_quick_leaves_nothing_behind_and_is_noticed(
    start: Start, new_member: Callable[..., Credentials]
) -> None:
    ann, _ = await start(new_member("ann"))
    ben, _ben_service = await start(new_member("ben"))
    await ann.connect(ben.addresses()[0], 5)
    waiting = asyncio.create_task(ann.request(ben.peer_id, "slow", {}, timeout_s=10))
    await asyncio.sleep(0.1)
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    started = time.monotonic()
    await ann.stop()
    assert time.monotonic() - started < 2
    with pytest.raises((PeerGone, Unreachable)):
        await waiting
    await until(lambda: not ben.connected())
    if isinstance(ann, Libp2pTransport):
        assert threading.active_count() < threads
    assert asyncio.all_tasks() - tasks == set()
    with pytest.raises(Unreachable):
        await ann.request(ben.peer_id, "echo", {}, timeout_s=1)
