"""Packets of villagers, for teaching one node while nobody else runs."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache

from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.node.actor import EdgeNode
from meshlore.node.learner import Learner
from meshlore.node.settings import Learning
from meshlore.security.governance import revoke
from meshlore.security.sealing import name_of, seal
from village import FOUNDER, MEMBERS, SPACE, Village, digits, settled

CLASSES = {name: classes for name, _, classes in MEMBERS}
MAKING = Learning(samples_per_class=12, condense_steps=20)


@lru_cache
def packet_of(author: str) -> SamplePacket:
    """The same in all tests, as it takes a while to make."""
    packet = Learner(SPACE, "node", "", digits(CLASSES[author]), MAKING, 1).condense(lambda _: None)
    assert packet is not None
    return packet


async def teach(village: Village, node: EdgeNode, *authors: str) -> None:
    """Bring packets of members and wait until the node has learned from their authors and settled."""
    for author in authors:
        data = seal(encode(packet_of(author)), credentials=village.members[author], seq=1, now=time.time())
        await node.accept(name_of(data), data, author)
    await settled(node, when=lambda: learned(node) >= set(authors))


def revoke_members(village: Village, *names: str) -> None:
    """By the founder; all know of it once they `renew` or start."""
    founder = village.members[FOUNDER]
    for name in names:
        founder = revoke(founder, village.members[name].peer_id, time.time())
    for name, member in village.members.items():
        village.members[name] = replace(member, authority=founder.authority)


def learned(node: EdgeNode) -> set[str]:
    """Names of the authors of whom the classifier bears something; PeerIDs of those that are known no more."""
    names = {entry.author: entry.author_name for entry in node.library.of_others()}
    return {names.get(author, author) for author in node.state.journal.learned_from}
