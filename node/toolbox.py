"""The toolbox: skills that this node fetched, sealed as they came, and used in every lesson since.

A skill is a packet that a member made for this node about a few classes. It is kept beside the packets, in
`<home>/skills`, and never passed on. A newer one about the same classes takes its place. It is judged by itself,
as if it were of another author than what its maker has published: a good name is no cover for a bad skill. It names
whose packets it was cut out of, and goes when one of those is revoked or proves wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from ..errors import DecodeError, Revoked, SecurityError
from ..knowledge.cutting import SKILL, without
from ..knowledge.merging import aligned, unknown
from ..knowledge.packet import SamplePacket, decode
from ..security.membership import Credentials
from ..security.sealing import name_of, open_sealed
from .library import Entry, Library, SampleEntry
from .store import PacketStore

log = structlog.get_logger("meshlore.node")

FOLDER = "skills"
SKILL_OF = "skill of "
"""Stands before the maker's PeerID and name where a skill's author is named."""
MAX_SKILLS = 32
QUOTA_BYTES = 64 << 20


class Toolbox:
    """The skills of one node."""

    def __init__(self, home: Path, library: Library, credentials: Credentials) -> None:
        self._library = library
        self._credentials = credentials
        self._store = PacketStore(home, QUOTA_BYTES, folder=FOLDER)
        self._entries: dict[str, SampleEntry] = {}

    def load(self, now: float) -> list[str]:
        """Open what is on disk; lines that name what was dropped."""
        notes = []
        for name in self._store.inventory():
            try:
                self._entries[name] = self.opened(self._store.read(name), now)
            except (DecodeError, SecurityError) as error:
                self._store.drop(name)
                notes.append(f"dropped skill {name[:12]}: {error}")
        return notes

    def renew(self, credentials: Credentials) -> None:
        """Judge by these from now on; skills by members that were revoked since, or made of what those published, are
        dropped."""
        self._credentials = credentials
        self._drop_all(self._is_of_revoked)

    def forget(self, unwelcome: Callable[[Iterable[str]], frozenset[str]]) -> None:
        """Drop skills that were made of what authors published who may teach no more.

        Args:
            unwelcome: those of some authors that may teach no more.
        """
        self._drop_all(lambda entry: bool(unwelcome(entry.packet.made_of)))

    def opened(self, data: bytes, now: float) -> SampleEntry:
        """A skill from foreign bytes.

        Raises:
            SecurityError: not by a member of this mesh, or of packets of one that is revoked.
            DecodeError: malformed, or no skill.
        """
        sealed = open_sealed(data, self._credentials, now)
        packet = decode(sealed.body, self._library.space)
        if not isinstance(packet, SamplePacket) or packet.source != SKILL:
            raise DecodeError("the packet is no skill")
        if not packet.made_of:
            raise DecodeError("the skill does not say whose packets it was made of")
        if any(map(self._is_revoked, packet.made_of)):
            raise Revoked("the skill was made of packets of a member that was revoked since")
        author, name = SKILL_OF + sealed.author, SKILL_OF + sealed.author_name
        return SampleEntry(name_of(data), author, name, sealed.seq, sealed.created_at, packet)

    def asked_for(self, data: bytes, holder: str, classes: Sequence[str], now: float) -> SampleEntry:
        """The skill that ``holder`` was asked for, as `opened`.

        Raises:
            DecodeError: it is somebody else's, about other classes, or of classes that are unknown here.
        """
        entry = self.opened(data, now)
        if entry.author != SKILL_OF + holder:
            raise DecodeError(f"who sent it did not make it: {entry.author_name}")
        if unknown(entry.packet, self._library.space):
            raise DecodeError("the skill is about classes that were not asked for")
        entry = self._aligned(entry)
        if not _classes(entry) <= {self._library.space.classes.index(name) for name in classes}:
            raise DecodeError("the skill is about classes that were not asked for")
        return entry

    def keep(self, entry: SampleEntry, data: bytes) -> None:
        """Put a skill into the toolbox, durably, in the place of what it makes needless."""
        self._store.put(entry.name, data)
        for old in list(self._entries.values()):
            if old.name != entry.name and _classes(old) <= _classes(entry):
                self.drop(old.name)
        while len(self._entries) >= MAX_SKILLS:
            self.drop(next(iter(self._entries)))
        self._entries[entry.name] = entry
        self._drop_all(self._is_of_revoked)  # the lesson took a while

    def drop(self, name: str) -> None:
        self._entries.pop(name, None)
        self._store.drop(name)

    def names(self) -> frozenset[str]:
        return frozenset(self._entries)

    def labels(self) -> frozenset[int]:
        """The classes that skills here are about, by their labels in the library's space."""
        return frozenset(label for entry in self._shown() for label in np.unique(entry.packet.labels).tolist())

    def entries(self, more: SampleEntry | None = None) -> list[SampleEntry]:
        """The skills (and ``more``) for a lesson, less the samples that others' packets in the library show as well:
        who cut them out has not made them."""
        others = [e.packet for e in self._library.samples().values() if isinstance(e.packet, SamplePacket)]
        shown = self._shown() + ([self._aligned(more)] if more is not None else [])
        rest = [(entry, without(entry.packet, others)) for entry in shown]
        return [replace(entry, packet=packet) for entry, packet in rest if packet is not None]

    def _drop_all(self, tainted: Callable[[SampleEntry], bool]) -> None:
        for entry in filter(tainted, list(self._entries.values())):
            log.warning("a skill is dropped, as an author of it may teach no more", skill=entry.author_name)
            self.drop(entry.name)

    def _is_of_revoked(self, entry: SampleEntry) -> bool:
        return any(map(self._is_revoked, sources_of(entry)))

    def _is_revoked(self, author: str) -> bool:
        return self._credentials.authority.revoked_at(author.removeprefix(SKILL_OF)) is not None

    def _shown(self) -> list[SampleEntry]:
        space = self._library.space
        return [self._aligned(entry) for entry in list(self._entries.values()) if not unknown(entry.packet, space)]

    def _aligned(self, entry: SampleEntry) -> SampleEntry:
        packet = aligned(entry.packet, self._library.space)
        return replace(entry, packet=packet) if isinstance(packet, SamplePacket) else entry


def sources_of(entry: Entry) -> frozenset[str]:
    """Whose samples a model bears once it learned an entry: of a skill, also the authors whom it was cut out of; of
    answers nobody's, as they teach nothing by themselves."""
    if not isinstance(entry.packet, SamplePacket):
        return frozenset()
    return frozenset({entry.author, *entry.packet.made_of})


def _classes(entry: SampleEntry) -> frozenset[int]:
    return frozenset(np.unique(entry.packet.labels).tolist())
