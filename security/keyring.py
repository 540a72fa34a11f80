"""The mesh's shared symmetric keys: one per epoch, known to all members, under which packets are sealed."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, SecurityError, StateError
from .fields import MAX_EPOCH, check_length, check_range
from .keyfile import load_secret, save_secret

MAX_EPOCHS = 32
MAX_KEYRING_BYTES = 2048

_KEY_BYTES = 32
_KIND = "meshlore mesh keys"


@dataclass(frozen=True)
class MeshKey:
    """The secret that the members share during one epoch."""

    epoch: int
    key: bytes = field(repr=False)

    @classmethod
    def generate(cls, epoch: int = 1) -> MeshKey:
        return cls(epoch, secrets.token_bytes(_KEY_BYTES))


@dataclass(frozen=True)
class Keyring:
    """Mesh keys in order of epoch, at least one and at most `MAX_EPOCHS`; the last one seals."""

    keys: tuple[MeshKey, ...]

    def __post_init__(self) -> None:
        epochs = [key.epoch for key in self.keys]
        if not 0 < len(epochs) <= MAX_EPOCHS or epochs != sorted(set(epochs)):
            raise DecodeError("the epochs of a keyring rise one by one")
        for key in self.keys:
            check_range("epoch", key.epoch, MAX_EPOCH)
            check_length("mesh key", key.key, _KEY_BYTES)

    @classmethod
    def generate(cls) -> Keyring:
        """A keyring with a new key for epoch 1."""
        return cls((MeshKey.generate(),))

    @property
    def current(self) -> MeshKey:
        return self.keys[-1]

    def key_of(self, epoch: int) -> MeshKey:
        """Raises `SecurityError` if this member has no key of that epoch."""
        for key in self.keys:
            if key.epoch == epoch:
                return key
        raise SecurityError(f"no mesh key of epoch {epoch} is known here", "reconnect to the mesh to receive it")

    def followed(self) -> Keyring:
        """With a new key for the next epoch; beyond `MAX_EPOCHS` the oldest goes, and with it what it sealed."""
        return Keyring((*self.keys[1 - MAX_EPOCHS :], MeshKey.generate(self.current.epoch + 1)))

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes: what the root signs, so that nobody can pass on other keys."""
        return hashlib.sha256(self.encode()).digest()

    def encode(self) -> bytes:
        return pack([{"epoch": key.epoch, "key": key.key} for key in self.keys])

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Raises `DecodeError` unless `encode` can have made ``data``."""
        values: Any = unpack(data, max_bytes=MAX_KEYRING_BYTES, max_items=MAX_EPOCHS)
        if not isinstance(values, list):
            raise DecodeError("a keyring is a list")
        return cls(tuple(MeshKey(**expect_map(value, {"epoch": int, "key": bytes})) for value in values))

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> Keyring:
        """Read a keyring that `save` wrote.

        Raises:
            StateError: missing, damaged, open to others, or locked with another passphrase.
        """
        try:
            return cls.decode(load_secret(path, _KIND, passphrase))
        except FileNotFoundError:
            raise StateError(f"{path} is missing", "restore it from a backup, or join again") from None
        except DecodeError as error:
            raise StateError(f"{path} is damaged ({error.message})", "restore it, or join again") from None

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write the keys to ``path`` (0600, atomic; wrapped with Argon2id if there is a passphrase)."""
        save_secret(path, _KIND, self.encode(), passphrase)
