"""Who misbehaves is slowed, then dropped, on any connection and after a restart, and forgiven with time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import (
    BadSignature,
    DecodeError,
    Misbehaved,
    NotAMember,
    PeerError,
    Refused,
    Replayed,
    SecurityError,
)
from meshlore.mesh.conduct import (
    DROPPED_FROM,
    HALF_LIFE_S,
    MAX_MEMBERS,
    MAX_SCORE,
    SLOWED_COST,
    Conduct,
    Fault,
    Standing,
    load_conduct,
    save_conduct,
)
from meshlore.mesh.guard import Guard, fault_of
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import HeartbeatSettings
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.mesh.transport import Body, Caller, Transport, TransportLimits
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials
from quiet import Quiet

NewMember = Callable[..., Credentials]
EVE = Identity.generate().peer_id
QUICK = MeshSettings(heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1), tick_s=0.05, request_timeout_s=3)


def test_faults_slow_a_member_down_before_they_shut_it_out() -> None:
    conduct = Conduct()
    seen = [conduct.blame(EVE, Fault.MALFORMED, 0.0) for _ in range(6)]
    assert seen == [Standing.GOOD, *[Standing.SLOWED] * 4, Standing.DROPPED]
    assert conduct.standing("somebody else", 0.0) is Standing.GOOD
    assert conduct.not_good(0.0) == {EVE: Standing.DROPPED}


def test_what_is_over_a_budget_weighs_less_than_what_no_honest_member_sends() -> None:
    conduct = Conduct()
    assert all(conduct.blame(EVE, Fault.EXCESS, 0.0) is Standing.GOOD for _ in range(90))
    assert Fault.EXCESS.value < Fault.FORBIDDEN.value < Fault.MALFORMED.value


def test_faults_fade_and_the_wait_that_is_told_is_the_wait_there_is() -> None:
    conduct = Conduct({EVE: (2 * DROPPED_FROM, 0.0)})
    assert conduct.wait_s(EVE, 0.0) == pytest.approx(HALF_LIFE_S)
    assert conduct.standing(EVE, HALF_LIFE_S - 1) is Standing.DROPPED
    assert conduct.standing(EVE, HALF_LIFE_S + 1) is Standing.SLOWED
    assert conduct.standing(EVE, 20 * HALF_LIFE_S) is Standing.GOOD
    assert conduct.records(20 * HALF_LIFE_S) == {}


def test_nobody_is_shut_out_for_longer_than_the_highest_score_takes_to_fade() -> None:
    conduct = Conduct()
    for _ in range(1000):
        conduct.blame(EVE, Fault.MALFORMED, 0.0)
    assert conduct.score(EVE, 0.0) == MAX_SCORE
    assert conduct.wait_s(EVE, 0.0) <= 2 * HALF_LIFE_S


def test_the_record_is_bounded_and_forgets_the_least_guilty() -> None:
    conduct = Conduct({EVE: (100.0, 0.0)})
    for number in range(2 * MAX_MEMBERS):
        conduct.blame(f"peer-{number}", Fault.EXCESS, 0.0)
    assert len(conduct.records(0.0)) == MAX_MEMBERS
    assert conduct.standing(EVE, 0.0) is Standing.DROPPED


@given(st.lists(st.tuples(st.sampled_from(Fault), st.floats(0, 1e6)), max_size=30), st.floats(-1e6, 1e6))
def test_a_clock_that_jumps_never_raises_a_score(events: list[tuple[Fault, float]], jump: float) -> None:
    conduct = Conduct()
    for fault, now in events:
        conduct.blame(EVE, fault, now)
    last = max((now for _, now in events), default=0.0)
    assert 0 <= conduct.score(EVE, last + jump) <= MAX_SCORE


def test_conduct_is_kept_across_restarts(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "conduct.bin")
    for _ in range(8):
        guard.refuse("request", DecodeError("nonsense"), EVE)
    guard.save()
    again = Guard(tmp_path / "conduct.bin")
    assert again.not_good()[EVE] is Standing.DROPPED
    with pytest.raises(Misbehaved, match="come back in"):
        again.check(EVE)
    assert again.cost(EVE) > again.cost("another")


@pytest.mark.parametrize("content", [b"", b"\xc1", b"x" * (2 << 20), b"\x81\xa3eve\x92\xcb" + bytes(8) + b"\x00"])
def test_a_damaged_record_of_conduct_is_started_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "conduct.bin").write_bytes(content)
    assert load_conduct(tmp_path / "conduct.bin").not_good(0.0) == {}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_conduct(tmp_path / "conduct.bin", {EVE: (61.5, 1000.0)})
    assert load_conduct(tmp_path / "conduct.bin").records(1000.0) == {EVE: (61.5, 1000.0)}


def test_only_what_no_honest_member_does_is_held_against_it() -> None:
    assert fault_of(DecodeError("x")) is Fault.MALFORMED
    assert fault_of(BadSignature("x")) is Fault.MALFORMED
    assert fault_of(Refused("x", code="role")) is Fault.FORBIDDEN
    assert fault_of(Refused("x", code="busy")) is Fault.EXCESS
    for honest in (Replayed("x"), NotAMember("x"), SecurityError("x"), Refused("x", code="not-ready")):
        assert fault_of(honest) is None


def test_every_refusal_is_counted_by_place_and_reason() -> None:
    guard = Guard()
    guard.refuse("connection", NotAMember("x"))
    guard.refuse("packet", Replayed("x"), EVE)
    guard.refuse("packet", Replayed("x"), EVE)
    assert guard.refusals() == {"connection": {"not-a-member": 1}, "packet": {"replayed": 2}}
    assert guard.not_good() == {}


class Pair:
    """A host, and a member that will misbehave, connected over one of the transports."""

    def __init__(self, kind: str, new_member: NewMember) -> None:
        self._kind, self._network, self._new_member = kind, MemoryNetwork(), new_member
        self.started: list[Mesh] = []

    async def add(self, name: str, roles: tuple[str, ...] = ("node", "requester"), **kwargs: object) -> Mesh:
        credentials = kwargs.pop("credentials", None) or self._new_member(name, roles)
        mesh = Mesh(self._transport(credentials, **kwargs), store=MemoryStore(), settings=QUICK)  # type: ignore[arg-type]
        await mesh.start([self.started[0].addresses()[0]] if self.started else [])
        self.started.append(mesh)
        return mesh

    def _transport(self, credentials: Credentials, **kwargs: object) -> Transport:
        if self._kind == "memory":
            return MemoryTransport(credentials, self._network, **kwargs)  # type: ignore[arg-type]
        return Libp2pTransport(credentials, **kwargs)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "libp2p"])
async def pair(request: pytest.FixtureRequest, new_member: NewMember) -> AsyncIterator[Pair]:
    pair = Pair(request.param, new_member)
    yield pair
    await asyncio.gather(*(mesh.stop() for mesh in pair.started))


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def connected(mesh: Mesh) -> set[str]:
    return {peer.name for peer in mesh.peers() if peer.connected}


async def test_a_member_that_sends_nonsense_is_hung_up_on_and_not_let_in_again(pair: Pair) -> None:
    guard = Guard()
    host = await pair.add("host", guard=guard)
    eve = await pair.add("eve")
    await pair.add("ben")
    await until(lambda: connected(host) == {"eve", "ben"})
    for _ in range(12):
        with contextlib.suppress(PeerError):
            await eve.request(host.peer_id, "mesh.hello", {"nonsense": 1}, timeout_s=5)
    await until(lambda: connected(host) == {"ben"})
    assert guard.refusals()["request"]["decode-error"] >= 6
    with pytest.raises(NotAMember, match="come back in"):
        await eve._transport.connect(host.addresses()[0], 5)


async def test_a_role_is_checked_on_every_kind_of_request_and_on_knowledge(pair: Pair) -> None:
    guard = Guard()
    host = await pair.add("host", guard=guard)
    asker, anchor = await pair.add("asker", ("requester",)), await pair.add("anchor", ("anchor",))
    name = host._store.put(b"knowledge")  # type: ignore[attr-defined]

    async def serve(_caller: Caller, _body: Body) -> Body:
        return {"done": True}

    host.serve("task", serve, frozenset({"requester"}))
    await until(lambda: connected(host) == {"asker", "anchor"})
    assert await asker.request(host.peer_id, "task", {}, timeout_s=5) == {"done": True}
    assert await anchor._transport.fetch(host.peer_id, name, size_limit_bytes=100, timeout_s=5) == b"knowledge"
    with pytest.raises(Refused, match="requester") as refusal:
        await anchor.request(host.peer_id, "task", {}, timeout_s=5)
    assert refusal.value.code == "role"
    with pytest.raises(Refused) as refusal:
        await asker.request(host.peer_id, "mesh.announce", {"have": []}, timeout_s=5)
    assert refusal.value.code in ("role", "unknown-kind")
    with pytest.raises(PeerError):
        await asker._transport.fetch(host.peer_id, name, size_limit_bytes=100, timeout_s=5)
    await until(lambda: guard.refusals().get("stream", {}).get("role", 0) >= 1)
    assert guard.refusals()["request"]["role"] >= 2


async def test_a_slowed_member_gets_less_of_the_same_budget(new_member: NewMember) -> None:
    network, guard = MemoryNetwork(), Guard()
    host = Mesh(
        MemoryTransport(new_member("host"), network, guard=guard),
        store=MemoryStore(),
        settings=replace(QUICK, requests_per_s=1.0, requests_burst=100.0),
    )
    eve = Mesh(MemoryTransport(new_member("eve"), network), store=MemoryStore(), settings=QUICK)

    async def serve(_caller: Caller, _body: Body) -> Body:
        return {}

    host.serve("task", serve)
    for _ in range(3):
        guard.refuse("request", DecodeError("nonsense"), eve.peer_id)
    await host.start()
    await eve.start(host.addresses())
    await until(lambda: connected(eve))
    replies = [eve.request(host.peer_id, "task", {}, timeout_s=5) for _ in range(40)]
    codes = [getattr(reply, "code", "done") for reply in await asyncio.gather(*replies, return_exceptions=True)]
    assert codes.count("done") <= 100 / SLOWED_COST
    assert "busy" in codes
    await asyncio.gather(host.stop(), eve.stop())


async def test_a_member_that_reconnects_without_end_is_refused_for_a_while(new_member: NewMember) -> None:
    host = Libp2pTransport(new_member("host"), limits=TransportLimits(members_per_s=0.1, members_burst=3))
    eve = Libp2pTransport(new_member("eve"))

    await asyncio.gather(host.start(Quiet()), eve.start(Quiet()))
    for _ in range(3):
        await eve.connect(host.addresses()[0], 5)
        await eve.disconnect(host.peer_id)
        await until(lambda: not eve.connected())
    with pytest.raises(NotAMember, match="too many connections"):
        await eve.connect(host.addresses()[0], 5)
    assert host.guard.refusals()["connection"]["busy"] == 1
    await asyncio.gather(host.stop(), eve.stop())
