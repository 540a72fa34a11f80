"""The driver's side of a node in Ray: speaks to its actor, and starts another from its state when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import structlog

from ..errors import MeshloreError, Unreachable
from .client import MeshClient
from .ray_actor import START_S, STOP_S, NodeActor, NodeSpec
from .results import Result
from .tasks import Task

log = structlog.get_logger("meshlore.ray")

CALL_S = 15.0
JOIN_S = 90.0
MAX_LOSSES = 5


class _ActorLost(Unreachable):
    """Its process or its machine is gone."""


class RayNode:
    """One node of a Ray cluster, as the cluster's watch sees it (`meshlore.node.watch.Watched`).

    Attributes:
        losses: how often its actor was lost.
    """

    def __init__(self, ray: Any, spec: NodeSpec) -> None:
        self._ray, self._spec = ray, spec
        self.losses = 0
        self._code: str | None = None
        self._copy: Mapping[str, bytes] | None = None
        self._version = 0
        self._actor: Any = None
        self._machine: str | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._given_up = ""
        self._client = MeshClient(Path(spec.home), _ActorTransport(self))

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def lost(self) -> bool:
        """For good."""
        return bool(self._given_up)

    @property
    def remark(self) -> str:
        """What the report should say about it."""
        if self.lost:
            return f"{self.name} ended during the run ({self._given_up})"
        return f"{self.name} was lost {self.losses} x and went on from its state" if self.losses else ""

    async def start(self, code: str | None) -> None:
        """Bring its actor up; ``code`` is an invite, None: it founds. Raises MeshloreError: it cannot be started."""
        self._code = code
        await self._come_up()

    async def invite(self, role: str) -> str:
        return await self._client.invite(role=role, lifetime_s=3600)

    async def status(self) -> Mapping[str, Any]:
        """Raises MeshloreError: the actor is lost or silent; another is being started."""
        status = await self._client.status()
        if status["version"] != self._version:
            self._copy = await self._call("snapshot")
            self._version = status["version"]
        return status

    async def submit(self, task: Task, timeout_s: float) -> Result:
        result: Result = await self._client.submit(task, timeout_s=timeout_s)
        return result

    async def knowledge(self) -> tuple[Any, tuple[str, ...]]:
        return await self._client.knowledge()

    async def close(self) -> None:
        """End its actor; under ten seconds."""
        if self._reviving is not None:
            self._reviving.cancel()
        if self._actor is not None:
            try:
                await self._call("stop", within_s=STOP_S + 3)
            except MeshloreError as error:
                log.debug("not stopped politely", node=self.name, because=str(error))
            self._ray.kill(self._actor)
        await self._client.close()

    async def ask(self, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """One request to its control API."""
        within_s = timeout_s + CALL_S
        try:
            answer: tuple[int, bytes] = await self._call("ask", method, path, body, timeout_s, within_s=within_s)
        except _ActorLost as error:
            self._lost(str(error))
            raise
        return answer

    async def _come_up(self) -> None:
        while True:
            try:
                await self._bring_up()
                self._copy = await self._call("snapshot")
            except _ActorLost:
                self.losses += 1
                if self.losses > MAX_LOSSES:
                    raise
            else:
                return

    async def _bring_up(self) -> None:
        remote = self._ray.remote(num_cpus=0, max_restarts=0)(NodeActor)
        strategy: Any = "SPREAD"
        if self._machine is not None:  # where its home is, if that machine is still there
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(self._machine, soft=True)
        self._actor = remote.options(scheduling_strategy=strategy).remote(self._spec)
        self._machine = await self._call("start", self._code, self._copy, within_s=START_S + JOIN_S)

    async def _call(self, method: str, *arguments: Any, within_s: float = CALL_S) -> Any:
        """Raises Unreachable: the actor is lost or silent. MeshloreError: as it answered."""
        errors = self._ray.exceptions
        try:
            async with asyncio.timeout(within_s):
                return await getattr(self._actor, method).remote(*arguments)
        except errors.ActorDiedError:
            raise _ActorLost(f"the actor of {self.name} is lost", "another one is started") from None
        except (errors.ActorUnavailableError, TimeoutError):
            raise Unreachable(f"the actor of {self.name} does not answer", "it may in a moment") from None
        except errors.RayTaskError as error:
            if isinstance(error.cause, MeshloreError):
                raise error.cause from None
            raise MeshloreError(
                f"{self.name} failed ({error.cause!r})", "run again with --keep and see the logs"
            ) from None

    def _lost(self, reason: str) -> None:
        if self._reviving is None and not self.lost:
            self.losses += 1
            if self.losses > MAX_LOSSES:
                self._given_up = reason
                return
            self._reviving = asyncio.create_task(self._revive(), name=f"revive {self.name}")

    async def _revive(self) -> None:
        try:
            await self._come_up()
        except MeshloreError as error:
            self._given_up = str(error)
        finally:
            self._reviving = None


class _ActorTransport(httpx.AsyncBaseTransport):
    """HTTP requests as calls of an actor."""

    def __init__(self, node: RayNode) -> None:
        self._node = node

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout_s = request.extensions["timeout"]["read"]
        try:
            code, content = await self._node.ask(request.method, request.url.path, await request.aread(), timeout_s)
        except Unreachable as error:
            raise httpx.ConnectError(str(error)) from None
        return httpx.Response(code, stream=_Content(content))


class _Content(httpx.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
