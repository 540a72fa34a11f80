"""Answering requests: the part that every transport shares, on the asyncio side.

Bounds how much runs at once, and turns what a handler raises into an answer that the caller's side
turns back into `Refused`. Nothing of this node's insides leaves it: an unexpected exception is
logged here and is "internal" there.
"""

from __future__ import annotations

import logging
from collections import Counter

from ..errors import DecodeError, MeshloreError, Refused, code_of
from .frames import Frame, encode
from .guard import Guard
from .transport import Body, Caller, Service, TransportLimits

log = logging.getLogger("meshlore.mesh")

ANSWER, ERROR, CANCEL = "answer", "error", "cancel"
RESERVED_KINDS = frozenset({ANSWER, ERROR, CANCEL})
MAX_MESSAGE_CHARACTERS = 300


class Dispatcher:
    """Answers the requests of all peers of one node."""

    def __init__(self, service: Service, limits: TransportLimits, guard: Guard) -> None:
        self._service = service
        self._guard = guard
        self._limits = limits
        self._in_flight: Counter[str] = Counter()

    async def answer(self, caller: Caller, request: Frame) -> bytes:
        """The answer to a request, as the frame that travels; never raises but for cancellation."""
        if (
            self._in_flight.total() >= self._limits.requests_in_flight
            or self._in_flight[caller.peer_id] >= self._limits.requests_per_peer
        ):
            busy = Refused("the peer has too many requests in flight", "try again, or ask another", code="busy")
            return self._refused(request, caller, busy)
        self._in_flight[caller.peer_id] += 1
        try:
            body = await self._service.handle(caller, request.kind, request.body)
            return _sendable(Frame(ANSWER, request.id, dict(body)))
        except MeshloreError as error:
            return self._refused(request, caller, error)
        except Exception:
            log.exception("the handler of %r failed", request.kind)
            return encode(error_frame(request.id, Refused("the peer failed to answer", code="internal")))
        finally:
            self._in_flight[caller.peer_id] -= 1
            if not self._in_flight[caller.peer_id]:
                del self._in_flight[caller.peer_id]

    def _refused(self, request: Frame, caller: Caller, error: MeshloreError) -> bytes:
        self._guard.refuse("request", error, caller.peer_id)
        return encode(error_frame(request.id, error))


def _sendable(reply: Frame) -> bytes:
    """The reply, or why it cannot be sent, which is not the caller's fault."""
    try:
        return encode(reply)
    except DecodeError as error:
        return encode(error_frame(reply.id, error))


def error_frame(request_id: int, error: MeshloreError) -> Frame:
    """An error as it travels: code, message and remedy, nothing else."""
    return Frame(
        ERROR,
        request_id,
        {
            "code": code_of(error),
            "message": error.message[:MAX_MESSAGE_CHARACTERS],
            "remedy": error.remedy[:MAX_MESSAGE_CHARACTERS],
        },
    )


def body_of(answer: Frame) -> Body:
    """The body of an answer frame.

    Raises:
        Refused: it is an error frame.
        DecodeError: it is neither.
    """
    if answer.kind == ANSWER:
        return answer.body
    fields = answer.body
    if answer.kind != ERROR or set(fields) != {"code", "message", "remedy"}:
        raise DecodeError(f"the peer sent {answer.kind[:32]!r} where an answer is due")
    if not all(type(value) is str for value in fields.values()):
        raise DecodeError("the peer sent a malformed error")
    raise Refused(one_line(fields["message"]), one_line(fields["remedy"]), code=one_line(fields["code"]))


def one_line(text: object) -> str:
    """Foreign words as a log or a terminal may show them: printable, on one line, not long."""
    cut = str(text)[:MAX_MESSAGE_CHARACTERS]
    return " ".join("".join(letter if letter.isprintable() else " " for letter in cut).split())
