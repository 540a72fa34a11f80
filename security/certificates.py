"""What the root of a mesh signs: the charter that describes the mesh, and one certificate per member.

Both are canonical msgpack with an Ed25519 signature over all other fields, each in a domain of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from ..codec import expect_map, pack, unpack
from ..errors import BadSignature, DecodeError
from .fields import (
    MAX_EPOCH,
    MAX_SEQ,
    MAX_TIME,
    check_length,
    check_name,
    check_range,
    check_version,
    mesh_id_to_bytes,
    roles_from_list,
    roles_to_list,
)
from .identity import SIGNATURE_BYTES, public_key_of, verify, verify_any

DAY_S = 86_400
MAX_LIFETIME_S = 30 * DAY_S
CLOCK_TOLERANCE_S = 600
MAX_CHARTER_BYTES = 32_768
MAX_CERTIFICATE_BYTES = 512


@dataclass(frozen=True)
class Charter:
    """What every member knows of its mesh. ``mesh_id`` is the SHA-256 (hex) of the root public key.

    ``space`` is the knowledge wing's description of samples and classes, opaque here.
    """

    mesh_id: str
    name: str
    root_public_key: bytes
    space: dict[str, Any]
    created_at: int
    signature: bytes

    def encode(self) -> bytes:
        return pack({**self._signed_fields(), "signature": self.signature})

    @classmethod
    def decode(cls, data: bytes) -> Charter:
        """Read a charter and check its signature.

        Raises:
            DecodeError: malformed.
            BadSignature: not signed by the root key that it names.
        """
        fields = expect_map(
            unpack(data, max_bytes=MAX_CHARTER_BYTES),
            {
                "v": int,
                "name": str,
                "root_public_key": bytes,
                "space": dict,
                "created_at": int,
                "signature": bytes,
            },
        )
        check_version(fields["v"])
        check_name(fields["name"])
        check_length("root_public_key", fields["root_public_key"], 32)
        check_length("signature", fields["signature"], SIGNATURE_BYTES)
        check_range("created_at", fields["created_at"], MAX_TIME)
        charter = cls(
            mesh_id=mesh_id_of(fields["root_public_key"]),
            name=fields["name"],
            root_public_key=fields["root_public_key"],
            space=fields["space"],
            created_at=fields["created_at"],
            signature=fields["signature"],
        )
        verify(charter.root_public_key, "charter", charter.signed_bytes(), charter.signature)
        return charter

    def signed_bytes(self) -> bytes:
        """What the root's signature covers."""
        return pack(self._signed_fields())

    def _signed_fields(self) -> dict[str, Any]:
        return {
            "v": 1,
            "name": self.name,
            "root_public_key": self.root_public_key,
            "space": self.space,
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class Certificate:
    """The root's word that ``peer_id`` is a member: under this name, in these roles, in this time.

    ``hpke_key_hash`` is the SHA-256 of the member's HPKE public key; times are unix seconds.
    """

    mesh_id: str
    peer_id: str
    name: str
    roles: frozenset[str]
    hpke_key_hash: bytes
    serial: int
    epoch: int
    not_before: int
    not_after: int
    signature: bytes

    def encode(self) -> bytes:
        """At most `MAX_CERTIFICATE_BYTES`, about 370 bytes."""
        return pack({**self._signed_fields(), "signature": self.signature})

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Read a certificate; whether it is genuine, current and the caller's is for `Credentials.check`.

        Raises:
            DecodeError: malformed.
        """
        fields = expect_map(
            unpack(data, max_bytes=MAX_CERTIFICATE_BYTES),
            {
                "v": int, "mesh_id": bytes, "peer_id": str, "name": str, "roles": list,
                "hpke_key_hash": bytes, "serial": int, "epoch": int,
                "not_before": int, "not_after": int, "signature": bytes,
            },
        )  # fmt: skip
        check_version(fields["v"])
        check_name(fields["name"])
        public_key_of(fields["peer_id"])
        for field, length in (("mesh_id", 32), ("hpke_key_hash", 32), ("signature", SIGNATURE_BYTES)):
            check_length(field, fields[field], length)
        for field, limit in (("serial", MAX_SEQ), ("epoch", MAX_EPOCH), ("not_before", MAX_TIME)):
            check_range(field, fields[field], limit)
        if not 0 < fields["not_after"] - fields["not_before"] <= MAX_LIFETIME_S + CLOCK_TOLERANCE_S:
            raise DecodeError("the certificate's lifetime is out of range")
        del fields["v"]
        return cls(**{**fields, "mesh_id": fields["mesh_id"].hex(), "roles": roles_from_list(fields["roles"])})

    def verify(self, *issuers: bytes) -> None:
        """Raise `BadSignature` unless the holder of one of these public keys issued the certificate."""
        verify_any(issuers, "certificate", self.signed_bytes(), self.signature)

    def is_from(self, issuer: bytes) -> bool:
        """Whether the holder of this public key issued the certificate."""
        try:
            self.verify(issuer)
        except BadSignature:
            return False
        return True

    def signed_bytes(self) -> bytes:
        """What the root's signature covers."""
        return pack(self._signed_fields())

    def _signed_fields(self) -> dict[str, Any]:
        return {
            "v": 1,
            "mesh_id": mesh_id_to_bytes(self.mesh_id),
            "peer_id": self.peer_id,
            "name": self.name,
            "roles": roles_to_list(self.roles),
            "hpke_key_hash": self.hpke_key_hash,
            "serial": self.serial,
            "epoch": self.epoch,
            "not_before": self.not_before,
            "not_after": self.not_after,
        }


def needs_renewal(certificate: Certificate, now: float) -> bool:
    """Whether two thirds of the certificate's life are over."""
    return now >= certificate.not_before + (certificate.not_after - certificate.not_before) * 2 / 3


def mesh_id_of(root_public_key: bytes) -> str:
    """The SHA-256 (hex, 64 digits) of a root public key."""
    return hashlib.sha256(root_public_key).hexdigest()
