"""What can be seen of a fleet from outside while it is shaken: who is live for whom, and which packets appear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from meshlore.errors import DecodeError, MeshloreError
from meshlore.node.client import MeshClient
from meshlore.security.sealing import inspect

from .fleet import Device

LOOK_S = 1.0
ANSWER_S = 20.0
HANG_S = 90.0
T = TypeVar("T")


@dataclass
class Watch:
    """Looks at every device about once a second.

    Attributes:
        numbers: name of the packet that carries each (author, sequence number). reused: numbers with two packets.
        ghosts_s, rejoins_s: seconds until a device that was killed or frozen was nobody's live peer; from the start
            of a device until somebody had it as a live peer.
        hangs: what did not answer in time, in words.
    """

    devices: list[Device]
    numbers: dict[tuple[str, int], str] = field(default_factory=dict)
    reused: set[tuple[str, int]] = field(default_factory=set)
    ghosts_s: list[float] = field(default_factory=list)
    rejoins_s: list[float] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    _gone_since: dict[str, float] = field(default_factory=dict)
    _awaited: dict[str, float] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)
    _sent: dict[tuple[str, float], int] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)

    def died(self, device: Device) -> None:
        self._gone_since[device.peer_id] = time.monotonic()
        self._awaited.pop(device.peer_id, None)

    def returned(self, device: Device) -> None:
        self._gone_since.pop(device.peer_id, None)
        self._awaited[device.peer_id] = self._answered[device.name] = time.monotonic()

    def bytes_sent(self) -> float:
        """Per device, over all its processes."""
        return sum(self._sent.values()) / len(self.devices)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            views = await asyncio.gather(*(self._look_at(device) for device in self.devices if is_up(device)))
            live = {peer["peer_id"] for view in views for peer in view if peer["state"] in ("live", "suspect")}
            now = time.monotonic()
            for peer_id in [peer_id for peer_id in self._gone_since if peer_id not in live and views]:
                self.ghosts_s.append(now - self._gone_since.pop(peer_id))
            for peer_id in live & self._awaited.keys():
                self.rejoins_s.append(now - self._awaited.pop(peer_id))
            await asyncio.to_thread(self._read_packets)
            await asyncio.sleep(LOOK_S)

    def _read_packets(self) -> None:
        """Every packet that is in any store gets noted under its author and number."""
        for device in self.devices:
            for path in (device.home / "packets").glob("[0-9a-f]*"):
                if path.name in self._read or len(path.name) != 64:
                    continue
                try:
                    header = inspect(path.read_bytes())
                except (FileNotFoundError, DecodeError):
                    continue  # replaced meanwhile; damage is the audit's to find
                self._read.add(path.name)
                known = self.numbers.setdefault((header.author, header.seq), path.name)
                if known != path.name:
                    self.reused.add((header.author, header.seq))

    async def _look_at(self, device: Device) -> list[dict[str, Any]]:
        started = device.started

        async def look(client: MeshClient) -> list[dict[str, Any]]:
            status = await client.status()
            self._sent[device.name, started] = status["bytes_sent"]
            return await client.peers()

        peers = await ask(device, look)
        if peers is not None:
            self._answered[device.name] = time.monotonic()
            return peers
        if is_up(device) and time.monotonic() - self._answered.setdefault(device.name, started) > HANG_S:
            self._answered[device.name] = time.monotonic()
            self.hangs.append(f"{device.name} did not answer for {HANG_S:g} s")
        return []


def is_up(device: Device) -> bool:
    return device.running and not device.frozen


async def ask(device: Device, question: Callable[[MeshClient], Any], timeout_s: float = ANSWER_S) -> Any:
    """The answer of a device's control API; None when there is none, as from one that is killed meanwhile."""
    client = MeshClient(device.home)
    try:
        async with asyncio.timeout(timeout_s):
            return await question(client)
    except (MeshloreError, TimeoutError, OSError):
        return None
    finally:
        await client.close()
