"""A node of a cluster that is a process on this machine, as the cluster's watch sees it."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .client import MeshClient
from .results import Result
from .tasks import Task


class ProcessNode:
    """A `meshlore.node.watch.Watched`. Its process is its cluster's to stop."""

    def __init__(self, home: Path, process: BaseProcess) -> None:
        self._process = process
        self._client = MeshClient(home)

    @property
    def lost(self) -> bool:
        return not self._process.is_alive()

    @property
    def remark(self) -> str:
        return f"{self._process.name} ended during the run (exit {self._process.exitcode})" if self.lost else ""

    async def status(self) -> Mapping[str, Any]:
        return await self._client.status()

    async def submit(self, task: Task, timeout_s: float) -> Result:
        result: Result = await self._client.submit(task, timeout_s=timeout_s)
        return result

    async def knowledge(self) -> tuple[Any, tuple[str, ...]]:
        return await self._client.knowledge()

    async def close(self) -> None:
        await self._client.close()
