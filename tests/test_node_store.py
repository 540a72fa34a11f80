"""What is on disk: the journal is the truth, a crash leaves the state before or after a step, never between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import pack, unpack
from meshlore.errors import StateError
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import load_npz
from meshlore.knowledge.space import Space
from meshlore.node.store import HomeLock, Journal, PacketStore, StateStore, keep_private, private_additions
from meshlore.security.sealing import name_of

TENSORS = {"weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).t()}
JOURNAL = Journal(
    sequence=7,
    version=2,
    classifier="",
    published="a" * 64,
    taught_by=("b" * 64, "c" * 64),
    refined=1,
    logits_due=True,
    generator_taught_by=("b" * 64,),
    standing={"peer": 0.5},
)


def child(program: str, *arguments: str) -> subprocess.Popen:
    """A real Python process whose standard output the test reads."""
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def checkpoints(home: Path) -> set[str]:
    return {path.name for path in (home / "state").iterdir()} - {"journal.bin"}


def test_a_new_home_has_an_empty_journal(tmp_path):
    assert StateStore(tmp_path).journal == Journal()


def test_the_journal_is_read_again_as_it_was_written(tmp_path):
    changes = {name: getattr(JOURNAL, name) for name in Journal.__dataclass_fields__}
    assert StateStore(tmp_path).update(**changes) == JOURNAL
    assert StateStore(tmp_path).journal == JOURNAL
    assert (tmp_path / "state" / "journal.bin").stat().st_mode & 0o777 == 0o600


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path):
    state = StateStore(tmp_path)
    name = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=name)
    again = StateStore(tmp_path).load_checkpoint(name)
    assert torch.equal(again["weight"], TENSORS["weight"])


def test_a_crash_between_checkpoint_and_journal_leaves_the_old_state(tmp_path):
    state = StateStore(tmp_path)
    old = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=old, version=1)
    orphan = state.save_checkpoint("classifier", {"weight": torch.zeros(1)})
    assert checkpoints(tmp_path) == {old, orphan}
    again = StateStore(tmp_path)  # the process died before it wrote the journal
    assert (again.journal.classifier, again.journal.version) == (old, 1)
    assert checkpoints(tmp_path) == {old}, "what nothing names is swept"
    assert torch.equal(again.load_checkpoint(old)["weight"], TENSORS["weight"])


def test_a_crash_between_journal_and_deletion_leaves_the_new_state(tmp_path, monkeypatch):
    state = StateStore(tmp_path)
    state.update(classifier=state.save_checkpoint("classifier", TENSORS))
    new = state.save_checkpoint("classifier", {"weight": torch.ones(1)})
    monkeypatch.setattr(Path, "unlink", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        state.update(classifier=new)
    monkeypatch.undo()
    assert StateStore(tmp_path).journal.classifier == new
    assert checkpoints(tmp_path) == {new}


def test_a_crash_in_the_middle_of_writing_the_journal_leaves_the_old_one(tmp_path, monkeypatch):
    state = StateStore(tmp_path)
    state.update(sequence=3)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StateError, match="No space left"):
        state.next_sequence()
    monkeypatch.undo()
    assert state.journal.sequence == 3
    (tmp_path / "state" / ".journal.bin.abc.tmp").write_bytes(b"half")
    assert StateStore(tmp_path).next_sequence() == 4
    assert checkpoints(tmp_path) == set()


def test_a_replaced_checkpoint_is_deleted_unless_it_is_kept_as_the_one_before(tmp_path):
    state = StateStore(tmp_path)
    first = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=first, classifier_before=first)
    second = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=second)
    third = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=third)
    assert checkpoints(tmp_path) == {first, third}
    assert len({first, second, third}) == 3


def test_sequence_numbers_count_up_over_restarts(tmp_path):
    numbers = [StateStore(tmp_path).next_sequence() for _ in range(5)]
    assert numbers == [1, 2, 3, 4, 5]


def test_a_sequence_number_is_never_given_out_twice_whenever_the_process_is_killed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from meshlore.node.store import StateStore\n"
        "state = StateStore(Path(sys.argv[1]))\n"
        "while True: print(state.next_sequence(), flush=True)"
    )
    given_out: list[int] = []
    for enough in (1, 30, 60):
        process = child(program, str(tmp_path))
        assert process.stdout is not None
        got = [int(process.stdout.readline()) for _ in range(enough)]
        process.kill()  # SIGKILL, somewhere inside write, fsync or rename
        rest = process.communicate(timeout=10)[0]
        got += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        given_out += got
    given_out.append(StateStore(tmp_path).next_sequence())
    assert given_out == sorted(set(given_out)), "strictly rising, over three kills"
    assert len(given_out) > 91


@pytest.mark.parametrize(
    "damaged", [b"", b"\x00", b"not msgpack", pack({"sequence": "1"}), pack({"unknown": 1}), pack([1, 2])]
)
def test_a_damaged_journal_is_refused_and_left_alone(tmp_path, damaged):
    path = tmp_path / "state" / "journal.bin"
    path.parent.mkdir()
    path.write_bytes(damaged)
    with pytest.raises(StateError, match=r"journal\.bin"):
        StateStore(tmp_path)
    assert path.read_bytes() == damaged


wrong_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(0, 1)
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
wrong_values |= st.lists(wrong_values, max_size=2) | st.dictionaries(st.text(max_size=2), wrong_values, max_size=2)


@settings(deadline=None)
@given(name=st.sampled_from(sorted(Journal.__dataclass_fields__)), value=wrong_values)
def test_a_journal_with_any_value_of_the_wrong_kind_is_refused(tmp_path_factory, name, value):
    home = tmp_path_factory.mktemp("home")
    path = home / "state" / "journal.bin"
    StateStore(home).update(**{field: getattr(JOURNAL, field) for field in Journal.__dataclass_fields__})
    fields = unpack(path.read_bytes(), max_bytes=10_000)
    same_kind = isinstance(value, type(fields[name])) and type(value) is type(fields[name])
    path.write_bytes(pack(fields | {name: value}))
    try:
        journal = StateStore(home).journal
    except StateError:
        return
    assert same_kind, f"{name} = {value!r} was taken for a {type(fields[name]).__name__}"
    if isinstance(value, list):
        assert all(type(item) is str for item in getattr(journal, name))
    if isinstance(value, dict):
        assert all(type(item) is float for item in journal.standing.values())


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_checkpoint_is_refused_with_its_path(tmp_path, damage):
    state = StateStore(tmp_path)
    name = state.save_checkpoint("classifier", TENSORS)
    state.update(classifier=name)
    path = tmp_path / "state" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] if damage == "cut" else b"\xff" * 100)
    with pytest.raises(StateError, match=name):
        state.load_checkpoint(name)


def test_a_home_in_use_is_refused_with_the_pid_and_free_after_kill_9(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from meshlore.node.store import HomeLock\n"
        "lock = HomeLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    process = child(program, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        with pytest.raises(StateError, match=rf"\(pid {process.pid}\)"):
            HomeLock(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    HomeLock(tmp_path).release()


def test_a_released_home_can_be_locked_again(tmp_path):
    lock = HomeLock(tmp_path)
    with pytest.raises(StateError, match=rf"\(pid {os.getpid()}\)"):
        HomeLock(tmp_path)
    lock.release()
    HomeLock(tmp_path).release()


def test_packets_are_there_again_after_a_restart_and_leftovers_are_swept(tmp_path):
    packets = PacketStore(tmp_path)
    name = name_of(b"sealed")
    packets.put(name, b"sealed")
    (tmp_path / "packets" / f".{name}.abc.tmp").write_bytes(b"sea")
    (tmp_path / "packets" / "README").write_text("not a packet")
    again = PacketStore(tmp_path)
    assert again.inventory() == {name: 6}
    assert again.read(name) == b"sealed"
    assert {path.name for path in (tmp_path / "packets").iterdir()} == {name, "README"}
    again.drop(name)
    assert again.inventory() == {}
    with pytest.raises(KeyError):
        again.read(name)


def test_private_additions_are_kept_once_each(tmp_path):
    space = Space((1, 8, 8), ("a", "b"), levels=17)

    def addition(level: int) -> Dataset:
        return Dataset(space, np.full((2, 1, 8, 8), level, np.uint8), np.array([0, 1]))

    for level in (1, 2, 2, 3, 1):
        keep_private(tmp_path, addition(level))
    assert sorted(int(load_npz(path).images[0, 0, 0, 0]) for path in private_additions(tmp_path)) == [1, 2, 3]
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700


def test_a_journal_of_an_older_version_is_taken_up(tmp_path):
    path = tmp_path / "state" / "journal.bin"
    path.parent.mkdir()
    path.write_bytes(pack({"sequence": 7}))
    assert StateStore(tmp_path).journal == Journal(sequence=7)


def test_the_inventory_is_one_map_until_it_changes(tmp_path):
    packets = PacketStore(tmp_path)
    empty = packets.inventory()
    assert packets.inventory() is empty
    packets.put("a" * 64, b"packet")
    held = packets.inventory()
    assert (dict(empty), dict(held)) == ({}, {"a" * 64: 6})
    packets.drop("b" * 64)
    assert packets.inventory() is held
    packets.give_up("a" * 64)
    assert dict(packets.inventory()) == {}
