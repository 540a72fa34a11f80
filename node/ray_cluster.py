"""``meshlore cluster --ray``: each node an actor of Ray, on this machine or on several (`docs/ray.md`).

The nodes are the daemon's: they found and join the mesh, and speak libp2p with each other, not Ray. The driver deals
out the data, watches and measures; it keeps a copy of each node's home, from which a lost actor is started again.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from ..knowledge.sources import save_npz
from .cluster import Cluster, Member, homes, signals_after
from .cluster_options import ANCHOR, ClusterOptions, Part, Roster, share_out
from .logs import configure_logging
from .ray_actor import NodeSpec
from .ray_node import RayNode
from .ray_session import ray_address, ray_session
from .report import Report
from .watch import watch


def run_ray_cluster(options: ClusterOptions, *, address: str, live: bool) -> Report:
    """As `run_cluster`, in Ray.

    Args:
        address: HOST:PORT of a Ray cluster, or `meshlore.node.ray_session.LOCAL`.

    Raises:
        ConfigError, Unreachable: of Ray (`ray_session`), before anything was started.
        DataError, ConfigError: of the data and options, likewise.
        KeyboardInterrupt: Ctrl-C; every actor has ended, and with them a Ray that this has started.
    """
    started = time.monotonic()
    options.check()
    ray_address(address)
    roster = share_out(options)
    configure_logging("error")
    with homes(options) as folder, ray_session(address) as ray:
        with signals_after():
            machine = ray.get_runtime_context().get_node_id()
            nodes = [RayNode(ray, _spec(part, options, roster, folder, machine)) for part in roster.parts]
        members = tuple(Member(p.name, folder / p.name, p.model, p.private, None) for p in roster.parts)
        cluster = Cluster(options, folder, members, roster.train, roster.test)
        return asyncio.run(_run(cluster, nodes, started, live))


async def _run(cluster: Cluster, nodes: list[RayNode], started: float, live: bool) -> Report:
    try:
        founder, *others = nodes
        await founder.start(None)
        codes = [await founder.invite(ANCHOR if node.name == ANCHOR else "node") for node in others]
        await asyncio.gather(*(node.start(code) for node, code in zip(others, codes, strict=True)))
    except BaseException:
        await asyncio.gather(*(node.close() for node in nodes))
        raise
    return await watch(cluster, nodes, started, live=live)


def _spec(part: Part, options: ClusterOptions, roster: Roster, folder: Path, machine: str) -> NodeSpec:
    settings: dict[str, Any] = {"name": part.name, "model": part.model, "seed": part.seed, **options.settings}
    founds = roster.train.space.to_map() if part is roster.parts[0] else None
    data = None
    if part.private is not None:
        save_npz(folder / "share.npz", part.private)
        data = (folder / "share.npz").read_bytes()
    return NodeSpec(part.name, str(folder / part.name), settings, data, founds, machine)
