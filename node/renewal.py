"""Keeps this device's membership certificate fresh, and renews those of others where a key that issues is held."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping

import structlog

from ..codec import expect_map
from ..errors import MeshloreError, Refused
from ..mesh.members import Peer, PeerState
from ..mesh.mesh import Mesh
from ..mesh.transport import Body, Caller
from ..security.certificates import Certificate, needs_renewal
from ..security.governance import renewed
from .membership import Membership

log = structlog.get_logger("meshlore.daemon")

KIND = "renew"
CHECK_S = 3600.0
RETRY_S = 60.0
ASK_TIMEOUT_S = 10.0
OTHERS_ASKED = 8


class Renewal:
    """Renewal never ends a node: what fails is tried again while the certificate lasts.

    Args:
        certificate_of: the checked certificate of a connected member.
    """

    def __init__(self, membership: Membership, mesh: Mesh, *, certificate_of: Callable[[str], Certificate]) -> None:
        self._membership = membership
        self._mesh = mesh
        self._certificate_of = certificate_of
        self._wake = asyncio.Event()
        mesh.serve(KIND, self._renew_other)

    def wake(self) -> None:
        """The root may have handed on: look whether the own certificate is still from the present one."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            own = self._membership.credentials
            due = needs_renewal(own.certificate, time.time()) or own.needs_renewal_by_root
            done = not due or await self._renew()
            try:
                async with asyncio.timeout(CHECK_S if done else RETRY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _renew(self) -> bool:
        own = self._membership.credentials
        if own.root is not None:
            return await self._accept(renewed(own, own.certificate, time.time()).encode())
        for peer in self._to_ask():
            try:
                reply = await self._mesh.request(peer.peer_id, KIND, {}, timeout_s=ASK_TIMEOUT_S)
                if await self._accept(expect_map(reply, {"certificate": bytes})["certificate"]):
                    return True
            except MeshloreError as error:
                log.debug("not renewed", by=peer.name, because=str(error))
        log.warning("certificate not renewed: no live member renews it", remedy="start the founder's node")
        return False

    def _to_ask(self) -> list[Peer]:
        """The neighbours, then some other members by chance: who renews need not be a neighbour."""
        peers = self._mesh.peers()
        others = [peer for peer in peers if not peer.connected and peer.state is not PeerState.GONE]
        chosen = random.sample(others, min(len(others), OTHERS_ASKED))
        return [*(peer for peer in peers if peer.connected), *chosen]

    async def _accept(self, certificate: bytes) -> bool:
        try:
            changed = await self._membership.change(lambda own: own.with_certificate(certificate, time.time()))
        except MeshloreError as error:
            log.warning("a renewed certificate is not used", because=str(error))
            return False
        log.info("certificate renewed", expires=changed.certificate.not_after)
        return True

    async def _renew_other(self, caller: Caller, _body: Body) -> Mapping[str, bytes]:
        own = self._membership.credentials
        if own.root is None:
            raise Refused("this device cannot renew certificates", code="role")
        return {"certificate": renewed(own, self._certificate_of(caller.peer_id), time.time()).encode()}
