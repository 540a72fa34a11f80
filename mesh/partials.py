"""Beginnings of blobs whose transfer was cut, kept until it goes on, with the same holder or another.

A blob is named by its content, so a beginning fits whoever has the rest; a wrong one shows in the hash at the
end and is thrown away. What fits into one piece is not kept: there would be nothing to go on with.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from ..errors import DecodeError, PeerGone

log = logging.getLogger("meshlore.mesh")

PIECE_BYTES = 256 << 10
MAX_PARTIALS = 16
MAX_AGE_S = 24 * 3600.0


class Partials:
    """All beginnings of one node: files in ``folder``, or in memory if that is None. At most `MAX_PARTIALS`.

    Several threads may use it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._in_memory: dict[str, bytearray] = {}
        self._opening = threading.Lock()

    def open(self, name: str) -> Partial:
        """The beginning of this blob, empty if there is none. Reads a disk: call it on a worker thread."""
        with self._opening:
            return self._open(name)

    def _open(self, name: str) -> Partial:
        if self._folder is None:
            self._trim_memory(name)
            return Partial(self._in_memory.setdefault(name, bytearray()))
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _trim(self._folder, name)
            return Partial(bytearray(path.read_bytes()), path)
        except FileNotFoundError:
            return Partial(path=path)
        except OSError as error:
            log.warning("the beginning of a transfer is not used: %s", error)
            return Partial()

    def _trim_memory(self, wanted: str) -> None:
        for name in [name for name in self._in_memory if name != wanted][: -MAX_PARTIALS + 1]:
            del self._in_memory[name]


class Partial:
    """What is here of one blob. One transfer at a time uses it."""

    def __init__(self, data: bytearray | None = None, path: Path | None = None) -> None:
        self.data = bytearray() if data is None else data
        self._path = path

    def append(self, piece: bytes | bytearray) -> None:
        """Keep the next piece. A disk that takes no more costs the resumption, not the transfer. Blocks."""
        self.data += piece
        if self._path is None:
            return
        try:
            with open(self._path, "ab", opener=_private) as file:
                file.write(piece)
        except OSError as error:
            log.warning("a transfer could not be resumed if it were cut: %s", error)
            self._forget_file()

    def discard(self) -> None:
        """It is complete, or wrong."""
        self.data.clear()
        self._forget_file()

    def _forget_file(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)


def _trim(folder: Path, wanted: str) -> None:
    """Make room for one more: the oldest go."""
    now = time.time()
    ages = {path: age for path in folder.iterdir() if path.name != wanted and (age := _age_s(path, now)) is not None}
    newest_first = sorted(ages, key=lambda path: ages[path])
    for number, path in enumerate(newest_first):
        if number >= MAX_PARTIALS - 1 or ages[path] > MAX_AGE_S:
            path.unlink(missing_ok=True)


def _age_s(path: Path, now: float) -> float | None:
    """None if it has gone meanwhile: its transfer was completed."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return None


def check_name(name: str, digest: str, begun: int) -> None:
    """Raise `DecodeError` unless the hash is the name; `PeerGone` if it may be the first ``begun`` bytes, which
    may have come from somebody else."""
    if digest != name and begun:
        raise PeerGone(f"what was here of {name[:12]}… was not right", "it is pulled anew")
    if digest != name:
        raise DecodeError(f"the blob is not the one it is named after ({name[:12]}…)")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
