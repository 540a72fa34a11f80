"""Who a device is: an Ed25519 key (RFC 8032), which is its libp2p PeerID, and an HPKE key pair (RFC 9180).

The HPKE suite is the hybrid ML-KEM-768 + X25519 KEM, so what is recorded today stays sealed
against a later quantum computer. HPKE base mode does not say who sealed: signatures do that.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from ..errors import BadSignature, DecodeError, SecurityError, StateError
from .keyfile import load_secret, save_secret

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
HPKE_PUBLIC_KEY_BYTES = 1184 + 32
HPKE_OVERHEAD_BYTES = 1136

_SEED_BYTES = 32
_MLKEM_SEED_BYTES = 64
_SECRET_BYTES = _SEED_BYTES + _MLKEM_SEED_BYTES + _SEED_BYTES
_KIND = "meshlore identity"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

# An inlined Ed25519 key: identity multihash (0x00, length 0x24) of the protobuf {1: Ed25519, 2: 32 bytes}.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_PEER_ID_LENGTH = 52
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Identity:
    """The secret keys of one device. Two devices never share one: copying it duplicates the node."""

    def __init__(self, secret: bytes) -> None:
        """``secret``: Ed25519 seed (32 bytes), ML-KEM-768 seed (64), X25519 key (32)."""
        if len(secret) != _SECRET_BYTES:
            raise DecodeError(f"an identity is {_SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._signing_key = Ed25519PrivateKey.from_private_bytes(secret[:_SEED_BYTES])
        mlkem = MLKEM768PrivateKey.from_seed_bytes(secret[_SEED_BYTES : _SEED_BYTES + _MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(secret[-_SEED_BYTES:])
        self._hpke_key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public_key = self._signing_key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_key)
        self.hpke_public_key = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the system's random source."""
        return cls(secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> Identity:
        """Read an identity that `save` wrote.

        Raises:
            StateError: missing, damaged, open to others, or locked with another passphrase.
        """
        try:
            return cls(load_secret(path, _KIND, passphrase))
        except FileNotFoundError:
            raise StateError(f"{path} is missing", "run: meshlore init, or meshlore join") from None
        except DecodeError as error:
            raise StateError(f"{path} is damaged ({error.message})", "restore it from a backup") from None

    @classmethod
    def load_or_create(cls, path: Path, passphrase: str | None = None) -> Identity:
        """The identity at ``path``; a new one is made and saved there first if there is none."""
        if not path.exists():
            cls.generate().save(path, passphrase)
        return cls.load(path, passphrase)

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write the secret keys to ``path`` (0600, atomic; wrapped if there is a passphrase)."""
        save_secret(path, _KIND, self._secret, passphrase)

    @property
    def hpke_key_hash(self) -> bytes:
        """The SHA-256 (32 bytes) of the HPKE public key, as certificates name it."""
        return hashlib.sha256(self.hpke_public_key).digest()

    @property
    def private_key_bytes(self) -> bytes:
        """The Ed25519 seed (32 bytes), for libp2p's key pair."""
        return self._secret[:_SEED_BYTES]

    def sign(self, domain: str, message: bytes) -> bytes:
        """An Ed25519 signature (64 bytes) that is valid for this ``domain`` only."""
        return self._signing_key.sign(_framed(domain, message))

    def decrypt(self, ciphertext: bytes, info: bytes) -> bytes:
        """Open what `encrypt_to` sealed to this identity's HPKE key with the same ``info``.

        Raises:
            SecurityError: sealed to another key, with other ``info``, or altered.
        """
        try:
            return _SUITE.decrypt(ciphertext, self._hpke_key, info)
        except (InvalidTag, ValueError):
            raise SecurityError("the sealed bytes are not for this device, or were altered") from None


def sign_with_seed(seed: bytes, domain: str, message: bytes) -> bytes:
    """Sign as `Identity.sign` does, with the Ed25519 key of a 32-byte ``seed``."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(_framed(domain, message))


def public_key_of_seed(seed: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) of a 32-byte ``seed``."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> None:
    """Raise `BadSignature` unless ``signature`` is that of ``message`` in ``domain`` by ``public_key``."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _framed(domain, message))
    except (InvalidSignature, ValueError):
        raise BadSignature(f"the signature of the {domain} is not valid") from None


def verify_any(public_keys: Iterable[bytes], domain: str, message: bytes, signature: bytes) -> None:
    """Raise `BadSignature` unless one of the holders of ``public_keys`` signed."""
    for public_key in public_keys:
        try:
            return verify(public_key, domain, message, signature)
        except BadSignature:
            continue
    raise BadSignature(f"the signature of the {domain} is not valid")


def encrypt_to(hpke_public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal ``plaintext`` to the holder of an HPKE key (RFC 9180 base mode; adds 1136 bytes).

    Raises:
        DecodeError: ``hpke_public_key`` is not one.
    """
    check_hpke_public_key(hpke_public_key)
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(hpke_public_key[:-PUBLIC_KEY_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(hpke_public_key[-PUBLIC_KEY_BYTES:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(mlkem, x25519), info)
    except ValueError:
        raise DecodeError("the HPKE public key is not valid") from None


def check_hpke_public_key(hpke_public_key: bytes) -> None:
    """Raise `DecodeError` unless the key has the right length."""
    if len(hpke_public_key) != HPKE_PUBLIC_KEY_BYTES:
        raise DecodeError(f"an HPKE public key is {HPKE_PUBLIC_KEY_BYTES} bytes, not {len(hpke_public_key)}")


def peer_id_of(public_key: bytes) -> str:
    """The libp2p PeerID (base58btc, ``12D3Koo...``) of an Ed25519 public key.

    Raises:
        DecodeError: the key is not 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise DecodeError(f"an Ed25519 public key is {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    data = _PEER_ID_PREFIX + public_key
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" + digits  # base58 writes the one leading zero byte as "1"


def public_key_of(peer_id: str) -> bytes:
    """The Ed25519 public key (32 bytes) inlined in a PeerID.

    Raises:
        DecodeError: it is not the PeerID of an Ed25519 key.
    """
    if len(peer_id) != _PEER_ID_LENGTH or not set(peer_id) <= set(_BASE58):
        raise DecodeError(f"{peer_id[:64]!r} is not an Ed25519 peer id")
    number = 0
    for digit in peer_id:
        number = number * 58 + _BASE58.index(digit)
    length = len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES
    if number >= 256**length:
        raise DecodeError(f"{peer_id!r} is not an Ed25519 peer id")
    public_key = number.to_bytes(length, "big")[len(_PEER_ID_PREFIX) :]
    if peer_id_of(public_key) != peer_id:
        raise DecodeError(f"{peer_id!r} is not an Ed25519 peer id")
    return public_key


def _framed(domain: str, message: bytes) -> bytes:
    """Prefix that no other protocol (Noise in libp2p signs with this key too) and no other domain shares."""
    name = domain.encode()
    return b"meshlore-signature-v1\x00" + bytes([len(name)]) + name + message
