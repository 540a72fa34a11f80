"""The control API of one daemon: HTTP over a Unix socket that only this user can open.

`control_gate` says who may speak to it, `meshlore.node.protocol` what is spoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..codec import pack, unpack
from ..errors import DaemonNotRunning, DecodeError, InvalidTask, MeshloreError, StateError
from ..security.files import make_private_folder
from .control_gate import ControlGate, make_token
from .protocol import MAX_MESSAGE_BYTES, error_to_map, frame, socket_path

MAX_JSON_BYTES = 64 * 1024
Progress = Callable[[float, str], None]


class Controlled(Protocol):
    """What the control API needs of a node."""

    def status(self) -> dict[str, Any]: ...

    def peers(self) -> list[dict[str, Any]]: ...

    def knowledge(self) -> dict[str, Any]: ...

    async def invite(self, role: str, lifetime_s: float) -> str: ...

    async def revoke(self, who: str) -> dict[str, Any]: ...

    async def rotate_root(self, overlap_s: float) -> dict[str, Any]: ...

    def submit(self, task: Any, timeout_s: float, progress: Progress) -> Awaitable[dict[str, Any]]: ...


class ControlServer:
    """Serves a node's control API until it is stopped."""

    def __init__(self, home: Path, node: Controlled) -> None:
        self._path = socket_path(home)
        self._home = home
        self._node = node
        self._working: set[asyncio.Future[dict[str, Any]]] = set()
        self._routes = [
            Route("/status", self._status),
            Route("/peers", self._peers),
            Route("/knowledge", self._knowledge),
            Route("/invite", self._invite, methods=["POST"]),
            Route("/revoke", self._revoke, methods=["POST"]),
            Route("/rotate-root", self._rotate_root, methods=["POST"]),
            Route("/task", self._task, methods=["POST"]),
        ]

    async def start(self) -> None:
        """Raises StateError when the socket cannot be made."""
        make_private_folder(self._path.parent)
        app = ControlGate(Starlette(routes=self._routes), await asyncio.to_thread(make_token, self._home))
        self._server = _Server(
            uvicorn.Config(app, uds=str(self._path), log_config=None, access_log=False, lifespan="off")
        )
        self._path.unlink(missing_ok=True)
        self._serving = asyncio.create_task(self._server.serve(), name="control")
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110 -- uvicorn has no event
            await asyncio.sleep(0.005)
        if self._serving.done():
            raise StateError(f"cannot listen on {self._path}", "check that the folder is writable")
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Tell the clients whose tasks are not done yet, and end."""
        for work in self._working:
            work.cancel()
        self._server.should_exit = self._server.force_exit = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._serving, 2)
        self._path.unlink(missing_ok=True)

    async def _status(self, _request: Request) -> Response:
        return JSONResponse(self._node.status())

    async def _peers(self, _request: Request) -> Response:
        return JSONResponse(self._node.peers())

    async def _knowledge(self, _request: Request) -> Response:
        return Response(pack(self._node.knowledge()))

    async def _invite(self, request: Request) -> Response:
        async def invite(wanted: dict[str, Any]) -> dict[str, Any]:
            return {"code": await self._node.invite(str(wanted["role"]), float(wanted["lifetime_s"]))}

        return await _answer(request, invite)

    async def _revoke(self, request: Request) -> Response:
        return await _answer(request, lambda wanted: self._node.revoke(str(wanted["who"])))

    async def _rotate_root(self, request: Request) -> Response:
        return await _answer(request, lambda wanted: self._node.rotate_root(float(wanted["overlap_s"])))

    async def _task(self, request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_MESSAGE_BYTES:
                return Response(status_code=413)
        return StreamingResponse(self._events(bytes(body)), media_type="application/octet-stream")

    async def _events(self, body: bytes) -> AsyncIterator[bytes]:
        news: asyncio.Queue[tuple[float, str]] = asyncio.Queue(maxsize=1)

        def progress(fraction: float, label: str) -> None:
            if news.full():
                news.get_nowait()
            news.put_nowait((fraction, label))

        try:
            task, timeout_s = _parse(body)
        except InvalidTask as error:
            yield frame({"event": "error", "error": error_to_map(error)})
            return
        work = asyncio.ensure_future(self._node.submit(task, timeout_s, progress))
        self._working.add(work)
        try:
            async for fraction, label in _until_done(work, news):
                yield frame({"event": "progress", "fraction": fraction, "label": label})
            yield frame({"event": "result", "result": work.result()})
        except MeshloreError as error:
            yield frame({"event": "error", "error": error_to_map(error)})
        except asyncio.CancelledError:
            if not work.cancelled():
                raise  # the client has gone
            gone = DaemonNotRunning("the daemon stopped during the task", "start it again: meshlore run")
            yield frame({"event": "error", "error": error_to_map(gone)})
        finally:
            work.cancel()
            self._working.discard(work)


async def _answer(request: Request, act: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Response:
    """The JSON answer to a JSON request, or its error."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_JSON_BYTES:
            return Response(status_code=413)
    try:
        return JSONResponse(await act(json.loads(body)))
    except (ValueError, KeyError, TypeError) as error:
        problem: MeshloreError = InvalidTask(f"malformed request ({error})")
    except MeshloreError as error:
        problem = error
    return JSONResponse({"error": error_to_map(problem)}, status_code=400)


def _parse(body: bytes) -> tuple[Any, float]:
    try:
        wanted = unpack(body, max_bytes=MAX_MESSAGE_BYTES)
    except DecodeError as error:
        raise InvalidTask(f"the request is malformed ({error})") from None
    if not isinstance(wanted, dict) or set(wanted) != {"task", "timeout_s"}:
        raise InvalidTask("the request is no task with a deadline")
    if type(wanted["timeout_s"]) not in (int, float) or not 0 < wanted["timeout_s"] <= 86_400:
        raise InvalidTask("the deadline is out of range", "give 0 to 86,400 seconds")
    return wanted["task"], float(wanted["timeout_s"])


async def _until_done(
    work: asyncio.Future[Any], news: asyncio.Queue[tuple[float, str]]
) -> AsyncIterator[tuple[float, str]]:
    while not work.done():
        item = asyncio.ensure_future(news.get())
        await asyncio.wait({work, item}, return_when=asyncio.FIRST_COMPLETED)
        if item.done():
            yield item.result()
        else:
            item.cancel()


class _Server(uvicorn.Server):
    """Signals belong to the daemon, not to its control API."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
