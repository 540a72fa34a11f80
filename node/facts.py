"""What a running node knows of its way into the mesh, for `diagnosis` to judge."""

from __future__ import annotations

from ..mesh.members import Peer
from ..mesh.mesh import Mesh
from ..mesh.reasons import LanState, Reach
from ..security.certificates import DAY_S, needs_renewal
from ..security.membership import Credentials
from .diagnosis import Contact, Facts
from .settings import Settings

LATE_RENEWAL_S = DAY_S


def facts_of(
    mesh: Mesh, lan: LanState, reach: Reach, credentials: Credentials, settings: Settings, now: float
) -> Facts:
    """``now`` is in unix seconds."""
    certificate = credentials.certificate
    return Facts(
        now=now,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        renewal_due=needs_renewal(certificate, now - LATE_RENEWAL_S),
        listen=settings.listen,
        contacts=tuple(_contact(peer) for peer in mesh.peers()),
        lan=lan,
        reach=reach,
        revoked=credentials.authority.revoked_at(credentials.peer_id) is not None,
        clock_ahead_s=mesh.clock_ahead_s(),
        double=mesh.double(),
    )


def _contact(peer: Peer) -> Contact:
    problem = peer.problem
    return Contact(
        name=peer.name or f"…{peer.peer_id[-8:]}",
        address=problem.address if problem else next(iter(peer.addresses), ""),
        connected=peer.connected,
        bootstrap=peer.kept,
        reason=problem.reason if problem else None,
        text=problem.text if problem else "",
    )
