"""Members of a mesh whose root key the test has, so that it can revoke them."""

from __future__ import annotations

import time

from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot


def mesh_of(*names: str) -> list[Credentials]:
    """Credentials of the members of a mesh; the first has its root key."""
    root, charter = MeshRoot.create("testers", {}, time.time())
    keyring, members = Keyring.generate(), list[Credentials]()
    for name in names:
        identity = Identity.generate()
        certificate = root.issue(identity.peer_id, name, ("node",), identity.hpke_public_key, time.time())
        members.append(Credentials(identity, charter, certificate, keyring, None if members else root))
    return members
