"""What a node knows from packets: sealed on disk, opened and checked in memory.

Of each author the newest sample packet and the newest logits are kept, so that nobody can fill a device; when all
together are more than the store's quota, some are given up (`eviction`).
Entries are shown with the labels and columns of this node's own space; those with samples of classes that it
does not know yet are shown once it has grown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import DecodeError, NotAMember, Replayed, Revoked, SecurityError, StateError
from ..knowledge.cutting import SKILL
from ..knowledge.merging import aligned, unknown
from ..knowledge.packet import LogitPacket, SamplePacket, decode
from ..knowledge.space import Space
from ..mesh.messages import ANCHOR, TEACHERS
from ..security.membership import Credentials
from ..security.sealing import name_of, open_sealed
from .eviction import Held, to_evict
from .store import PacketStore

UNJUDGED = 0.5
"""How far the word of a member counts of whom nothing was learned yet."""
UNREADABLE = -1.0


@dataclass(frozen=True)
class Entry:
    """One opened packet. ``author`` is a PeerID, ``created_at`` unix seconds; ``by_anchor``: the mesh has made its
    author an anchor, which learns from all."""

    name: str
    author: str
    author_name: str
    seq: int
    created_at: float
    packet: SamplePacket | LogitPacket
    by_anchor: bool = False


@dataclass(frozen=True)
class SampleEntry(Entry):
    """One opened packet of samples."""

    packet: SamplePacket


@dataclass(frozen=True)
class _Shown:
    """The entries as they were shown at one version of the library, by name; see `Library`."""

    version: int
    samples: Mapping[str, Entry]
    answers: Mapping[str, Entry]
    of_others: tuple[Entry, ...]
    unknown_classes: tuple[str, ...]


class Library:
    """The packets of one node. `admit` may run on other threads than those that look.

    Attributes:
        weight_of: the weight 0..1 of an author, by which `eviction` decides.
    """

    def __init__(self, space: Space, credentials: Credentials, store: PacketStore) -> None:
        self._space = space
        self._credentials = credentials
        self._store = store
        self.weight_of: Callable[[str], float] = lambda _author: UNJUDGED
        self._entries: dict[str, Entry] = {}
        self._newest_of: dict[tuple[str, type], str] = {}
        self._aligned: dict[str, Entry] = {}
        self._version = 0
        self._shown = _Shown(-1, {}, {}, (), ())
        self._by_number: dict[tuple[str, int], str] = {}
        self._newest: dict[str, int] = {}
        self._admitting = threading.Lock()

    @property
    def space(self) -> Space:
        return self._space

    def renew(self, credentials: Credentials) -> None:
        """Judge by these from now on. What members sent that were revoked since is dropped."""
        self._credentials = credentials
        for entry in list(self._entries.values()):
            if self.is_revoked(entry.author):
                self._drop(entry.name)

    def is_revoked(self, author: str) -> bool:
        return self._credentials.authority.revoked_at(author) is not None

    def grow(self, space: Space) -> None:
        """Show entries in a space that has classes behind those known so far."""
        self._space, self._aligned = space, {}
        self._version += 1

    def unknown_classes(self) -> list[str]:
        """Names of classes of which somebody sent samples and that the space lacks, oldest packet first."""
        return list(self._look().unknown_classes)

    def load(self, now: float) -> list[str]:
        """Open what is on disk. Damaged files are removed; what cannot be opened now (a clock that is behind, an
        author whose certificate is over) stays unread. Both are named in the lines returned."""
        notes = []
        for name in self._store.inventory():
            try:
                self._remember(self._open(name, self._store.read(name), now))
            except DecodeError as error:
                self._store.drop(name)
                notes.append(f"dropped packet {name[:12]}: {error}")
            except (SecurityError, StateError) as error:
                notes.append(f"packet {name[:12]} is not used now: {error}")
        notes += [f"gave up packet {name[:12]}: the store is over its quota" for name in self._evict()]
        return notes

    def admit(self, name: str, data: bytes, now: float) -> Entry:
        """Check a packet, keep it, and return it opened.

        Raises:
            SecurityError: not from a member of this mesh, its author reused a sequence number, or has sent
                something newer of the kind already.
            DecodeError: malformed, or of another space.
            StateError: sealed under a newer mesh key than is here by now.
        """
        entry = self._open(name, data, now)
        with self._admitting:
            other = self._by_number.get((entry.author, entry.seq), name)
            if other != name:
                raise Replayed(f"{entry.author_name} signed two packets with the number {entry.seq}")
            newer = self._of(entry.author, type(entry.packet))
            if newer is not None and newer.seq > entry.seq:
                self._store.give_up(name)
                raise Replayed(f"packet {entry.seq} of {entry.author_name} is superseded by {newer.seq}")
            if name not in self._entries:
                self._store.put(name, data)
                self._remember(entry)
                self._evict()
            # by who renewed the credentials since it was opened, and may have looked before it was here
            if self.is_revoked(entry.author):
                self._drop(name)
                raise Revoked(f"{entry.author_name} was revoked meanwhile")
        return entry

    def samples(self) -> Mapping[str, Entry]:
        """Name -> entry: the newest sample packet of each author."""
        return self._look().samples

    def answers(self) -> Mapping[str, Entry]:
        """Name -> entry: the newest logits of each author, in the order of their making."""
        return self._look().answers

    def of_others(self) -> list[Entry]:
        """Others' newest samples, then their newest answers in the order of their making."""
        return list(self._look().of_others)

    def own_samples(self) -> Entry | None:
        """This node's newest sample packet."""
        return next((e for e in self.samples().values() if e.author == self._credentials.peer_id), None)

    def newest_number(self, author: str) -> int:
        """The highest sequence number seen of an author; 0: none."""
        return self._newest.get(author, 0)

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def _look(self) -> _Shown:
        """Everybody looks often, and seldom is there news."""
        # taken before the entries are: what comes during the look is seen by the next one
        version = self._version
        if self._shown.version != version:
            entries = list(self._entries.values())
            in_order = sorted(entries, key=lambda e: (e.created_at, e.name))
            introduced = [name for entry in in_order for name in unknown(entry.packet, self._space)]
            samples = {e.name: e for e in self._of_kind(SamplePacket, entries)}
            answers = {e.name: e for e in self._of_kind(LogitPacket, in_order)}
            me, known = self._credentials.peer_id, [*samples.values(), *answers.values()]
            of_others = tuple(entry for entry in known if entry.author != me)
            self._shown = _Shown(version, samples, answers, of_others, tuple(dict.fromkeys(introduced)))
        return self._shown

    def _of_kind(self, kind: type, entries: Iterable[Entry]) -> list[Entry]:
        chosen = [entry for entry in entries if isinstance(entry.packet, kind)]
        return [self._in_own_numbers(entry) for entry in chosen if not unknown(entry.packet, self._space)]

    def _in_own_numbers(self, entry: Entry) -> Entry:
        in_own_numbers = self._aligned  # of one space: another begins with another map
        known = in_own_numbers.get(entry.name)
        if known is None:
            known = in_own_numbers[entry.name] = replace(entry, packet=aligned(entry.packet, self._space))
        return known

    def _of(self, author: str, kind: type) -> Entry | None:
        return self._entries.get(self._newest_of.get((author, kind), ""))

    def _open(self, name: str, data: bytes, now: float) -> Entry:
        if name_of(data) != name:
            raise DecodeError(f"the bytes are not those of packet {name[:12]}")
        sealed = open_sealed(data, self._credentials, now)
        if not sealed.roles & TEACHERS:
            raise NotAMember(f"{sealed.author_name} is no node and no anchor, so it publishes nothing")
        packet = decode(sealed.body, self._space)
        if isinstance(packet, SamplePacket) and (packet.source == SKILL or packet.made_of):
            raise DecodeError("a skill is for who asked for it, and no publication")
        author, by_anchor = (sealed.author, sealed.author_name), ANCHOR in sealed.roles
        return Entry(name, *author, sealed.seq, sealed.created_at, packet, by_anchor)

    def _remember(self, entry: Entry) -> None:
        """Keep the newest of its author and kind; the numbers of those dropped stay known."""
        self._by_number[entry.author, entry.seq] = entry.name
        self._newest[entry.author] = max(entry.seq, self.newest_number(entry.author))
        known = self._of(entry.author, type(entry.packet))
        if known is not None and known.seq > entry.seq:
            self._store.give_up(entry.name)
            return
        self._entries[entry.name] = entry
        self._newest_of[entry.author, type(entry.packet)] = entry.name
        self._version += 1
        if known is not None and known.name != entry.name:
            self._forget(known.name)

    def _evict(self) -> list[str]:
        inventory, quota_bytes = self._store.inventory(), self._store.quota_bytes
        if sum(inventory.values()) <= quota_bytes:
            return []
        names = to_evict([self._held(*item) for item in inventory.items()], quota_bytes)
        for name in names:
            self._forget(name)
        return names

    def _forget(self, name: str) -> None:
        self._remove(name)
        self._store.give_up(name)

    def _drop(self, name: str) -> None:
        self._remove(name)
        self._store.drop(name)

    def _remove(self, name: str) -> None:
        self._entries.pop(name, None)
        self._aligned.pop(name, None)
        self._version += 1

    def _held(self, name: str, size_bytes: int) -> Held:
        entry = self._entries.get(name)
        weight = UNREADABLE if entry is None else self.weight_of(entry.author)
        return Held(name, size_bytes, weight, own=entry is not None and entry.author == self._credentials.peer_id)
