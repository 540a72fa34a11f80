"""Signed address records: where a member says that it listens, which others pass on and cannot forge.

A record is canonical msgpack with an Ed25519 signature by the member's identity key, whose public half is in
its peer id; as libp2p's signed peer records (RFC 0003), but for the encoding. ``instance`` is random per start
of a node: two that live at the same time under one peer id are two devices with one identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from ..codec import expect_map, pack, unpack
from ..errors import BadSignature, DecodeError
from ..security.fields import MAX_TIME, check_length, check_range, check_version
from ..security.identity import SIGNATURE_BYTES, peer_id_of, public_key_of, verify
from ..security.invites import host_of

MAX_ADDRESSES = 8
MAX_RECORD_BYTES = 1536
INSTANCE_BYTES = 8
DOMAIN = "address-record"
MARK_BYTES = 4
Sign = Callable[[str, bytes], bytes]


@dataclass(frozen=True)
class AddressRecord:
    """``addresses`` are whole, with ``/p2p/``; ``issued`` is in unix seconds; ``data`` is the signed form."""

    peer_id: str
    addresses: tuple[str, ...]
    instance: bytes
    issued: int
    data: bytes = field(repr=False)

    @cached_property
    def mark(self) -> bytes:
        """Four bytes that tell this record from nearly all others, so that nobody is told what it knows."""
        return hashlib.sha256(self.data).digest()[:MARK_BYTES]


def issue_record(peer_id: str, addresses: Iterable[str], instance: bytes, sign: Sign, now: float) -> AddressRecord:
    """A record of this node's own; ``sign(domain, message)`` is that of its identity."""
    whole = tuple(addresses)[:MAX_ADDRESSES]
    fields = {
        "v": 1,
        "peer": public_key_of(peer_id),
        "at": [address.removesuffix(f"/p2p/{peer_id}") for address in whole],
        "instance": instance,
        "issued": int(now),
    }
    data = pack({**fields, "signature": sign(DOMAIN, pack(fields))})
    return AddressRecord(peer_id, whole, instance, int(now), data)


@lru_cache(maxsize=1024)
def read_record(data: bytes) -> AddressRecord:
    """Read a record and check its signature; the same bytes are checked once.

    Raises:
        DecodeError: malformed, or not signed by the peer that it names.
    """
    fields = expect_map(
        unpack(data, max_bytes=MAX_RECORD_BYTES, max_items=16),
        {"v": int, "peer": bytes, "at": list, "instance": bytes, "issued": int, "signature": bytes},
    )
    check_version(fields["v"])
    check_length("instance", fields["instance"], INSTANCE_BYTES)
    check_length("signature", fields["signature"], SIGNATURE_BYTES)
    check_range("issued", fields["issued"], MAX_TIME)
    peer_id = peer_id_of(fields["peer"])
    addresses = _whole(fields["at"], peer_id)
    signature = fields.pop("signature")
    try:
        verify(fields["peer"], DOMAIN, pack(fields), signature)
    except BadSignature as error:
        raise DecodeError(error.message) from None
    return AddressRecord(peer_id, addresses, fields["instance"], fields["issued"], data)


def _whole(addresses: list[Any], peer_id: str) -> tuple[str, ...]:
    if len(addresses) > MAX_ADDRESSES:
        raise DecodeError(f"{len(addresses)} addresses where at most {MAX_ADDRESSES} are allowed")
    whole = []
    for address in addresses:
        if type(address) is not str:
            raise DecodeError("an address is not a text")
        whole.append(f"{address}/p2p/{peer_id}")
        host_of(whole[-1])
    return tuple(whole)
