"""The files of a member's home, and what each may hold.

Private files (0600 in a 0700 folder): ``identity.key``, ``mesh.key``, ``charter.bin``,
``member.cert``, with the founder only ``root.key`` (or ``signer.key``), and ``authority.bin`` as soon as there is
a word of the root after the founding. ``member.cert`` is written last: a home with it is complete.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BadSignature, DecodeError, StateError
from .authority import MAX_AUTHORITY_BYTES, Authority
from .certificates import MAX_CERTIFICATE_BYTES, MAX_CHARTER_BYTES, Certificate, Charter
from .files import read_private
from .root import MeshRoot

IDENTITY_FILE = "identity.key"
ROOT_FILE = "root.key"
KEYRING_FILE = "mesh.key"
CHARTER_FILE = "charter.bin"
CERTIFICATE_FILE = "member.cert"
AUTHORITY_FILE = "authority.bin"
NEXT_ROOT_FILE = "root.next.key"
SIGNER_FILE = "signer.key"


def check_home(home: Path, mesh_id: str) -> None:
    """Raise `StateError` if ``home`` belongs to another mesh; a new, empty or own one may be joined into."""
    if (home / CERTIFICATE_FILE).exists():
        present = read_certificate(home / CERTIFICATE_FILE).mesh_id
        if present != mesh_id:
            raise StateError(f"{home} belongs to another mesh ({present[:12]}…)", "choose another home folder")


def read_charter(path: Path) -> Charter:
    """Raises StateError, as all of these do: missing, damaged, or open to others."""
    try:
        return Charter.decode(read_private(path, max_bytes=MAX_CHARTER_BYTES))
    except FileNotFoundError:
        raise StateError(f"{path} is missing", "restore it from a backup, or join again") from None
    except (DecodeError, BadSignature) as error:
        raise StateError(f"{path} is damaged ({error.message})", "restore it from a backup, or join again") from None


def read_certificate(path: Path) -> Certificate:
    """This device's certificate; the clock is not judged here."""
    try:
        return Certificate.decode(read_private(path, max_bytes=MAX_CERTIFICATE_BYTES))
    except DecodeError as error:
        raise StateError(f"{path} is damaged ({error.message})", "join again with a new invite") from None


def read_authority(path: Path, charter: Charter) -> Authority:
    """What the root said since the founding; nothing if there is no such file."""
    try:
        return Authority.decode(read_private(path, max_bytes=MAX_AUTHORITY_BYTES), charter)
    except FileNotFoundError:
        return Authority()
    except (DecodeError, BadSignature) as error:
        raise StateError(f"{path} is damaged ({error.message})", "restore it, or join again") from None


def load_root(home: Path, charter: Charter, authority: Authority, passphrase: str | None) -> MeshRoot | None:
    """The key that issues, if it still may. A crash before the last step of `Credentials.save` is made good."""
    next_root = home / NEXT_ROOT_FILE
    if next_root.exists():
        if MeshRoot.load(next_root, passphrase).public_key == authority.root_key(charter):
            os.replace(next_root, home / ROOT_FILE)
        else:
            next_root.unlink()
    known = {charter.root_public_key, *(link.public_key for link in authority.links)}
    for path in (home / ROOT_FILE, home / SIGNER_FILE):
        if path.exists():
            key = MeshRoot.load(path, passphrase, mesh_id=charter.mesh_id)
            if key.public_key not in known:
                raise foreign(path, "is the root of another mesh")
            if key.public_key in authority.present_issuers(charter):
                return key
    return None


def foreign(path: Path, reason: str) -> StateError:
    """The error for files of two homes that were mixed."""
    return StateError(f"{path} {reason}", "the files of two homes were mixed: restore them, or join again")
