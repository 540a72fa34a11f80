"""The messages of circuit relay v2 (libp2p specs, relay/circuit-v2.md) in upstream's protobufs, strictly decoded.

The decoders are pure functions over bytes; `read` and `write` put them on a stream, in the trio thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from . import upstream  # noqa: F401, isort: skip -- before all else of libp2p
from google.protobuf.message import DecodeError as ProtobufError
from libp2p.abc import INetStream
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import MessageTooLarge
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from ..errors import DecodeError, Refused
from ..security.identity import public_key_of
from .messages import peer_id_in

MAX_MESSAGE_BYTES = 4096
MAX_RELAY_ADDRESSES = 2
M = TypeVar("M", pb.HopMessage, pb.StopMessage)


@dataclass(frozen=True)
class Asked:
    """What somebody wants of a relay: a circuit to ``target`` (a peer id), or, if that is None, a reservation."""

    target: str | None


@dataclass(frozen=True)
class Reservation:
    """Where one is reached through a relay, and until when (unix seconds)."""

    addresses: tuple[str, ...]
    expire: float


def read_asked(data: bytes) -> Asked:
    """What a relay is asked for. Raises DecodeError."""
    message = _parsed(pb.HopMessage, data)
    if message.type == pb.HopMessage.RESERVE:
        return Asked(None)
    if message.type != pb.HopMessage.CONNECT:
        raise DecodeError("a relay is asked for something else than a reservation or a circuit")
    target = str(ID(message.peer.id))
    public_key_of(target)
    return Asked(target)


def read_reservation(data: bytes, relay_id: str) -> Reservation:
    """A relay's answer to who wants to be reached through it.

    Raises:
        Refused: it takes no (more) reservations. DecodeError: malformed.
    """
    message = _parsed(pb.HopMessage, data)
    _check_status(message, pb.HopMessage.STATUS)
    addresses = [_text(address) for address in message.reservation.addrs[:MAX_RELAY_ADDRESSES]]
    if not addresses or any(peer_id_in(address) != relay_id for address in addresses):
        raise DecodeError("a relay names other addresses than its own")
    return Reservation(tuple(addresses), float(message.reservation.expire))


def check_accepted(data: bytes, kind: type[M]) -> None:
    """The answer to a wish for a circuit, of a relay or of its other end. Raises DecodeError, Refused."""
    _check_status(_parsed(kind, data), kind.STATUS)


def is_circuit(data: bytes) -> bool:
    """Whether a relay says that somebody is at the other end of the stream. Raises DecodeError."""
    return bool(_parsed(pb.StopMessage, data).type == pb.StopMessage.CONNECT)


async def read(stream: INetStream) -> bytes:
    """One message as it travels. Raises DecodeError: longer than `MAX_MESSAGE_BYTES`, or no length at all."""
    try:
        data: bytes = await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE_BYTES)
    except (MessageTooLarge, ParseError) as error:
        raise DecodeError(f"not a message of circuit v2 ({error})") from None
    return data


async def write(stream: INetStream, message: Any) -> None:
    await stream.write(encode_varint_prefixed(message.SerializeToString()))


def _parsed(kind: type[M], data: bytes) -> M:
    message = kind()
    try:
        message.ParseFromString(data)
    except ProtobufError:
        raise DecodeError("not a message of circuit v2") from None
    return message


def _check_status(message: Any, status_kind: int) -> None:
    if message.type != status_kind:
        raise DecodeError("a relay answered with something else than a status")
    if message.status != pb.OK:
        known = message.status in pb.Status.values()
        name = pb.Status.Name(message.status) if known else str(message.status)
        raise Refused(f"it answered {name.lower().replace('_', ' ')}", "try another relay", code="relay")


def _text(address: bytes) -> str:
    try:
        return str(Multiaddr(address))
    except Exception as error:
        raise DecodeError("a relay names an address that is none") from error
