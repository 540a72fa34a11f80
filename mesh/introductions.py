"""Who listens where, as members tell each other: what is learned of it, and what is passed on to whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from .directory import Directory
from .members import MemberTable, PeerState
from .messages import Introduction
from .records import AddressRecord

log = logging.getLogger("meshlore.mesh")

FAR_RECORDS = 8
DOUBLED = "the home folder was copied; stop one, delete its home, and let it join with an invite of its own"


class Introductions:
    """Fills a `MemberTable` from what a `Directory` accepts.

    ``neighbours`` gives the peer ids of this node's neighbours; who knows more than ``enough_known`` members is told
    of neighbours only.
    """

    def __init__(
        self,
        peer_id: str,
        directory: Directory,
        table: MemberTable,
        clock: Callable[[], float],
        dice: Callable[[], float],
        neighbours: Callable[[], Collection[str]],
        enough_known: int,
    ) -> None:
        self._peer_id, self._directory, self._table = peer_id, directory, table
        self._clock, self._dice = clock, dice
        self._neighbours, self._enough_known = neighbours, enough_known

    def introduced(self, said: Introduction) -> None:
        """A peer introduced itself."""
        now, record = self._clock(), said.record
        if self._directory.introduced(said, now):
            log.warning("two devices answer as …%s: a home folder was copied", record.peer_id[-8:])
        self._table.introduced(record.peer_id, record.addresses, now)

    def heard_of(self, record: AddressRecord, informant: str) -> bool:
        """A member, or the local network, passes on where another one listens. True if that one was not known."""
        now, peer_id = self._clock(), record.peer_id
        if peer_id == self._peer_id:
            if self._directory.heard_of(record, now):
                log.error("another device runs with this one's identity (%s): %s", ", ".join(record.addresses), DOUBLED)
            return False
        new = self._table.peer(peer_id, now) is None
        self._table.learn(peer_id, (), now, informant)
        if self._table.peer(peer_id, now) is None or not self._directory.heard_of(record, now):
            return False
        self._table.introduced(peer_id, record.addresses, now)
        return new

    def reachable(self, asker: str) -> list[AddressRecord]:
        """The address records of this node's neighbours, without that of the asker."""
        records = [self._directory.record_of(peer_id) for peer_id in sorted(self._neighbours()) if peer_id != asker]
        return [record for record in records if record is not None]

    def about(self, peer_id: str, asker: str) -> list[AddressRecord]:
        """The address record of a member; of one that is not known here, those of the neighbours, who may know it."""
        record = self._directory.record_of(peer_id)
        return self.reachable(asker) if record is None else [record]

    def lacking(self, said: Introduction) -> list[AddressRecord]:
        """The records that a peer lacks: of this node's neighbours, of some other members by chance, and of its
        double if it has one."""
        double = self._directory.double_of(said.record, self._clock())
        near = [record for record in self.reachable(said.record.peer_id) if record.mark not in said.known]
        # without some of these, newcomers would know nothing beyond the neighbourhood that they came into
        enough = len(said.known) > self._enough_known
        far = [] if enough else [record for record in self._not_lost() if record.mark not in said.known]
        while len(far) > FAR_RECORDS:
            far.pop(int(self._dice() * len(far)))
        lacking = [*near, *far]
        return lacking if double is None else [double, *lacking]

    def _not_lost(self) -> list[AddressRecord]:
        """Records of members that are no neighbours, which nobody failed to reach and which are not old."""
        peers = self._table.peers(self._clock())
        others = [self._directory.record_of(peer.peer_id) for peer in peers if peer.state is PeerState.NEW]
        return [record for record in others if record is not None and self._directory.is_fresh(record)]
