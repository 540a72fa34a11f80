"""One node of a cluster as a Ray actor: the daemon, in an actor's process instead of one of its own.

Its home is a folder of the machine that it runs on. It founds the mesh or joins it once; an actor that starts in a
home that is there goes on from it, and one that comes up on another machine from a copy that the driver kept.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DaemonNotRunning, StateError
from .client import MeshClient

SKIPPED_NUMBERS = 1000
START_S = 60.0
STOP_S = 5.0
COPIES = 100
NOT_COPIED = frozenset({"lock", "control.token", "journal.bin"})


@dataclass(frozen=True)
class NodeSpec:
    """What an actor needs to be a node.

    Attributes:
        home: the same path on every machine.
        settings: as in the configuration file, without those that depend on the machine.
        data: private samples as the bytes of an .npz file; None: an anchor.
        founds: the space of the mesh that it founds; None: it joins.
        driver_machine: Ray's id of the machine that cleans up the homes there.
    """

    name: str
    home: str
    settings: Mapping[str, Any]
    data: bytes | None
    founds: Mapping[str, Any] | None
    driver_machine: str


class NodeActor:
    """Runs in Ray. The driver speaks to the node as everybody does on its own machine: through its control API."""

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._home = Path(spec.home)
        self._client = MeshClient(self._home)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self, code: str | None, copy: Mapping[str, bytes] | None) -> str:
        """Be up, with the control API answering; Ray's id of the machine.

        Args:
            code: an invite; used only where there is no home yet.
            copy: `snapshot` of an earlier actor; used only where its home is not.

        Raises:
            MeshloreError: it cannot start.
        """
        import ray

        from ..knowledge.executor import IN_PROCESS, Executor
        from ..knowledge.process import prepare_to_learn
        from ..security.membership import Credentials
        from .build import build_node
        from .daemon import Daemon
        from .logs import configure_logging
        from .membership import Membership
        from .ray_executor import RayExecutor
        from .ray_workers import Workers
        from .settings import load_settings
        from .store import HomeLock

        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        if not (self._home / "member.cert").exists():
            if copy is not None:
                await asyncio.to_thread(restore_home, self._home, copy)
            else:
                await asyncio.to_thread(self._settle, code)
        flags = {"listen": f"/ip4/{address}/tcp/0"}
        settings = load_settings(self._home / "config.toml", flags=flags, environment={})
        prepare_to_learn(settings.threads)
        configure_logging(settings.log_level)
        self._lock = HomeLock(self._home)
        credentials = await asyncio.to_thread(Credentials.load, self._home, None)
        executor: Executor = IN_PROCESS
        if settings.anchor.ray and "anchor" in credentials.certificate.roles:
            executor = RayExecutor(Workers(ray, settings.anchor.workers))  # whatever the address: this very Ray
        build = functools.partial(build_node, self._home, settings, credentials, executor=executor)
        node, _ = await asyncio.to_thread(build)
        await node.restore()
        daemon = Daemon(self._home, settings, Membership(self._home, credentials, None), node)
        self._running = asyncio.create_task(daemon.run(self._stop), name=self._spec.name)
        self._running.add_done_callback(self._ended)
        await self._answering()
        return str(ray.get_runtime_context().get_node_id())

    async def ask(self, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """One request to the node's control API: status code and content."""
        return await self._client.forward(method, path, body, timeout_s)

    async def snapshot(self) -> dict[str, bytes]:
        """The files of the home that another machine would need to go on, by relative path."""
        return await asyncio.to_thread(copy_home, self._home)

    async def stop(self) -> None:
        """End politely; on a machine that is not the driver's, the home goes too."""
        import ray

        self._stop.set()
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=STOP_S)
        if ray.get_runtime_context().get_node_id() != self._spec.driver_machine:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)

    async def _answering(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await self._client.status()
                except DaemonNotRunning:
                    await asyncio.sleep(0.05)
                else:
                    return

    def _ended(self, running: asyncio.Task[None]) -> None:
        """A node that failed ends its actor, so that the driver starts another."""
        if not self._stop.is_set():
            error = None if running.cancelled() else running.exception()
            print(f"meshlore: {self._spec.name} ended: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _settle(self, code: str | None) -> None:
        """Make the home: its data, its settings, its membership."""
        from ..knowledge.space import Space
        from ..security.files import make_private_folder, write_atomic
        from ..security.invites import Invite
        from ..security.membership import found_mesh
        from .cluster import join
        from .settings import Settings, write_settings

        if self._spec.founds is None and code is None:
            raise StateError(f"{self._spec.name} has no home and no invite", "start the cluster anew")
        make_private_folder(self._home)
        values = {**self._spec.settings, "lan": "off"}
        if self._spec.data is not None:
            write_atomic(self._home / "data.npz", self._spec.data)
            values["data"] = str(self._home / "data.npz")
        if code is not None:
            values["bootstrap"] = list(Invite.parse(code).addresses)
        write_settings(self._home / "config.toml", values)
        if code is not None:
            join(self._home, code, Settings.model_validate({"name": self._spec.name}))
        elif self._spec.founds is not None:
            space = Space.from_map(dict(self._spec.founds)).to_map()
            found_mesh(self._home, "cluster", self._spec.name, space, ["node", "requester"], now=time.time())


def copy_home(home: Path) -> dict[str, bytes]:
    """The files of a home in use, by relative path; its journal and the checkpoints that it names belong together.

    Raises:
        StateError: it changes all the time.
    """
    journal = home / "state" / "journal.bin"
    for _ in range(COPIES):
        before, files = _bytes_of(journal), {}
        for path in sorted(home.rglob("*")):
            if path.is_file() and path.name not in NOT_COPIED:
                files[str(path.relative_to(home))] = _bytes_of(path)
        if before == _bytes_of(journal):
            copied = files | {str(journal.relative_to(home)): before}
            return {name: data for name, data in copied.items() if data is not None}
    raise StateError(f"{home} changes too fast to be copied", "it is copied at its next version")


def _bytes_of(path: Path) -> bytes | None:
    """None: there is no such file (any more)."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def restore_home(home: Path, copy: Mapping[str, bytes]) -> None:
    """Write the files of a copy that may be older than the state that was lost: numbers given out since are skipped."""
    from ..security.files import make_private_folder, write_atomic
    from .store import StateStore

    make_private_folder(home)
    for name, data in copy.items():
        make_private_folder((home / name).parent)
        write_atomic(home / name, data)
    state = StateStore(home)
    state.update(sequence=state.journal.sequence + SKIPPED_NUMBERS)
