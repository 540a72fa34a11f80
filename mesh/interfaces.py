"""This device's place in the network: its addresses, and whether multicast works on them."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

import ifaddr

GROUP = "224.0.0.251"
"""The group of mDNS (RFC 6762), which every link-local filter lets through if any."""
ECHO_S = 0.3
IFF_MULTICAST = 0x1000
_WILDCARDS = {"/ip4/0.0.0.0/": "ip4", "/ip6/::/": "ip6"}


def own_addresses(kind: str = "ip4") -> list[str]:
    """The IP addresses of this device's interfaces, loopback and link-local ones left out."""
    return [address for _, address in _interfaces(kind)]


def dialable(addresses: Iterable[str]) -> list[str]:
    """Listen addresses as others can dial them: "all interfaces" becomes the address of each."""
    found = []
    for address in addresses:
        prefix = next((prefix for prefix in _WILDCARDS if address.startswith(prefix)), None)
        if prefix is None:
            found.append(address)
            continue
        kind, rest = _WILDCARDS[prefix], address.removeprefix(prefix)
        hosts = own_addresses(kind) or [{"ip4": "127.0.0.1", "ip6": "::1"}[kind]]
        found += [f"/{kind}/{host}/{rest}" for host in hosts]
    return list(dict.fromkeys(found))


def multicast_works() -> bool:
    """Whether any interface carries multicast and gives a packet to the mDNS group back to this device.

    It shows that this device can send and receive multicast, not that a switch passes it on. Takes at most
    ``ECHO_S`` seconds for each address: not for the event loop.
    """
    return any(_carries_multicast(name) and _hears_itself(address) for name, address in _interfaces("ip4"))


def _interfaces(kind: str) -> list[tuple[str, str]]:
    """The name of the interface and the address, for each address that others may reach."""
    found = []
    for adapter in ifaddr.get_adapters():
        for address in adapter.ips:
            text = address.ip if isinstance(address.ip, str) else address.ip[0]
            parsed = ipaddress.ip_address(text)
            if f"ip{parsed.version}" == kind and not (parsed.is_loopback or parsed.is_link_local):
                found.append((adapter.nice_name, text))
    return found


def _carries_multicast(interface: str) -> bool:
    """By the interface's flags, which tunnels lack; where they cannot be read (not Linux) it is assumed."""
    try:
        flags = int(Path("/sys/class/net", interface, "flags").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return True
    return bool(flags & IFF_MULTICAST)


def _hears_itself(host: str) -> bool:
    token = secrets.token_bytes(16)
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker,
        ):
            listener.bind(("", 0))
            membership = socket.inet_aton(GROUP) + socket.inet_aton(host)
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            listener.settimeout(ECHO_S)
            speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
            speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            speaker.sendto(token, (GROUP, listener.getsockname()[1]))
            return listener.recv(64) == token
    except OSError:  # no such group, no route, not permitted, or nothing came back
        return False
