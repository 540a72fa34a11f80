"""Private files and the passphrase around secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from meshlore.errors import ConfigError, StateError
from meshlore.security.files import (
    check_private_folder,
    make_private_folder,
    read_private,
    write_atomic,
)
from meshlore.security.keyfile import load_secret, protection_of, save_secret

SECRET = b"a secret of the device"


def test_a_written_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert read_private(tmp_path / "file", max_bytes=7) == b"content"


def test_a_failed_write_keeps_the_old_content_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateError, match="No space left on device"):
        write_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_file_that_others_may_read_is_refused_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"content", mode=0o640)
    with pytest.raises(StateError, match=r"mode 0640.*run: chmod 600 '.*/file'"):
        read_private(tmp_path / "file", max_bytes=100)


def test_a_file_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"12345678")
    with pytest.raises(StateError, match="larger than 7 bytes"):
        read_private(tmp_path / "file", max_bytes=7)


def test_a_missing_file_is_the_callers_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "file", max_bytes=7)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Is a directory"):
        read_private(tmp_path, max_bytes=7)


def test_a_new_or_empty_folder_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    for name in ("empty", "a/b"):
        make_private_folder(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_loose_folder_with_content_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "holiday.jpg").touch()
    folder.chmod(0o755)
    with pytest.raises(StateError, match="run: chmod 700"):
        make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(StateError, match="not a folder"):
        check_private_folder(tmp_path / "file")


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_secret_comes_back(tmp_path: Path, passphrase: str | None) -> None:
    save_secret(tmp_path / "key", "test", SECRET, passphrase)
    assert load_secret(tmp_path / "key", "test", passphrase) == SECRET
    assert protection_of(tmp_path / "key") == ("passphrase" if passphrase else "file-mode")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_with_a_passphrase_the_secret_is_not_in_the_file(tmp_path: Path) -> None:
    save_secret(tmp_path / "key", "test", SECRET, "correct horse")
    assert SECRET not in (tmp_path / "key").read_bytes()


def test_a_wrong_or_missing_passphrase_is_told_apart(tmp_path: Path) -> None:
    save_secret(tmp_path / "key", "test", SECRET, "correct horse")
    with pytest.raises(StateError, match="passphrase does not open"):
        load_secret(tmp_path / "key", "test", "battery staple")
    with pytest.raises(StateError, match="locked with a passphrase: set MESHLORE_PASSPHRASE"):
        load_secret(tmp_path / "key", "test", None)


def test_an_empty_passphrase_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        save_secret(tmp_path / "key", "test", SECRET, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_every_damaged_byte_of_a_key_file_is_noticed(tmp_path: Path, passphrase: str | None) -> None:
    save_secret(tmp_path / "key", "test", SECRET, passphrase)
    data = (tmp_path / "key").read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        (tmp_path / "key").write_bytes(damaged)
        with pytest.raises(StateError, match="damaged"):
            load_secret(tmp_path / "key", "test", None)


def test_a_secret_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_secret(tmp_path / "key", "meshlore root", SECRET, None)
    with pytest.raises(StateError, match="holds a 'meshlore root', not a 'meshlore identity'"):
        load_secret(tmp_path / "key", "meshlore identity", None)
