"""The Python API: talk to the daemon on this device and inject tasks into the mesh through it.

async with meshlore.connect() as mesh:
    result = await mesh.submit(meshlore.Classify(["photo.png"]))
    print(result.labels, result.confidence, result.answer.node)
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import httpx

from ..codec import pack, unpack, unpack_array
from ..errors import DaemonNotRunning, DeadlineExceeded, DecodeError, InvalidTask, MeshloreError
from ..knowledge.samples import as_labels, as_levels, presented
from ..knowledge.space import Space
from .control_gate import HOST, read_token
from .protocol import MAX_MESSAGE_BYTES, FrameReader, error_from_map, socket_path
from .results import Classified, Evaluated, FineTuned, Generated, Learned, Result, result_from_map
from .settings import find_places
from .tasks import Classify, Evaluate, FineTune, Generate, Skill, Task, to_map

DEFAULT_TIMEOUT_S = 60.0
GRACE_S = 5.0
FORBIDDEN = 403


def connect(home: str | Path | None = None) -> MeshClient:
    """A client of the daemon on this device, to be used with ``async with``.

    Args:
        home: the daemon's home folder; the default one, or ``MESHLORE_HOME``, if not given.
    """
    return MeshClient(find_places(str(home) if home is not None else None).home)


class MeshClient:
    """See `connect`. Every method raises `DaemonNotRunning` when no daemon answers."""

    def __init__(self, home: Path, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """``transport`` leads to the daemon of a home on another machine; None: the socket in ``home``."""
        self._home = home
        hooks = {"request": [self._show_token]} if transport is None else {}
        transport = transport or httpx.AsyncHTTPTransport(uds=str(socket_path(home)))
        self._http = httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", timeout=10, event_hooks=hooks)
        self._space: Space | None = None

    async def __aenter__(self) -> MeshClient:
        try:
            await self.status()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def forward(self, method: str, path: str, content: bytes, timeout_s: float) -> tuple[int, bytes]:
        """A request of another program to the control API, as it is: status code and content of the answer."""
        try:
            response = await self._http.request(method, path, content=content, timeout=timeout_s)
        except httpx.TransportError:
            raise self._not_running() from None
        return response.status_code, response.content

    async def status(self) -> dict[str, Any]:
        """What the node is, has and does; see docs/status.md for the fields."""
        status: dict[str, Any] = (await self._get("/status")).json()
        self._space = Space.from_map(status["space"])
        return status

    async def peers(self) -> list[dict[str, Any]]:
        """The members that this node knows, live or not."""
        peers: list[dict[str, Any]] = (await self._get("/peers")).json()
        return peers

    async def knowledge(self) -> tuple[Any, tuple[str, ...]]:
        """The synthetic samples that this node published: uint8 levels (n, c, h, w), and their class names."""
        value = unpack((await self._get("/knowledge")).content, max_bytes=MAX_MESSAGE_BYTES, max_items=100_000)
        return unpack_array(value["images"], max_bytes=MAX_MESSAGE_BYTES), tuple(value["labels"])

    async def invite(self, *, role: str = "node", lifetime_s: float = 900) -> str:
        """A one-use invite code; the node must hold the mesh's root key."""
        return str((await self._post("/invite", {"role": role, "lifetime_s": lifetime_s}))["code"])

    async def revoke(self, who: str) -> dict[str, Any]:
        """Take a member's membership away for good, by its name or peer id; the node must hold the root key."""
        return await self._post("/revoke", {"who": who})

    async def rotate_root(self, *, overlap_s: float) -> dict[str, Any]:
        """Put a new root key in place of the present one, whose certificates stay valid for ``overlap_s`` seconds."""
        return await self._post("/rotate-root", {"overlap_s": overlap_s})

    @overload
    async def submit(
        self,
        task: Classify,
        *,
        timeout_s: float = ...,
        on_progress: Callable[[float, str], None] | None = ...,
    ) -> Classified: ...
    @overload
    async def submit(
        self,
        task: Generate,
        *,
        timeout_s: float = ...,
        on_progress: Callable[[float, str], None] | None = ...,
    ) -> Generated: ...
    @overload
    async def submit(
        self,
        task: Evaluate,
        *,
        timeout_s: float = ...,
        on_progress: Callable[[float, str], None] | None = ...,
    ) -> Evaluated: ...
    @overload
    async def submit(
        self,
        task: FineTune,
        *,
        timeout_s: float = ...,
        on_progress: Callable[[float, str], None] | None = ...,
    ) -> FineTuned: ...
    @overload
    async def submit(
        self,
        task: Skill,
        *,
        timeout_s: float = ...,
        on_progress: Callable[[float, str], None] | None = ...,
    ) -> Learned: ...

    async def submit(
        self,
        task: Task,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> Result:
        """Run a task and return its typed result by the deadline.

        Args:
            timeout_s: the deadline, in seconds from now.
            on_progress: called with the fraction done and what is being done.

        Raises:
            InvalidTask, NoCapableNode, DeadlineExceeded, DaemonNotRunning; `DataError` for unreadable images.
        """
        started = time.monotonic()
        body = pack({"task": to_map(await self._prepared(task)), "timeout_s": float(timeout_s)})
        timeout = httpx.Timeout(10, read=timeout_s + GRACE_S)
        try:
            async with self._http.stream("POST", "/task", content=body, timeout=timeout) as response:
                async for event in _events(response):
                    match event.get("event"):
                        case "progress" if on_progress is not None:
                            on_progress(event["fraction"], event["label"])
                        case "error":
                            raise error_from_map(event["error"])
                        case "result":
                            return self._finished(result_from_map(event["result"], took_s=time.monotonic() - started))
        except httpx.ReadTimeout:
            raise DeadlineExceeded(f"no result within {timeout_s:g} s", "give it more time") from None
        except httpx.ConnectError:
            raise self._not_running() from None
        except httpx.TransportError as error:
            raise DaemonNotRunning(f"the daemon stopped during the task ({error})", "start it: meshlore run") from None
        raise DaemonNotRunning("the daemon ended the task without a result", "see its log")

    async def _prepared(self, task: Task) -> Task:
        if self._space is None:
            await self.status()
        space = self._space
        if space is None:
            raise MeshloreError("the daemon did not say what its space is")
        match task:
            case Classify():
                return replace(task, images=as_levels(task.images, space))
            case Evaluate() | FineTune():
                images = as_levels(task.images, space)
                return replace(task, images=images, labels=as_labels(task.labels, len(images), space))
            case Generate():
                return replace(task, label=str(task.label))
            case Skill():
                return replace(task, classes=tuple(map(str, task.classes)))
        raise InvalidTask(f"{type(task).__name__} is no task", "one of Classify, Generate, Evaluate, FineTune, Skill")

    def _finished(self, result: Result) -> Result:
        if isinstance(result, Generated) and self._space is not None:
            return replace(result, images=presented(result.images, self._space))
        return result

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        value: dict[str, Any] = (await self._request("POST", path, json=body)).json()
        if "error" in value:
            raise error_from_map(value["error"])
        return value

    async def _show_token(self, request: httpx.Request) -> None:
        with suppress(FileNotFoundError):  # no daemon ran here yet, which the request will show
            request.headers["authorization"] = f"Bearer {read_token(self._home)}"

    async def _get(self, path: str) -> httpx.Response:
        return await self._request("GET", path)

    async def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **arguments)
        except httpx.ConnectError:
            raise self._not_running() from None
        except httpx.TransportError as error:
            raise DaemonNotRunning(f"the daemon in {self._home} does not answer ({error!r})", "restart it") from None
        if response.status_code == FORBIDDEN:
            raise DaemonNotRunning(f"the daemon in {self._home} refuses this client ({response.text})", "restart it")
        if response.is_server_error:
            raise MeshloreError(f"the daemon in {self._home} failed to answer {path}", "see its log")
        return response

    def _not_running(self) -> DaemonNotRunning:
        return DaemonNotRunning(f"no daemon runs in {self._home}", "start it: meshlore run, or give another --home")


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    reader = FrameReader()
    async for data in response.aiter_raw():
        try:
            for event in reader.feed(data):
                yield event
        except DecodeError as error:
            raise MeshloreError(f"the daemon's answer is malformed ({error})", "is it of this version?") from None
