"""Revoking members and handing the root on: by the daemon of the founder's home, or in the home while none runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import ConfigError, DecodeError
from ..mesh.members import Peer
from ..security.files import check_private_folder
from ..security.identity import public_key_of
from ..security.membership import Credentials
from .store import HomeLock


def named(who: str, peers: Iterable[Peer]) -> tuple[str, str]:
    """Peer id and name of the member that a user means.

    Raises:
        ConfigError: ``who`` is no peer id, and no member or several are known by that name.
    """
    known = list(peers)
    found = [(peer.peer_id, peer.name) for peer in known if who in (peer.peer_id, peer.name)]
    if len(found) > 1:
        choice = ", ".join(peer_id for peer_id, _ in found)
        raise ConfigError(f"{len(found)} members are called {who!r}", f"give one of their peer ids: {choice}")
    if found:
        return found[0]
    try:
        public_key_of(who)
    except DecodeError:
        raise ConfigError(
            f"no member called {who[:64]!r} is known here", "see: meshlore peers, or give the peer id"
        ) from None
    return who, ""


def change_at_rest(
    home: Path, passphrase: str | None, step: Callable[[Credentials, float], Credentials]
) -> Credentials:
    """Change the credentials in a home while no daemon runs; it tells the others when it is started next.

    Raises:
        StateError: a daemon runs there, or the home cannot be read or written. What ``step`` raises.
    """
    check_private_folder(home)
    lock = HomeLock(home)
    try:
        changed = step(Credentials.load(home, passphrase), time.time())
        changed.save(home, passphrase)
        return changed
    finally:
        lock.release()
