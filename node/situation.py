"""A node's situation, put together from its parts for the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..knowledge.packet import LogitPacket, SamplePacket
from .library import Library
from .neighbourhood import Neighbourhood
from .plan import Role, Situation
from .settings import Learning
from .store import Journal
from .toolbox import Toolbox


def situation_of(
    role: Role,
    journal: Journal,
    settings: Learning,
    library: Library,
    toolbox: Toolbox,
    neighbourhood: Neighbourhood,
    *,
    trained: bool,
    judged: frozenset[str],
    unwelcome: Callable[[Iterable[str]], frozenset[str]],
    waited_s: float,
) -> Situation:
    """What the plan decides by. For a node that learns skills only, packets are no lessons and nobody is waited for.

    Args:
        judged: names of packets whose authors were weighed. unwelcome: those of some authors that may teach no more.
    """
    foreign, asked = library.of_others(), settings.lessons == "asked"
    lessons = [] if asked else foreign
    answered = {e.author for e in lessons if isinstance(e.packet, LogitPacket) and not e.by_anchor}
    near = {peer.peer_id for peer in neighbourhood.live()}
    has_tried = bool(journal.generator or journal.generator_taught_by)
    return Situation(
        role=role,
        trained=trained,
        published=bool(journal.published),
        samples=frozenset(e.name for e in lessons if isinstance(e.packet, SamplePacket)),
        logits=frozenset(e.name for e in lessons if isinstance(e.packet, LogitPacket)),
        taught_by=frozenset(journal.taught_by),
        refined=journal.refined,
        unheard=bool(answered & near - set(journal.heard)),
        logits_due=journal.logits_due,
        generator_taught_by=frozenset(journal.generator_taught_by) if has_tried else None,
        to_unlearn=unwelcome(journal.learned_from),
        generator_to_unlearn=unwelcome(journal.generator_learned_from),
        missing=0 if asked else neighbourhood.missing(),
        peers=() if asked else neighbourhood.views(),
        waited_s=waited_s,
        patience_s=settings.patience_s,
        refinements=settings.refinements,
        skills=toolbox.names(),
        lessons=settings.lessons,
        unlearned=frozenset(e.name for e in foreign) if asked else frozenset(),
        judged=judged,
    )
