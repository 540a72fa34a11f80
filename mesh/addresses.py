"""The address book: where members were last reached, kept across restarts in one small JSON file."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MeshloreError
from ..security.files import write_atomic
from .messages import peer_id_in
from .records import MAX_ADDRESSES

log = logging.getLogger("meshlore.mesh")

MAX_BOOK_BYTES = 1 << 20
MAX_MEMBERS = 512
KEPT_ADDRESSES = 4
Book = Mapping[str, tuple[str, ...]]


class AddressBook:
    """Where members were last reached; ``path`` None: not kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._book: Book = {}

    def load(self) -> Book:
        """What was kept, empty if there is nothing usable."""
        if self._path is not None:
            self._book = load_book(self._path)
        return self._book

    async def save(self, met: Book) -> None:
        """Write it if those met now change it, on a worker thread. Some kB at most; an error is one warning."""
        book = merged(self._book, met)
        if self._path is None or book == self._book:
            return
        try:
            await asyncio.to_thread(save_book, self._path, book)
        except MeshloreError as error:
            log.warning("the address book was not saved: %s", error)
        self._book = book


def load_book(path: Path) -> Book:
    """Peer id to addresses, without those that are not valid.

    A missing book is empty; so is a damaged one, with a warning: nothing is lost.
    """
    try:
        if path.stat().st_size > MAX_BOOK_BYTES:
            raise ValueError("too large")
        entries = json.loads(path.read_bytes())
        book = {peer_id: _valid(peer_id, addresses) for peer_id, addresses in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        log.warning("the address book %s is unusable (%s); starting without it", path, str(error)[:80])
        return {}
    usable = {peer_id: addresses for peer_id, addresses in book.items() if addresses}
    if len(usable) < len(book):
        log.warning("%d entries of the address book %s are unusable", len(book) - len(usable), path)
    return usable


def merged(book: Book, met: Book) -> Book:
    """The book with those met now, who stay when it is full: at most `MAX_MEMBERS` with `KEPT_ADDRESSES` each."""
    known = [*met.items(), *(entry for entry in book.items() if entry[0] not in met)][:MAX_MEMBERS]
    return {peer_id: tuple(addresses[:KEPT_ADDRESSES]) for peer_id, addresses in known}


def save_book(path: Path, book: Book) -> None:
    """Atomic. Raises StateError when the file cannot be written."""
    write_atomic(path, json.dumps(book, indent=1).encode())


def _valid(peer_id: str, addresses: Any) -> tuple[str, ...]:
    if type(addresses) is not list:
        return ()
    valid = [address for address in addresses if type(address) is str and peer_id_in(address) == peer_id]
    return tuple(valid[:MAX_ADDRESSES])
