"""Requests over one stream: what is bounded, what is batched, and how each of them ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from meshlore.errors import DecodeError, PeerGone, Refused
from meshlore.mesh import calls as calls_module
from meshlore.mesh.calls import ANSWERS_AT_ONCE, Calls, Reply, Request, serve_calls
from meshlore.mesh.dispatch import ANSWER, CANCEL
from meshlore.mesh.frames import Decoder, Frame, encode
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.transport import Body, Caller
from meshlore.mesh.trio_host import CALLS
from meshlore.security.membership import Credentials
from trio.testing import wait_all_tasks_blocked

NewMember = Callable[..., Credentials]
ANN = Caller("ann's id", "ann", frozenset({"node"}))


class FakeStream:
    """The far end is the test: it puts in what arrives and looks at what was written, write by write."""

    # nothing is buffered and no window is open, so each read and write comes to this class
    muxed_stream = SimpleNamespace(
        stream_id=1,
        conn=SimpleNamespace(stream_buffers={}, stream_events={}),
        send_window=-1,
        send_closed=False,
        recv_closed=False,
        closed=False,
    )

    def __init__(self) -> None:
        self.arrive, self._arrived = trio.open_memory_channel[bytes](1000)
        self.writes: list[bytes] = []
        self.breaks = False
        self.was_reset = False

    async def read(self, _most: int) -> bytes:
        return await self._arrived.receive()

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.breaks:
            raise trio.BrokenResourceError("gone")
        self.writes.append(data)

    async def reset(self) -> None:
        self.was_reset = True

    def frames(self) -> list[Frame]:
        decoder = Decoder()
        decoder.feed(b"".join(self.writes))
        return list(iter(decoder.next_frame, None))


def in_trio(test: Callable[[], Awaitable[None]]) -> None:
    async def within_a_deadline() -> None:
        with trio.fail_after(5):
            await test()

    trio.run(within_a_deadline)


def new_request(number: int, outcomes: list[object]) -> Request:
    return Request(number, encode(Frame("echo", number)), outcomes.append)


def test_many_small_requests_travel_in_one_write_and_in_order() -> None:
    async def test() -> None:
        stream, outcomes = FakeStream(), []
        asking = Calls(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            for number in range(1, 101):
                asking.ask(new_request(number, outcomes))
            await wait_all_tasks_blocked()
            assert [frame.id for frame in stream.frames()] == list(range(1, 101))
            assert len(stream.writes) == 1
            stream.arrive.send_nowait(encode(Frame(ANSWER, 7, {"n": 7})))
            await wait_all_tasks_blocked()
            assert outcomes == [Frame(ANSWER, 7, {"n": 7})]
            nursery.cancel_scope.cancel()
        assert len(outcomes) == 100
        assert all(isinstance(outcome, PeerGone) for outcome in outcomes[1:])
        assert stream.was_reset

    in_trio(test)


@pytest.mark.parametrize("end", ["eof", "nonsense", "write"])
def test_however_a_stream_ends_all_who_wait_are_told_and_who_asks_later_at_once(end: str) -> None:
    async def test() -> None:
        stream, outcomes = FakeStream(), []
        asking = Calls(stream)
        stream.breaks = end == "write"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            asking.ask(new_request(1, outcomes))
            await wait_all_tasks_blocked()
            if end != "write":
                stream.arrive.send_nowait(b"" if end == "eof" else b"\xff" * 8)
        assert [type(outcome) for outcome in outcomes] == [PeerGone]
        assert not asking.open
        asking.ask(new_request(2, outcomes))
        assert [type(outcome) for outcome in outcomes] == [PeerGone, PeerGone]

    in_trio(test)


def test_who_gives_up_tells_the_peer_once_and_is_not_answered() -> None:
    async def test() -> None:
        stream, outcomes = FakeStream(), []
        asking = Calls(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            request = new_request(1, outcomes)
            asking.ask(request)
            await wait_all_tasks_blocked()
            asking.give_up(request)
            asking.give_up(request)
            stream.arrive.send_nowait(encode(Frame(ANSWER, 1)))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert [frame.kind for frame in stream.frames()] == ["echo", CANCEL]
        assert outcomes == []

    in_trio(test)


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    async def test() -> None:
        stream, outcomes = FakeStream(), []
        asking = Calls(stream)
        for number in range(1, calls_module.ASKED_AT_ONCE + 3):
            asking.ask(new_request(number, outcomes))
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Refused)] == ["busy", "busy"]
        full, outcomes = Calls(stream), []
        large = bytes(1 << 20)
        for number in range(1, 19):
            full.ask(Request(number, large, outcomes.append))
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Refused)] == ["busy", "busy"]

    in_trio(test)


class Answerer:
    """Begins answers and leaves it to the test to end them."""

    def __init__(self) -> None:
        self.replies: dict[int, Reply] = {}
        self.cancelled: list[int] = []

    def start(self, _caller: Caller, request: Frame, reply: Reply) -> Callable[[], None]:
        self.replies[request.id] = reply
        return lambda: self.cancelled.append(request.id)


def test_the_answering_end_takes_only_so_many_at_once_and_goes_on_when_one_is_written() -> None:
    async def test() -> None:
        stream, answerer = FakeStream(), Answerer()
        for number in range(1, ANSWERS_AT_ONCE + 10):
            stream.arrive.send_nowait(encode(Frame("echo", number)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_calls, stream, ANN, answerer.start)
            await wait_all_tasks_blocked()
            assert len(answerer.replies) == ANSWERS_AT_ONCE
            answerer.replies[3](encode(Frame(ANSWER, 3)))
            answerer.replies[4](None)
            await wait_all_tasks_blocked()
            assert len(answerer.replies) == ANSWERS_AT_ONCE + 2
            assert [frame.id for frame in stream.frames()] == [3]
            nursery.cancel_scope.cancel()

    in_trio(test)


def test_a_cancelled_request_is_cancelled_once_and_the_end_of_the_stream_cancels_the_rest() -> None:
    async def test() -> None:
        stream, answerer = FakeStream(), Answerer()
        for frame in (Frame("a", 1), Frame("b", 2), Frame(CANCEL, 1), Frame(CANCEL, 1), Frame(CANCEL, 9)):
            stream.arrive.send_nowait(encode(frame))
        stream.arrive.send_nowait(b"")
        with pytest.raises(PeerGone):
            await serve_calls(stream, ANN, answerer.start)
        assert answerer.cancelled == [1, 2]

    in_trio(test)


@pytest.mark.parametrize("frames", [[Frame(ANSWER, 1)], [Frame("a", 1), Frame("a", 1)]])
def test_what_is_no_request_ends_the_stream_with_the_reason(frames: list[Frame]) -> None:
    async def test() -> None:
        stream = FakeStream()
        for frame in frames:
            stream.arrive.send_nowait(encode(frame))
        with pytest.raises(DecodeError, match="where a request is due"):
            await serve_calls(stream, ANN, Answerer().start)

    in_trio(test)


class Mute:
    async def handle(self, _caller: Caller, _kind: str, body: Body) -> Body:
        return body

    def blob(self, _name: str) -> bytes | None:
        return None

    def on_connected(self, peer_id: str) -> None: ...

    def on_disconnected(self, peer_id: str) -> None: ...


async def test_a_member_that_sends_nonsense_where_a_request_is_due_is_blamed(new_member: NewMember) -> None:
    ann, eve = Libp2pTransport(new_member("ann")), Libp2pTransport(new_member("eve"))
    await ann.start(Mute())
    await eve.start(Mute())
    try:
        await eve.connect(ann.addresses()[0], 5)
        host: Any = eve._host

        async def send_nonsense() -> None:
            stream = await host._open(ann.peer_id, CALLS)
            await stream.write(b"\x00\x00\x00\x03" + b"\xc1\xc1\xc1")

        await eve._bridge.call(send_nonsense)
        async with asyncio.timeout(5):
            while "decode-error" not in ann.guard.refusals().get("stream", {}):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert ann.guard._conduct.score(eve.peer_id, time.time()) > 5
    finally:
        await asyncio.gather(ann.stop(), eve.stop())
