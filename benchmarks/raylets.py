"""A Ray cluster of several raylets on this machine, all on loopback, for what would be several machines."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshlore.node.ray_session import QUIET

STORE_BYTES = 80 << 20


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
        # not by `ray start`: what joins with it listens on all addresses of the machine
        from ray.cluster_utils import Cluster

        common = {"object_store_memory": STORE_BYTES, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": cpus[0], "temp_dir": folder, "gcs_server_port": port or None, **common},
            shutdown_at_exit=True,
        )
        try:
            for count in cpus[1:]:
                cluster.add_node(num_cpus=count, **common)
            cluster.wait_for_nodes()
            yield cluster.address
        finally:
            cluster.shutdown()
            os.environ.clear()
            os.environ.update(before)
