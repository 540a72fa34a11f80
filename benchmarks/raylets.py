"""A Ray cluster of several raylets on this machine, all on loopback, for what would be several machines."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from meshlore.node.ray_session import QUIET

STORE_BYTES = 80 << 20
START_S = 180.0
STOP_S = 30.0


@contextmanager
def raylets(cpus: Sequence[int], port: int = 0) -> Iterator[str]:
    """One raylet per entry of ``cpus``, the first of them the head, on ``port`` or any free one; yields its address.

    They ask for the token that this process shows, or else for one that is made for them and shown meanwhile.
    """
    before = dict(os.environ)
    # not in TMPDIR, which may be long: Ray's sockets have 107 characters for their path
    with tempfile.TemporaryDirectory(prefix="raylets-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ.update(QUIET)
        if os.environ.get("RAY_AUTH_MODE") != "token":
            token = Path(folder) / "token"
            token.touch(0o600)
            token.write_text(secrets.token_hex(32))
            os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        # not in this process: Ray keeps the token, or that there is none, from when it is first imported
        cluster = spawn.Process(target=_cluster, args=(theirs, cpus, port, folder), name="raylets", daemon=True)
        try:
            cluster.start()
            theirs.close()
            if not ours.poll(START_S):
                raise TimeoutError(f"no Ray within {START_S:.0f} s")
            yield ours.recv()
        finally:
            ours.close()
            cluster.join(STOP_S)
            cluster.kill()
            os.environ.clear()
            os.environ.update(before)


def _cluster(connection: Connection, cpus: Sequence[int], port: int, folder: str) -> None:
    """Until the other end of the connection is closed, or gone."""
    # where Ray notes which cluster is the current one: not in a folder that another Ray on this machine reads, or that
    # is not there where none has ever run
    os.environ["RAY_TMPDIR"] = folder
    (Path(folder) / "ray").mkdir()
    # not by `ray start`: what joins with it listens on all addresses of the machine
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": STORE_BYTES, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    head = {"num_cpus": cpus[0], "temp_dir": folder, "gcs_server_port": port or None, **common}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count, **common)
        cluster.wait_for_nodes()
        connection.send(cluster.address)
        connection.poll(None)
    finally:
        cluster.shutdown()
