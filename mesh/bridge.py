"""asyncio on one side, trio in a thread of its own on the other, and a portal between them.

py-libp2p runs on trio only, the rest of meshlore on asyncio. Of the bridges that were measured
(this, anyio's portal, trio's guest mode) this one is fast and cannot stall the asyncio loop.

Cancelling a call cancels the work on the other side and waits for it; stopping the bridge ends
every call in flight with `Cancelled`; an exception in a call reaches its caller and nobody else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

import trio

from ..errors import Cancelled

T = TypeVar("T")
CANCEL_GRACE_S = 2.0


class Bridge:
    """Owns the trio thread. ``start`` and ``stop`` are called on the asyncio loop, once each."""

    def __init__(self, name: str = "meshlore-trio") -> None:
        self._name = name
        self._nursery: trio.Nursery | None = None

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery of the trio side, for tasks that outlive one call (trio thread only)."""
        if self._nursery is None:
            raise _stopped()
        return self._nursery

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        ready, self._finished = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=self._name, daemon=True)
        self._thread.start()
        await ready.wait()

    async def stop(self, timeout_s: float = 3.0) -> None:
        """Cancel all that runs on the trio side and join the thread; at once if already stopped."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)
        async with asyncio.timeout(timeout_s):
            await self._finished.wait()
        self._thread.join(1.0)

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a trio function from asyncio.

        Raises:
            Cancelled: the bridge is stopped, or stops meanwhile.
            Exception: whatever the function raises.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        scope = trio.CancelScope()

        async def run() -> None:
            result: T | None = None
            error: BaseException | None = _stopped()
            try:
                with scope:
                    try:
                        result, error = await function(*args), None
                    except (Exception, SystemExit, KeyboardInterrupt) as raised:
                        error = raised
            finally:
                # in `finally`: a caller must never wait for a nursery that died
                self.post(_settle, outcome, result, error)

        def spawn() -> None:
            if self._nursery is None or self._nursery.cancel_scope.cancel_called:
                self.post(_settle, outcome, None, _stopped())
            else:
                self._nursery.start_soon(run)

        try:
            self._token.run_sync_soon(spawn)
        except trio.RunFinishedError:
            raise _stopped() from None
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            if not outcome.done():
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(scope.cancel)
                    await asyncio.wait([outcome], timeout=CANCEL_GRACE_S)
            if outcome.done() and not outcome.cancelled():
                outcome.exception()  # retrieved, so that asyncio does not report it as lost
            raise

    async def call_asyncio(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run an asyncio function from trio.

        Raises:
            Cancelled: the asyncio side cancelled it.
            Exception: whatever the function raises.
        """
        ended = trio.Event()
        result: T | None = None
        error: BaseException | None = None

        def note(returned: T | None, raised: BaseException | None) -> None:
            nonlocal result, error
            result, error = returned, raised
            ended.set()

        cancel = self.begin_asyncio(note, function, *args)
        try:
            await ended.wait()
        except trio.Cancelled:
            cancel()
            raise
        if isinstance(error, asyncio.CancelledError):
            raise Cancelled("the answer was cancelled") from None
        if error is not None:
            raise error
        return cast(T, result)

    def begin_asyncio(
        self,
        note: Callable[[T | None, BaseException | None], object],
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
    ) -> Callable[[], None]:
        """Start an asyncio function from trio, without a trio task that waits for it.

        ``note`` is called in the trio thread with what it returned and what it raised, unless the bridge stops before.

        Returns:
            What cancels it.
        """
        task: asyncio.Task[None] | None = None
        has_begun = False

        async def run() -> None:
            nonlocal has_begun
            has_begun = True
            result: T | None = None
            error: BaseException | None = None
            try:
                result = await function(*args)
            except (Exception, asyncio.CancelledError) as raised:
                error = raised
            # from here and not by a callback of the task, which would cost a turn of the loop
            end(result, error)

        def end(result: T | None, error: BaseException | None) -> None:
            with suppress(Cancelled):
                self.soon(note, result, error)

        def start() -> None:
            nonlocal task
            task = self._loop.create_task(run())

        def cancel() -> None:
            if task is not None:
                task.cancel()
                if not has_begun:
                    end(None, asyncio.CancelledError())

        self.post(start)
        return lambda: self.post(cancel)

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function soon in the trio thread, from any thread. It must not raise.

        Raises:
            Cancelled: the bridge is stopped.
        """
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            raise _stopped() from None

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function soon on the asyncio loop, from any thread; dropped if the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _run(self, ready: asyncio.Event) -> None:
        try:
            trio.run(self._main, ready, strict_exception_groups=True)
        finally:
            self.post(ready.set)
            self.post(self._finished.set)

    async def _main(self, ready: asyncio.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.post(ready.set)
                await self._stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None


def _settle(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    elif isinstance(error, SystemExit | KeyboardInterrupt):
        # those would stop the asyncio loop; here they are just a failed call
        outcome.set_exception(RuntimeError(f"{type(error).__name__} in the network thread"))
    else:
        outcome.set_exception(error)


def _stopped() -> Cancelled:
    return Cancelled("the network of this node is stopped")
