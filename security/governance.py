"""What only the holder of a mesh's root key does: revoke members, hand the root on, let a signer issue; and what
the signer's holder does with the key.

Each returns new credentials; `save` them, show them from then on, and tell the members (`meshlore.mesh.authority`).
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from ..errors import ConfigError
from .authority import MAX_LINKS, MAX_REVOKED, Authority, Kind, Link, Revocations
from .certificates import DAY_S, MAX_LIFETIME_S, Certificate
from .fields import MAX_TIME
from .identity import SIGNATURE_BYTES, public_key_of
from .membership import Credentials
from .root import MeshRoot

MAX_SIGNER_S = 366 * DAY_S
_UNSIGNED = bytes(SIGNATURE_BYTES)


def revoke(credentials: Credentials, peer_id: str, now: float) -> Credentials:
    """Take ``peer_id``'s membership away for good; the device may come back only with a new identity.

    The mesh key is changed with it: from then on members seal under one that ``peer_id`` never gets.

    Raises:
        ConfigError: this device does not hold the root key, it is its own peer id, or the list is full.
        DecodeError: ``peer_id`` is none.
    """
    root = _root_of(credentials, "revoke members")
    public_key_of(peer_id)
    if peer_id == credentials.peer_id:
        raise ConfigError("this device cannot revoke itself", "hand the root on, or found a new mesh")
    present = credentials.authority.revocations
    if peer_id in present.times:
        return credentials
    if len(present.revoked) >= MAX_REVOKED:
        raise ConfigError(f"{MAX_REVOKED} members are revoked already", "found a new mesh")
    revoked = tuple(sorted([*present.revoked, (peer_id, int(now))]))
    keyring = credentials.keyring.followed()
    signed = _signed(Revocations(present.version + 1, revoked, keys=keyring.digest), root)
    return _governed(replace(credentials, keyring=keyring), credentials.authority.links, signed)


def rotate_root(credentials: Credentials, now: float, overlap_s: float = MAX_LIFETIME_S) -> Credentials:
    """A new root key in place of the present one, whose certificates stay valid for ``overlap_s`` seconds.

    Members follow by themselves: they learn of it from each other and have their certificates renewed.

    Raises:
        ConfigError: this device does not hold the root key, the overlap is out of range, or it was rotated too often.
    """
    old = _root_of(credentials, "rotate the root key")
    if not 0 <= overlap_s <= 12 * MAX_LIFETIME_S:
        raise ConfigError(f"an overlap of {overlap_s:g} s is out of range", "0 to 360 days")
    new = MeshRoot(secrets.token_bytes(32), credentials.mesh_id)
    links = (*credentials.authority.links, _link(credentials, "root", new, old, now, overlap_s))
    present = credentials.authority.revocations
    governed = _governed(
        replace(credentials, root=new), links, _signed(replace(present, version=present.version + 1), new)
    )
    return replace(governed, certificate=new.renew(credentials.certificate, now, issuers=[old.public_key]))


def delegate(credentials: Credentials, now: float, lifetime_s: float = MAX_SIGNER_S) -> tuple[Credentials, MeshRoot]:
    """Let a new signer key issue and renew certificates, so that the root key can be kept elsewhere.

    Raises:
        ConfigError: this device does not hold the root key, or the lifetime is more than a year.
    """
    root = _root_of(credentials, "delegate")
    if not 0 < lifetime_s <= MAX_SIGNER_S:
        raise ConfigError(f"a signer cannot live {lifetime_s:g} s", "at most 366 days")
    signer = MeshRoot(secrets.token_bytes(32), credentials.mesh_id)
    links = (*credentials.authority.links, _link(credentials, "signer", signer, root, now, lifetime_s))
    return _governed(credentials, links, credentials.authority.revocations), signer


def with_signer(credentials: Credentials, signer: MeshRoot) -> Credentials:
    """These credentials with a key that `delegate` made: this device then invites and renews.

    Raises:
        ConfigError: this device holds the root key, or has not heard from the root that this key may sign.
    """
    present = credentials.root
    if present is not None and present.public_key == credentials.authority.root_key(credentials.charter):
        raise ConfigError("this device holds the root key and needs no signer", "give the signer to another member")
    if signer.public_key not in credentials.authority.present_issuers(credentials.charter):
        raise ConfigError(
            "this device has not heard from the root that this key may sign",
            "let it run beside the founder's node for a moment after meshlore delegate, and try again",
        )
    return replace(credentials, root=signer)


def renewed(credentials: Credentials, certificate: Certificate, now: float) -> Certificate:
    """Another 30 days for a member.

    Raises:
        ConfigError: this device holds no key that issues.
        NotAMember: ``certificate`` does not make its holder a member now.
    """
    if credentials.root is None:
        raise ConfigError("this device cannot renew certificates", "ask the founder")
    credentials.check(certificate.encode(), certificate.peer_id, now)
    return credentials.root.renew(certificate, now, issuers=credentials.issuers(now))


def _link(credentials: Credentials, kind: Kind, key: MeshRoot, root: MeshRoot, now: float, lasts_s: float) -> Link:
    number = len(credentials.authority.links) + 1
    if number > MAX_LINKS:
        raise ConfigError(f"the root was handed on {MAX_LINKS} times already", "found a new mesh")
    until = min(MAX_TIME, int(now + lasts_s))
    draft = Link(credentials.mesh_id, number, kind, key.public_key, int(now), until, _UNSIGNED, _UNSIGNED)
    signatures = [signer.sign("authority-link", draft.signed_bytes()) for signer in (root, key)]
    return replace(draft, root_signature=signatures[0], key_signature=signatures[1])


def _signed(revocations: Revocations, root: MeshRoot) -> Revocations:
    return replace(revocations, signature=root.sign("revocations", revocations.signed_bytes(root.mesh_id)))


def _governed(credentials: Credentials, links: tuple[Link, ...], revocations: Revocations) -> Credentials:
    return replace(credentials, authority=Authority.of(credentials.charter, links, revocations))


def _root_of(credentials: Credentials, what: str) -> MeshRoot:
    root = credentials.root
    if root is None or root.public_key != credentials.authority.root_key(credentials.charter):
        raise ConfigError(f"this device cannot {what}: it does not hold the mesh's root key", "do it on the founder's")
    return root
