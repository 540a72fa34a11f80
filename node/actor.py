"""The edge node: an actor with one mailbox, in which alone its state changes.

Messages come in (a packet arrived, a peer changed, work is done); after each the pure `plan` says what
to do next; at most one piece of learning runs at a time, on the compute lane; its outcome comes back as
a message, is written to disk, and only then becomes the node's state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from ..errors import Cancelled, DecodeError, Refused, StateError
from ..knowledge.classes import grown
from ..knowledge.data import Dataset
from ..knowledge.packet import SamplePacket
from ..knowledge.space import Space
from ..mesh.members import Peer
from ..security.membership import Credentials
from .acquisition import Progress
from .checkpoints import KINDS, load_skills, save_skills
from .competence import Measured
from .cycle import NOTHING, Cycle, Outcome
from .lane import Lane
from .learner import Learner
from .lessons_asked import LessonsAsked, teach
from .library import UNJUDGED, Library
from .load import LOOK_S, LoadWatch
from .messages import Asked, FineTuneAsked, Message, PacketArrived, PeersChanged, SkillFetched, WorkDone, reply_to
from .neighbourhood import MAX_MODEL_CHARS, Neighbourhood
from .plan import Action, Distil, Judge, Situation, Wait, plan, stage_of
from .publishing import Publisher
from .results import Answer, FineTuned, Learned
from .router import Candidate, Competence
from .settings import Settings
from .situation import situation_of
from .skills import Skills
from .store import PacketStore, StateStore, keep_private
from .tasks import FineTune, Skill
from .toolbox import Toolbox

log = structlog.get_logger("meshlore.node")

MAILBOX = 1024


class EdgeNode:
    """One device's node. `run` it as a task; everything else may be called from the same event loop.

    It is the host of tasks (`meshlore.node.service`) and what `status` shows (`meshlore.node.status`).
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        learner: Learner,
        library: Library,
        toolbox: Toolbox,
        packets: PacketStore,
        state: StateStore,
        lane: Lane | None = None,
    ) -> None:
        self.settings = settings
        self.credentials = credentials
        self.learner = learner
        self.library = library
        self.packets = packets
        self.state = state
        self.lane = lane or Lane("compute", share=settings.service.share)
        self.toolbox = toolbox
        self.cycle = Cycle(learner, self.lane, library, toolbox, state.journal.trust, settings.learning.lessons)
        self.neighbourhood = Neighbourhood(library)
        library.weight_of = self._weight_of
        self._publisher = Publisher(library, state)
        self.skills: Skills | None = None
        self.competence = Competence((), ())
        self.confusion: np.ndarray | None = None
        self.next: Action = Wait(settled=False)
        self._mailbox: asyncio.Queue[Message] = asyncio.Queue(MAILBOX)
        self._work: asyncio.Task[None] | None = None
        self._asked = LessonsAsked(self._mailbox.put)
        self._waiting_since, self._has_news = time.monotonic(), False
        self._load = LoadWatch()
        self._judged: frozenset[str] = frozenset()

    @property
    def space(self) -> Space:
        return self.learner.space

    @property
    def prior(self) -> np.ndarray | None:
        return self.learner.personal_prior()

    @property
    def held_out(self) -> Dataset | None:
        return self.learner.held_out

    @property
    def shown_skills(self) -> Skills | None:
        """The models that answer other members."""
        return None if self.skills is None else self.learner.shown_to_others(self.skills)

    @property
    def leave_for(self) -> float:
        return self.settings.service.leave_for

    @property
    def fetches_skills(self) -> bool:
        return self.settings.service.skills == "auto"

    @property
    def working(self) -> bool:
        return self._work is not None

    @property
    def settled(self) -> bool:
        """Nothing is being done, to be done, or expected."""
        idle = self._work is None and self._mailbox.empty()
        return idle and isinstance(self.next, Wait) and self.next.settled

    async def restore(self) -> None:
        """Take up what the journal says was learned.

        Raises:
            StateError, ModelError: a checkpoint is damaged or of another model.
        """
        self.skills = await asyncio.to_thread(load_skills, self.state, self.learner)
        if self.state.journal.published == NOTHING:
            self.state.update(published="")
        if self.state.journal.generator_taught_by == (NOTHING,):
            self.state.update(generator_taught_by=())
        if self.state.journal.generator and self.skills is not None and self.skills.generator is None:
            self.state.update(generator="", generator_before="", generator_taught_by=(), generator_learned_from=())
        journal = self.state.journal
        measured = Competence((), ()).to_map() | {
            "classify": journal.classify,
            "generate": journal.generate,
            "added": list(journal.added),
        }
        try:
            self.competence = Competence.from_map(measured, self.space).seen_in(self.space)
        except DecodeError as error:
            raise StateError(f"the journal is not of this mesh ({error})", "restore the home it belongs to") from None
        if journal.added != self.space.added_classes:
            # its own data have classes that they had not: others are to see them, and it is to be taught again
            await self._keep_grown(self.skills, self.space, published="", taught_by=())

    async def run(self) -> None:
        """Handle messages until cancelled. Raises what learning failed with for good."""
        telling = asyncio.create_task(self._tell_load(), name="load")
        try:
            await self._live()
        finally:
            telling.cancel()

    async def _live(self) -> None:
        self._advertise()
        await self._grow()
        if self.skills is not None and self.confusion is None:
            self._can(await self.cycle.competence(self.skills))
        self._advance()
        while True:
            wait_s = self.next.at_most_s if isinstance(self.next, Wait) and self._work is None else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._handle(await self._mailbox.get())
            except TimeoutError:
                log.debug("patience is over")
            while not self._mailbox.empty():
                await self._handle(self._mailbox.get_nowait())
            await self._grow()
            self._advance()

    async def close(self) -> None:
        """End the work in flight at its next step. The state on disk is that of the last finished piece."""
        await self.lane.close()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=2)
        self._asked.close()

    def tell(self, message: Message) -> None:
        """Put a message into the mailbox. When it is full the message is dropped: the state that it speaks of
        is looked at again with the next one."""
        try:
            self._mailbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("mailbox full", dropped=type(message).__name__)

    async def accept(self, name: str, data: bytes, _from_peer: str) -> None:
        """Take a packet from the mesh: check it, keep it, tell the actor.

        Raises:
            SecurityError, DecodeError: it is refused.
        """
        entry = await asyncio.to_thread(self.library.admit, name, data, time.time())
        log.info("packet", author=entry.author_name, seq=entry.seq, size_bytes=len(data))
        self.tell(PacketArrived(entry))

    def renew(self, credentials: Credentials) -> None:
        """Go on with these; who is revoked by them is unlearned."""
        self.credentials = credentials
        self.library.renew(credentials)
        self.toolbox.renew(credentials)
        self.tell(PeersChanged())

    async def fine_tune(self, task: FineTune, progress: Progress) -> FineTuned:
        """Queue a fine-tuning of this device's classifier and wait for its result."""
        if self.learner.role == "anchor":
            raise Refused("an anchor has no private data to fine-tune on", "ask an edge node", code="role")
        reply: asyncio.Future[FineTuned] = asyncio.get_running_loop().create_future()
        tuned: FineTuned = await self._asked.wait_for(FineTuneAsked(task, progress, reply))
        return tuned

    async def learn_skill(self, task: Skill, data: bytes, holder: str, progress: Progress) -> Learned:
        """Check a skill that ``holder`` (a PeerID) sent, queue its lesson, and wait for what it comes to.

        Raises:
            SecurityError, DecodeError: it is not what was asked for.
        """
        entry = await asyncio.to_thread(self.toolbox.asked_for, data, holder, task.classes, time.time())
        reply: asyncio.Future[Learned] = asyncio.get_running_loop().create_future()
        learned: Learned = await self._asked.wait_for(SkillFetched(task, entry, data, progress, reply))
        return learned

    def make_skill(self, labels: Sequence[int]) -> bytes | None:
        """A sealed skill for another member, from what it may hear of; None: there is nothing to tell. On the lane."""
        if (shown := self.shown_skills) is None:
            return None
        return self._publisher.skill(self.learner, shown, labels, self._weight_of, self.credentials)

    async def ask(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return await self.neighbourhood.ask(peer_id, kind, body, timeout_s)

    def candidates(self) -> list[Candidate]:
        """This node and the live peers, for the router."""
        lane = self.lane.state
        competence = replace(self.competence, load=lane.load, latency_s=lane.latency_s)
        here = Candidate(self.credentials.peer_id, self.settings.name, "here", competence)
        return [here, *self.neighbourhood.candidates(self.cycle.trust)]

    def unlike_private(self, images: np.ndarray, label: int) -> np.ndarray:
        return self.learner.unlike_private(images, label)

    def worth(self, peer: Peer) -> float:
        """How much a member is worth as a neighbour: an anchor first, then by the trust in what it teaches."""
        return ("anchor" in peer.roles) + self._weight_of(peer.peer_id)

    def situation(self) -> Situation:
        """What the plan decides by."""
        return situation_of(
            self.learner.role,
            self.state.journal,
            self.settings.learning,
            self.library,
            self.toolbox,
            self.neighbourhood,
            trained=self.skills is not None,
            judged=self._judged,
            unwelcome=self.cycle.unwelcome,
            waited_s=time.monotonic() - self._waiting_since,
        )

    def _weight_of(self, author: str) -> float:
        verdict = self.cycle.trust.get(author)
        return UNJUDGED if verdict is None else float(verdict.weight)

    async def _handle(self, message: Message) -> None:
        match message:
            case PacketArrived():
                if not self._has_news:
                    self._waiting_since, self._has_news = time.monotonic(), True
            case PeersChanged():
                pass  # what peers advertise is looked up when the plan is made
            case FineTuneAsked() | SkillFetched():
                self._asked.add(message)
            case WorkDone(action, outcome, result):
                self._work = None
                if isinstance(action, Judge):
                    self._judged = action.packets
                if isinstance(action, Distil):
                    self._waiting_since, self._has_news = time.monotonic(), False
                if isinstance(outcome, Outcome):
                    await self._apply(outcome)
                if isinstance(action, FineTuneAsked | SkillFetched):
                    reply_to(action, outcome, result)
                elif isinstance(outcome, Exception) and not isinstance(outcome, Cancelled):
                    raise outcome

    def _advance(self) -> None:
        """Start the next piece of work if none is running; what was asked for goes first."""
        if self._work is not None:
            return
        if (asked := self._asked.next()) is not None:
            self._work = asyncio.create_task(self._teach(asked), name="lesson")
            return
        self.next = plan(self.situation())
        if not isinstance(self.next, Wait):
            log.info("next", action=type(self.next).__name__)
            self._work = asyncio.create_task(self._do(self.next), name=type(self.next).__name__)

    async def _do(self, action: Action) -> None:
        outcome: Outcome | Exception
        try:
            outcome = await self.cycle.do(action, self.state.journal, self.skills)
        except Exception as error:
            outcome = error
        await self._mailbox.put(WorkDone(action, outcome))

    async def _teach(self, asked: Asked) -> None:
        outcome: Outcome | Exception
        result = None
        me = Answer(self.settings.name, self.credentials.peer_id, "here", 0.0)
        try:
            outcome, result = await teach(
                asked, self.cycle, self.state.journal, self.skills, self.competence, self.space, me
            )
        except Exception as error:
            outcome = error
        await self._mailbox.put(WorkDone(asked, outcome, result))

    async def _grow(self) -> None:
        """Take up classes that others show and this node did not know, between two pieces of work."""
        unknown = self.library.unknown_classes() if self._work is None else []
        space = grown(self.space, unknown)
        if space == self.space:
            return
        self.next = Wait(settled=False)
        log.info("new classes", names=space.added_classes[self.space.added :])
        skills = self.skills and await asyncio.to_thread(self.learner.grown, self.skills, self.space, space)
        await self._keep_grown(skills, space, taught_by=self.state.journal.taught_by if skills else ())
        self.learner.grow(space)
        self.library.grow(space)
        self.skills, self.competence, self.confusion = skills, self.competence.seen_in(space), None
        self._advertise()

    async def _keep_grown(self, skills: Skills | None, space: Space, **changes: Any) -> None:
        """Make models for more classes durable; without models, the node learns anew."""
        competence = self.competence.seen_in(space)
        changes["added"] = space.added_classes
        changes |= {name: competence.to_bytes(name) for name in ("classify", "generate")}
        if skills is None:
            changes |= dict.fromkeys(KINDS, "")
        else:
            changes |= await asyncio.to_thread(save_skills, self.state, None, skills)
        await asyncio.to_thread(self.state.update, **changes)

    async def _apply(self, outcome: Outcome) -> None:
        """Make an outcome durable, then true, then known."""
        changes, published, measured = dict(outcome.changes), "", outcome.measured
        if outcome.more_private is not None:
            await asyncio.to_thread(keep_private, self.state.home, outcome.more_private)
            self.learner.add_private(outcome.more_private)
        if outcome.skill is not None:
            await asyncio.to_thread(self.toolbox.keep, *outcome.skill)
        await asyncio.to_thread(self.toolbox.forget, self.cycle.unwelcome)
        if outcome.skills is not None:
            measured = measured or await self.cycle.competence(outcome.skills)
            changes |= await asyncio.to_thread(save_skills, self.state, self.skills, outcome.skills)
        if measured is not None:
            changes |= {name: measured.competence.to_bytes(name) for name in ("classify", "generate")}
        if outcome.publication is not None:
            published = await asyncio.to_thread(self._publisher.publish, outcome.publication, self.credentials)
            if isinstance(outcome.publication, SamplePacket):
                changes["published"] = published or NOTHING
        if changes:
            await asyncio.to_thread(self.state.update, **changes)
        self.skills = outcome.skills or self.skills
        if measured is not None:
            self._can(measured)
        if published:
            self.neighbourhood.announce(published)
        self._advertise()

    def _advertise(self) -> None:
        self.neighbourhood.advertise(
            {
                "stage": int(stage_of(self.situation())),
                "newest": self.library.newest_number(self.credentials.peer_id),
                "model": self.learner.model[:MAX_MODEL_CHARS],
                "competence": self._load.seen(self.competence).to_map(),
            }
        )

    async def _tell_load(self) -> None:
        """Let neighbours hear how busy this node is when that has changed much."""
        while True:
            await asyncio.sleep(LOOK_S)
            lane = self.lane.state
            if self._load.changed(lane.load, lane.latency_s):
                self._advertise()

    def _can(self, measured: Measured) -> None:
        self.competence, self.confusion = measured.competence, measured.confusion
