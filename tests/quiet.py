"""A service that does nothing, for tests of what is below it."""

from __future__ import annotations

from meshlore.mesh.transport import Body, Caller


class Quiet:
    async def handle(self, caller: Caller, kind: str, body: Body) -> Body:
        return {}

    def blob(self, name: str) -> bytes | None:
        return None

    def on_connected(self, peer_id: str) -> None: ...

    def on_disconnected(self, peer_id: str) -> None: ...
