"""Sealed packets: what members publish, readable by members only, signed by its author, named by its hash.

    packet = magic "MLP1" | header length (2 bytes, big-endian) | header | ciphertext | signature (64 bytes)
    header = canonical msgpack {certificate, created_at, epoch, salt, seq}

The body is sealed with ChaCha20-Poly1305 (RFC 8439) under a key that HKDF-SHA256 (RFC 5869) derives from the
mesh key of the epoch, the author, the sequence number and a random salt, so no key seals twice; all that
stands before the ciphertext is its associated data. The author's Ed25519 signature covers the whole packet:
any holder can pass it on and nobody can alter it. Only the header, at most 1 KiB, is ever parsed before the
signature holds. Who has no mesh key sees author, sequence number, time and size.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, FutureDated, NotAMember, SecurityError, StateError
from .certificates import CLOCK_TOLERANCE_S, Certificate
from .fields import MAX_EPOCH, MAX_SEQ, MAX_TIME, check_length, check_range
from .identity import SIGNATURE_BYTES, public_key_of, verify
from .keyring import MeshKey
from .membership import Credentials

MAX_SEALED_BYTES = 8 * 1024 * 1024

_MAGIC = b"MLP1"
_LENGTH_BYTES = 2
_MAX_HEADER_BYTES = 1024
_TAG_BYTES = 16
_SALT_BYTES = 16
_KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Header:
    """What the outside of a packet claims. Nothing of it is proven until the packet is opened."""

    mesh_id: str
    author: str
    author_name: str
    roles: frozenset[str]
    seq: int
    epoch: int
    created_at: int
    size_bytes: int


@dataclass(frozen=True)
class Sealed:
    """An opened packet: ``author`` (peer id) was a member at ``created_at`` (unix s) and signed ``body``."""

    author: str
    author_name: str
    seq: int
    created_at: int
    body: bytes = field(repr=False)
    roles: frozenset[str]
    name: str


def seal(body: bytes, *, credentials: Credentials, seq: int, now: float) -> bytes:
    """Seal ``body`` to the mesh in this node's name; the result is about 550 bytes longer.

    ``seq`` rises with every packet of an author; it is the caller's to persist before it publishes.

    Raises:
        NotAMember: the own certificate is not valid at ``now``, so nobody would accept the packet.
        ValueError: the result would exceed `MAX_SEALED_BYTES`, or ``seq`` is out of range.
    """
    if not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"sequence number {seq} is out of range")
    credentials.check(credentials.certificate_bytes, credentials.peer_id, now)
    key = credentials.keyring.current
    salt = secrets.token_bytes(_SALT_BYTES)
    header = pack(
        {
            "certificate": credentials.certificate_bytes,
            "created_at": int(now),
            "epoch": key.epoch,
            "salt": salt,
            "seq": seq,
        }
    )
    prefix = _MAGIC + len(header).to_bytes(_LENGTH_BYTES, "big") + header
    cipher, nonce = _cipher(key, credentials.peer_id, seq, salt)
    signed = prefix + cipher.encrypt(nonce, body, prefix)
    data = signed + credentials.identity.sign("packet", signed)
    if len(data) > MAX_SEALED_BYTES:
        raise ValueError(f"a sealed packet of {len(data)} bytes; {MAX_SEALED_BYTES} is the limit")
    return data


def name_of(data: bytes) -> str:
    """The name of a sealed packet: the SHA-256 of its bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def inspect(data: bytes) -> Header:
    """Read the outside of a packet without keys, for stores and relays; signatures are not checked.

    Raises:
        DecodeError: malformed.
    """
    _, fields, certificate = _decode(data)
    return Header(
        mesh_id=certificate.mesh_id,
        author=certificate.peer_id,
        author_name=certificate.name,
        roles=certificate.roles,
        seq=fields["seq"],
        epoch=fields["epoch"],
        created_at=fields["created_at"],
        size_bytes=len(data),
    )


def open_sealed(data: bytes, credentials: Credentials, now: float) -> Sealed:
    """Check who made a packet and decrypt it.

    What counts is that its author was a member when it says it was made: authors that left keep teaching, and
    a thief of an expired key can backdate. Whether ``seq`` is new is for the caller to judge.

    Args:
        data: foreign and not trusted.
        now: unix seconds.

    Raises:
        DecodeError: malformed.
        NotAMember: its author was no member of this mesh when it was made, or was revoked since.
        BadSignature: its author did not sign it.
        FutureDated: made more than 10 minutes in the future.
        SecurityError: of an unknown epoch, or not openable.
        StateError: sealed under a newer mesh key than this device has by now.
    """
    prefix, fields, certificate = _decode(data)
    if fields["created_at"] > now + CLOCK_TOLERANCE_S:
        ahead_s = fields["created_at"] - now
        raise FutureDated(f"the packet was made {ahead_s:.0f} s in the future", "check the clocks of both devices")
    try:
        credentials.check(fields["certificate"], certificate.peer_id, fields["created_at"])
    except NotAMember as error:
        raise type(error)(f"the packet's author was no member when it was made: {error.message}") from None
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    verify(public_key_of(certificate.peer_id), "packet", signed, signature)
    if fields["epoch"] > credentials.keyring.current.epoch:
        raise StateError("the packet is sealed under a newer mesh key than is here", "a neighbour passes the key on")
    key = credentials.keyring.key_of(fields["epoch"])
    cipher, nonce = _cipher(key, certificate.peer_id, fields["seq"], fields["salt"])
    try:
        body = cipher.decrypt(nonce, signed[len(prefix) :], prefix)
    except InvalidTag:
        raise SecurityError(f"the mesh key of epoch {key.epoch} does not open the packet") from None
    return Sealed(
        author=certificate.peer_id,
        author_name=certificate.name,
        seq=fields["seq"],
        created_at=fields["created_at"],
        body=body,
        roles=certificate.roles,
        name=name_of(data),
    )


def _decode(data: bytes) -> tuple[bytes, dict[str, Any], Certificate]:
    """The bytes up to the ciphertext, the header's fields, and the author's certificate."""
    if len(data) > MAX_SEALED_BYTES:
        raise DecodeError(f"a packet of {len(data)} bytes where at most {MAX_SEALED_BYTES} are allowed")
    start = len(_MAGIC) + _LENGTH_BYTES
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
        raise DecodeError("this is not a sealed packet")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "big")
    if end + _TAG_BYTES + SIGNATURE_BYTES > len(data):
        raise DecodeError("the packet is cut short")
    fields = expect_map(
        unpack(data[start:end], max_bytes=_MAX_HEADER_BYTES, max_items=16),
        {"certificate": bytes, "created_at": int, "epoch": int, "salt": bytes, "seq": int},
    )
    check_length("salt", fields["salt"], _SALT_BYTES)
    for name, limit in (("seq", MAX_SEQ), ("epoch", MAX_EPOCH), ("created_at", MAX_TIME)):
        check_range(name, fields[name], limit)
    return data[:end], fields, Certificate.decode(fields["certificate"])


def _cipher(key: MeshKey, author: str, seq: int, salt: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    info = pack({"domain": "meshlore/v1/packet", "author": author, "seq": seq, "epoch": key.epoch})
    material = HKDF(SHA256(), length=_KEY_BYTES + _NONCE_BYTES, salt=salt, info=info).derive(key.key)
    return ChaCha20Poly1305(material[:_KEY_BYTES]), material[_KEY_BYTES:]
