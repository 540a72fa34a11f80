"""Reached through a relay: as over TCP for the two ends, and nothing but ciphertext for the member between."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from meshlore.errors import DecodeError, MeshloreError, NotAMember, PeerError, Refused, Unreachable
from meshlore.mesh import circuit, relay
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.transport import Body, Caller
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials

NewMember = Callable[..., Credentials]
CANARY = b"the private canary that no relay may see"
BLOB = CANARY * 20_000


class Echo:
    """Answers what it is asked, and holds one blob."""

    def __init__(self) -> None:
        self.connected: set[str] = set()

    async def handle(self, caller: Caller, kind: str, body: Body) -> Body:
        return {"from": caller.peer_id, **body}

    def blob(self, name: str) -> bytes | None:
        return BLOB

    def on_connected(self, peer_id: str) -> None:
        self.connected.add(peer_id)

    def on_disconnected(self, peer_id: str) -> None:
        self.connected.discard(peer_id)


Start = Callable[[Credentials], Awaitable[tuple[Libp2pTransport, Echo]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[Libp2pTransport] = []

    async def start_one(credentials: Credentials) -> tuple[Libp2pTransport, Echo]:
        transport, service = Libp2pTransport(credentials), Echo()
        await transport.start(service)
        running.append(transport)
        return transport, service

    yield start_one
    await asyncio.gather(*(transport.stop() for transport in running))


@pytest.fixture
async def three(start: Start, new_member: NewMember) -> tuple[Libp2pTransport, Libp2pTransport, Libp2pTransport, str]:
    """Ann; the relay; hidden, who holds a reservation there; and the address at which Ann may reach hidden."""
    (ann, _), (middle, _), (hidden, _) = [await start(new_member(name)) for name in ("ann", "middle", "hidden")]
    await hidden.connect(middle.addresses()[0], 5)
    assert await hidden.reserve(middle.peer_id, 5) > 3000
    return ann, middle, hidden, hidden.addresses()[-1]


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_hidden_member_is_asked_and_its_blobs_are_fetched_through_a_relay_that_sees_no_word(
    three: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, middle, hidden, address = three
    assert f"/p2p/{middle.peer_id}/p2p-circuit/p2p/{hidden.peer_id}" in address
    passed = bytearray()
    pass_bytes = relay.pass_bytes

    async def overheard(source: Any, target: Any, budget: Any, idle_s: float) -> None:
        write = target.write

        async def record(data: bytes) -> None:
            passed.extend(data)
            await write(data)

        target.write = record
        await pass_bytes(source, target, budget, idle_s)

    monkeypatch.setattr(relay, "pass_bytes", overheard)
    assert await ann.connect(address, 8) == hidden.peer_id
    assert ann.certificate_of(hidden.peer_id).name == "hidden"
    answer = await ann.request(hidden.peer_id, "echo", {"word": CANARY}, timeout_s=5)
    assert answer == {"from": ann.peer_id, "word": CANARY}
    name = hashlib.sha256(BLOB).hexdigest()
    assert await ann.fetch(hidden.peer_id, name, size_limit_bytes=1 << 20, timeout_s=20) == BLOB
    assert len(passed) > len(BLOB), "all of it went through the relay"
    assert CANARY not in passed
    assert CANARY[:16] not in passed
    assert not await ann.is_direct(hidden.peer_id)
    assert await ann.is_direct(middle.peer_id)


async def test_bytes_through_a_relay_are_counted_once(three: Any) -> None:
    ann, _, hidden, address = three
    await ann.connect(address, 8)
    before = ann.traffic().bytes_sent
    await ann.request(hidden.peer_id, "echo", {"data": bytes(50_000)}, timeout_s=5)
    assert 50_000 < ann.traffic().bytes_sent - before < 60_000


async def test_who_is_no_member_is_refused_by_the_hidden_one_and_not_only_by_the_relay(
    three: Any, start: Start, new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, _, hidden, address = three
    real = hidden._door.judge

    def judge(message: dict[str, Any], peer_id: str) -> Any:
        if peer_id == ann.peer_id:
            raise NotAMember("revoked here", code="revoked")
        return real(message, peer_id)

    monkeypatch.setattr(hidden._door, "judge", judge)
    with pytest.raises(NotAMember, match="revoked here"):
        await ann.connect(address, 8)


async def test_nobody_is_reached_through_a_member_where_it_reserved_nothing(
    start: Start, new_member: NewMember
) -> None:
    (ann, _), (middle, _), (hidden, _) = [await start(new_member(name)) for name in ("ann", "middle", "hidden")]
    await hidden.connect(middle.addresses()[0], 5)
    with pytest.raises(Unreachable, match="no reservation"):
        await ann.connect(f"{middle.addresses()[0]}/p2p-circuit/p2p/{hidden.peer_id}", 8)


async def test_a_relay_that_leaves_takes_its_circuits_and_addresses_with_it(three: Any) -> None:
    ann, middle, hidden, address = three
    await ann.connect(address, 8)
    await middle.stop()
    await until(lambda: hidden.peer_id not in ann.connected() and ann.peer_id not in hidden.connected())
    await until(lambda: not any("p2p-circuit" in known for known in hidden.addresses()))
    with pytest.raises(MeshloreError):
        await ann.connect(address, 3)


@pytest.mark.parametrize("says", [b"", b"\x05hello", b"\xff\xff\xff\x7f", b"\x02\x08\x01"])
async def test_a_relay_that_breaks_off_or_talks_nonsense_is_a_peer_that_failed(
    start: Start, new_member: NewMember, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    async def babble(_relay: relay.Relay, stream: Any) -> None:
        if says:
            await stream.write(says)

    monkeypatch.setattr(relay.Relay, "_serve_hop", babble)
    (ann, _), (middle, _) = [await start(new_member(name)) for name in ("ann", "middle")]
    await ann.connect(middle.addresses()[0], 5)
    with pytest.raises((PeerError, DecodeError)):
        await ann.reserve(middle.peer_id, 5)
    with pytest.raises(Unreachable):
        await ann.connect(f"{middle.addresses()[0]}/p2p-circuit/p2p/{Identity.generate().peer_id}", 5)
    assert not any("p2p-circuit" in address for address in ann.addresses())


async def test_a_relay_keeps_to_its_limits(
    start: Start, new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlore.mesh.trio_host.RelayLimits", lambda: relay.RelayLimits(reservations=1, circuits=1))
    names = ("ann", "ben", "middle", "hidden", "late")
    ann, ben, middle, hidden, late = [(await start(new_member(name)))[0] for name in names]
    for node in (hidden, late):
        await node.connect(middle.addresses()[0], 5)
    await hidden.reserve(middle.peer_id, 5)
    with pytest.raises(Refused, match="reservation refused"):
        await late.reserve(middle.peer_id, 5)
    await hidden.reserve(middle.peer_id, 5)  # renewing is no second one
    await ann.connect(hidden.addresses()[-1], 8)
    with pytest.raises(Unreachable, match="resource limit"):
        await ben.connect(hidden.addresses()[-1], 8)
    await ann.disconnect(hidden.peer_id)
    async with asyncio.timeout(10):
        while hidden.peer_id not in ben.connected():
            try:
                await ben.connect(hidden.addresses()[-1], 8)
            except Unreachable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("tail", ["/p2p-circuit/p2p/{me}", "/p2p-circuit"])
async def test_a_circuit_through_itself_or_to_nobody_is_refused(three: Any, tail: str) -> None:
    ann, middle, _, _ = three
    with pytest.raises(Unreachable):
        await ann.connect(middle.addresses()[0] + tail.format(me=middle.peer_id), 3)


@pytest.mark.parametrize(
    "says", [b"\x02\x08\x02", b"\x02\x08\x01", b"\x06\x08\x01\x12\x02\x0a\x00", b"\xff\xff\x03", b"\x03xyz"]
)
async def test_who_asks_a_relay_for_nonsense_is_told_so_and_blamed(
    start: Start, new_member: NewMember, says: bytes
) -> None:
    (eve, _), (middle, _) = [await start(new_member(name)) for name in ("eve", "middle")]
    await eve.connect(middle.addresses()[0], 5)
    host: Any = eve._host

    async def ask() -> bytes:
        stream = await host._open(middle.peer_id, relay.HOP)
        await stream.write(says)
        return await circuit.read(stream)

    answer = circuit.pb.HopMessage()
    answer.ParseFromString(await eve._bridge.call(ask))
    assert answer.status == circuit.pb.MALFORMED_MESSAGE
    assert middle.guard.refusals()["stream"] == {"decode-error": 1}
