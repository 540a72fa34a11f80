"""The mesh's own messages: small maps inside frames, built and strictly read here. Pure.

| kind          | body                                    | answer                                  |
| ------------- | --------------------------------------- | --------------------------------------- |
| mesh.hello    | record, time, advert, digest, known     | the same of the other side, and peers   |
| mesh.beat     |                                         |                                         |
| mesh.advert   | advert                                  |                                         |
| mesh.announce | have: a list of [name, size]            |                                         |
| mesh.peers    | record, time, known                     | peers: address records that it lacks    |
| mesh.find     | peer: whose record is looked for        | peers: it, or whom else to ask          |
| mesh.sync     | buckets: digests (`reconcile`)          | have: as announced; differ, told: bits  |
| mesh.part     | peers: to be neighbours with instead    |                                         |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..codec import expect_map, pack
from ..errors import ConfigError, DecodeError
from ..security.fields import MAX_TIME, check_range
from ..security.identity import public_key_of
from ..security.invites import host_of
from .reconcile import BUCKET_DIGEST_BYTES, BUCKETS, Answer
from .records import MARK_BYTES, AddressRecord, read_record

HELLO, BEAT, ADVERT, ANNOUNCE, PEERS = "mesh.hello", "mesh.beat", "mesh.advert", "mesh.announce", "mesh.peers"
SYNC, PART, FIND = "mesh.sync", "mesh.part", "mesh.find"
OWN_PREFIX = "mesh."
ANCHOR = "anchor"
TEACHERS = frozenset({"node", ANCHOR})
"""The roles that exchange knowledge; members with others may only ask for tasks."""
ROLES_OF_KIND: Mapping[str, frozenset[str]] = {ANNOUNCE: TEACHERS, SYNC: TEACHERS}
MAX_ADVERT_BYTES = 8 << 10
MAX_PEERS = 64
MAX_KNOWN = 512
MAX_NAMES = 512
NAME_BYTES = 32
DIGEST_BYTES = 16

Advert = Mapping[str, Any]
KnownPeers = Sequence[AddressRecord]
_INTRODUCTION = {"record": bytes, "time": int, "known": bytes}


@dataclass(frozen=True)
class Introduction:
    """What a member says of itself and of whom it knows.

    ``time_s`` is its clock, in unix seconds; ``known`` are the marks of all address records that it holds.
    """

    record: AddressRecord
    time_s: int
    known: frozenset[bytes]


@dataclass(frozen=True)
class Hello:
    """What two members tell each other first. ``digest`` stands for all blob names that the sender holds.

    ``peers`` go with the answer: what the other lacks. A record of the receiver's own peer id among them is that
    of another device with its identity.
    """

    introduction: Introduction
    advert: Advert
    digest: bytes
    peers: KnownPeers = ()


def hello_body(hello: Hello) -> dict[str, Any]:
    return {
        **introduction_body(hello.introduction),
        "advert": dict(hello.advert),
        "digest": hello.digest,
        **peers_body(hello.peers),
    }


def read_hello(body: Any, sender: str) -> Hello:
    """Raises DecodeError."""
    fields = expect_map(body, {**_INTRODUCTION, "advert": dict, "peers": list, "digest": bytes})
    if len(fields["digest"]) != DIGEST_BYTES:
        raise DecodeError("the digest in a hello has the wrong length")
    return Hello(
        _introduction(fields, sender),
        _read_advert(fields["advert"]),
        fields["digest"],
        _read_peers(fields["peers"]),
    )


def introduction_body(introduction: Introduction) -> dict[str, Any]:
    return {
        "record": introduction.record.data,
        "time": introduction.time_s,
        "known": b"".join(sorted(introduction.known)[:MAX_KNOWN]),
    }


def read_introduction(body: Any, sender: str) -> Introduction:
    """Raises DecodeError."""
    return _introduction(expect_map(body, _INTRODUCTION), sender)


def advert_body(advert: Advert) -> dict[str, Any]:
    return {"advert": dict(advert)}


def read_advert(body: Any) -> Advert:
    """Raises DecodeError."""
    return _read_advert(expect_map(body, {"advert": dict})["advert"])


def check_advert(advert: Advert) -> None:
    """Raises ConfigError: an advert of our own is too large."""
    if (size := len(pack(dict(advert)))) > MAX_ADVERT_BYTES:
        raise ConfigError(f"an advert of {size} bytes where at most {MAX_ADVERT_BYTES} are allowed", "say less")


def announce_body(blobs: Iterable[tuple[str, int]]) -> dict[str, Any]:
    return {"have": _have(blobs)}


def read_announce(body: Any) -> list[tuple[str, int]]:
    """Raises DecodeError."""
    return _read_have(expect_map(body, {"have": list})["have"])


def sync_body(buckets: bytes) -> dict[str, Any]:
    return {"buckets": buckets}


def read_sync(body: Any) -> bytes:
    """The asker's bucket digests. Raises DecodeError."""
    buckets: bytes = expect_map(body, {"buckets": bytes})["buckets"]
    if len(buckets) != BUCKETS * BUCKET_DIGEST_BYTES:
        raise DecodeError("the digests of what a peer holds have the wrong length")
    return buckets


def sync_answer_body(answer: Answer) -> dict[str, Any]:
    return {"have": _have(answer.have), "differ": _bits(answer.differ), "told": _bits(answer.told)}


def read_sync_answer(body: Any) -> Answer:
    """Raises DecodeError."""
    fields = expect_map(body, {"have": list, "differ": int, "told": int})
    differ, told = _read_bits(fields["differ"]), _read_bits(fields["told"])
    if told - differ:
        raise DecodeError("a peer tells of what does not differ")
    return Answer(_read_have(fields["have"]), differ, told)


def peers_body(peers: KnownPeers) -> dict[str, Any]:
    return {"peers": [record.data for record in peers[:MAX_PEERS]]}


def read_peers(body: Any) -> KnownPeers:
    """Raises DecodeError."""
    return _read_peers(expect_map(body, {"peers": list})["peers"])


def find_body(peer_id: str) -> dict[str, Any]:
    return {"peer": peer_id}


def read_find(body: Any) -> str:
    """Who is looked for. Raises DecodeError."""
    peer_id: str = expect_map(body, {"peer": str})["peer"]
    public_key_of(peer_id)
    return peer_id


def digest_of(names: Iterable[str]) -> bytes:
    """Equal for equal sets of blob names."""
    return hashlib.sha256(b"".join(bytes.fromhex(name) for name in sorted(names))).digest()[:DIGEST_BYTES]


def peer_id_in(address: str) -> str | None:
    """The peer id that a multiaddress ends in; None if it is not valid, by the rule of `security.invites.host_of`."""
    try:
        return host_of(address)
    except DecodeError:
        return None


def _read_advert(advert: dict[str, Any]) -> Advert:
    if len(pack(advert)) > MAX_ADVERT_BYTES:
        raise DecodeError(f"an advert of more than {MAX_ADVERT_BYTES} bytes")
    return advert


def _read_peers(peers: list[Any]) -> KnownPeers:
    if len(peers) > MAX_PEERS:
        raise DecodeError(f"{len(peers)} peers where at most {MAX_PEERS} are allowed")
    if not all(type(item) is bytes for item in peers):
        raise DecodeError("a list of peers holds address records")
    return [read_record(item) for item in peers]


def _bits(buckets: Iterable[int]) -> int:
    return sum(1 << bucket for bucket in buckets)


def _read_bits(bits: int) -> frozenset[int]:
    if not 0 <= bits < 1 << BUCKETS:
        raise DecodeError("a peer tells of buckets that there are not")
    return frozenset(bucket for bucket in range(BUCKETS) if bits >> bucket & 1)


def _have(blobs: Iterable[tuple[str, int]]) -> list[list[Any]]:
    return [[bytes.fromhex(name), size_bytes] for name, size_bytes in blobs]


def _read_have(have: list[Any]) -> list[tuple[str, int]]:
    if len(have) > MAX_NAMES:
        raise DecodeError(f"an announcement of {len(have)} names where at most {MAX_NAMES} are allowed")
    blobs = []
    for item in have:
        if type(item) is not list or [type(part) for part in item] != [bytes, int]:
            raise DecodeError("an announcement holds pairs of name and size")
        name, size_bytes = item
        if len(name) != NAME_BYTES or not 0 < size_bytes < 2**40:
            raise DecodeError("an announced name or size is out of range")
        blobs.append((name.hex(), size_bytes))
    return blobs


def _introduction(fields: dict[str, Any], sender: str) -> Introduction:
    record, known = read_record(fields["record"]), fields["known"]
    if record.peer_id != sender:
        raise DecodeError("a peer introduces itself with the address record of another")
    check_range("time", fields["time"], MAX_TIME)
    if len(known) > MAX_KNOWN * MARK_BYTES or len(known) % MARK_BYTES:
        raise DecodeError("the list of known address records has the wrong length")
    marks = (known[start : start + MARK_BYTES] for start in range(0, len(known), MARK_BYTES))
    return Introduction(record, fields["time"], frozenset(marks))
