"""What `meshlore status` says about keys, the root's word, refusals and members that misbehave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..mesh.guard import Guard
from ..mesh.members import Peer
from .membership import Membership


def describe_security(membership: Membership, guard: Guard, peers: Iterable[Peer]) -> dict[str, Any]:
    """As JSON values; docs/status.md documents each field."""
    credentials = membership.credentials
    authority, names = credentials.authority, {peer.peer_id: peer.name for peer in peers}
    return {
        "keys_at_rest": membership.keys_at_rest,
        "issues_certificates": credentials.root is not None,
        "root": authority.root_key(credentials.charter).hex(),
        "root_links": len(authority.links),
        "revocations": {"version": authority.revocations.version, "members": len(authority.revocations.revoked)},
        "revoked": authority.revoked_at(credentials.peer_id) is not None,
        "refused": guard.refusals(),
        "misbehaving": {
            names.get(peer_id) or peer_id: str(standing) for peer_id, standing in sorted(guard.not_good().items())
        },
    }
