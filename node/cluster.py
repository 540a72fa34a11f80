"""Many nodes on one machine: each a process with a home, keys and a slice of the data of its own.

The parent founds the mesh and hands out invites; the nodes join, find each other and learn as they
would on devices of their own. The parent only watches, through each node's control API, and measures
with test data that no node has.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..errors import Unreachable
from ..knowledge.data import Dataset
from ..knowledge.sources import save_npz
from ..security.identity import Identity
from ..security.invites import Invite, InviteBook
from ..security.membership import found_mesh
from .cluster_options import ClusterOptions, share_out
from .membership import ROLES_OF
from .report import Report
from .settings import Settings, write_settings

JOIN_S = 30.0
STOP_S = 3.0


@dataclass(frozen=True)
class Member:
    """One process of the cluster. ``private`` is None for the anchor; ``code`` is its invite, if it needs one."""

    name: str
    home: Path
    model: str
    private: Dataset | None
    code: str | None


@dataclass(frozen=True)
class Cluster:
    """Prepared homes, not running yet, and the data that the parent measures with."""

    options: ClusterOptions
    folder: Path
    members: tuple[Member, ...]
    train: Dataset
    test: Dataset


def run_cluster(options: ClusterOptions, *, live: bool) -> Report:
    """Prepare, run until nobody has anything left to learn, measure, and clean up.

    Args:
        live: show progress in the terminal.

    Raises:
        DataError, ConfigError: before anything was started.
        KeyboardInterrupt: Ctrl-C; every process has been stopped.
    """
    started = time.monotonic()
    options.check()
    with homes(options) as folder:
        with signals_after():
            cluster = prepare(options, folder)
            import_what_nodes_need()
        processes = {member.name: _start(member) for member in cluster.members}
        try:
            from .process_node import ProcessNode
            from .watch import watch

            nodes = [ProcessNode(member.home, processes[member.name]) for member in cluster.members]
            return asyncio.run(watch(cluster, nodes, started, live=live))
        finally:
            _stop(list(processes.values()))


@contextmanager
def homes(options: ClusterOptions) -> Iterator[Path]:
    """A folder for the homes of a cluster, gone at the end however that comes; SIGTERM ends it as Ctrl-C does."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="meshlore-"))
    try:
        yield folder
    finally:
        if options.keep:
            shutil.copytree(folder, options.kept_homes, ignore=shutil.ignore_patterns("*.sock"))
        shutil.rmtree(folder, ignore_errors=True)


def prepare(options: ClusterOptions, folder: Path) -> Cluster:
    """Split the data, found the mesh and write one home per member below ``folder``."""
    roster = share_out(options)
    now, founder = time.time(), folder / roster.parts[0].name
    space = roster.train.space
    credentials = found_mesh(founder, "cluster", founder.name, space.to_map(), list(ROLES_OF["node"]), now=now)
    address = f"/ip4/127.0.0.1/tcp/{_free_port()}"
    reach = f"{address}/p2p/{credentials.peer_id}"
    book = InviteBook(founder / "invites.db", credentials.mesh_id)
    members = []
    for part in roster.parts:
        home = folder / part.name
        home.mkdir(mode=0o700, exist_ok=True)
        if part.private is not None:
            save_npz(home / "data.npz", part.private)
        settings = {
            "name": part.name,
            "data": str(home / "data.npz") if part.private is not None else "",
            "model": part.model,
            "seed": part.seed,
        }
        code = None
        if home == founder:
            settings["listen"] = address
        else:
            roles = ROLES_OF["anchor" if part.private is None else "node"]
            code = book.create([reach], roles, now, lifetime_s=3600).code()
            settings["bootstrap"] = [reach]
        write_settings(home / "config.toml", {**settings, **options.settings})
        members.append(Member(part.name, home, part.model, part.private, code))
    return Cluster(options, folder, tuple(members), roster.train, roster.test)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def signals_after() -> Iterator[None]:
    """Ctrl-C takes effect at the end: extension modules turn it into an ImportError while they load."""
    held = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def import_what_nodes_need() -> None:
    """Once, in the parent: forked nodes then share these pages, and start at once instead of in seconds."""
    import torch._dynamo  # noqa: F401
    from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: F401

    from ..knowledge.process import prepare_to_learn
    from . import daemon  # noqa: F401

    prepare_to_learn(1)
    gc.collect()
    gc.freeze()


def _start(member: Member) -> BaseProcess:
    """A process of its own; on Linux a fork, which shares the parent's imports."""
    context = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context("spawn")
    process = context.Process(
        target=_be_a_node, args=(member.home, member.code, member.name, os.getpid()), name=member.name
    )
    process.start()
    return process


def _be_a_node(home: Path, code: str | None, name: str, parent_pid: int) -> None:
    """The life of one process: join if it has to, then run as any daemon does."""
    import setproctitle

    from ..errors import MeshloreError
    from .daemon import run_daemon
    from .settings import load_settings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its nodes in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    setproctitle.setproctitle(f"meshlore {name}")
    log = os.open(home / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        settings = load_settings(home / "config.toml", environment={})
        if code is not None:
            join(home, code, settings)
        run_daemon(home, settings, parent_pid=parent_pid)
    except MeshloreError as error:
        print(f"meshlore: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def join(home: Path, code: str, settings: Settings) -> None:
    """As `meshlore join` does; the founder may still be starting."""
    from ..mesh.join import join_mesh
    from .setup import settle_in

    invite, identity, deadline = Invite.parse(code), Identity.generate(), time.monotonic() + JOIN_S
    while True:
        try:
            admission = asyncio.run(join_mesh(invite, identity, settings.name, timeout_s=10))
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            settle_in(home, admission, None)
            return


def _stop(processes: list[BaseProcess]) -> None:
    """Ask every process to stop, and end those that do not."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join(1)
