"""Invites: a one-line code that lets one new device into a mesh, once and for 15 minutes.

The code carries a 128-bit secret from which joiner and host derive an Ed25519 key pair. The joiner
signs its request with it, so the secret never travels; the host's book keeps only the SHA-256 of the
public key, so who steals the book can join nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, InviteError, StateError
from .fields import (
    MAX_TIME,
    check_length,
    check_range,
    check_version,
    duration_text,
    mesh_id_to_bytes,
    roles_from_list,
    roles_to_list,
)
from .files import PRIVATE_FILE, check_private_file
from .identity import public_key_of, public_key_of_seed

PREFIX = "meshlore-invite1-"
DEFAULT_LIFETIME_S = 900
MAX_LIFETIME_S = 86_400
MAX_ADDRESSES = 8
MAX_ADDRESS_LENGTH = 256
MAX_CODE_LENGTH = 4096

_SECRET_BYTES = 16
_CHECKSUM_BYTES = 4
_KEEP_SPENT_S = 7 * 86_400
_SCHEMA = """CREATE TABLE IF NOT EXISTS invites (
    secret_hash BLOB PRIMARY KEY, roles TEXT NOT NULL, expires_at INTEGER NOT NULL, used_at INTEGER
) WITHOUT ROWID"""


@dataclass(frozen=True)
class Invite:
    """What an invite code says. ``addresses`` are multiaddrs that end in ``/p2p/<peer id of the host>``."""

    mesh_id: str
    addresses: tuple[str, ...]
    secret: bytes = field(repr=False)
    roles: frozenset[str]
    expires_at: int

    @property
    def signing_seed(self) -> bytes:
        """The Ed25519 seed (32 bytes) that the secret stands for in this mesh."""
        salt = mesh_id_to_bytes(self.mesh_id)
        return HKDF(SHA256(), length=32, salt=salt, info=b"meshlore/v1/invite").derive(self.secret)

    @property
    def secret_hash(self) -> bytes:
        """What the host's book knows the invite by (32 bytes)."""
        return secret_hash_of(public_key_of_seed(self.signing_seed))

    def code(self) -> str:
        """The single line to hand to the new device; whoever has it can join in its place."""
        payload = pack(
            {
                "v": 1,
                "mesh_id": mesh_id_to_bytes(self.mesh_id),
                "addresses": list(self.addresses),
                "secret": self.secret,
                "roles": roles_to_list(self.roles),
                "expires_at": self.expires_at,
            }
        )
        return PREFIX + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite code; blanks and line breaks that copying put into it do not matter.

        Raises:
            InviteError: it is not an invite code, or it was cut or altered.
        """
        line = "".join(text[: 2 * MAX_CODE_LENGTH].split())
        if not line.startswith(PREFIX):
            raise InviteError(
                f"this is not an invite code (it does not begin with {PREFIX})",
                "copy the line that meshlore invite prints",
            )
        try:
            return cls._from_payload(_decode_base64(line.removeprefix(PREFIX)))
        except DecodeError as error:
            raise InviteError(
                f"the invite code is damaged ({error.message})",
                error.remedy or "copy the whole line that meshlore invite prints",
            ) from None

    @classmethod
    def _from_payload(cls, data: bytes) -> Invite:
        payload, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if not hmac.compare_digest(checksum, _checksum(payload)):
            raise DecodeError("the checksum does not match")
        fields = expect_map(
            unpack(payload, max_bytes=MAX_CODE_LENGTH, max_items=16),
            {
                "v": int,
                "mesh_id": bytes,
                "addresses": list,
                "secret": bytes,
                "roles": list,
                "expires_at": int,
            },
        )
        check_version(fields["v"])
        check_length("mesh_id", fields["mesh_id"], 32)
        check_length("secret", fields["secret"], _SECRET_BYTES)
        check_range("expires_at", fields["expires_at"], MAX_TIME)
        return cls(
            mesh_id=fields["mesh_id"].hex(),
            addresses=_checked_addresses(fields["addresses"]),
            secret=fields["secret"],
            roles=roles_from_list(fields["roles"]),
            expires_at=fields["expires_at"],
        )

    def host_peer_ids(self) -> frozenset[str]:
        """The hosts that may answer."""
        return frozenset(host_of(address) for address in self.addresses)


class InviteBook:
    """The host's record of the invites that it gave out: a SQLite file that several processes may share.

    Each use is one committed transaction, so neither two processes nor a kill -9 can use one twice.
    """

    def __init__(self, path: Path, mesh_id: str) -> None:
        self._path = path
        self._mesh_id = mesh_id

    def create(
        self,
        addresses: Iterable[str],
        roles: Iterable[str],
        now: float,
        lifetime_s: float = DEFAULT_LIFETIME_S,
    ) -> Invite:
        """Note a new invite and return it.

        Args:
            addresses: of this host, 1 to 8 multiaddrs that end in ``/p2p/<peer id>``.
            roles: what the new member may be.
            now: unix seconds.

        Raises:
            InviteError: an address, a role or the lifetime (more than a day) is not usable.
            StateError: the book cannot be written.
        """
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise InviteError(f"an invite cannot live {lifetime_s:g} s", f"choose at most {MAX_LIFETIME_S} s")
        try:
            checked, role_list = _checked_addresses(list(addresses)), roles_to_list(roles)
        except DecodeError as error:
            raise InviteError(f"no invite can be made: {error.message}", "is the node running and listening?") from None
        invite = Invite(
            self._mesh_id,
            checked,
            secrets.token_bytes(_SECRET_BYTES),
            frozenset(role_list),
            int(now + lifetime_s),
        )
        with self._transaction() as book:
            book.execute("DELETE FROM invites WHERE expires_at < ?", (int(now) - _KEEP_SPENT_S,))
            book.execute(
                "INSERT INTO invites (secret_hash, roles, expires_at) VALUES (?, ?, ?)",
                (invite.secret_hash, ",".join(role_list), invite.expires_at),
            )
        return invite

    def redeem(self, secret_hash: bytes, now: float) -> frozenset[str]:
        """Use an invite up and return its roles; of several callers at once, one gets them.

        Raises:
            InviteError: unknown here, used before, or expired at ``now``.
            StateError: the book cannot be read or written.
        """
        with self._transaction() as book:
            row = book.execute(
                "SELECT roles, expires_at, used_at FROM invites WHERE secret_hash = ?", (secret_hash,)
            ).fetchone()
            if row is None:
                raise InviteError("the host does not know this invite", "ask for a new one: meshlore invite")
            roles, expires_at, used_at = row
            if used_at is not None:
                raise InviteError("the invite was used before", "ask for a new one: meshlore invite")
            if now > expires_at:
                age = duration_text(now - expires_at)
                raise InviteError(f"the invite expired {age} ago", "ask for a new one: meshlore invite")
            book.execute("UPDATE invites SET used_at = ? WHERE secret_hash = ?", (int(now), secret_hash))
            return roles_from_list(roles.split(","))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction on its own connection; durable once the block ended well."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
            check_private_file(self._path)
            with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as book:
                book.execute("PRAGMA synchronous = EXTRA")  # also fsyncs the folder: a use is never forgotten
                book.execute("BEGIN IMMEDIATE")
                try:
                    book.execute(_SCHEMA)
                    yield book
                except BaseException:
                    book.execute("ROLLBACK")
                    raise
                book.execute("COMMIT")
        except (OSError, sqlite3.Error, DecodeError) as error:
            raise StateError(
                f"the invite book {self._path} cannot be used ({error})",
                "check the folder's owner and free space; if the file is damaged, delete it and invite again",
            ) from error


def host_of(address: str) -> str:
    """The peer id at the end of a multiaddr ``.../p2p/<peer id>``.

    Raises:
        DecodeError: it has none, or is too long or not printable ASCII.
    """
    if not (address.startswith("/") and len(address) <= MAX_ADDRESS_LENGTH and address.isascii()):
        raise DecodeError(f"{address[:64]!r} is not a multiaddr")
    head, marker, peer_id = address.rpartition("/p2p/")
    if not (head and marker) or not head.isprintable() or " " in head:
        raise DecodeError(f"{address[:64]!r} does not name its peer (…/p2p/<peer id>)")
    public_key_of(peer_id)
    return peer_id


def secret_hash_of(invite_public_key: bytes) -> bytes:
    return hashlib.sha256(b"meshlore/v1/invite-book" + invite_public_key).digest()


def _checked_addresses(addresses: list[str]) -> tuple[str, ...]:
    if not 0 < len(addresses) <= MAX_ADDRESSES:
        raise DecodeError(f"an invite has 1 to {MAX_ADDRESSES} addresses, not {len(addresses)}")
    for address in addresses:
        if not isinstance(address, str):
            raise DecodeError("an address is not a text")
        host_of(address)
    return tuple(addresses)


def _decode_base64(text: str) -> bytes:
    if len(text) > MAX_CODE_LENGTH:
        raise DecodeError("it is too long")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("it has characters that do not belong there") from None
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise DecodeError("it is not written in the usual way")
    return data


def _checksum(payload: bytes) -> bytes:
    """Tells a code that was cut or mistyped; it is no protection against an attacker."""
    return hashlib.sha256(b"meshlore/v1/invite-code" + payload).digest()[:_CHECKSUM_BYTES]
