"""A Ray cluster of several raylets on this machine, started by the commands that `docs/ray.md` gives for machines."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STORE_BYTES = 80 << 20
START_S = 120.0
STOP_S = 20.0
SAFE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@contextmanager
def raylets(cpus: Sequence[int]) -> Iterator[str]:
    """One raylet per entry of ``cpus``, the first of them the head; yields its address.

    They listen on loopback and ask for a token of their own, which this process shows from now on.

    Raises:
        TimeoutError: they do not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    before, running = dict(os.environ), list[subprocess.Popen[bytes]]()
    # not in TMPDIR, which may be long: Ray's sockets have 107 characters for their path
    with tempfile.TemporaryDirectory(prefix="raylets-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        os.environ.update(SAFE | {"RAY_AUTH_TOKEN_PATH": str(token)})
        try:
            for place, count in enumerate(cpus):
                port = address.rpartition(":")[2]
                head = ["--head", "--port", port, "--include-dashboard", "false", "--temp-dir", folder]
                command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
                command += head if place == 0 else ["--address", address]
                command += ["--node-ip-address", "127.0.0.1", "--num-cpus", str(count)]
                command += ["--object-store-memory", str(STORE_BYTES)]
                with (Path(folder) / f"raylet-{place}.log").open("wb") as log:
                    running.append(subprocess.Popen(command, stdout=log, stderr=log))
                if place == 0:
                    _wait_for(address, running[0])
            _wait_for_all(address, len(cpus))
            yield address
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            os.environ.clear()
            os.environ.update(before)


def _wait_for(address: str, head: subprocess.Popen[bytes]) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            if head.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"Ray's head does not come up at {address}") from None
            time.sleep(0.2)
        else:
            return


def _wait_for_all(address: str, count: int) -> None:
    """Until all raylets are there, seen as a driver sees them."""
    from meshlore.node.ray_session import ray_session

    deadline = time.monotonic() + START_S
    with ray_session(address) as ray:
        while sum(node["Alive"] for node in ray.nodes()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {count} raylets came up within {START_S:g} s")
            time.sleep(0.5)
