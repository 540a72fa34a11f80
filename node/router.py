"""Where a task is best done: a pure function over advertised competences, load and round-trip time.

A node advertises per class how well it classifies and generates (`Competence`). The expected quality
of a task is the mean over the classes it may concern; a little is taken off for load and distance, so
that equal nodes share equal work and a near node wins over an equal far one. The result is an order of
candidates: whoever fails is followed by the next, and nobody is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..codec import expect_map
from ..errors import DecodeError
from ..knowledge.classes import aligned_shares, check_added
from ..knowledge.space import Space

Hop = Literal["here", "peer", "anchor"]
Ability = Literal["classify", "generate"]

GOOD_ENOUGH = 0.02
LOAD_COST = 0.01
ROUND_TRIP_COST_PER_S = 0.1
MIN_QUALITY = 0.05
MAX_ADDED_BYTES = 4096


@dataclass(frozen=True)
class Competence:
    """What a node can do, 0..1 per class of the space, in the space's order, and how busy it is.

    ``added``: names of the last classes, those that the mesh was not founded with.
    """

    classify: tuple[float, ...]
    generate: tuple[float, ...]
    load: int = 0
    added: tuple[str, ...] = ()

    def to_map(self) -> dict[str, Any]:
        """As it travels: percentages in bytes, and of the added classes no more than an advert can hold."""
        told = 0
        room = MAX_ADDED_BYTES
        while told < len(self.added) and (room := room - len(self.added[told].encode()) - 5) >= 0:
            told += 1
        last = told - len(self.added) or None
        return {
            "classify": self.to_bytes("classify")[:last],
            "generate": self.to_bytes("generate")[:last],
            "load": self.load,
            "added": list(self.added[:told]),
        }

    def to_bytes(self, ability: Ability) -> bytes:
        """The qualities of one kind in percent."""
        return bytes(round(100 * quality) for quality in getattr(self, ability))

    def seen_in(self, space: Space) -> Competence:
        """This competence with a value for each class of ``space``, found by name."""
        classify, generate = (
            aligned_shares(values, self.added, space) if values else () for values in (self.classify, self.generate)
        )
        return Competence(classify, generate, self.load, space.added_classes)

    @classmethod
    def from_map(cls, value: Any, space: Space) -> Competence:
        """The inverse on foreign values, with the added classes of whoever made it.

        Raises:
            DecodeError: malformed.
        """
        fields = expect_map(value, {"classify": bytes, "generate": bytes, "load": int, "added": list})
        added = check_added(fields["added"], space)
        classes = space.num_classes - space.added + len(added)
        for name in ("classify", "generate"):
            if len(fields[name]) not in (0, classes) or any(percent > 100 for percent in fields[name]):
                raise DecodeError(f"competence {name!r} does not fit {classes} classes")
        if not 0 <= fields["load"] <= 1_000_000:
            raise DecodeError("load out of range")
        return cls(
            tuple(percent / 100 for percent in fields["classify"]),
            tuple(percent / 100 for percent in fields["generate"]),
            fields["load"],
            added,
        )


@dataclass(frozen=True)
class Candidate:
    """A node that might do the task; ``rtt_s`` is 0 for this node itself."""

    peer_id: str
    name: str
    hop: Hop
    competence: Competence
    rtt_s: float = 0.0


def route(
    ability: Ability,
    classes: Sequence[int] | None,
    candidates: Sequence[Candidate],
    *,
    where: str = "best",
    failed: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """Candidates in the order in which to try them, best first; empty when nobody is able.

    Args:
        ability: what the task needs.
        classes: indices of the classes it concerns, None: any.
        where: ``"best"``, ``"here"`` or a node's name or PeerID.
        failed: peer ids that failed already (with the reason); they are left out.
    """
    asked = [c for c in candidates if c.peer_id not in (failed or {}) and _allowed(c, where)]
    rated = [(expected_quality(c.competence, ability, classes), c) for c in asked]
    # a node that was asked for by name does what it can, however badly
    able = [(quality, c) for quality, c in rated if quality >= MIN_QUALITY or where != "best"]
    return [candidate for _, candidate in sorted(able, key=lambda pair: (-_worth(*pair), pair[1].peer_id))]


def expected_quality(competence: Competence, ability: Ability, classes: Sequence[int] | None) -> float:
    """Mean advertised quality over ``classes`` (all if None); 0 when the node has no such ability."""
    qualities = competence.classify if ability == "classify" else competence.generate
    chosen = [qualities[index] for index in classes] if classes is not None and qualities else list(qualities)
    return sum(chosen) / len(chosen) if chosen else 0.0


def _allowed(candidate: Candidate, where: str) -> bool:
    if where == "best":
        return True
    if where == "here":
        return candidate.hop == "here"
    return where in (candidate.name, candidate.peer_id)


def _worth(quality: float, candidate: Candidate) -> float:
    at_home = GOOD_ENOUGH if candidate.hop == "here" else 0.0
    return quality + at_home - LOAD_COST * candidate.competence.load - ROUND_TRIP_COST_PER_S * candidate.rtt_s
