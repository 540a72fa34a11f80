"""The parent of a cluster while it runs: polls every node's control API, measures, and says when all is done."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.live import Live

from ..errors import MeshloreError, TaskError
from .cluster import Cluster, Member
from .display import live_table
from .lane import Lane
from .picture import Drawing, Timeline, draw
from .pooled import train_pooled
from .report import ModelReport, NodeReport, Report
from .results import Evaluated, Generated, Result
from .tasks import Evaluate, Generate, Task, Version

POLL_S = 0.4
SETTLED_POLLS = 3
DRAWN_PER_CLASS = 3


class Watched(Protocol):
    """A node of a cluster, wherever it runs. What touches it raises MeshloreError while it does not answer."""

    @property
    def lost(self) -> bool:
        """For good."""

    @property
    def remark(self) -> str:
        """What the report should say about it; empty: nothing."""

    async def status(self) -> Mapping[str, Any]: ...

    async def submit(self, task: Task, timeout_s: float) -> Result: ...

    async def knowledge(self) -> tuple[Any, tuple[str, ...]]: ...

    async def close(self) -> None: ...


@dataclass
class Seen:
    """What the parent knows of one node."""

    member: Member
    node: Watched
    status: Mapping[str, Any] = field(default_factory=dict)
    before: Evaluated | None = None
    after: Evaluated | None = None
    measured: int = 0

    @property
    def lost(self) -> bool:
        return self.node.lost

    @property
    def settled(self) -> bool:
        return self.lost or (bool(self.status.get("settled")) and self.measured == self.status.get("version"))


async def watch(cluster: Cluster, nodes: Sequence[Watched], started: float, *, live: bool) -> Report:
    """Follow a running cluster to its end and report. ``nodes``: of its members, in their order; closed at the end."""
    return await _Watch(cluster, nodes, started).run(live)


class _Watch:
    def __init__(self, cluster: Cluster, nodes: Sequence[Watched], started: float) -> None:
        self._cluster = cluster
        self._started = started
        self._nodes = [Seen(member, node) for member, node in zip(cluster.members, nodes, strict=True)]
        self._timeline: Timeline = {seen.member.name: [] for seen in self._nodes}
        self._remarks: list[str] = []
        self._lane = Lane("pooled")

    async def run(self, live: bool) -> Report:
        # SIGTERM ends a cluster as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        train, test, seed = self._cluster.train, self._cluster.test, self._cluster.options.seed
        pooled = asyncio.create_task(self._lane.train("pooled", lambda step: train_pooled(train, test, seed, step)))
        try:
            with self._shown(live) as show:
                await self._follow(show)
                drawings = [await self._drawing(seen) for seen in self._nodes if not seen.lost]
                reference = await pooled
            pictures = await asyncio.to_thread(
                draw,
                self._cluster.options.output,
                self._cluster,
                drawings,
                self._timeline,
                reference.accuracy,
            )
            return self._report(reference, pictures)
        finally:
            pooled.cancel()
            await self._lane.close()
            await asyncio.gather(*(seen.node.close() for seen in self._nodes))

    async def _follow(self, show: Callable[[], None]) -> None:
        """Until every live node has been settled for a few polls, or time is up."""
        quiet = 0
        while quiet < SETTLED_POLLS:
            await asyncio.gather(*(self._look(seen) for seen in self._nodes))
            show()
            if all(seen.lost for seen in self._nodes):
                raise MeshloreError("every node has stopped", "run again with --keep and see the logs")
            quiet = quiet + 1 if all(seen.settled for seen in self._nodes) else 0
            if time.monotonic() - self._started > self._cluster.options.timeout_s:
                self._remarks.append(f"not settled within {self._cluster.options.timeout_s:g} s: figures so far")
                return
            await asyncio.sleep(POLL_S)

    async def _look(self, seen: Seen) -> None:
        if seen.lost:
            return
        with contextlib.suppress(MeshloreError):  # not up yet, or just gone: the next look tells
            seen.status = await seen.node.status()
            version = seen.status["version"]
            if not version or version == seen.measured:
                return
            if seen.before is None:
                seen.before = await self._measure(seen, "before")
                self._timeline[seen.member.name].append((self._elapsed(), seen.before.balanced))
            seen.after = await self._measure(seen, "now")
            seen.measured = version
            self._timeline[seen.member.name].append((self._elapsed(), seen.after.balanced))

    async def _measure(self, seen: Seen, version: Version) -> Evaluated:
        test = self._cluster.test
        measured = await seen.node.submit(Evaluate(test, test.labels, where="here", version=version), 120)
        if not isinstance(measured, Evaluated):
            raise MeshloreError(f"{seen.member.name} answered with something else than an evaluation")
        return measured

    async def _drawing(self, seen: Seen) -> Drawing:
        """Pictures of one node: what it published, and what it can draw of every class before and after."""
        images, labels = await seen.node.knowledge()
        private = seen.member.private
        return Drawing(
            seen.member.name,
            set() if private is None else set(private.class_names()),
            images,
            labels,
            {} if private is None else await self._drawn(seen, "before"),
            await self._drawn(seen, "now"),
        )

    async def _drawn(self, seen: Seen, version: Version) -> dict[str, np.ndarray]:
        drawn = {}
        for label in self._cluster.train.space.classes:
            task = Generate(label, DRAWN_PER_CLASS, seed=self._cluster.options.seed, where="here", version=version)
            with contextlib.suppress(TaskError, MeshloreError):  # it has no generator (of that time)
                generated = await seen.node.submit(task, 30)
                if isinstance(generated, Generated):
                    drawn[label] = generated.images
        return drawn

    def _report(self, pooled: ModelReport, pictures: list[Any]) -> Report:
        for seen in self._nodes:
            if seen.node.remark:
                self._remarks.append(seen.node.remark)
        anchors = [seen for seen in self._nodes if seen.member.private is None]
        anchor = None
        if anchors:
            after = anchors[0].after
            anchor = ModelReport(anchors[0].member.model, None if after is None else after.balanced)
        return Report(
            data=self._cluster.options.data,
            seed=self._cluster.options.seed,
            wall_s=self._elapsed(),
            nodes=tuple(_node_report(seen) for seen in self._nodes if seen.member.private is not None),
            anchor=anchor,
            pooled=pooled,
            pictures=tuple(pictures),
            remarks=tuple(self._remarks),
        )

    @contextlib.contextmanager
    def _shown(self, live: bool) -> Any:
        if not live:
            yield lambda: None
            return
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as screen:
            yield lambda: screen.update(live_table([_row(seen) for seen in self._nodes], self._elapsed()), refresh=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def _row(seen: Seen) -> dict[str, Any]:
    status, private = seen.status, seen.member.private
    measured = seen.after or seen.before
    return {
        "id": seen.member.name,
        "model": seen.member.model,
        "classes": "" if private is None else " ".join(private.class_names()),
        "activity": "lost" if seen.lost else status.get("activity", "starting"),
        "fraction": status.get("fraction"),
        "peers": status.get("live_peers", 0),
        "packets": status.get("packets", 0),
        "global": None if measured is None else measured.balanced,
        "personal": None if measured is None else measured.personal,
        "bytes_sent": status.get("bytes_sent", 0),
    }


def _node_report(seen: Seen) -> NodeReport:
    private = seen.member.private
    if private is None:
        raise ValueError("an anchor is no node")
    before, after = seen.before, seen.after
    return NodeReport(
        id=seen.member.name,
        model=seen.member.model,
        classes=private.class_names(),
        samples=len(private),
        state="lost" if seen.lost else "live",
        global_before=None if before is None else before.balanced,
        global_after=None if after is None else after.balanced,
        personal_before=None if before is None else before.personal,
        personal_after=None if after is None else after.personal,
        bytes_sent=seen.status.get("bytes_sent", 0),
        bytes_received=seen.status.get("bytes_received", 0),
        knowledge_bytes_sent=seen.status.get("knowledge_bytes_sent", 0),
    )
