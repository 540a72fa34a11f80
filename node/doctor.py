"""`meshlore doctor`: gathers what can be known of this device's way into its mesh, and has it diagnosed.

A running daemon is asked: it knows why each dial failed. Without one, the doctor looks for itself, as far as
it can without being a member on the network: keys, clock, ports, and whether anything answers at each address.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DaemonNotRunning, DecodeError, StateError
from ..mesh.addresses import load_book
from ..mesh.interfaces import multicast_works
from ..mesh.reasons import LanState, Reason, reason_of_os_error
from ..security.invites import host_of
from ..security.membership import Credentials
from .client import connect
from .diagnosis import Contact, Facts, Finding, Severity, diagnose
from .settings import Places, Settings
from .setup import ADDRESS_BOOK, passphrase_from_environment

PROBE_TIMEOUT_S = 2.0
MAX_PROBED = 32
_TARGET = re.compile(r"/(?P<kind>ip4|ip6|dns4|dns6|dns)/(?P<host>[^/]+)/tcp/(?P<port>\d{1,5})(/|$)")


@dataclass(frozen=True)
class Examination:
    """What the doctor found; ``running``: a daemon told it."""

    running: bool
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def to_map(self) -> dict[str, Any]:
        return {
            "running": self.running,
            "healthy": self.healthy,
            "findings": [finding.to_map() for finding in self.findings],
        }


async def examine(places: Places, settings: Settings) -> Examination:
    """Takes a few seconds; changes nothing."""
    try:
        async with connect(places.home) as mesh:
            status = await mesh.status()
        return Examination(True, tuple(Finding.from_map(value) for value in status["findings"]))
    except DaemonNotRunning:
        return Examination(False, tuple(await _examine_stopped(places, settings)))


async def _examine_stopped(places: Places, settings: Settings) -> list[Finding]:
    try:
        credentials = await asyncio.to_thread(Credentials.load, places.home, passphrase_from_environment())
    except StateError as error:
        return [Finding("home-unusable", Severity.ERROR, error.message, error.remedy)]
    certificate = credentials.certificate
    book = await asyncio.to_thread(load_book, places.home / ADDRESS_BOOK)
    facts = Facts(
        now=time.time(),
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        listen=settings.listen,
        unusable_listen=tuple(_unusable(settings.listen)),
        contacts=await _probe_all(settings.bootstrap, book),
        lan=await asyncio.to_thread(_lan, settings),
        revoked=credentials.authority.revoked_at(credentials.peer_id) is not None,
    )
    return diagnose(facts)


async def _probe_all(bootstrap: tuple[str, ...], book: Mapping[str, tuple[str, ...]]) -> tuple[Contact, ...]:
    wanted = dict.fromkeys(bootstrap, True)
    for addresses in book.values():
        wanted |= {address: wanted.get(address, False) for address in addresses}
    chosen = list(wanted.items())[:MAX_PROBED]
    return tuple(await asyncio.gather(*(_probe(address, first) for address, first in chosen)))


async def _probe(address: str, bootstrap: bool) -> Contact:
    """Whether the port of an address answers; who answers there, only a node can tell."""
    contact = Contact(_name(address), address, bootstrap=bootstrap)
    if (target := _TARGET.match(address)) is None:
        return contact
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(target["host"], int(target["port"]))
            writer.close()
        return replace(contact, connected=True)
    except TimeoutError:
        reason = Reason.SILENT
    except socket.gaierror:
        reason = Reason.NO_NAME
    except (OSError, OverflowError) as error:
        reason = reason_of_os_error(error)
    return replace(contact, reason=reason)


def _name(address: str) -> str:
    try:
        return f"…{host_of(address)[-8:]}"
    except DecodeError:
        return "without a peer id"


def _unusable(listen: tuple[str, ...]) -> list[tuple[str, str]]:
    """The addresses that this device cannot listen on now, with the cause."""
    unusable = []
    for address in listen:
        if (target := _TARGET.match(address)) is None:
            continue
        family = socket.AF_INET6 if target["kind"].endswith("6") else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((target["host"], int(target["port"])))
        except (OSError, OverflowError) as error:
            unusable.append((address, getattr(error, "strerror", None) or str(error)))
    return unusable


def _lan(settings: Settings) -> LanState:
    if not settings.on_lan:
        return LanState.OFF
    return LanState.ON if multicast_works() else LanState.NO_MULTICAST
