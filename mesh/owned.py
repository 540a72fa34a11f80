"""Background work with an owner: one task per purpose and subject, its errors in the log, all awaited at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from ..errors import MeshloreError, PeerError

log = logging.getLogger("meshlore.mesh")

P = ParamSpec("P")


class OwnedTasks:
    """Bounded by construction: what is already under way is not started again."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def once(
        self,
        purpose: str,
        subject: str,
        work: Callable[P, Coroutine[Any, Any, None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Start ``work(*args)`` unless the same purpose is under way for this subject."""
        key = (purpose, subject)
        if key in self._tasks:
            return

        async def run() -> None:
            try:
                await work(*args, **kwargs)
            except PeerError as error:
                log.debug("%s …%s: %s", purpose, subject[-8:], error)
            except MeshloreError as error:
                log.warning("%s …%s: %s", purpose, subject[-8:], error)
            except Exception:
                log.exception("%s …%s failed", purpose, subject[-8:])
            finally:
                # here and not only in the callback: what the work woke up may start the same again at once
                ended(asyncio.current_task())

        def ended(task: asyncio.Task[None] | None) -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]

        task = self._tasks[key] = asyncio.create_task(run(), name=f"mesh {purpose} {subject[-8:]}")
        task.add_done_callback(ended)

    def under_way(self, purpose: str) -> set[str]:
        """The subjects of the tasks of this purpose that are under way."""
        return {subject for running, subject in self._tasks if running == purpose}

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Cancel everything; await what is returned."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        return tasks
