"""This device's membership while its node runs: one owner of the credentials, and everybody who looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from ..security.home import IDENTITY_FILE, KEYRING_FILE
from ..security.keyfile import protection_of
from ..security.membership import Credentials

Listener = Callable[[Credentials], None]
ROLES_OF: Mapping[str, tuple[str, ...]] = {"node": ("node", "requester"), "anchor": ("anchor", "requester")}
"""What a member that is invited as this may do. Whoever sits at an anchor may hand in tasks as well."""


class Membership:
    """Changes come one after the other, and are on disk before anybody sees them.

    Args:
        listeners: told of new credentials, on the event loop.
        keys_at_rest: ``"passphrase"`` or ``"file-mode"``.
    """

    def __init__(self, home: Path, credentials: Credentials, passphrase: str | None = None) -> None:
        self.home = home
        self._passphrase = passphrase
        self.keys_at_rest = protection_of(home / IDENTITY_FILE)
        self._changing = asyncio.Lock()
        self.credentials = credentials
        self.listeners: list[Listener] = []

    async def change(self, step: Callable[[Credentials], Credentials]) -> Credentials:
        """Replace the credentials by what ``step`` makes of them. Raises what ``step`` does, and StateError."""
        async with self._changing:
            changed = step(self.credentials)
            await asyncio.to_thread(self._save, self.credentials, changed)
            self.credentials = changed
            for listener in self.listeners:
                listener(changed)
            return changed

    def _save(self, before: Credentials, after: Credentials) -> None:
        if after.root is not before.root:
            after.save(self.home, self._passphrase)
            return
        if after.keyring != before.keyring:
            after.keyring.save(self.home / KEYRING_FILE, self._passphrase)
        if after.authority != before.authority:
            after.save_authority(self.home)
        if after.certificate != before.certificate:
            after.save_certificate(self.home)
