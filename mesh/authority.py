"""Spreading the root's word from member to member: who is revoked, and which root follows which.

| kind      | body                                     | answer                                              |
| --------- | ---------------------------------------- | --------------------------------------------------- |
| authority | links, version: how far the asker is;    | the same of the other side, with its document if it |
|           | document: empty, or what the other lacks | is further along                                    |

| keys      | digest: of the keyring that is looked for | keyring                                            |

Neighbours compare when they meet and tell each other what is new at once, so a revocation crosses the mesh in as
many steps as it is wide. Whoever adopts a word hangs up on those who are members no more, and tells the others. The
mesh key changes with every revocation: who has the new one has heard of that, and passes it on to members only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from operator import methodcaller
from typing import Any, Protocol

from ..codec import expect_map
from ..errors import DecodeError, MeshloreError, NotAMember, PeerError, Refused, SecurityError
from ..security.authority import MAX_AUTHORITY_BYTES, Authority
from ..security.fields import MAX_SEQ, check_range
from ..security.membership import Credentials
from .mesh import Mesh
from .transport import Body, Caller, Transport

log = logging.getLogger("meshlore.mesh")

KIND, KEYS = "authority", "keys"
ASK_TIMEOUT_S = 5.0
LOOK_S = 2.0
RECHECK_S = 60.0


class Membership(Protocol):
    """The one owner of this node's credentials."""

    @property
    def credentials(self) -> Credentials: ...

    def change(self, step: Callable[[Credentials], Credentials]) -> Awaitable[Credentials]:
        """Replace them by what ``step`` makes of them, durably, one change after the other."""


class AuthoritySpread:
    """Keeps one node's `Authority` that of its mesh. `run` it as a task."""

    def __init__(self, mesh: Mesh, transport: Transport, membership: Membership) -> None:
        self._mesh, self._transport, self._membership = mesh, transport, membership
        self._told: dict[str, tuple[int, int]] = {}
        self._wake = asyncio.Event()
        self._recheck_due, self._enforced = 0.0, self._authority.progress
        mesh.serve(KIND, self._answer)
        mesh.serve(KEYS, self._answer_keys)

    def wake(self) -> None:
        """Somebody connected, or there is news of our own."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._look_around()
            except MeshloreError as error:
                log.warning("the word of the root was not spread: %s", error)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look_around(self) -> None:
        self._wake.clear()
        connected = self._transport.connected()
        newcomers = connected - self._told.keys()
        self._told = {peer_id: known for peer_id, known in self._told.items() if peer_id in connected}
        mine = self._authority.progress
        if mine != self._enforced or time.monotonic() >= self._recheck_due:
            # also without news: a root that has handed on ends some day, and so do the certificates that it signed
            self._enforced, self._recheck_due = mine, time.monotonic() + RECHECK_S
            await self._cut(connected - newcomers)
        behind = [peer_id for peer_id in connected if self._told.get(peer_id, (-1, -1)) < mine]
        await asyncio.gather(*(self._compare(peer_id) for peer_id in behind))
        await self._cut(newcomers)  # who showed a longer chain has told it by now
        if self._membership.credentials.lacks_keys:
            await self._get_keys(sorted(self._transport.connected()))

    @property
    def _authority(self) -> Authority:
        return self._membership.credentials.authority

    async def _compare(self, peer_id: str) -> None:
        """Ask a neighbour how far it is, and give it what it lacks."""
        try:
            reply = await self._mesh.request(peer_id, KIND, self._body(b""), timeout_s=ASK_TIMEOUT_S)
            progress, document = _read(reply)
            if document:
                await self._adopt(document, peer_id)
            elif progress < self._authority.progress:
                body = self._body(self._authority.encode())
                progress, _ = _read(await self._mesh.request(peer_id, KIND, body, timeout_s=ASK_TIMEOUT_S))
            self._told[peer_id] = max(progress, self._told.get(peer_id, progress))
        except (Refused, DecodeError, SecurityError) as error:
            self._told[peer_id] = self._authority.progress
            log.warning("…%s and this node do not agree on what the root said: %s", peer_id[-8:], error)
        except PeerError as error:
            log.debug("…%s did not compare authority: %s", peer_id[-8:], error)

    async def _answer(self, caller: Caller, body: Body) -> Mapping[str, Any]:
        progress, document = _read(body)
        if document:
            await self._adopt(document, caller.peer_id)
        mine = self._authority
        self._told[caller.peer_id] = min(progress, mine.progress)
        return self._body(mine.encode() if progress < mine.progress else b"")

    async def _get_keys(self, peer_ids: list[str]) -> None:
        """Ask one neighbour after the other for the mesh keys that the root signed."""
        wanted = self._authority.revocations.keys
        for peer_id in peer_ids:
            try:
                reply = await self._mesh.request(peer_id, KEYS, {"digest": wanted}, timeout_s=ASK_TIMEOUT_S)
                adopt = methodcaller("with_keyring", expect_map(reply, {"keyring": bytes})["keyring"])
                await self._membership.change(adopt)
            except MeshloreError as error:
                log.debug("…%s gave no mesh keys: %s", peer_id[-8:], error)
                continue
            log.info("the mesh key was changed; …%s passed it on", peer_id[-8:])
            return

    async def _answer_keys(self, caller: Caller, body: Body) -> Mapping[str, Any]:
        own = self._membership.credentials
        certificate = self._transport.certificate_of(caller.peer_id)
        own.check(certificate.encode(), caller.peer_id, time.time())
        if expect_map(body, {"digest": bytes})["digest"] != own.keyring.digest:
            raise Refused("other mesh keys are here", "ask another", code="no-such-keys")
        return {"keyring": own.keyring.encode()}

    async def _adopt(self, document: bytes, from_peer: str) -> None:
        """Raises DecodeError, SecurityError: it is no word of this mesh's root."""
        charter, before = self._membership.credentials.charter, self._authority.progress
        heard = await asyncio.to_thread(Authority.decode, document, charter)
        self._told[from_peer] = heard.progress
        if heard.progress <= before:
            return
        await self._membership.change(lambda own: replace(own, authority=own.authority.followed_by(heard)))
        log.warning("the root spoke: %d revoked, %d times handed on", len(heard.revocations.revoked), len(heard.links))
        if heard.revoked_at(self._transport.peer_id) is not None:
            log.error("this device's membership was revoked: it serves its own user only")
        self._wake.set()

    async def _cut(self, peer_ids: set[str]) -> None:
        """Hang up on those who are members no more."""
        credentials = self._membership.credentials
        for peer_id in peer_ids:
            try:
                certificate = self._transport.certificate_of(peer_id)
                credentials.check(certificate.encode(), peer_id, time.time())
            except NotAMember as error:
                log.warning("hung up on …%s: %s", peer_id[-8:], error.message)
                await self._transport.disconnect(peer_id)
            except PeerError:
                continue  # gone already

    def _body(self, document: bytes) -> dict[str, Any]:
        links, version = self._authority.progress
        return {"links": links, "version": version, "document": document}


def _read(body: Body) -> tuple[tuple[int, int], bytes]:
    """How far the other side is, and its document. Raises DecodeError."""
    fields = expect_map(body, {"links": int, "version": int, "document": bytes})
    for name in ("links", "version"):
        check_range(name, fields[name], MAX_SEQ)
    if len(fields["document"]) > MAX_AUTHORITY_BYTES:
        raise SecurityError("a word of the root that is too long")
    return (fields["links"], fields["version"]), fields["document"]
