"""Secrets at rest: one file format, protected by a passphrase or by its file mode alone.

With a passphrase, the secret is wrapped with ChaCha20-Poly1305 (RFC 8439) under a key from Argon2id
(RFC 9106, second recommended setting: 64 MiB, 3 passes, 4 lanes). Without one it is in the clear in a 0600
file, which suits devices that must start unattended; `protection_of` says which it is.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ..codec import expect_map, pack, unpack
from ..errors import ConfigError, DecodeError, StateError
from .files import read_private, write_atomic

MAX_BYTES = 16 * 1024
PASSPHRASE_VARIABLE = "MESHLORE_PASSPHRASE"  # noqa: S105  the name of a variable, no password

_MEMORY_KIB = 64 * 1024
_PASSES = 3
_LANES = 4
_MAX_MEMORY_KIB = 1024 * 1024
_SALT_BYTES = 16
_NONCE_BYTES = 12


def save_secret(path: Path, kind: str, secret: bytes, passphrase: str | None) -> None:
    """Write ``secret`` to ``path`` (0600, atomic), wrapped if there is a passphrase.

    Raises:
        ConfigError: the passphrase is empty.
        StateError: the file cannot be written.
    """
    header: dict[str, Any] = {"v": 1, "kind": kind, "argon2id": None}
    body = secret
    if passphrase is not None:
        salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
        header["argon2id"] = {
            "memory_kib": _MEMORY_KIB, "passes": _PASSES, "lanes": _LANES, "salt": salt, "nonce": nonce,
        }  # fmt: skip
        key = _stretch(passphrase, header["argon2id"])
        body = ChaCha20Poly1305(key).encrypt(nonce, secret, pack(header))
    write_atomic(path, pack({**header, "body": body, "checksum": _checksum(header, body)}))


def load_secret(path: Path, kind: str, passphrase: str | None) -> bytes:
    """Read what `save_secret` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: open to others, damaged, of another kind, or the passphrase is missing or wrong.
    """
    fields = _read(path)
    body: bytes = fields.pop("body")
    del fields["checksum"]
    if fields["kind"] != kind:
        raise StateError(f"{path} holds a {fields['kind'][:24]!r}, not a {kind!r}", "put the right file back")
    wrapping = fields["argon2id"]
    if wrapping is None:
        return body
    if passphrase is None:
        raise StateError(f"{path} is locked with a passphrase", f"set {PASSPHRASE_VARIABLE}")
    try:
        return ChaCha20Poly1305(_stretch(passphrase, wrapping)).decrypt(wrapping["nonce"], body, pack(fields))
    except InvalidTag:
        raise StateError(
            f"the passphrase does not open {path}",
            f"check {PASSPHRASE_VARIABLE}; it is the one given at init or join",
        ) from None


def protection_of(path: Path) -> Literal["passphrase", "file-mode"]:
    """How the secret in ``path`` is protected at rest. Raises as `load_secret`."""
    return "file-mode" if _read(path)["argon2id"] is None else "passphrase"


def _read(path: Path) -> dict[str, Any]:
    data = read_private(path, max_bytes=MAX_BYTES)
    try:
        fields = expect_map(
            unpack(data, max_bytes=MAX_BYTES),
            {"v": int, "kind": str, "argon2id": (dict, type(None)), "body": bytes, "checksum": bytes},
        )
        header = {name: fields[name] for name in ("v", "kind", "argon2id")}
        if not hmac.compare_digest(fields["checksum"], _checksum(header, fields["body"])):
            raise DecodeError("the checksum does not match")
        if fields["v"] != 1:
            raise DecodeError(f"version {fields['v']} of the format is not known here")
        if header["argon2id"] is not None:
            _check_wrapping(header["argon2id"])
    except DecodeError as error:
        raise StateError(f"{path} is damaged ({error.message})", "restore it from a backup") from None
    return fields


def _check_wrapping(value: Any) -> None:
    wrapping = expect_map(value, {"memory_kib": int, "passes": int, "lanes": int, "salt": bytes, "nonce": bytes})
    if len(wrapping["salt"]) != _SALT_BYTES or len(wrapping["nonce"]) != _NONCE_BYTES:
        raise DecodeError("the salt or nonce has the wrong length")
    lanes = wrapping["lanes"]
    if not (
        1 <= lanes <= 64 and 1 <= wrapping["passes"] <= 64 and 8 * lanes <= wrapping["memory_kib"] <= _MAX_MEMORY_KIB
    ):
        raise DecodeError("the Argon2id cost is out of range")


def _stretch(passphrase: str, wrapping: dict[str, Any]) -> bytes:
    if not passphrase:
        raise ConfigError("the passphrase is empty", f"choose one, or unset {PASSPHRASE_VARIABLE}")
    return Argon2id(
        salt=wrapping["salt"],
        length=32,
        iterations=wrapping["passes"],
        lanes=wrapping["lanes"],
        memory_cost=wrapping["memory_kib"],
    ).derive(passphrase.encode())


def _checksum(header: dict[str, Any], body: bytes) -> bytes:
    """Tells a damaged file from a wrong passphrase; it is no protection against an attacker."""
    return hashlib.sha256(pack(header) + body).digest()[:8]
