"""Requests and answers over one stream, on the trio side. Each direction of a pair has its own stream.

Requests are answered as they become ready, so a slow one holds up nobody. A caller that gives up
sends "cancel", and the handler is cancelled. No request has a task or a cancel scope of its own here: one task
reads a stream, one writes it, and the deadline of a request is kept by who asks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from libp2p.abc import INetStream

from ..errors import DecodeError, MeshloreError, PeerGone, Refused
from .dispatch import CANCEL, RESERVED_KINDS
from .frames import Frame, encode
from .streams import FrameStream, Outbox
from .transport import Caller

ANSWERS_AT_ONCE = 32
ASKED_AT_ONCE = 256

Settle = Callable[[Frame | MeshloreError], None]
Reply = Callable[[bytes | None], None]
StartAnswer = Callable[[Caller, Frame, Reply], Callable[[], None]]
"""Begins to answer a request; calls ``Reply`` in the trio thread, once, with a whole frame, or None if it was
cancelled. Returns what cancels it."""


@dataclass(eq=False)
class Request:
    """One question. ``settle`` is called in the trio thread, at most once, with its answer or with what went wrong."""

    id: int
    data: bytes
    settle: Settle
    given_up: bool = False
    calls: Calls | None = None


class Calls:
    """The asking end of a stream."""

    def __init__(self, stream: INetStream) -> None:
        self._frames = FrameStream(stream)
        self._outbox = Outbox(self._frames)
        self._asked: dict[int, Request] = {}
        self.open = True

    def ask(self, request: Request) -> None:
        """Send a request; it is settled when its answer comes, or at once when the stream has ended or is full."""
        if request.given_up:
            return
        if not self.open:
            request.settle(PeerGone("the connection broke", "try again"))
        elif len(self._asked) >= ASKED_AT_ONCE or self._outbox.is_full:
            request.settle(Refused("too many requests to this peer wait already", "ask another", code="busy"))
        else:
            request.calls = self
            self._asked[request.id] = request
            self._outbox.put(request.data)

    def give_up(self, request: Request) -> None:
        """Nobody waits for the answer any more; tell the peer."""
        if self._asked.pop(request.id, None) is not None and self.open:
            self._outbox.put(encode(Frame(CANCEL, request.id)))

    async def run(self) -> None:
        """Send what is asked and hand answers to who asked, until the stream ends; then fail those who still wait."""
        try:
            await self._outbox.run_while(self._read)
        except (PeerGone, DecodeError):
            pass  # whoever waits is told below
        finally:
            self.open = False
            for request in self._asked.values():
                request.settle(PeerGone("the connection broke before the answer came", "try again"))
            self._asked.clear()
            await self._frames.reset()

    async def _read(self) -> None:
        while True:
            frame = await self._frames.receive()
            if request := self._asked.pop(frame.id, None):
                request.settle(frame)


async def serve_calls(stream: INetStream, caller: Caller, start_answer: StartAnswer) -> None:
    """The answering end, until the stream ends: at most `ANSWERS_AT_ONCE` that are not written yet.

    Beyond that it stops reading, so a flood fills the sender's window and not our memory.

    Raises:
        PeerGone: the stream has ended. DecodeError: the peer sent what is not a request.
    """
    frames = FrameStream(stream)
    outbox = Outbox(frames)
    running: dict[int, Callable[[], None]] = {}

    def reply(request_id: int, data: bytes | None) -> None:
        running.pop(request_id, None)
        if data is None:
            outbox.changed.unpark_all()
        else:
            outbox.put(data)

    async def serve() -> None:
        while True:
            request = await frames.receive()
            if request.kind == CANCEL:
                if cancel := running.get(request.id):
                    running[request.id] = _already_cancelled
                    cancel()
                continue
            if request.kind in RESERVED_KINDS or request.id in running:
                raise DecodeError(f"the peer sent {request.kind[:32]!r} where a request is due")
            while len(running) + outbox.frames_waiting >= ANSWERS_AT_ONCE:
                await outbox.changed.park()
            running[request.id] = start_answer(caller, request, partial(reply, request.id))

    try:
        await outbox.run_while(serve)
    finally:
        for cancel in running.values():
            cancel()


def _already_cancelled() -> None:
    return None
