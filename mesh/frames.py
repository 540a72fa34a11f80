"""The frame: what travels on every stream, as pure functions over bytes.

A frame is a 4-byte big-endian length followed by that many bytes of canonical msgpack, a map
``{"v": 1, "kind": str, "id": int, "body": map}``. No frame is longer than `MAX_FRAME_BYTES`;
larger things travel as blobs (`blobs.py`). Nothing here touches a socket, so all of it is fuzzed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError

VERSION = 1
MAX_FRAME_BYTES = 1 << 20
MAX_KIND_LENGTH = 64
MAX_ID = 2**32 - 1
_LENGTH = struct.Struct("!I")
_FIELDS = {"v": int, "kind": str, "id": int, "body": dict}


@dataclass(frozen=True)
class Frame:
    """One message. ``id`` pairs an answer with its request; ``body`` is a map that `codec.pack` accepts."""

    kind: str
    id: int = 0
    body: dict[str, Any] = field(default_factory=dict)


def encode(frame: Frame) -> bytes:
    """The frame as it travels, length included.

    Raises:
        DecodeError: the frame would be refused by the receiver: too long, kind or id out of range.
        TypeError, ValueError: the body holds what `codec.pack` does not send; a bug of the caller.
    """
    _check(frame)
    payload = pack({"v": VERSION, "kind": frame.kind, "id": frame.id, "body": frame.body})
    if len(payload) > MAX_FRAME_BYTES:
        raise DecodeError(
            f"a {frame.kind!r} message of {len(payload)} bytes where at most {MAX_FRAME_BYTES} are allowed",
            "send large things as blobs",
        )
    return _LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Frame:
    """The inverse of `encode` for one whole payload, without its length prefix.

    Raises:
        DecodeError: too long, not canonical, another version, unknown or missing fields.
    """
    fields = expect_map(unpack(payload, max_bytes=MAX_FRAME_BYTES), _FIELDS)
    if fields["v"] != VERSION:
        raise DecodeError(f"the peer speaks frame version {fields['v']}, this node {VERSION}", "update the older one")
    frame = Frame(fields["kind"], fields["id"], fields["body"])
    _check(frame)
    return frame


class Decoder:
    """Cuts a stream of bytes into frames; holds at most one frame and one read of unparsed bytes.

    After an error the stream has lost its place, so every later call raises that error again.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: DecodeError | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes as they arrive, in pieces of any size."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more bytes are fed.

        Raises:
            DecodeError: the bytes are not a frame. A too large length is refused before its payload comes.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._cut()
        except DecodeError as error:
            self._error = error
            self._buffer.clear()
            raise

    def take_rest(self) -> bytearray:
        """The bytes that were fed and are no frame yet, for a stream that goes on with bytes that are none."""
        rest, self._buffer = self._buffer, bytearray()
        return rest

    def finish(self) -> None:
        """Call at the end of the stream.

        Raises:
            DecodeError: the stream ended inside a frame.
        """
        if self._buffer:
            raise DecodeError(f"the stream ended inside a message, {len(self._buffer)} bytes into it")

    def _cut(self) -> Frame | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if size > MAX_FRAME_BYTES:
            raise DecodeError(f"a message of {size} bytes where at most {MAX_FRAME_BYTES} are allowed")
        end = _LENGTH.size + size
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[_LENGTH.size : end])
        del self._buffer[:end]
        return decode(payload)


def _check(frame: Frame) -> None:
    if not 0 < len(frame.kind) <= MAX_KIND_LENGTH:
        raise DecodeError(f"a message kind of {len(frame.kind)} characters")
    if not 0 <= frame.id <= MAX_ID:
        raise DecodeError(f"message id {frame.id} is out of range")
