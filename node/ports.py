"""A node that listens on "any free port" takes the same one again after a restart, so that those who
remember its address find it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from ..security.files import write_atomic

PORTS_FILE = "ports"
_PORT = re.compile(r"/tcp/(\d+)")


def same_ports(home: Path, listen: Sequence[str]) -> list[str]:
    """``listen`` with each port 0 replaced by the one of last time, where that one is still free."""
    try:
        remembered = (home / PORTS_FILE).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        remembered = []
    chosen = []
    for place, address in enumerate(listen):
        port = remembered[place] if place < len(remembered) else "0"
        usable = address.endswith("/tcp/0") and port.isdigit() and _is_free(int(port))
        chosen.append(f"{address.removesuffix('0')}{port}" if usable else address)
    return chosen


def remember_ports(home: Path, addresses: Sequence[str]) -> None:
    """Note the ports that this node listens on now."""
    ports = [found[1] for address in addresses if (found := _PORT.search(address))]
    write_atomic(home / PORTS_FILE, " ".join(ports).encode())


def _is_free(port: int) -> bool:
    if not 0 < port < 2**16:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
