"""One daemon: from a home folder and settings to a running node, and back to nothing left behind."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from ..errors import ConfigError
from ..knowledge.executor import Executor
from ..knowledge.process import prepare_to_learn
from ..mesh.authority import AuthoritySpread
from ..mesh.guard import Guard
from ..mesh.host import Libp2pTransport
from ..mesh.lan import LanDiscovery
from ..mesh.members import HeartbeatSettings, Peer
from ..mesh.mesh import Mesh, MeshSettings
from ..mesh.overlay import OverlaySettings
from ..mesh.reachability import Reachability
from ..security.governance import revoke, rotate_root
from ..security.invites import InviteBook
from ..security.join import answer_request
from ..security.membership import Credentials
from .actor import EdgeNode
from .build import build_node
from .control import ControlServer, Progress
from .diagnosis import diagnose
from .facts import facts_of
from .governing import named
from .logs import configure_logging
from .membership import ROLES_OF, Membership
from .messages import PeersChanged
from .neighbourhood import advertised_model, advertised_stage
from .plan import Role
from .ports import remember_ports, same_ports
from .ray_executor import executor_of
from .renewal import Renewal
from .security_status import describe_security
from .service import TaskService
from .settings import Settings
from .setup import ADDRESS_BOOK
from .status import describe, published_samples
from .store import HomeLock

log = structlog.get_logger("meshlore.daemon")

INVITES_FILE = "invites.db"
PARTIALS_FOLDER = "partials"
CONDUCT_FILE = "conduct.bin"
ANCHOR_NEIGHBOURS = 64


class Daemon:
    """A node with its network and its control API: what the control API shows and what peers ask."""

    def __init__(self, home: Path, settings: Settings, membership: Membership, node: EdgeNode) -> None:
        credentials = membership.credentials
        self._home = home
        self._settings = settings
        self._membership = membership
        self._node = node
        self._book = InviteBook(home / INVITES_FILE, credentials.mesh_id)
        self._tasks = TaskService(node)
        self._reachable: tuple[str, ...] = ()
        self._guard = Guard(home / CONDUCT_FILE)
        self._transport = Libp2pTransport(
            credentials,
            same_ports(home, settings.listen),
            answer_join=self._answer_join if credentials.root else None,
            guard=self._guard,
        )
        self._mesh = Mesh(
            self._transport,
            settings=MeshSettings(
                heartbeat=HeartbeatSettings(interval_s=settings.heartbeat_s),
                overlay=_overlay(settings, node.learner.role),
            ),
            store=_Shelf(node),
            address_book=home / ADDRESS_BOOK,
            partials=home / PARTIALS_FOLDER,
            on_peer=self._on_peer,
            worth=node.worth,
        )
        self._authority = AuthoritySpread(self._mesh, self._transport, membership)
        self._reachability = Reachability(self._transport, self._mesh)
        self._lan = LanDiscovery(credentials.mesh_id, self._mesh.own_record, self._mesh.heard_of)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set or something that cannot be survived happens."""
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self._node.close)
            cleanup.push_async_callback(self._tasks.close)
            self._tasks.serve_members(self._mesh)
            renewal = Renewal(self._membership, self._mesh, certificate_of=self._transport.certificate_of)
            self._membership.listeners += [self._show, lambda _: self._authority.wake(), lambda _: renewal.wake()]
            self._node.neighbourhood.attach(self._mesh)
            await self._mesh.start(list(self._settings.bootstrap))
            cleanup.push_async_callback(self._mesh.stop)
            control = ControlServer(self._home, self)
            await control.start()
            cleanup.push_async_callback(control.stop)
            remember_ports(self._home, self._transport.listening())
            log.info("running", peer_id=self._transport.peer_id, addresses=self._transport.addresses())
            running = [
                asyncio.create_task(self._node.run(), name="node"),
                asyncio.create_task(renewal.run(), name="certificate"),
                asyncio.create_task(self._authority.run(), name="authority"),
                asyncio.create_task(self._reachability.run(), name="reachability"),
                asyncio.create_task(self._guard.keep(), name="conduct"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            if self._settings.on_lan:
                running.append(asyncio.create_task(self._lan.run(), name="lan"))
            try:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.wait(running, timeout=2)

    def status(self) -> dict[str, Any]:
        credentials, reach = self._membership.credentials, self._reachability.state
        facts = facts_of(self._mesh, self._lan.state, reach, credentials, self._settings, time.time())
        return describe(self._node) | {
            "reach": str(reach),
            "findings": [finding.to_map() for finding in diagnose(facts)],
            "home": str(self._home),
            "pid": os.getpid(),
            "addresses": self._transport.addresses(),
            "security": describe_security(self._membership, self._guard, self._mesh.peers()),
        }

    def peers(self) -> list[dict[str, Any]]:
        return [
            {
                "name": peer.name,
                "peer_id": peer.peer_id,
                "roles": sorted(peer.roles),
                "state": str(peer.state),
                "addresses": list(peer.addresses),
                "rtt_ms": None if peer.rtt_s is None else round(1000 * peer.rtt_s, 2),
                "problem": str(peer.problem.reason) if peer.problem else None,
                "last_seen_s": None if peer.last_seen_s is None else round(peer.last_seen_s, 1),
                "stage": advertised_stage(peer),
                "model": advertised_model(peer),
            }
            for peer in self._mesh.peers()
        ]

    def knowledge(self) -> dict[str, Any]:
        return published_samples(self._node)

    async def invite(self, role: str, lifetime_s: float) -> str:
        """Raises ConfigError on a device that does not hold the root key, and for an unknown role."""
        if self._membership.credentials.root is None:
            raise ConfigError("this device cannot invite: it does not hold the mesh's root key", "ask the founder")
        if role not in ROLES_OF:
            raise ConfigError(f"role {role[:40]!r}", f"one of {', '.join(ROLES_OF)}")
        addresses = self._transport.addresses()
        invite = await asyncio.to_thread(self._book.create, addresses, ROLES_OF[role], time.time(), lifetime_s)
        return invite.code()

    async def revoke(self, who: str) -> dict[str, Any]:
        """Raises ConfigError: no or several such members are known, or the root key is not here."""
        peer_id, name = named(who, self._mesh.peers())
        changed = await self._membership.change(lambda own: revoke(own, peer_id, time.time()))
        return {"name": name, "peer_id": peer_id, "version": changed.authority.revocations.version}

    async def rotate_root(self, overlap_s: float) -> dict[str, Any]:
        """Raises ConfigError: the overlap is out of range, or the root key is not here."""
        changed = await self._membership.change(lambda own: rotate_root(own, time.time(), overlap_s))
        link = changed.authority.links[-1]
        return {"root": link.public_key.hex(), "until": link.until}

    async def submit(self, task: Any, timeout_s: float, progress: Progress) -> dict[str, Any]:
        return await self._tasks.submit(task, timeout_s, progress)

    def _answer_join(self, request: bytes, peer_id: str) -> bytes:
        """In a worker thread of the transport."""
        return answer_request(request, peer_id, self._membership.credentials, self._book, time.time(), self._reachable)

    def _on_peer(self, _peer: Peer) -> None:
        known = [peer for peer in self._mesh.peers() if peer.connected]
        self._reachable = tuple(address for peer in known for address in peer.addresses[:1])
        self._node.tell(PeersChanged())
        self._authority.wake()

    def _show(self, credentials: Credentials) -> None:
        self._node.renew(credentials)
        self._transport.renew(credentials)


class _Shelf:
    """The node's packets, as the mesh sees them."""

    def __init__(self, node: EdgeNode) -> None:
        self._node = node
        self.inventory = node.packets.inventory
        self.declines = node.packets.declines
        self.read = node.packets.read

    async def accept(self, name: str, data: bytes, from_peer: str) -> None:
        await self._node.accept(name, data, from_peer)


def _overlay(settings: Settings, role: Role) -> OverlaySettings:
    """An anchor serves many: it parts with nobody while it has room."""
    most = ANCHOR_NEIGHBOURS if role == "anchor" else 2 * settings.neighbours
    return OverlaySettings(target=settings.neighbours, most=max(most, settings.neighbours))


def run_daemon(home: Path, settings: Settings, *, passphrase: str | None = None, parent_pid: int | None = None) -> None:
    """Run a node until SIGINT or SIGTERM (or until the process ``parent_pid`` is gone).

    Raises:
        MeshloreError: it cannot start, or cannot go on.
    """
    prepare_to_learn(settings.threads)
    configure_logging(settings.log_level)
    lock = HomeLock(home)
    try:
        credentials = Credentials.load(home, passphrase)
        settings = settings.model_copy(update={"name": credentials.certificate.name})
        with executor_of(settings.anchor, credentials.certificate.roles) as executor:
            asyncio.run(_run(settings, Membership(home, credentials, passphrase), parent_pid, executor))
    finally:
        lock.release()


async def _run(settings: Settings, membership: Membership, parent_pid: int | None, executor: Executor) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    build = functools.partial(build_node, membership.home, settings, membership.credentials, executor=executor)
    node, notes = await asyncio.to_thread(build)
    for note in notes:
        log.info(note)
    await node.restore()
    watch = asyncio.create_task(_stop_with(parent_pid, stop)) if parent_pid is not None else None
    try:
        await Daemon(membership.home, settings, membership, node).run(stop)
    finally:
        if watch is not None:
            watch.cancel()


async def _stop_with(parent_pid: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent_pid:  # noqa: ASYNC110 -- nothing tells of a lost parent
        await asyncio.sleep(0.5)
    log.warning("the cluster that started this node is gone: stopping")
    stop.set()
