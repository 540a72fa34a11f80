"""Who speaks for a mesh after its founding: a chain of links from its first root, and the list of those revoked.

A mesh is named after its first root key for ever; a link hands the word on. Each is signed by the root before it
and by the key that it names:

    root     the key takes the place of the root before it, whose certificates stay valid ``until`` then
    signer   the key may issue and renew certificates ``until`` then, and nothing else

A signer ends with the root that made it. Only the root revokes: for good, in a list whose version rises. Chain and
list travel as one document; of two documents the one that is further along wins, if it forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, SecurityError
from .certificates import Charter
from .fields import MAX_SEQ, MAX_TIME, check_length, check_range, check_version, mesh_id_to_bytes
from .identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, peer_id_of, public_key_of, verify

MAX_LINKS = 12
MAX_LINK_BYTES = 512
MAX_REVOKED = 4096
DIGEST_BYTES = 32
MAX_AUTHORITY_BYTES = 256 * 1024
FOR_EVER = MAX_TIME
Kind = Literal["root", "signer"]


@dataclass(frozen=True)
class Link:
    """One hand-over of authority; ``number`` counts from 1, times are unix seconds."""

    mesh_id: str
    number: int
    kind: Kind
    public_key: bytes
    starts_at: int
    until: int
    root_signature: bytes
    key_signature: bytes

    def encode(self) -> bytes:
        """About 300 bytes."""
        return pack(
            {**self._signed_fields(), "root_signature": self.root_signature, "key_signature": self.key_signature}
        )

    @classmethod
    def decode(cls, data: bytes) -> Link:
        """Read a link; whether it is genuine is for `Authority.of` to judge.

        Raises:
            DecodeError: malformed.
        """
        fields = expect_map(
            unpack(data, max_bytes=MAX_LINK_BYTES, max_items=16),
            {
                "v": int, "mesh_id": bytes, "number": int, "kind": str, "public_key": bytes,
                "starts_at": int, "until": int, "root_signature": bytes, "key_signature": bytes,
            },
        )  # fmt: skip
        check_version(fields.pop("v"))
        check_length("mesh_id", fields["mesh_id"], 32)
        check_length("public_key", fields["public_key"], PUBLIC_KEY_BYTES)
        for name in ("root_signature", "key_signature"):
            check_length(name, fields[name], SIGNATURE_BYTES)
        for name, limit in (("number", MAX_LINKS), ("starts_at", MAX_TIME), ("until", MAX_TIME)):
            check_range(name, fields[name], limit)
        if fields["kind"] not in ("root", "signer"):
            raise DecodeError(f"a link of the unknown kind {fields['kind'][:16]!r}", "update meshlore")
        return cls(**{**fields, "mesh_id": fields["mesh_id"].hex()})

    def signed_bytes(self) -> bytes:
        """What both signatures cover."""
        return pack(self._signed_fields())

    def _signed_fields(self) -> dict[str, Any]:
        return {
            "v": 1,
            "mesh_id": mesh_id_to_bytes(self.mesh_id),
            "number": self.number,
            "kind": self.kind,
            "public_key": self.public_key,
            "starts_at": self.starts_at,
            "until": self.until,
        }


@dataclass(frozen=True)
class Revocations:
    """Peer ids that are members no more, with the unix time of each revocation. Version 0 is empty and unsigned.

    ``keys``: the digest of the keyring that the members left have from then on; empty while it is that of the founding.
    """

    version: int = 0
    revoked: tuple[tuple[str, int], ...] = ()
    signature: bytes = bytes(SIGNATURE_BYTES)
    keys: bytes = b""

    @cached_property
    def times(self) -> dict[str, int]:
        return dict(self.revoked)

    def to_map(self) -> dict[str, Any]:
        revoked = [[public_key_of(peer_id), at] for peer_id, at in self.revoked]
        fields = {"version": self.version, "revoked": revoked, "signature": self.signature}
        return {**fields, "keys": self.keys} if self.keys else fields

    @classmethod
    def from_map(cls, value: Any) -> Revocations:
        """Raises DecodeError: malformed, or not in the order of the peer ids."""
        expected: dict[str, type | tuple[type, ...]] = {"version": int, "revoked": list, "signature": bytes}
        if isinstance(value, dict) and "keys" in value:
            expected["keys"] = bytes
        fields = expect_map(value, expected)
        if "keys" in fields:
            check_length("digest of the keyring", fields["keys"], DIGEST_BYTES)
        check_range("version", fields["version"], MAX_SEQ)
        check_length("signature", fields["signature"], SIGNATURE_BYTES)
        revoked = []
        for item in fields["revoked"]:
            if type(item) is not list or [type(part) for part in item] != [bytes, int]:
                raise DecodeError("a revocation is a key and a time")
            check_range("time of a revocation", item[1], MAX_TIME)
            revoked.append((peer_id_of(item[0]), item[1]))
        names = [peer_id for peer_id, _ in revoked]
        if len(names) > MAX_REVOKED or names != sorted(set(names)) or (names and not fields["version"]):
            raise DecodeError("the list of revocations is malformed")
        return cls(fields["version"], tuple(revoked), fields["signature"], fields.get("keys", b""))

    def signed_bytes(self, mesh_id: str) -> bytes:
        """What the root's signature covers."""
        return pack({**self.to_map(), "signature": b"", "mesh_id": mesh_id_to_bytes(mesh_id)})


@dataclass(frozen=True)
class Authority:
    """A verified chain and list; make it with `of` or `decode`. The one without links and list needs no proof."""

    links: tuple[Link, ...] = ()
    revocations: Revocations = field(default_factory=Revocations)

    @classmethod
    def of(cls, charter: Charter, links: Iterable[Link], revocations: Revocations | None = None) -> Authority:
        """Check every signature of a chain, and of a list by the root at its end.

        Raises:
            DecodeError: too many links, or links of another mesh or in another order.
            BadSignature: a link or the list is not signed by the root of its time.
        """
        authority = cls(tuple(links), revocations or Revocations())
        if len(authority.links) > MAX_LINKS:
            raise DecodeError(f"more than {MAX_LINKS} links of authority")
        root = charter.root_public_key
        for number, link in enumerate(authority.links, start=1):
            if (link.mesh_id, link.number) != (charter.mesh_id, number):
                raise DecodeError("a link of authority is of another mesh or out of order")
            verify(root, "authority-link", link.signed_bytes(), link.root_signature)
            verify(link.public_key, "authority-link", link.signed_bytes(), link.key_signature)
            root = link.public_key if link.kind == "root" else root
        signed = authority.revocations
        if signed.version:
            verify(root, "revocations", signed.signed_bytes(charter.mesh_id), signed.signature)
        return authority

    @property
    def progress(self) -> tuple[int, int]:
        """How far along it is; compares with that of other documents of the mesh."""
        return len(self.links), self.revocations.version

    def root_key(self, charter: Charter) -> bytes:
        """The public key of the present root."""
        return next((link.public_key for link in reversed(self.links) if link.kind == "root"), charter.root_public_key)

    def issuers(self, charter: Charter, now: float) -> list[bytes]:
        """The public keys whose certificates count at ``now`` (unix s), the newest first."""
        ends: dict[bytes, int] = {charter.root_public_key: FOR_EVER}
        for link in self.links:
            if link.kind == "root":
                ends = {key: min(end, link.until) for key, end in ends.items()}
            ends[link.public_key] = FOR_EVER if link.kind == "root" else link.until
        return [key for key, end in reversed(ends.items()) if now <= end]

    def present_issuers(self, charter: Charter) -> list[bytes]:
        """The present root's public key, then those of its signers."""
        start = max((link.number for link in self.links if link.kind == "root"), default=0)
        return [self.root_key(charter), *(link.public_key for link in self.links[start:])]

    def revoked_at(self, peer_id: str) -> int | None:
        """When this peer was revoked (unix s); None if it was not."""
        return self.revocations.times.get(peer_id)

    def followed_by(self, other: Authority) -> Authority:
        """``other`` if it is further along, else this one.

        Raises:
            SecurityError: it is further along but hands on from elsewhere, or forgets a revocation: somebody else
                holds a root key of this mesh.
        """
        if other.progress <= self.progress:
            return self
        shared = min(len(self.links), len(other.links))
        if other.links[:shared] != self.links[:shared]:
            raise SecurityError(
                "two holders of a root key contradict each other", "the key is stolen: found a new mesh"
            )
        if not self.revocations.times.keys() <= other.revocations.times.keys():
            raise SecurityError("a newer list of revocations forgets some", "the root key is stolen: found a new mesh")
        return other

    def encode(self) -> bytes:
        """The document, as it is kept and as it travels: at most `MAX_AUTHORITY_BYTES`."""
        links = [link.encode() for link in self.links]
        return pack({"v": 1, "links": links, "revocations": self.revocations.to_map()})

    @classmethod
    def decode(cls, data: bytes, charter: Charter) -> Authority:
        """Read and verify a document. Raises as `of`."""
        fields = expect_map(unpack(data, max_bytes=MAX_AUTHORITY_BYTES), {"v": int, "links": list, "revocations": dict})
        check_version(fields["v"])
        return cls.of(charter, links_from(fields["links"]), Revocations.from_map(fields["revocations"]))


def links_from(values: object) -> list[Link]:
    """Links as they travel. Raises DecodeError."""
    if not isinstance(values, list) or len(values) > MAX_LINKS or not all(type(value) is bytes for value in values):
        raise DecodeError("the links of authority are malformed")
    return [Link.decode(value) for value in values]
