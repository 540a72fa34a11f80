"""Why a node does not find its mesh, and what to do: a pure function from facts to findings.

The daemon and `meshlore doctor` gather the facts, each those that it can see; docs/meeting.md lists the findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from statistics import median
from typing import Any

from ..mesh.reasons import LanState, Reach, Reason
from ..security.certificates import CLOCK_TOLERANCE_S
from ..security.fields import duration_text
from .settings import is_loopback

CLOCK_WARNING_S = 60.0
MAX_NAMED = 3


class Severity(StrEnum):
    ERROR = "error"
    """Because of this the node does not find its mesh, or must not go on like this."""
    WARNING = "warning"
    """The mesh holds without it."""


@dataclass(frozen=True)
class Contact:
    """One member that this node knows an address of.

    ``connected``: it is, or (asked by a device whose daemon does not run) its port answers. ``reason`` and
    ``text`` say why not, where it was tried.
    """

    name: str
    address: str
    connected: bool = False
    bootstrap: bool = False
    reason: Reason | None = None
    text: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of one node's way into its mesh. Times are unix seconds.

    ``clock_ahead_s``: how far this device's clock is ahead of that of each connected member.
    ``unusable_listen``: configured addresses that cannot be listened on, each with the cause.
    ``double``: addresses of another device that runs with this one's identity.
    """

    now: float
    not_before: int
    not_after: int
    renewal_due: bool = False
    listen: tuple[str, ...] = ()
    unusable_listen: tuple[tuple[str, str], ...] = ()
    contacts: tuple[Contact, ...] = ()
    lan: LanState = LanState.OFF
    reach: Reach = Reach.UNKNOWN
    revoked: bool = False
    clock_ahead_s: tuple[float, ...] = ()
    double: tuple[str, ...] | None = None

    @property
    def connected(self) -> int:
        return sum(contact.connected for contact in self.contacts)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``code`` is stable; ``cause`` and ``remedy`` are one line each."""

    code: str
    severity: Severity
    cause: str
    remedy: str

    def to_map(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_map(cls, value: dict[str, Any]) -> Finding:
        return cls(value["code"], Severity(value["severity"]), value["cause"], value["remedy"])


def diagnose(facts: Facts) -> list[Finding]:
    """All that is wrong, errors first; empty when the node is, or could be, in its mesh."""
    findings = [finding for rule in RULES for finding in rule(facts)]
    return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


def _certificate(facts: Facts) -> Iterator[Finding]:
    if facts.now > facts.not_after:
        yield Finding(
            "certificate-expired",
            Severity.ERROR,
            f"this device's certificate expired {duration_text(facts.now - facts.not_after)} ago",
            "check this device's clock; if it is right, join again with a new invite",
        )
    elif facts.now < facts.not_before - CLOCK_TOLERANCE_S:
        yield _clock_is_behind(f"its own certificate was issued at {_date(facts.not_before)}")
    elif facts.renewal_due:
        yield Finding(
            "certificate-not-renewed",
            Severity.WARNING,
            f"this device's certificate expires in {duration_text(facts.not_after - facts.now)} and was not renewed",
            "start the founder's node and let this one reach it",
        )


def _clock(facts: Facts) -> Iterator[Finding]:
    reasons = {contact.reason for contact in facts.contacts}
    if Reason.OWN_EARLY in reasons and facts.not_before <= facts.now:
        yield _clocks_differ("a member says that this device's certificate is not valid yet")
    if Reason.OWN_EXPIRED in reasons and facts.now <= facts.not_after:
        yield _clocks_differ("a member says that this device's certificate has expired; here it has not")
    if facts.clock_ahead_s and abs(ahead_s := median(facts.clock_ahead_s)) > CLOCK_WARNING_S:
        members = "the member" if len(facts.clock_ahead_s) == 1 else f"most of the {len(facts.clock_ahead_s)} members"
        side = "ahead of" if ahead_s > 0 else "behind"
        yield Finding(
            "clock-off",
            Severity.ERROR if abs(ahead_s) > CLOCK_TOLERANCE_S else Severity.WARNING,
            f"this device's clock is {duration_text(abs(ahead_s))} {side} that of {members} it is connected to",
            "set the clock, or switch on time synchronisation: timedatectl set-ntp true",
        )


def _double(facts: Facts) -> Iterator[Finding]:
    if facts.double is not None:
        where = ", ".join(facts.double) or "an unknown address"
        yield Finding(
            "copied-home",
            Severity.ERROR,
            f"another device runs with the identity of this one ({where}): the home folder was copied",
            "stop one of the two, delete its home folder, and let it join with an invite of its own",
        )


def _revoked(facts: Facts) -> Iterator[Finding]:
    if facts.revoked or any(contact.reason is Reason.OWN_REVOKED for contact in facts.contacts):
        yield Finding(
            "membership-revoked",
            Severity.ERROR,
            "the mesh has revoked this device's membership",
            "to come back, join with a new invite and a new home: meshlore join --home FOLDER",
        )


def _hidden(facts: Facts) -> Iterator[Finding]:
    if facts.reach is Reach.HIDDEN:
        yield Finding(
            "not-reachable",
            Severity.WARNING,
            "no other device can dial this one (a NAT or a firewall is between), and no neighbour relays for it",
            "let its port through, or keep one member running that others can dial: it will relay",
        )


def _listening(facts: Facts) -> Iterator[Finding]:
    for address, cause in facts.unusable_listen:
        yield Finding(
            "cannot-listen",
            Severity.ERROR,
            f"this device cannot listen on {address} ({cause})",
            "end the other program, or choose another address or port: listen in config.toml",
        )
    nearby = facts.contacts and all(is_loopback(contact.address) for contact in facts.contacts)
    if not nearby and facts.listen and all(is_loopback(address) for address in facts.listen):
        yield Finding(
            "listens-locally",
            Severity.WARNING,
            "this node listens on this machine only, so no other device can dial it",
            'listen on the network: listen = ["/ip4/0.0.0.0/tcp/4810"] in config.toml',
        )


def _bootstrap(facts: Facts) -> Iterator[Finding]:
    for contact in facts.contacts:
        if contact.bootstrap and contact.reason is not None and contact.reason is not Reason.OTHER_MESH:
            cause, remedy = _advice(contact.reason)
            yield Finding(
                "bootstrap-down",
                Severity.WARNING,
                f"bootstrap peer {contact.name} at {contact.address} {cause}{_quoted(contact)}",
                f"{remedy}; this node goes on without it and tries again",
            )


def _wrong_mesh(facts: Facts) -> Iterator[Finding]:
    for contact in facts.contacts:
        if contact.reason is Reason.OTHER_MESH:
            yield Finding(
                "wrong-mesh",
                Severity.WARNING if facts.connected else Severity.ERROR,
                f"the node at {contact.address} belongs to another mesh than this device",
                "remove the address, or join that mesh from another home: meshlore join --home FOLDER",
            )


def _isolated(facts: Facts) -> Iterator[Finding]:
    if facts.connected:
        return
    if not facts.contacts:
        yield Finding(
            "no-addresses",
            Severity.WARNING,
            "this node knows no address of any other member",
            "invite a device: meshlore invite; or name a member's address: bootstrap in config.toml",
        )
    tried = [contact for contact in facts.contacts if contact.reason is not None]
    if tried and len(tried) == len(facts.contacts):
        counted = Counter(contact.reason for contact in tried if contact.reason is not None)
        (commonest, _), *_ = counted.most_common(1)
        causes = ", ".join(f"{_advice(reason)[0]} ({number})" for reason, number in counted.most_common())
        yield Finding(
            "isolated",
            Severity.ERROR,
            f"none of the {len(tried)} members' addresses that this node knows works: {causes}; "
            f"tried {', '.join(contact.address for contact in tried[:MAX_NAMED])}",
            _advice(commonest)[1],
        )
    if facts.lan is LanState.NO_MULTICAST:
        yield Finding(
            "no-multicast",
            Severity.WARNING,
            "there is no multicast here (a container, a VPN or a guest network), so members nearby are not found",
            'name the address of one member: bootstrap = ["/ip4/.../tcp/4810/p2p/12D3KooW..."] in config.toml',
        )


Rule = Callable[[Facts], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    _double,
    _revoked,
    _certificate,
    _clock,
    _wrong_mesh,
    _listening,
    _isolated,
    _bootstrap,
    _hidden,
)


def _advice(reason: Reason) -> tuple[str, str]:
    """What happened at an address, to follow its name, and what to do."""
    match reason:
        case Reason.CLOSED:
            return "has its port closed", "start the node there: meshlore run; if it runs, its port has changed"
        case Reason.SILENT:
            return "does not answer", "is that device on, and does its firewall let the port through?"
        case Reason.NO_ROUTE:
            return "is not reachable from this network", "connect this device to the network or VPN of that address"
        case Reason.NO_NAME:
            return "has a host name that is not known", "check the name, or give the number instead"
        case Reason.HUNG_UP:
            return "hangs up", "it may be full or no meshlore node: see the log there"
        case Reason.OTHER_PEER:
            return "is another node now", "ask for the present address: meshlore status prints it there"
        case Reason.OTHER_SERVICE:
            return "is no meshlore node", "check the port of the address"
        case Reason.OTHER_MESH:
            return "belongs to another mesh", "join that mesh, or use the address of a member of this one"
        case Reason.EXPIRED:
            return "has an expired certificate", "check its clock and ours; else it must join again with a new invite"
        case Reason.EARLY:
            return "has a certificate from the future", "check its clock and ours"
        case Reason.REVOKED:
            return "was revoked", "it must join again with a new invite and a new home"
        case Reason.OWN_REVOKED:
            return "says that this device was revoked", "join again with a new invite and a new home"
        case Reason.OWN_EXPIRED | Reason.OWN_EARLY:
            return "finds our certificate out of its time", "check its clock and ours"
    return "refuses this node" if reason is Reason.REFUSED else "fails", "see its log and that of this node"


def _quoted(contact: Contact) -> str:
    return f" ({contact.text})" if contact.reason in (Reason.REFUSED, Reason.OTHER) and contact.text else ""


def _clock_is_behind(evidence: str) -> Finding:
    return Finding(
        "clock-off",
        Severity.ERROR,
        f"this device's clock is behind: {evidence}",
        "set the clock, or switch on time synchronisation: timedatectl set-ntp true",
    )


def _clocks_differ(evidence: str) -> Finding:
    return Finding("clock-off", Severity.ERROR, f"two clocks differ: {evidence}", "check the clocks of both devices")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
