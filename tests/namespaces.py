"""A small local network for tests: Linux network namespaces on one bridge, each a device with its own address."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess

IP = shutil.which("ip") or "ip"


def why_not() -> str:
    """Why no network namespaces can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which(IP) is None:
        return "network namespaces need the command ip (iproute2)"
    name = f"ml{secrets.token_hex(3)}"
    made = subprocess.run([IP, "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run([IP, "netns", "del", name], capture_output=True, check=False)
    return ""


class LocalNetwork:
    """Devices on one switch, which lives in a namespace of its own: nothing of this machine's network is touched."""

    def __init__(self, subnet: str = "10.77.0") -> None:
        self._subnet = subnet
        self._prefix = f"ml{secrets.token_hex(3)}"
        self._names: list[str] = []
        self._switch = self._namespace("sw")
        self._ip("-n", self._switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self._ip("-n", self._switch, "link", "set", "br0", "up")

    def device(self, name: str) -> str:
        """A new device; returns the name of its namespace. Its address is ``address(name)``."""
        namespace, port = self._namespace(name), f"p{len(self._names)}"
        self._ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._switch)
        self._ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        self._ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        self._ip("-n", namespace, "link", "set", "lo", "up")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        return namespace

    def address(self, name: str) -> str:
        return f"{self._subnet}.{self._names.index(self._full(name)) + 1}"

    def no_multicast(self, name: str) -> None:
        """As in a VPN or a guest network."""
        self._ip("-n", self._full(name), "link", "set", "eth0", "multicast", "off")

    def close(self) -> None:
        for name in self._names:
            subprocess.run([IP, "netns", "del", name], capture_output=True, check=False)

    def _namespace(self, name: str) -> str:
        self._ip("netns", "add", self._full(name))
        self._names.append(self._full(name))
        return self._full(name)

    def _full(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run([IP, *arguments], capture_output=True, text=True, check=True)
