"""What a daemon's control API and its clients agree on: where the socket is, and how things look on it.

    GET  /status, /peers      JSON
    GET  /knowledge           msgpack: the samples that this node published
    POST /invite              JSON {"role", "lifetime_s"} -> {"code"}
    POST /revoke              JSON {"who"} -> {"name", "peer_id", "version"}
    POST /rotate-root         JSON {"overlap_s"} -> {"root", "until"}
    POST /task                msgpack {"task", "timeout_s"} -> frames: progress*, then result or error

A frame is a 4-byte big-endian length and a msgpack map with the key "event".
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import errors
from ..codec import pack, unpack
from ..errors import DecodeError, MeshloreError, Refused

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
MAX_SOCKET_PATH_BYTES = 100


def socket_path(home: Path) -> Path:
    """``<home>/control.sock``, or a short private path where that is too long for a Unix socket."""
    path = home / "control.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    below = Path(f"meshlore-{os.getuid()}") / f"{digest}.sock"
    path = Path(tempfile.gettempdir()) / below
    # TMPDIR may be long itself
    return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES else Path("/tmp") / below  # noqa: S108


def frame(event: dict[str, Any]) -> bytes:
    """One event as it travels."""
    data = pack(event)
    return len(data).to_bytes(4, "big") + data


class FrameReader:
    """Cuts a stream of bytes into events."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Raises DecodeError when the stream is none of ours."""
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > MAX_MESSAGE_BYTES:
                raise DecodeError(f"a frame of {length} bytes")
            if len(self._buffer) < 4 + length:
                return
            event = unpack(bytes(self._buffer[4 : 4 + length]), max_bytes=length, max_items=1_000_000)
            del self._buffer[: 4 + length]
            if not isinstance(event, dict):
                raise DecodeError(f"a frame that holds a {type(event).__name__}")
            yield event


def error_to_map(error: MeshloreError) -> dict[str, str]:
    fields = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}
    return fields | {"code": error.code} if isinstance(error, Refused) else fields


def error_from_map(value: dict[str, Any]) -> MeshloreError:
    """The typed error again; a kind that this version does not know becomes a plain `MeshloreError`."""
    kind = getattr(errors, str(value.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, MeshloreError)):
        kind = MeshloreError
    if kind is Refused:
        return Refused(str(value.get("message")), str(value.get("remedy")), code=str(value.get("code", "refused")))
    return kind(str(value.get("message")), str(value.get("remedy")))
