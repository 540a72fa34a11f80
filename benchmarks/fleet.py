"""Real daemons that can be killed, frozen and started again: for `benchmarks.churn`.

Each is a process that runs `node.daemon.run_daemon`, forked from one that has imported everything, so a restart
costs what the daemon does and not what Python imports. Its data are tiny: what is measured is not learning.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import save_npz
from meshlore.knowledge.space import Space
from meshlore.node.settings import write_settings
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot

from . import netns

SPACE = Space((1, 8, 8), ("left", "right", "top"), levels=256)
SAMPLES = 24
HEARTBEAT_S = 2.0
PORT = 4810
LEARNING = {
    "samples_per_class": 1,
    "classifier_steps": 2,
    "condense_steps": 1,
    "distil_steps": 1,
    "generator_steps": 1,
    "patience_s": 3.0,
    "refinements": 0,
}
PRELOADED = [
    "meshlore.node.daemon",
    "benchmarks.fleet",
    "torch._dynamo",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
]
FORKS = multiprocessing.get_context("forkserver")


@dataclass
class Device:
    """One device: a home, and while it runs a process."""

    name: str
    place: int
    home: Path
    peer_id: str
    namespace: str | None
    started: float = 0.0
    frozen: bool = False
    process: BaseProcess | None = field(default=None, repr=False)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> None:
        self.process = FORKS.Process(target=_run, args=(self.home, self.namespace), name=self.name, daemon=True)
        self.process.start()
        self.started, self.frozen = time.monotonic(), False

    def kill(self) -> None:
        """As a power cut."""
        self._signal(signal.SIGKILL)
        self._join(10.0)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self.frozen = False

    def stop(self, within_s: float) -> bool:
        """Ctrl-C; False when it did not end in time and was killed."""
        self._signal(signal.SIGINT)
        if self._join(within_s):
            return True
        self.kill()
        return False

    def log_tail(self) -> str:
        log = self.home.with_suffix(".log")
        return log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.pid is not None and self.running:
            os.kill(self.process.pid, number)

    def _join(self, within_s: float) -> bool:
        if self.process is not None:
            self.process.join(within_s)
        return not self.running


def found_fleet(folder: Path, count: int, network: netns.Network | None, seed: int) -> list[Device]:
    """Homes of one new mesh; each device knows the addresses of two others."""
    FORKS.set_forkserver_preload(PRELOADED)
    now, dice = time.time(), np.random.default_rng(seed)
    root, charter = MeshRoot.create("churn", SPACE.to_map(), now)
    keyring, devices = Keyring.generate(), []
    for place in range(count):
        identity, name = Identity.generate(), f"device{place}"
        certificate = root.issue(identity.peer_id, name, ["node", "requester"], identity.hpke_public_key, now)
        home = folder / name
        Credentials(identity, charter, certificate, keyring).save(home)
        save_npz(home / "data.npz", samples(dice, SAMPLES))
        namespace = network.namespaces[place] if network else None
        devices.append(Device(name, place, home, identity.peer_id, namespace))
    ports = [PORT] * count if network else _free_ports(count)
    addresses = [
        f"/ip4/{network.address(place) if network else '127.0.0.1'}/tcp/{ports[place]}" for place in range(count)
    ]
    for place, device in enumerate(devices):
        known = [(place + step) % count for step in (1, 2)]
        values = {
            "name": device.name,
            "data": str(device.home / "data.npz"),
            "listen": (addresses[place],),
            "bootstrap": tuple(f"{addresses[other]}/p2p/{devices[other].peer_id}" for other in known if other != place),
            "heartbeat_s": HEARTBEAT_S,
            "neighbours": 6,
        }
        write_settings(device.home / "config.toml", values)
    return devices


def samples(dice: np.random.Generator, count: int) -> Dataset:
    """Labelled noise with a bright edge where the class says."""
    labels = np.arange(count, dtype=np.int64) % SPACE.num_classes
    images = dice.integers(0, 100, (count, *SPACE.shape), dtype=np.uint8)
    images[labels == 0, :, :, :2] += 150
    images[labels == 1, :, :, -2:] += 150
    images[labels == 2, :, :2, :] += 150
    return Dataset(SPACE, images, labels)


def _free_ports(count: int) -> list[int]:
    import socket

    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _run(home: Path, namespace: str | None) -> None:
    from meshlore.errors import MeshloreError
    from meshlore.node.daemon import run_daemon
    from meshlore.node.settings import load_settings

    log = os.open(home.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if namespace is not None:
        netns.enter(namespace)
    environment = {f"MESHLORE_LEARNING__{name.upper()}": str(value) for name, value in LEARNING.items()}
    try:
        settings = load_settings(home / "config.toml", environment=environment)
        run_daemon(home, settings, parent_pid=os.getppid())
    except MeshloreError as error:
        print(f"meshlore: {error}", flush=True)
        os._exit(error.exit_code)
