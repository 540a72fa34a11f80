"""Keeps this device's membership certificate fresh, and renews those of others where the root key is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from ..codec import expect_map
from ..errors import MeshloreError, Refused
from ..mesh.mesh import Mesh
from ..mesh.transport import Body, Caller
from ..security.certificates import Certificate, needs_renewal
from ..security.membership import Credentials

log = structlog.get_logger("meshlore.daemon")

KIND = "renew"
CHECK_S = 3600.0
RETRY_S = 60.0
ASK_TIMEOUT_S = 10.0


class Renewal:
    """Renewal never ends a node: what fails is tried again while the certificate lasts.

    Args:
        take: makes new credentials durable and shows them from then on.
        certificate_of: the checked certificate of a connected member.
    """

    def __init__(
        self,
        credentials: Credentials,
        mesh: Mesh,
        *,
        certificate_of: Callable[[str], Certificate],
        take: Callable[[Credentials], Awaitable[None]],
    ) -> None:
        self._credentials = credentials
        self._mesh = mesh
        self._certificate_of = certificate_of
        self._take = take
        mesh.serve(KIND, self._renew_other)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = needs_renewal(self._credentials.certificate, time.time())
            renewed = due and await self._renew()
            await asyncio.sleep(CHECK_S if renewed or not due else RETRY_S)

    async def _renew(self) -> bool:
        own = self._credentials
        if own.root is not None:
            return await self._accept(own.root.renew(own.certificate, time.time()).encode())
        for peer in self._mesh.peers():
            if not peer.connected:
                continue
            try:
                reply = await self._mesh.request(peer.peer_id, KIND, {}, timeout_s=ASK_TIMEOUT_S)
                if await self._accept(expect_map(reply, {"certificate": bytes})["certificate"]):
                    return True
            except MeshloreError as error:
                log.debug("not renewed", by=peer.name, because=str(error))
        log.warning("certificate not renewed: no live member renews it", remedy="start the founder's node")
        return False

    async def _accept(self, certificate: bytes) -> bool:
        try:
            self._credentials = self._credentials.with_certificate(certificate, time.time())
            await self._take(self._credentials)
        except MeshloreError as error:
            log.warning("a renewed certificate is not used", because=str(error))
            return False
        log.info("certificate renewed", expires=self._credentials.certificate.not_after)
        return True

    async def _renew_other(self, caller: Caller, _body: Body) -> Mapping[str, bytes]:
        if self._credentials.root is None:
            raise Refused("this device cannot renew certificates", code="role")
        renewed = self._credentials.root.renew(self._certificate_of(caller.peer_id), time.time())
        return {"certificate": renewed.encode()}
