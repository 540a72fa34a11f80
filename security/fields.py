"""What single fields of security messages may hold; each check raises `DecodeError` that names the field."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ..errors import DecodeError

ROLES = frozenset({"node", "anchor", "requester"})
MAX_NAME_BYTES = 40
MAX_TIME = 2**40
MAX_EPOCH = 2**31 - 1
MAX_SEQ = 2**63 - 1


def check_version(version: int) -> None:
    if version != 1:
        raise DecodeError(f"version {version} of the format is not known here", "update meshlore")


def check_length(field: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise DecodeError(f"{field} is {len(value)} bytes, not {length}")


def check_range(field: str, value: int, limit: int) -> None:
    if not 0 <= value <= limit:
        raise DecodeError(f"{field} is out of range")


def check_name(name: str) -> None:
    """Names are shown in terminals and logs, so they hold no control, format or separator characters."""
    if not 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise DecodeError(f"a name has 1 to {MAX_NAME_BYTES} bytes")
    if name != name.strip() or any(unicodedata.category(letter)[0] in "CZ" and letter != " " for letter in name):
        raise DecodeError("a name has only printable characters and no space at its ends")


def roles_to_list(roles: Iterable[str]) -> list[str]:
    """The canonical form of a set of roles: sorted, known, at least one."""
    ordered = sorted(set(roles))
    if not ordered or not set(ordered) <= ROLES:
        raise DecodeError(f"roles {ordered} are not a choice of {sorted(ROLES)}"[:160])
    return ordered


def roles_from_list(values: list[object]) -> frozenset[str]:
    """The inverse of `roles_to_list`; any other order or a repeat is refused."""
    names = [value for value in values if isinstance(value, str)]
    if len(names) != len(values) or len(names) > len(ROLES) or roles_to_list(names) != names:
        raise DecodeError("the roles are malformed")
    return frozenset(names)


def mesh_id_to_bytes(mesh_id: str) -> bytes:
    try:
        data = bytes.fromhex(mesh_id)
    except ValueError:
        data = b""
    if len(data) != 32 or data.hex() != mesh_id:
        raise DecodeError("a mesh id has 64 lower-case hex digits")
    return data


def duration_text(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
