"""From libp2p's failures, wrapped several times, to one of our errors with the cause on one line."""

from __future__ import annotations

from collections.abc import Iterator

from libp2p.exceptions import ParseError
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from multiaddr import Multiaddr

from ..errors import DecodeError, MeshloreError, NotAMember, PeerError, Unreachable
from .reasons import Reason, reason_of_os_error

__all__ = ["dial_failure", "root_cause"]


def dial_failure(error: Exception, address: Multiaddr) -> MeshloreError:
    """What `Transport.connect` raises for whatever libp2p raised."""
    for cause in _causes(error):
        if isinstance(cause, NotAMember):
            # a new one: raised from the chain that it came from, it would be its own cause
            return NotAMember(cause.message, cause.remedy, cause.code)
        if isinstance(cause, PeerError | DecodeError):
            return Unreachable(f"{address}: {cause.message}", code=Reason.HUNG_UP)
    reason = _reason(error)
    return Unreachable(f"{_said(reason)} at {address} ({root_cause(error)})", "is the node there running?", reason)


def root_cause(error: BaseException | None) -> str:
    """The innermost cause, on one line."""
    *_, innermost = _causes(error) if error is not None else (None,)
    return " ".join(str(innermost or "unknown").split())[:160] or type(innermost).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on inwards; a chain that bites its tail ends there."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__


def _reason(error: Exception) -> Reason:
    reason = Reason.OTHER
    for cause in _causes(error):
        if (found := reason_of_os_error(cause)) is not Reason.OTHER:
            return found
        if isinstance(cause, PeerIDMismatchesPubkey):
            return Reason.OTHER_PEER
        if isinstance(cause, ParseError):
            return Reason.OTHER_SERVICE
        if isinstance(cause, MultiselectError):
            reason = Reason.HUNG_UP
        elif "resolve" in str(cause):
            reason = Reason.NO_NAME
    return reason


def _said(reason: Reason) -> str:
    match reason:
        case Reason.OTHER_PEER:
            return "another node answers"
        case Reason.OTHER_SERVICE | Reason.HUNG_UP:
            return "no meshlore node answers"
    return "nobody answers"
