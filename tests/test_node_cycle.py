"""What a distillation leaves in the journal."""

from __future__ import annotations

import numpy as np
from meshlore.knowledge.packet import LogitPacket
from meshlore.node.cycle import _heard
from meshlore.node.library import Entry
from meshlore.node.plan import Distil
from meshlore.node.store import Journal


def answers(name: str, author: str) -> Entry:
    return Entry(name, author, author, 1, 0.0, LogitPacket("space", ("s",), (np.zeros((1, 2), np.float16),)))


def heard(journal: Journal, *entries: Entry, refines: bool, anew: bool = False) -> set[str]:
    action = Distil(frozenset(entry.name for entry in entries), refines=refines, anew=anew)
    return set(_heard(journal, action, entries))


def test_answers_are_heard_once_in_every_round():
    ann, ben, cid = answers("a", "ann"), answers("b", "ben"), answers("c", "cid")
    first = Journal(taught_by=("a", "b"), heard=("ann", "ben"))
    assert heard(first, ann, ben, refines=False) == set(), "new samples, and the answers of before"
    again = Journal(taught_by=("a", "b"), heard=())
    assert heard(again, ann, ben, cid, refines=True) == {"cid"}
    assert heard(again, ann, ben, answers("b2", "ben"), refines=True) == {"ben"}
    assert heard(first, ann, ben, cid, refines=True) == {"ann", "ben", "cid"}


def test_who_begins_anew_hears_everybody_anew():
    assert heard(Journal(taught_by=("a",)), answers("a", "ann"), refines=False, anew=True) == {"ann"}
