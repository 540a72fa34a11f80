"""Membership: what a node carries to prove that it belongs to a mesh, and how it judges others."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import (
    BadSignature,
    ConfigError,
    DecodeError,
    Expired,
    NotAMember,
    OtherMesh,
    Revoked,
    SecurityError,
    StateError,
)
from .authority import Authority, Link
from .certificates import (
    CLOCK_TOLERANCE_S,
    MAX_CERTIFICATE_BYTES,
    MAX_LIFETIME_S,
    Certificate,
    Charter,
    mesh_id_of,
    needs_renewal,
)
from .fields import ROLES, check_name, duration_text, roles_to_list
from .files import check_private_folder, make_private_folder, write_atomic
from .home import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    CHARTER_FILE,
    IDENTITY_FILE,
    KEYRING_FILE,
    NEXT_ROOT_FILE,
    ROOT_FILE,
    SIGNER_FILE,
    check_home,
    foreign,
    load_root,
    read_authority,
    read_certificate,
    read_charter,
)
from .identity import Identity
from .keyring import Keyring, MeshKey
from .root import MeshRoot

__all__ = [
    "CLOCK_TOLERANCE_S",
    "MAX_CERTIFICATE_BYTES",
    "MAX_LIFETIME_S",
    "ROLES",
    "Certificate",
    "Charter",
    "Credentials",
    "Keyring",
    "MeshKey",
    "MeshRoot",
    "check_certificate",
    "check_home",
    "found_mesh",
    "mesh_id_of",
    "needs_renewal",
]

_JOIN_REMEDY = "run: meshlore init, or meshlore join"


@dataclass(frozen=True)
class Credentials:
    """All that a running node needs to speak as a member.

    ``root``: what issues certificates; on the founder's device only. ``authority``: what the root said since.
    """

    identity: Identity
    charter: Charter
    certificate: Certificate
    keyring: Keyring = field(repr=False)
    root: MeshRoot | None = None
    authority: Authority = field(default_factory=Authority, repr=False)

    @property
    def mesh_id(self) -> str:
        return self.charter.mesh_id

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def certificate_bytes(self) -> bytes:
        return self.certificate.encode()

    def issuers(self, now: float) -> list[bytes]:
        """The public keys whose certificates count at ``now``, the newest first."""
        return self.authority.issuers(self.charter, now)

    def check(self, certificate_bytes: bytes, peer_id: str, now: float, links: Sequence[Link] = ()) -> Certificate:
        """The certificate that ``peer_id`` shows, if it makes it a member of this mesh at ``now`` (unix s).

        ``links``: the chain of authority that the peer showed with it, which may be longer than the one known here.

        Raises:
            NotAMember: malformed, of another mesh, forged, another peer's, expired, not yet valid, or revoked.
            DecodeError, SecurityError: the links are not genuine, or contradict those known here.
        """
        authority = self.authority
        if len(links) > len(authority.links):
            longer = Authority.of(self.charter, links)
            authority.followed_by(replace(longer, revocations=authority.revocations))
            authority = replace(authority, links=longer.links)
        return check_certificate(certificate_bytes, self.charter, peer_id, now, authority)

    @property
    def needs_renewal_by_root(self) -> bool:
        """Whether the own certificate is from a root that has handed on since."""
        return bool(self.authority.links) and not any(
            self.certificate.is_from(key) for key in self.authority.present_issuers(self.charter)
        )

    @property
    def lacks_keys(self) -> bool:
        """Whether the mesh key was changed since, and the new one is not here yet."""
        signed = self.authority.revocations.keys
        return bool(signed) and not hmac.compare_digest(signed, self.keyring.digest)

    def with_keyring(self, data: bytes) -> Credentials:
        """These credentials with the mesh keys that another member passed on.

        Raises:
            DecodeError, SecurityError: they are not those that the root signed.
        """
        keyring = Keyring.decode(data)
        if not hmac.compare_digest(self.authority.revocations.keys, keyring.digest):
            raise SecurityError("the mesh keys that a peer passed on are not those of the root", "ask another")
        return replace(self, keyring=keyring)

    def with_certificate(self, certificate_bytes: bytes, now: float) -> Credentials:
        """These credentials with a renewed certificate, after checking that it is this device's own.

        Raises:
            NotAMember: as `check`, or issued for another HPKE key, with another name or other roles, or not
                valid for longer than the present one.
        """
        certificate = self.check(certificate_bytes, self.peer_id, now)
        if not hmac.compare_digest(certificate.hpke_key_hash, self.identity.hpke_key_hash):
            raise NotAMember("the renewed certificate is for another HPKE key", "keep the present one")
        present = self.certificate
        if (certificate.mesh_id, certificate.name) != (present.mesh_id, present.name):
            raise NotAMember("the renewed certificate has another name than the present one", "keep the present one")
        if certificate.roles != present.roles:
            raise NotAMember("the renewed certificate has other roles than the present one", "keep the present one")
        if certificate.not_after <= present.not_after and not self.needs_renewal_by_root:
            raise NotAMember("the renewed certificate is not valid for longer than the present one", "keep that one")
        return replace(self, certificate=certificate)

    def save(self, home: Path, passphrase: str | None = None) -> None:
        """Write the files; each is atomic, and the certificate comes last. A new root key is in place only once the
        chain that leads to it is.

        Raises:
            StateError: ``home`` is of another mesh, cannot be written, or others may enter it.
        """
        check_home(home, self.mesh_id)
        make_private_folder(home)
        self.identity.save(home / IDENTITY_FILE, passphrase)
        is_root = self.root is not None and self.root.public_key == self.authority.root_key(self.charter)
        if self.root is not None:
            self.root.save(home / (NEXT_ROOT_FILE if is_root else SIGNER_FILE), passphrase)
        self.keyring.save(home / KEYRING_FILE, passphrase)
        write_atomic(home / CHARTER_FILE, self.charter.encode())
        self.save_authority(home)
        if is_root:
            os.replace(home / NEXT_ROOT_FILE, home / ROOT_FILE)
        self.save_certificate(home)

    def save_certificate(self, home: Path) -> None:
        """Write only the certificate, as after a renewal."""
        write_atomic(home / CERTIFICATE_FILE, self.certificate.encode())

    def save_authority(self, home: Path) -> None:
        """Write only what the root said since the founding."""
        if self.authority.progress > (0, 0):
            write_atomic(home / AUTHORITY_FILE, self.authority.encode())

    @classmethod
    def load(cls, home: Path, passphrase: str | None = None) -> Credentials:
        """Read what `save` wrote and check that the files belong together. The clock is not judged here.

        Raises:
            StateError: not a member's home, or a file is missing, damaged, foreign, open to others or locked.
        """
        if not (home / CERTIFICATE_FILE).exists():
            raise StateError(f"{home} is not the home of a member", _JOIN_REMEDY)
        check_private_folder(home)
        charter = read_charter(home / CHARTER_FILE)
        certificate = read_certificate(home / CERTIFICATE_FILE)
        identity = Identity.load(home / IDENTITY_FILE, passphrase)
        authority = read_authority(home / AUTHORITY_FILE, charter)
        try:
            certificate.verify(charter.root_public_key, *(link.public_key for link in authority.links))
        except BadSignature:
            raise foreign(home / CERTIFICATE_FILE, "is not signed by this mesh's root") from None
        if certificate.peer_id != identity.peer_id or certificate.hpke_key_hash != identity.hpke_key_hash:
            raise foreign(home / CERTIFICATE_FILE, f"is not for this device's {IDENTITY_FILE}")
        root = load_root(home, charter, authority, passphrase)
        keyring = Keyring.load(home / KEYRING_FILE, passphrase)
        return cls(identity, charter, certificate, keyring, root, authority)


def check_certificate(
    certificate_bytes: bytes, charter: Charter, peer_id: str, now: float, authority: Authority | None = None
) -> Certificate:
    """`Credentials.check` for those that have only the charter, and what the root said since."""
    authority = authority or Authority()
    try:
        certificate = Certificate.decode(certificate_bytes)
    except DecodeError as error:
        raise NotAMember(f"the certificate is malformed ({error.message})") from None
    if certificate.mesh_id != charter.mesh_id:
        raise OtherMesh(
            f"the certificate is of another mesh ({certificate.mesh_id[:12]}…, not {charter.mesh_id[:12]}…)",
            "join this mesh with an invite of its founder",
            "other-mesh",
        )
    try:
        certificate.verify(*authority.issuers(charter, now))
    except BadSignature:
        raise NotAMember("the certificate is forged: this mesh's root did not sign it") from None
    if certificate.peer_id != peer_id:
        raise NotAMember(f"the certificate belongs to another peer ({certificate.peer_id}), not to {peer_id[:64]}")
    if authority.revoked_at(peer_id) is not None:
        raise Revoked("the membership was revoked", "to come back, join with a new invite and a new home", "revoked")
    if now < certificate.not_before:
        raise Expired(
            f"the certificate is not valid for another {duration_text(certificate.not_before - now)}",
            "check the clocks of both devices",
            "not-yet-valid",
        )
    if now > certificate.not_after:
        raise Expired(
            f"the certificate expired {duration_text(now - certificate.not_after)} ago",
            "check the clocks of both devices; if they are right, join again with a new invite",
            "expired",
        )
    return certificate


def found_mesh(
    home: Path,
    name: str,
    node_name: str,
    space: dict[str, Any],
    roles: Iterable[str],
    passphrase: str | None = None,
    *,
    now: float,
) -> Credentials:
    """Make a new mesh with its root key in ``home`` and this device as its first member.

    Args:
        home: a new or empty folder, or one that holds at most an identity.
        space: the knowledge wing's description of samples and classes (msgpack map).
        now: unix seconds.

    Raises:
        ConfigError: a name, a role or the space is not usable.
        StateError: ``home`` already belongs to a mesh, or cannot be written.
    """
    if (home / CERTIFICATE_FILE).exists():
        raise StateError(f"{home} already belongs to a mesh", "choose another home folder")
    if (home / ROOT_FILE).exists():
        raise StateError(
            f"{home} holds a mesh root from a meshlore init that was interrupted",
            f"delete {home / ROOT_FILE} and run meshlore init again",
        )
    root, charter = MeshRoot.create(name, space, now)
    try:
        check_name(node_name)
        roles = roles_to_list(roles)
    except DecodeError as error:
        raise ConfigError(f"node {node_name[:64]!r}: {error.message}", "change its name or roles") from None
    make_private_folder(home)
    identity = Identity.load_or_create(home / IDENTITY_FILE, passphrase)
    certificate = root.issue(identity.peer_id, node_name, roles, identity.hpke_public_key, now)
    credentials = Credentials(identity, charter, certificate, Keyring.generate(), root)
    credentials.save(home, passphrase)
    return credentials
