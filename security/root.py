"""The root of a mesh: the one key that makes its members (or the key that followed it, or signs for it)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DecodeError, StateError
from .certificates import (
    CLOCK_TOLERANCE_S,
    MAX_CHARTER_BYTES,
    MAX_LIFETIME_S,
    Certificate,
    Charter,
    mesh_id_of,
)
from .fields import check_length, check_name
from .identity import SIGNATURE_BYTES, check_hpke_public_key, public_key_of_seed, sign_with_seed
from .keyfile import load_secret, save_secret

_KIND = "meshlore root"
_UNSIGNED = bytes(SIGNATURE_BYTES)


class MeshRoot:
    """The secret root key of a mesh: whoever holds it decides who is a member."""

    def __init__(self, seed: bytes, mesh_id: str = "") -> None:
        """``seed``: the Ed25519 seed, 32 bytes. ``mesh_id``: of the mesh that it issues for, unless it founds one."""
        check_length("root seed", seed, 32)
        self._seed = seed
        self.public_key = public_key_of_seed(seed)
        self.mesh_id = mesh_id or mesh_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"MeshRoot({self.mesh_id})"

    @classmethod
    def create(cls, name: str, space: dict[str, Any], now: float) -> tuple[MeshRoot, Charter]:
        """A new mesh.

        Raises:
            ConfigError: the name is not usable, or the space description is too large.
        """
        try:
            check_name(name)
        except DecodeError as error:
            raise ConfigError(f"mesh name: {error.message}", "choose a shorter, plain name") from None
        root = cls(secrets.token_bytes(32))
        draft = Charter(root.mesh_id, name, root.public_key, space, int(now), _UNSIGNED)
        size_bytes = len(draft.encode())
        if size_bytes > MAX_CHARTER_BYTES:
            raise ConfigError(
                f"the mesh's description is {size_bytes} bytes, {MAX_CHARTER_BYTES} is the limit",
                "use shorter or fewer class names",
            )
        charter = replace(draft, signature=root.sign("charter", draft.signed_bytes()))
        return root, Charter.decode(charter.encode())

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None, *, mesh_id: str = "") -> MeshRoot:
        """Read a root key that `save` wrote.

        Raises:
            StateError: missing, damaged, open to others, or locked with another passphrase.
        """
        try:
            return cls(load_secret(path, _KIND, passphrase), mesh_id)
        except FileNotFoundError:
            raise StateError(f"{path} is missing", "only the device that ran meshlore init has it") from None
        except DecodeError as error:
            raise StateError(f"{path} is damaged ({error.message})", "restore it from a backup") from None

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write the root key to ``path`` (0600, atomic; wrapped with Argon2id if there is a passphrase)."""
        save_secret(path, _KIND, self._seed, passphrase)

    def sign(self, domain: str, message: bytes) -> bytes:
        """An Ed25519 signature (64 bytes) that is valid for this ``domain`` only."""
        return sign_with_seed(self._seed, domain, message)

    def issue(
        self,
        peer_id: str,
        name: str,
        roles: Iterable[str],
        hpke_public_key: bytes,
        now: float,
        lifetime_s: float = MAX_LIFETIME_S,
        *,
        epoch: int = 1,
    ) -> Certificate:
        """A certificate for a new member; it starts 10 minutes ago, for members whose clock is behind.

        Raises:
            DecodeError: peer id, name, roles or key are not usable.
            ValueError: ``lifetime_s`` is not in (0, 30 days].
        """
        check_hpke_public_key(hpke_public_key)
        key_hash = hashlib.sha256(hpke_public_key).digest()
        return self._issue(peer_id, name, frozenset(roles), key_hash, now, lifetime_s, epoch)

    def renew(
        self,
        certificate: Certificate,
        now: float,
        lifetime_s: float = MAX_LIFETIME_S,
        *,
        epoch: int | None = None,
        issuers: Iterable[bytes] = (),
    ) -> Certificate:
        """The same membership with a new serial and time; check the old one with `Credentials.check` first.

        Raises:
            BadSignature: neither this root nor another of the ``issuers`` (public keys) issued ``certificate``.
        """
        certificate.verify(self.public_key, *issuers)
        return self._issue(
            certificate.peer_id,
            certificate.name,
            certificate.roles,
            certificate.hpke_key_hash,
            now,
            lifetime_s,
            certificate.epoch if epoch is None else epoch,
        )

    def _issue(
        self,
        peer_id: str,
        name: str,
        roles: frozenset[str],
        hpke_key_hash: bytes,
        now: float,
        lifetime_s: float,
        epoch: int,
    ) -> Certificate:
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"a certificate lives at most {MAX_LIFETIME_S} s, not {lifetime_s}")
        draft = Certificate(
            mesh_id=self.mesh_id,
            peer_id=peer_id,
            name=name,
            roles=roles,
            hpke_key_hash=hpke_key_hash,
            serial=secrets.randbits(63),  # random, so that a root restored from a backup never reuses one
            epoch=epoch,
            not_before=max(0, int(now) - CLOCK_TOLERANCE_S),
            not_after=int(now) + max(1, int(lifetime_s)),
            signature=_UNSIGNED,
        )
        certificate = replace(draft, signature=self.sign("certificate", draft.signed_bytes()))
        return Certificate.decode(certificate.encode())
