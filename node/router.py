"""Where a task is best done: a pure function over advertised competences, load and round-trip time.

A node advertises per class how well it classifies and generates, how long a piece of work takes there and how
many wait (`Competence`). The expected quality of a task is the mean over the classes that it may concern. This
node does what it is good enough at; else the best do it, those as good as each other by who answers soonest, so
that equal work spreads. The result is an order of candidates: whoever fails is followed by the next, and nobody
is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..codec import expect_map
from ..errors import DecodeError
from ..knowledge.classes import aligned_shares, check_added
from ..knowledge.space import Space

Hop = Literal["here", "peer", "anchor"]
Ability = Literal["classify", "generate"]

LEAVE_FOR = 0.05
"""By how much another must be better before a task leaves this device, where nothing else is set."""
EQUAL = 0.03
"""Measured qualities that differ by less are the same: they stem from some tens of samples."""
STAY_S = 0.5
"""By how much sooner another must answer before this node gives away what it is good enough at."""
COST_PER_S = 0.1
LEAST_S = 0.001
MIN_QUALITY = 0.05
MAX_ADDED_BYTES = 4096
MAX_LATENCY_S = 3600.0
MAX_LOAD = 1_000_000
DISTANCE: Mapping[Hop, int] = {"here": 0, "peer": 1, "anchor": 2}
Weights = Mapping[int, float]
"""Label -> how probable it is that a task concerns this class."""


@dataclass(frozen=True)
class Competence:
    """What a node can do, 0..1 per class of the space, in the space's order, and how busy it is.

    Attributes:
        load: pieces of tasks that wait there or are being done.
        added: names of the last classes, those that the mesh was not founded with.
        latency_s: how long one piece takes there, with the training step that it may have to wait for.
    """

    classify: tuple[float, ...]
    generate: tuple[float, ...]
    load: int = 0
    added: tuple[str, ...] = ()
    latency_s: float = 0.0

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
            "latency_s": self.latency_s,
        }

    def to_bytes(self, ability: Ability) -> bytes:
        """The qualities of one kind in percent."""
        return bytes(round(100 * quality) for quality in getattr(self, ability))

    def seen_in(self, space: Space) -> Competence:
        """This competence with a value for each class of ``space``, found by name."""
        classify, generate = (
            aligned_shares(values, self.added, space) if values else () for values in (self.classify, self.generate)
        )
        return replace(self, classify=classify, generate=generate, added=space.added_classes)

    @classmethod
    def from_map(cls, value: Any, space: Space) -> Competence:
        """The inverse on foreign values, with the added classes of whoever made it.

        Raises:
            DecodeError: malformed.
        """
        fields = expect_map(
            value, {"classify": bytes, "generate": bytes, "load": int, "added": list, "latency_s": float}
        )
        added = check_added(fields["added"], space)
        classes = space.num_classes - space.added + len(added)
        for name in ("classify", "generate"):
            if len(fields[name]) not in (0, classes) or any(percent > 100 for percent in fields[name]):
                raise DecodeError(f"competence {name!r} does not fit {classes} classes")
        if not 0 <= fields["load"] <= MAX_LOAD or not 0 <= fields["latency_s"] <= MAX_LATENCY_S:
            raise DecodeError("load or latency out of range")
        return cls(
            tuple(percent / 100 for percent in fields["classify"]),
            tuple(percent / 100 for percent in fields["generate"]),
            fields["load"],
            added,
            fields["latency_s"],
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
    classes: Weights | None,
    candidates: Sequence[Candidate],
    *,
    where: str = "best",
    failed: Mapping[str, str] | None = None,
    leave_for: float = LEAVE_FOR,
) -> list[Candidate]:
    """Candidates in the order in which to try them, best first; empty when nobody is able.

    Args:
        ability: what the task needs.
        classes: the classes it may concern, None: any, all alike.
        where: ``"best"``, ``"here"`` or a node's name or PeerID.
        failed: peer ids that failed already (with the reason); they are left out.
        leave_for: by how much another must be better than this node before it goes first.
    """
    asked = [c for c in candidates if c.peer_id not in (failed or {}) and _allowed(c, where)]
    rated = [(expected_quality(c.competence, ability, classes), c) for c in asked]
    # a node that was asked for by name does what it can, however badly
    able = [(quality, c) for quality, c in rated if quality >= MIN_QUALITY or where != "best"]
    best = max((quality for quality, _ in able), default=0.0)
    soonest = min((expected_s(c) for quality, c in able if quality >= best - EQUAL), default=0.0)

    def rank(rating: tuple[float, Candidate]) -> tuple[float, ...]:
        quality, candidate = rating
        wait_s, distance = expected_s(candidate), DISTANCE[candidate.hop]
        if distance == 0 and quality >= best - leave_for and wait_s <= soonest + STAY_S:
            return (0,)
        if quality >= best - EQUAL:
            # hundredths of a second are the same; of these a peer goes before an anchor, which serves many
            return (1, round(wait_s, 2), distance, wait_s)
        return (2, COST_PER_S * wait_s - quality)

    return [candidate for _, candidate in sorted(able, key=lambda rating: (rank(rating), rating[1].peer_id))]


def expected_quality(competence: Competence, ability: Ability, classes: Weights | None) -> float:
    """Mean advertised quality over ``classes`` (all if None); 0 when the node has no such ability."""
    qualities = competence.classify if ability == "classify" else competence.generate
    if not qualities:
        return 0.0
    weights = dict.fromkeys(range(len(qualities)), 1.0) if classes is None else classes
    return sum(weight * qualities[label] for label, weight in weights.items()) / (sum(weights.values()) or 1.0)


def expected_s(candidate: Candidate) -> float:
    """Seconds until it answers: the way there and back, those who wait, and the work."""
    competence = candidate.competence
    return candidate.rtt_s + max(competence.latency_s, LEAST_S) * (1 + competence.load)


def _allowed(candidate: Candidate, where: str) -> bool:
    if where == "best":
        return True
    if where == "here":
        return candidate.hop == "here"
    return where in (candidate.name, candidate.peer_id)
