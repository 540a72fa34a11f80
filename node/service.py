"""Tasks: done here or sent to whoever does them best, in pieces, with a deadline, again elsewhere on failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from ..codec import unpack_array
from ..errors import DeadlineExceeded, InvalidTask, Refused
from ..mesh.messages import TEACHERS
from ..mesh.transport import Body, Caller
from .acquisition import Acquisition, Progress
from .acquisition import Learner as SkillLearner
from .computing import Home, for_member, for_user
from .forwarding import Forwarding, Network
from .pieces import MAX_LOCAL_BYTES, MAX_REMOTE_BYTES, Done, Piece, Served, join, split
from .results import FineTuned, Result, result_to_map
from .skills import Skills
from .specialists import by_specialists, missed
from .tasks import Classify, Evaluate, FineTune, Skill, Task, from_map

ASKERS = frozenset({"requester"})


class Host(Home, Network, SkillLearner, Protocol):
    """What tasks need of the node they run on."""

    @property
    def skills(self) -> Skills | None: ...

    @property
    def shown_skills(self) -> Skills | None: ...

    @property
    def confusion(self) -> np.ndarray | None: ...

    def fine_tune(self, task: FineTune, progress: Progress) -> Awaitable[FineTuned]: ...


class Members(Protocol):
    """The side of a mesh on which other members ask."""

    def serve(
        self, kind: str, handler: Callable[[Caller, Body], Awaitable[Body]], roles: frozenset[str] = ...
    ) -> None: ...


class TaskService:
    """Serves the tasks of this device's user and of other members."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._acquisition = Acquisition(host)

    def serve_members(self, mesh: Members) -> None:
        """Do tasks for members that may ask for them, and make skills for those that exchange knowledge."""
        mesh.serve("task", lambda _caller, body: self.serve(body), ASKERS)
        mesh.serve("skill", lambda _caller, body: self._acquisition.make(body), TEACHERS)

    async def close(self) -> None:
        await self._acquisition.close()

    async def submit(self, task: Any, timeout_s: float, progress: Progress) -> dict[str, Any]:
        """Run a task of this device's user; a map of the result.

        Raises:
            InvalidTask, NoCapableNode, DeadlineExceeded, or what a local task failed with.
        """
        parsed = from_map(task, self._host.space, max_bytes=MAX_LOCAL_BYTES)
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._run(parsed, timeout_s, progress)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the {parsed.kind} task was not done within {timeout_s:g} s", "give it more time (--timeout)"
            ) from None
        return result_to_map(result)

    async def serve(self, body: dict[str, Any]) -> dict[str, Any]:
        """Do another member's task, here only: a task is forwarded once, so it never loops."""
        task = from_map(body, self._host.space, max_bytes=MAX_REMOTE_BYTES)
        if isinstance(task, FineTune | Skill):
            raise Refused("what this device learns is for its own user to say", code="role")
        if getattr(task, "version", "now") == "before":
            raise Refused("models from before the mesh are for this device's own user", code="role")
        if getattr(task, "head", "global") == "personal":
            raise Refused("the personal head is for this device's own user", code="role")
        if len(split(task, self._host.space)) > 1:
            raise InvalidTask("more than one piece of work", "send it in pieces, so that others get their turn")
        shown = self._host.shown_skills
        if shown is None:
            raise Refused("this node is still learning what it may tell", "ask again later", code="not-ready")
        return await self._host.lane.serve(lambda: for_member(task, shown, self._host))

    async def _run(self, task: Task, timeout_s: float, progress: Progress) -> Result:
        match task:
            case FineTune():
                return await self._host.fine_tune(task, progress)
            case Skill():
                return await self._acquisition.learn(task, timeout_s, progress)
        started, where = time.monotonic(), self._where(task)
        forwarding = Forwarding(self._host, self._here, timeout_s)
        pieces = split(task, self._host.space)
        if isinstance(task, Classify) and where == "best":
            pieces = await self._by_specialists(task, pieces, forwarding)
        done, count = list[Done](), len(pieces)

        def on_done(part: Done) -> None:
            done.append(part)
            progress(len(done) / count, f"{task.kind} on {part.by.name}")

        if isinstance(task, Evaluate):  # the classifier of one node is measured
            on_done(await forwarding.one(pieces[0], where))
            await forwarding.all(pieces[1:], done[0].by.peer_id, on_done)
        else:
            await forwarding.all(pieces, where, on_done)
        took_s, tried = time.monotonic() - started, forwarding.tried()
        result = join(task, done, took_s, tried, self._host.space, self._host.prior)
        if where == "best":
            self._note_misses(done, result)
        return result

    def _where(self, task: Served) -> str:
        """Where a task may be done. Raises InvalidTask."""
        before = getattr(task, "version", "now") == "before"
        personal = getattr(task, "head", "global") == "personal"
        if before and task.where not in ("best", "here"):
            raise InvalidTask("models from before the mesh are shown to their own device only", "leave --where out")
        if personal and task.where not in ("best", "here"):
            raise InvalidTask("the personal head answers on its own device only", "leave --where out")
        if personal and self._host.prior is None:
            raise InvalidTask("this node has no private data, and so no personal head", "leave --personal out")
        return "here" if before or personal else task.where

    async def _by_specialists(self, task: Classify, pieces: list[Piece], forwarding: Forwarding) -> list[Piece]:
        """The pieces by who knows their samples best; as they are while this node has no idea what those may be."""
        confusion, space = self._host.confusion, self._host.space
        if self._host.skills is None or confusion is None or len(confusion) != space.num_classes:
            return pieces
        try:
            replies = [await self._here(piece.task) for piece in pieces]
        except Refused:  # the lane is full
            return pieces
        said = np.concatenate([unpack_array(reply["logits"], max_bytes=MAX_LOCAL_BYTES) for reply in replies])
        return by_specialists(task, said, confusion, lambda piece: forwarding.order(piece, "best"), space)

    def _note_misses(self, done: list[Done], result: Result) -> None:
        """What others did because this node could not, by class; not what it had no time for."""
        here = next(candidate for candidate in self._host.candidates() if candidate.hop == "here")
        if self._host.skills is not None:
            counts = missed(result, done, here.competence, self._host.space, self._host.leave_for)
            self._acquisition.missed(counts)

    async def _here(self, task: Served) -> dict[str, Any]:
        skills = self._host.skills
        if skills is None:
            raise Refused("this node is still learning", "ask again in a moment", code="not-ready")
        return await self._host.lane.serve(lambda: for_user(task, skills, self._host))
