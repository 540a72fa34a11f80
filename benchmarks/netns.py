"""A small network of our own: one Linux network namespace per device, and a switch in this process between them.

Each namespace has one TAP device; the switch reads its Ethernet frames, loses some of them, and keeps groups apart,
silently, as a broken network does. `tc netem` would do that too where the kernel has it; this needs /dev/net/tun
and the right to make namespaces (root), and nothing outside them is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
MAX_FRAME = 65536
ADDRESS_BYTES = 6
FOLDER = Path("/run/netns")
DEVICE = "mesh0"


def allowed() -> bool:
    """Whether this process may make namespaces and TAP devices."""
    try:
        network = Network(1, seed=0)
    except (OSError, subprocess.CalledProcessError):
        return False
    network.close()
    return True


def enter(namespace: str) -> None:
    """Move the calling thread, and processes that it starts from then on, into a namespace. Raises OSError."""
    with open(FOLDER / namespace) as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")


@dataclass
class Network:
    """Namespaces with one address each, connected by a switch that runs in the asyncio loop between `start` and
    `close`.

    Attributes:
        loss: share of frames that never arrive, 0..1. groups: group of each place; frames stay within a group.
        frames, lost: counted since the start.
    """

    count: int
    seed: int
    loss: float = 0.0
    groups: dict[int, int] = field(default_factory=dict)
    frames: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._taps: list[int] = []
        self._places: dict[bytes, int] = {}
        self.namespaces = [f"meshlore-{os.getpid()}-{place}" for place in range(self.count)]
        try:
            for place, name in enumerate(self.namespaces):
                _ip("netns", "add", name)
                self._taps.append(_tap_in(name))
                _ip("-n", name, "addr", "add", f"{self.address(place)}/24", "dev", DEVICE)
                for device in ("lo", DEVICE):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self.close()
            raise

    def address(self, place: int) -> str:
        return f"10.99.0.{place + 1}"

    def start(self) -> None:
        for place, tap in enumerate(self._taps):
            asyncio.get_running_loop().add_reader(tap, self._switch, place, tap)

    def part(self, one: set[int]) -> None:
        """Two halves that do not reach each other: these places, and the others."""
        self.groups = {place: int(place in one) for place in range(self.count)}

    def heal(self) -> None:
        self.groups, self.loss = {}, 0.0

    def close(self) -> None:
        """Nothing is left of it."""
        for tap in self._taps:
            with contextlib.suppress(RuntimeError):  # never started: there is no loop
                asyncio.get_running_loop().remove_reader(tap)
            os.close(tap)
        self._taps = []
        for name in self.namespaces:
            if (FOLDER / name).exists():
                _ip("netns", "delete", name)

    def _switch(self, place: int, tap: int) -> None:
        try:
            frame = os.read(tap, MAX_FRAME)
        except BlockingIOError:
            return
        to, source = frame[:ADDRESS_BYTES], frame[ADDRESS_BYTES : 2 * ADDRESS_BYTES]
        self._places[source] = place
        for target in range(self.count) if to[0] & 1 else [self._places.get(to, place)]:
            if target == place or self.groups.get(target, 0) != self.groups.get(place, 0):
                continue
            self.frames += 1
            if self._dice.random() < self.loss:
                self.lost += 1
                continue
            try:
                os.write(self._taps[target], frame)
            except OSError:
                self.lost += 1  # a full queue, or a device that goes down: as a cable would


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S607


def _tap_in(namespace: str) -> int:
    """A TAP device in a namespace; the descriptor works from everywhere."""
    opened: list[int | OSError] = []

    def open_there() -> None:
        try:
            enter(namespace)
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
            opened.append(tap)
        except OSError as error:
            opened.append(error)

    # in a thread of its own: only that one moves into the namespace
    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    (tap,) = opened
    if isinstance(tap, OSError):
        raise tap
    return tap
