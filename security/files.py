"""Private files that survive a crash: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ..errors import StateError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_atomic(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace ``path`` by ``data`` so that a crash at any moment leaves the old or the new content.

    The folder must exist. When this returns, content and name are on the disk (both fsynced).

    Raises:
        StateError: the file cannot be written; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _os_failure("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_private(path: Path, *, max_bytes: int) -> bytes:
    """The content of a file that nobody but its owner may read or write.

    Raises:
        FileNotFoundError: there is no such file; what that means is the caller's to say.
        StateError: others may read it, someone else owns it, it is too large or unreadable.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"{path} is not a regular file", "move it away")
            _check_private(path, status, PRIVATE_FILE)
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _os_failure("read", path, error) from error
    if len(data) > max_bytes:
        raise StateError(f"{path} is larger than {max_bytes} bytes, so it is damaged", "restore it from a backup")
    return data


def make_private_folder(path: Path) -> None:
    """Create ``path`` with mode 0700; an empty folder that is there already is tightened to that.

    Raises:
        StateError: it cannot be made, or it has content and others may enter it.
    """
    try:
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        if _is_loose(path.stat().st_mode) and not any(path.iterdir()):
            path.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise _os_failure("create", path, error) from error
    check_private_folder(path)


def check_private_folder(path: Path) -> None:
    """Raise `StateError` unless ``path`` is a folder that only its owner may enter."""
    try:
        status = path.stat()
    except OSError as error:
        raise _os_failure("open", path, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StateError(f"{path} is not a folder", "choose another home folder")
    _check_private(path, status, PRIVATE_FOLDER)


def check_private_file(path: Path) -> None:
    """Raise `StateError` if others may read or write ``path``, for files that a library opens by name."""
    _check_private(path, path.stat(), PRIVATE_FILE)


def sync_folder(path: Path) -> None:
    """Make the names in ``path`` durable (fsync of the folder itself)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result, wanted: int) -> None:
    if _is_loose(status.st_mode):
        mode = stat.S_IMODE(status.st_mode)
        raise StateError(f"{path} is open to other users (mode {mode:04o})", f"run: chmod {wanted:o} '{path}'")
    if os.geteuid() not in (0, status.st_uid):
        raise StateError(f"{path} belongs to another user", "run meshlore as the user who made it")


def _is_loose(mode: int) -> bool:
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _os_failure(verb: str, path: Path, error: OSError) -> StateError:
    reason = error.strerror or type(error).__name__
    return StateError(f"cannot {verb} {path} ({reason})", "check the folder's owner, mode and free space")
