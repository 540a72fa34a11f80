"""What leaves a node as packets: numbered, signed, sealed and stored; and skills, which are for one who asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import structlog

from ..errors import PacketError, SecurityError
from ..knowledge.packet import MAX_MADE_OF, LogitPacket, SamplePacket, encode
from ..security.membership import Credentials
from ..security.sealing import name_of, seal
from .library import Library
from .skills import SkillMaker, Skills
from .store import StateStore

log = structlog.get_logger("meshlore.node")

MAX_SKILL_BYTES = 900 * 1024
"""Of a packet that travels in one frame."""
UNNUMBERED = 0
"""The sequence number of a skill, which is no publication; those begin with 1."""


class Publisher:
    """Seals packets in the name of one node."""

    def __init__(self, library: Library, state: StateStore) -> None:
        self._library = library
        self._state = state

    def publish(self, packet: SamplePacket | LogitPacket, credentials: Credentials) -> str:
        """Number, sign, seal and store a packet; its name, empty if it cannot go out (an expired certificate, a
        clock that is off): the node then serves its own user, and tries again when it is started next."""
        try:
            body = encode(replace(packet, added=self._library.space.added_classes))
            seq = self._state.next_sequence(above=self._library.newest_number(credentials.peer_id))
            data = seal(body, credentials=credentials, seq=seq, now=time.time())
            name = name_of(data)
            self._library.admit(name, data, time.time())
        except (PacketError, SecurityError) as error:
            log.error("cannot publish", because=str(error))
            return ""
        return name

    def skill(
        self,
        maker: SkillMaker,
        shown: Skills,
        labels: Sequence[int],
        weight_of: Callable[[str], float],
        credentials: Credentials,
    ) -> bytes | None:
        """A sealed skill about some classes; None: there is nothing to tell.

        Args:
            shown: the models that others may hear of. weight_of: the trust in an author, 0..1.
        """
        me = credentials.peer_id
        samples = {e.author: e.packet for e in self._library.samples().values() if isinstance(e.packet, SamplePacket)}
        weights = {author: 1.0 if author == me else weight_of(author) for author in samples}
        show = [author for author, packet in samples.items() if np.isin(packet.labels, labels).any()]
        chosen = sorted((author for author in show if weights[author] > 0), key=lambda author: -weights[author])
        made_of = chosen[:MAX_MADE_OF]
        packets = [samples[author] for author in made_of]
        packet = maker.make_skill(shown, packets, labels, MAX_SKILL_BYTES) if packets else None
        if packet is None:
            return None
        body = encode(replace(packet, made_of=tuple(sorted(made_of))))
        return seal(body, credentials=credentials, seq=UNNUMBERED, now=time.time())
