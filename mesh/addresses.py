"""The address book: where members were last reached, kept across restarts in one small JSON file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from ..security.files import write_atomic
from .messages import MAX_ADDRESS_LENGTH, MAX_ADDRESSES, peer_id_in

log = logging.getLogger("meshlore.mesh")

MAX_BOOK_BYTES = 1 << 20
Book = Mapping[str, tuple[str, ...]]


def load_book(path: Path) -> Book:
    """Peer id to addresses. A missing book is empty; so is a damaged one, with a warning: nothing is lost."""
    try:
        if path.stat().st_size > MAX_BOOK_BYTES:
            raise ValueError("too large")
        entries = json.loads(path.read_bytes())
        return {str(peer_id): _checked(peer_id, addresses) for peer_id, addresses in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("the address book %s is unusable (%s); starting without it", path, str(error)[:80])
        return {}


def save_book(path: Path, book: Book) -> None:
    """Atomic. Raises StateError when the file cannot be written."""
    write_atomic(path, json.dumps(book, indent=1, sort_keys=True).encode())


def _checked(peer_id: str, addresses: list[str]) -> tuple[str, ...]:
    if len(addresses) > MAX_ADDRESSES or any(len(address) > MAX_ADDRESS_LENGTH for address in addresses):
        raise ValueError("too many or too long addresses")
    if any(peer_id_in(address) != peer_id for address in addresses):
        raise ValueError("an address of another peer")
    return tuple(addresses)
