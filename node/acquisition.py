"""Acquiring skills: ask who has one, anchors first, and learn what comes; and make one for who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog

from ..codec import expect_map
from ..errors import DeadlineExceeded, DecodeError, MeshloreError, NoCapableNode, PeerError, Refused, SecurityError
from ..knowledge.space import Space
from .lane import Lane
from .misses import Misses
from .results import Learned
from .router import Candidate, route
from .tasks import MAX_SKILL_CLASSES, Skill

log = structlog.get_logger("meshlore.skills")

ATTEMPT_S = 30.0
LESSON_S = 1800.0
Progress = Callable[[float, str], None]


class Learner(Protocol):
    """What acquiring and making skills needs of the node."""

    @property
    def space(self) -> Space: ...

    @property
    def lane(self) -> Lane: ...

    @property
    def fetches_skills(self) -> bool: ...

    def candidates(self) -> list[Candidate]: ...

    def make_skill(self, labels: Sequence[int]) -> bytes | None: ...

    def ask(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> Awaitable[dict[str, Any]]: ...

    def learn_skill(self, task: Skill, data: bytes, holder: str, progress: Progress) -> Awaitable[Learned]: ...


class Acquisition:
    """Skills for one node: on request, and by itself once a class was missed often enough."""

    def __init__(self, node: Learner) -> None:
        self._node = node
        self._misses = Misses()
        self._lesson: asyncio.Task[None] | None = None

    async def learn(self, task: Skill, timeout_s: float, progress: Progress) -> Learned:
        """Fetch a skill and learn it.

        Raises:
            NoCapableNode: nobody has it. DeadlineExceeded: nobody answered in time.
        """
        started = time.monotonic()
        failed: dict[str, str] = {}
        for holder in self._holders(task):
            left_s = timeout_s - (time.monotonic() - started)
            if left_s <= 0:
                raise DeadlineExceeded(f"nobody sent {_named(task.classes)} in time", "give it more time (--timeout)")
            try:
                body = {"classes": list(task.classes)}
                reply = await self._node.ask(holder.peer_id, "skill", body, min(ATTEMPT_S, left_s))
                data = expect_map(reply, {"packet": bytes})["packet"]
                learned = await self._node.learn_skill(task, data, holder.peer_id, progress)
            except (PeerError, DecodeError, SecurityError) as error:
                failed[holder.name] = str(error)
                log.warning("no skill from there", holder=holder.name, because=str(error))
                continue
            took_s = time.monotonic() - started
            answer = replace(learned.answer, node=holder.name, peer_id=holder.peer_id, hop=holder.hop, took_s=took_s)
            return replace(learned, answer=replace(answer, tried=tuple(failed)))
        if failed:
            reasons = "; ".join(sorted(set(failed.values())))
            raise NoCapableNode(f"nobody could teach {_named(task.classes)} ({reasons[:300]})", "try again later")
        where = "" if task.where == "best" else f" named {task.where!r}"
        raise NoCapableNode(f"no live node{where} can teach {_named(task.classes)} yet", "see: meshlore peers")

    async def make(self, body: dict[str, Any]) -> dict[str, Any]:
        """A skill for another member.

        Raises:
            DecodeError: malformed. Refused: this node has nothing to teach about these classes.
        """
        names = expect_map(body, {"classes": list})["classes"]
        if not all(type(name) is str for name in names) or not 1 <= len(set(names)) == len(names) <= MAX_SKILL_CLASSES:
            raise DecodeError(f"a skill is about 1 to {MAX_SKILL_CLASSES} class names")
        known = self._node.space.classes
        labels = [known.index(name) for name in names if name in known]
        data = await self._node.lane.serve(lambda: self._node.make_skill(labels)) if labels else None
        if data is None:
            raise Refused(f"this node has nothing to teach about {_named(names)}", code="no-skill")
        return {"packet": data}

    def missed(self, samples: Mapping[str, int]) -> None:
        """Others answered for so many samples of these classes; what is missed often is fetched."""
        self._misses.note(samples)
        now = time.monotonic()
        due = self._misses.due(now)
        if due and self._node.fetches_skills and (self._lesson is None or self._lesson.done()):
            self._misses.tried(due, now)
            self._lesson = asyncio.create_task(self._learn_by_itself(Skill(due)), name="skill")

    async def close(self) -> None:
        """End a lesson that this node began by itself."""
        if self._lesson is not None:
            self._lesson.cancel()
            await asyncio.wait({self._lesson}, timeout=2)

    async def _learn_by_itself(self, task: Skill) -> None:
        try:
            async with asyncio.timeout(LESSON_S):
                learned = await self.learn(task, LESSON_S, lambda *_: None)
        except (MeshloreError, TimeoutError) as error:
            log.warning("a skill that is missed could not be learned", classes=task.classes, because=str(error))
        else:
            log.info("learned a skill", classes=task.classes, of=learned.answer.node, kept=learned.kept)

    def _holders(self, task: Skill) -> list[Candidate]:
        """Who may have it: anchors before others, those that know the classes best first."""
        wanted = {self._node.space.classes.index(name): 1.0 for name in task.classes}
        others = [candidate for candidate in self._node.candidates() if candidate.hop != "here"]
        order = route("classify", wanted, others, where=task.where)
        return sorted(order, key=lambda candidate: candidate.hop != "anchor")


def _named(classes: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in classes)
