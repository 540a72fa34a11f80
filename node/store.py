"""What a node keeps on disk: its journal, its checkpoints, its packets. All writes are atomic.

    <home>/lock                     held while a daemon runs, with its pid
    <home>/state/journal.bin        how far the node has come (canonical msgpack)
    <home>/state/<kind>-<n>.safetensors    checkpoints that the journal names
    <home>/state/in-progress        what long work has come to (safetensors), while it is being done
    <home>/private/<digest>.npz     labelled samples that fine-tuning added to the private data
    <home>/packets/<sha256>         sealed packets, its own and others', named by their content
    <home>/packets/declined         names of packets that were given up, one a line
    <home>/skills/<sha256>          sealed skills that were made for this node (`meshlore.node.toolbox`)
    <home>/partials/<sha256>        beginnings of packets whose transfer was cut (`meshlore.mesh.partials`)

The journal is the only source of truth: checkpoints are written first, then the journal that names
them replaces the old one in a single rename, then what nothing names is deleted. A kill -9 at any
moment leaves the state before or after a step, never between.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, StateError
from ..security.files import make_private_folder, write_atomic

if TYPE_CHECKING:
    import torch

    from ..knowledge.data import Dataset

MAX_JOURNAL_BYTES = 16 * 1024 * 1024
DEFAULT_QUOTA_BYTES = 512 << 20
MAX_DECLINED = 8192
NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Journal:
    """How far a node has come.

    Attributes:
        sequence: the last sequence number given out; a number is on disk before it is used.
        version: counts changes of the classifier; 0: not trained yet.
        classifier, generator, expert, public: checkpoint files in ``state/`` (see `Skills`); ``*_before``: as they were
            before the mesh taught them.
        published: name of the node's own sample packet.
        taught_by, refined, logits_due, generator_taught_by: see `meshlore.node.plan.Situation`.
        heard: authors of answers that were new in the last lesson of new samples, or in the refinements since.
        learned_from, generator_learned_from: authors of whom the models bear something by now.
        classify, generate: measured quality per class, in percent, one byte each (`Competence`).
        trust: weight 0..1 of each author in the last weighing.
        added: names of the classes that the mesh was not founded with, in the order of their labels.
        standing: reputation factor 0..1 per author, lowered when what an author taught was rolled back.
    """

    sequence: int = 0
    version: int = 0
    classifier: str = ""
    classifier_before: str = ""
    generator: str = ""
    generator_before: str = ""
    expert: str = ""
    public: str = ""
    published: str = ""
    taught_by: tuple[str, ...] = ()
    refined: int = 0
    heard: tuple[str, ...] = ()
    logits_due: bool = False
    generator_taught_by: tuple[str, ...] = ()
    learned_from: tuple[str, ...] = ()
    generator_learned_from: tuple[str, ...] = ()
    classify: bytes = b""
    generate: bytes = b""
    added: tuple[str, ...] = ()
    standing: Mapping[str, float] = field(default_factory=dict)
    trust: Mapping[str, float] = field(default_factory=dict)


class HomeLock:
    """One daemon per home: an advisory lock that the kernel frees when the process dies.

    Raises:
        StateError: another daemon runs in this home.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise StateError(
                f"a daemon runs in {home} already (pid {owner})", "stop it first, or give another --home"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()


class StateStore:
    """Journal and checkpoints of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folder = home / "state"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journal = self._read()
        self._sweep()

    @property
    def in_progress(self) -> Path:
        """The file of work in progress (`meshlore.node.checkpoints.FileCheckpoint`)."""
        return self._folder / "in-progress"

    def update(self, **changes: Any) -> Journal:
        """Replace fields of the journal, durably.

        Raises:
            StateError: the disk is full or not writable; the old journal stays.
        """
        old, journal = self.journal, replace(self.journal, **changes)
        write_atomic(self._folder / "journal.bin", pack(asdict(journal)))
        self.journal = journal
        for name in _checkpoints(old) - _checkpoints(journal):
            (self._folder / name).unlink(missing_ok=True)
        return journal

    def next_sequence(self, above: int = 0) -> int:
        """A sequence number that was never given out before, on disk before it is returned.

        ``above`` is the highest known from elsewhere: own packets outlive a journal that was deleted.
        """
        return self.update(sequence=max(self.journal.sequence, above) + 1).sequence

    def save_checkpoint(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> str:
        """Write tensors as a new file and return its name, for the journal to name."""
        from safetensors.torch import save

        numbers = [int(path.stem.rsplit("-", 1)[1]) for path in self._folder.glob(f"{kind}-*.safetensors")]
        name = f"{kind}-{max(numbers, default=0) + 1}.safetensors"
        write_atomic(self._folder / name, save({key: value.contiguous() for key, value in tensors.items()}))
        return name

    def load_checkpoint(self, name: str) -> dict[str, torch.Tensor]:
        """Raises StateError when the file is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors: dict[str, torch.Tensor] = load((self._folder / name).read_bytes())
            return tensors
        except (OSError, SafetensorError) as error:
            raise StateError(
                f"the checkpoint {self._folder / name} cannot be read ({error})",
                "delete the state folder to start learning anew; identity and packets stay",
            ) from None

    def _read(self) -> Journal:
        path = self._folder / "journal.bin"
        try:
            value = unpack(path.read_bytes(), max_bytes=MAX_JOURNAL_BYTES, max_items=1_000_000)
        except FileNotFoundError:
            return Journal()
        except (OSError, DecodeError) as error:
            raise StateError(
                f"{path} cannot be read ({error})", "restore it; a lost journal may reuse sequence numbers"
            ) from None
        try:
            return _journal_of(value)
        except DecodeError as error:
            raise StateError(
                f"{path} is damaged or of another version ({error})", "run the meshlore that wrote it, or restore it"
            ) from None

    def _sweep(self) -> None:
        """Delete what a crash left between a checkpoint and the journal that would have named it."""
        for path in (*self._folder.glob("*.safetensors"), *self._folder.glob(".*.tmp")):
            if path.name not in _checkpoints(self.journal):
                path.unlink(missing_ok=True)


def _as_packed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _journal_of(value: Any) -> Journal:
    """Raises DecodeError when a field is missing, unknown or of the wrong kind."""
    kinds = {name: list if kind is tuple else kind for name, kind in _JOURNAL_KINDS.items()}
    # a journal of an older version lacks what came later; what it has and we do not know is refused
    missing = asdict(Journal()) if isinstance(value, dict) else {}
    read = expect_map({**_as_packed(missing), **value} if isinstance(value, dict) else value, kinds)
    for name, kind in _JOURNAL_KINDS.items():
        if kind is int and read[name] < 0:
            raise DecodeError(f"field {name!r} is negative")
        if kind is tuple:
            read[name] = tuple(read[name])
            if not all(type(item) is str for item in read[name]):
                raise DecodeError(f"field {name!r} holds something else than names")
    for name in ("standing", "trust"):
        if not all(type(factor) is float for factor in read[name].values()):
            raise DecodeError(f"field {name!r} holds something else than factors")
    return Journal(**read)


_JOURNAL_KINDS: dict[str, type] = {item.name: type(getattr(Journal(), item.name)) for item in fields(Journal)}


def _checkpoints(journal: Journal) -> set[str]:
    classifiers = {journal.classifier, journal.classifier_before, journal.expert, journal.public}
    return (classifiers | {journal.generator, journal.generator_before}) - {""}


def keep_private(home: Path, data: Dataset) -> None:
    """Add labelled samples to the private data of this home, durably; the same samples once only."""
    from ..knowledge.sources import save_npz

    folder = home / "private"
    make_private_folder(folder)
    digest = hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest()
    save_npz(folder / f"{digest[:32]}.npz", data)


def private_additions(home: Path) -> list[Path]:
    """Files of samples that `keep_private` added."""
    return sorted((home / "private").glob("*.npz"))


class PacketStore:
    """Sealed packets as files named by the SHA-256 of their bytes.

    Names that were given up (replaced by something newer, or over the quota) are noted, so that no neighbour's copy
    is transferred again.
    """

    def __init__(self, home: Path, quota_bytes: int = DEFAULT_QUOTA_BYTES, *, folder: str = "packets") -> None:
        self.quota_bytes = quota_bytes
        self._folder = home / folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self._folder.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        held = [path for path in self._folder.iterdir() if NAME.fullmatch(path.name)]
        # in the order of their arrival: whose samples came later may have copied them
        held.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        self._sizes = {path.name: path.stat().st_size for path in held}
        self._inventory: Mapping[str, int] | None = None
        self._changing = threading.Lock()
        self._declined_file = self._folder / "declined"
        self._declined = self._read_declined()

    def inventory(self) -> Mapping[str, int]:
        """Name and size in bytes of every packet held, in the order of their arrival; the same map until it changes."""
        with self._changing:
            if self._inventory is None:
                self._inventory = dict(self._sizes)
            return self._inventory

    def read(self, name: str) -> bytes:
        """Raises KeyError when the packet is not held."""
        if name not in self._sizes:
            raise KeyError(name)
        return (self._folder / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        write_atomic(self._folder / name, data)
        with self._changing:
            self._sizes[name], self._inventory = len(data), None

    def drop(self, name: str) -> None:
        with self._changing:
            if self._sizes.pop(name, None) is not None:
                self._inventory = None
        (self._folder / name).unlink(missing_ok=True)

    def declines(self, name: str) -> bool:
        """It was given up and shall not come again."""
        return name in self._declined

    def give_up(self, name: str) -> None:
        """Drop a packet, if it is here, for good."""
        if name not in self._declined:
            self._declined[name] = None
            if len(self._declined) > 2 * MAX_DECLINED:
                self._declined = dict.fromkeys(list(self._declined)[-MAX_DECLINED:])
                write_atomic(self._declined_file, "".join(f"{known}\n" for known in self._declined).encode())
            else:
                # not synced: what a power cut takes from it is one packet transferred once more
                with open(self._declined_file, "a", encoding="ascii", opener=_private) as file:
                    file.write(f"{name}\n")
        self.drop(name)

    def _read_declined(self) -> dict[str, None]:
        try:
            lines = self._declined_file.read_text("ascii", errors="replace").split("\n")
        except FileNotFoundError:
            return {}
        return dict.fromkeys(line for line in lines if NAME.fullmatch(line))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
