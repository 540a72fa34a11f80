"""What is on the disks of devices that were shaken: damage, lost work, and who lacks which packet."""

from __future__ import annotations

import time

from meshlore.errors import MeshloreError
from meshlore.node.store import HomeLock, PacketStore, StateStore
from meshlore.security.membership import Credentials
from meshlore.security.sealing import name_of, open_sealed

from .fleet import Device

JOURNAL_FILES = ("classifier", "classifier_before", "generator", "generator_before", "expert", "public")


def held(device: Device) -> frozenset[str]:
    """Names of the packets in a device's store, now."""
    return frozenset(path.name for path in (device.home / "packets").glob("[0-9a-f]*") if len(path.name) == 64)


def all_hold_all(devices: list[Device]) -> bool:
    """Everybody has the same packets, at least one of each device."""
    stores = {held(device) for device in devices}
    return len(stores) == 1 and len(next(iter(stores))) >= len(devices)


def damage(device: Device) -> list[str]:
    """All that is wrong with the home of a device that has stopped, in words."""
    found = []
    try:
        lock = HomeLock(device.home)
        try:
            found += _damage(device)
        finally:
            lock.release()
    except MeshloreError as error:
        found.append(f"{device.name}: {error}")
    return found


def _damage(device: Device) -> list[str]:
    found = []
    credentials, state, packets = Credentials.load(device.home), StateStore(device.home), PacketStore(device.home)
    for field in JOURNAL_FILES:
        if file := getattr(state.journal, field):
            state.load_checkpoint(file)
    for name in packets.inventory():
        data = packets.read(name)
        if name_of(data) != name:
            found.append(f"{device.name}: packet {name[:12]} has other bytes than its name says")
            continue
        sealed = open_sealed(data, credentials, time.time())
        if sealed.author == device.peer_id and sealed.seq > state.journal.sequence:
            found.append(f"{device.name}: its journal forgot the number {sealed.seq}")
    return found


def lost_work(device: Device, acknowledged: set[str]) -> list[str]:
    """Fine-tunings whose success was answered and whose samples are not on the disk."""
    present = {path.stem for path in (device.home / "private").glob("*.npz")}
    return [f"{device.name}: fine-tuning {digest} is lost" for digest in sorted(acknowledged - present)]
