"""Why members do not meet, in words that can be counted, compared and advised on."""

from __future__ import annotations

import errno
from enum import StrEnum

from ..errors import MeshloreError, NotAMember, PeerTimeout, Unreachable


class Reason(StrEnum):
    """Why a member was not reached at one address."""

    CLOSED = "closed"
    """The device is there, and nothing listens on that port."""
    SILENT = "silent"
    """No answer: the device is off, or something between drops the packets."""
    NO_ROUTE = "no-route"
    NO_NAME = "no-name"
    """The host name in the address is not known."""
    HUNG_UP = "hung-up"
    """It took the connection and closed it without a word."""
    OTHER_PEER = "other-peer"
    """A node answers that is not the one the address promises."""
    OTHER_SERVICE = "other-service"
    """Something answers that does not speak libp2p."""
    OTHER_MESH = "other-mesh"
    EXPIRED = "expired"
    EARLY = "not-yet-valid"
    """Its certificate is past, or before, its time."""
    OWN_EXPIRED = "own-expired"
    OWN_EARLY = "own-not-yet-valid"
    """It says that of ours."""
    REVOKED = "revoked"
    OWN_REVOKED = "own-revoked"
    REFUSED = "refused"
    """It refused this node, or this node it, for another cause; the text says which."""
    OTHER = "other"


class LanState(StrEnum):
    """What discovery on the local network can do here."""

    OFF = "off"
    ON = "on"
    NO_MULTICAST = "no-multicast"


class Reach(StrEnum):
    """Whether other devices can dial this one."""

    UNKNOWN = "unknown"
    DIRECT = "direct"
    RELAYED = "relayed"
    """They cannot, and reach it through a neighbour."""
    HIDDEN = "hidden"
    """They cannot, and no neighbour relays."""


_OF_OUR_CERTIFICATE = {
    "expired": Reason.OWN_EXPIRED,
    "not-yet-valid": Reason.OWN_EARLY,
    "other-mesh": Reason.OTHER_MESH,
    "revoked": Reason.OWN_REVOKED,
}
_OF_ERRNO = {
    errno.ECONNREFUSED: Reason.CLOSED,
    errno.ETIMEDOUT: Reason.SILENT,
    errno.ENETUNREACH: Reason.NO_ROUTE,
    errno.EHOSTUNREACH: Reason.NO_ROUTE,
}


def reason_of(error: MeshloreError) -> Reason:
    """The reason in an error of `Transport.connect`."""
    if isinstance(error, PeerTimeout):
        return Reason.SILENT
    code = error.code if isinstance(error, NotAMember | Unreachable) else ""
    if code in set(Reason):
        return Reason(code)
    return Reason.REFUSED if isinstance(error, NotAMember) else Reason.OTHER


def reason_of_os_error(error: BaseException) -> Reason:
    """The reason in an error of a socket; OTHER if it is none."""
    return _OF_ERRNO.get(getattr(error, "errno", None) or 0, Reason.OTHER)


def refused_by_peer(text: str, code: object) -> NotAMember:
    """What a peer says when it refuses us; the code that it sends judges our certificate."""
    reason = _OF_OUR_CERTIFICATE.get(code, Reason.REFUSED) if isinstance(code, str) else Reason.REFUSED
    return NotAMember(f"the peer refused this node: {text}", code=reason)
