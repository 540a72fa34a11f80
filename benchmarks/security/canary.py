"""Private samples planted as patterns, and all that a cluster of real daemons sends searched for them.

Every row of every private image is a marker of 16 random bytes. Searched are all packets on the loopback interface
during a whole run of two nodes and an anchor, for the marker as bytes and as floats, and, opened with a member's keys,
the samples that were published.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from meshlore.errors import ConfigError
from meshlore.knowledge.packet import SamplePacket
from meshlore.knowledge.space import Space
from meshlore.node.library import Library
from meshlore.node.store import PacketStore
from meshlore.security.membership import Credentials
from PIL import Image

from .figures import Figure

SIDE = 16
PER_CLASS = 60
CLASSES = ("cat", "dog")
RUN_S = 560
ALL_PROTOCOLS = 3
TCP = 6
QUICK = {
    "MESHLORE_LEARNING__CLASSIFIER_STEPS": "60",
    "MESHLORE_LEARNING__CONDENSE_STEPS": "15",
    "MESHLORE_LEARNING__DISTIL_STEPS": "60",
    "MESHLORE_LEARNING__GENERATOR_STEPS": "20",
    "MESHLORE_LEARNING__PATIENCE_S": "5",
}


class Capture(threading.Thread):
    """Reads the loopback interface and counts what of the ``patterns`` passes, in whatever packets."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        super().__init__(name="capture", daemon=True)
        self._pattern = re.compile(b"|".join(re.escape(pattern) for pattern in patterns))
        self._longest = max(len(pattern) for pattern in patterns)
        self._ends: dict[bytes, bytes] = {}
        self._done = threading.Event()
        self.found = self.segments = self.others = self.size_bytes = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
            self._socket.bind(("lo", 0))
        except (AttributeError, OSError) as error:
            raise ConfigError(
                f"the loopback interface cannot be read ({error})",
                "run: unshare -rn sh -c 'ip link set lo up; python -m benchmarks.security canary'",
            ) from None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.settimeout(0.2)

    def run(self) -> None:
        while not self._done.is_set():
            try:
                data, origin = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if origin[2] != socket.PACKET_OUTGOING:  # each is seen twice on loopback
                self._search(data[14:])

    def end(self) -> None:
        self._done.set()
        self.join()
        self._socket.close()

    def _search(self, packet: bytes) -> None:
        """One packet; a pattern may be cut by the end of a TCP segment, so the end of each flow (of IPv4) is kept."""
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != TCP:
            self.found += len(self._pattern.findall(packet))
            self.others += 1
            return
        header = 4 * (packet[0] & 15)
        flow = packet[12 : header + 4]
        payload = packet[header + 4 * (packet[header + 12] >> 4) :]
        if payload:
            text = self._ends.get(flow, b"") + payload
            self.found += len(self._pattern.findall(text))
            self._ends[flow] = text[-self._longest + 1 :] if not self._pattern.search(text) else b""
            self.segments, self.size_bytes = self.segments + 1, self.size_bytes + len(payload)


def measure_canary(seed: int) -> list[Figure]:
    """Run a cluster on planted data and count what of them got out."""
    with tempfile.TemporaryDirectory(prefix="meshlore-canary-") as name:
        folder = Path(name)
        markers = plant(folder / "data", seed)
        control = secrets.token_bytes(SIDE)
        capture = Capture([*(shape for marker in markers for shape in shapes_of(marker)), control])
        capture.start()
        _send(control)
        while not capture.found:
            time.sleep(0.05)
        capture.found = 0
        try:
            _run_cluster(folder, seed)
        finally:
            capture.end()
        publishers, published, rows = published_rows(folder / "run" / "homes", set(markers))
    seen = (
        f"{capture.size_bytes / 1e6:.1f} MB in {capture.segments:,} TCP segments, {capture.others:,} other packets; "
        "a pattern sent on purpose was found"
    )
    return [
        Figure("canary", "patterns on the wire", capture.found, most=0, note=seen),
        Figure("canary", "patterns in opened packets", rows, most=0, note=f"{published} published samples"),
        Figure(
            "canary",
            "nodes whose samples were searched",
            publishers,
            least=2,
            note="two nodes; an anchor ran beside them",
        ),
    ]


def plant(folder: Path, seed: int) -> list[bytes]:
    """A folder of grey images, each of one marker; the markers."""
    dice, markers = np.random.default_rng(seed), []
    for place, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            # the classes differ, so that there is something to learn
            row = dice.integers(128 * place, 128 * place + 128, SIDE).astype(np.uint8)
            Image.fromarray(np.tile(row, (SIDE, 1))).save(folder / label / f"{number}.png")
            markers.append(row.tobytes())
    return markers


def shapes_of(marker: bytes) -> list[bytes]:
    """A marker as it could travel: bytes, and floats of the two usual ranges."""
    levels = np.frombuffer(marker, np.uint8).astype(np.float32)
    ranges = (levels / 255, levels / 127.5 - 1)
    return [marker, *(values.astype(kind).tobytes() for values in ranges for kind in (np.float32, np.float16))]


def published_rows(homes: Path, markers: set[bytes]) -> tuple[int, int, int]:
    """How many nodes published samples, how many they are, and how many of their rows are markers."""
    publishers = samples = rows = 0
    for home in sorted(path for path in homes.iterdir() if (path / "member.cert").exists()):
        credentials = Credentials.load(home)
        library = Library(Space.from_map(credentials.charter.space), credentials, PacketStore(home))
        library.load(time.time())
        entry = library.own_samples()
        if entry is not None and isinstance(entry.packet, SamplePacket):
            publishers, samples = publishers + 1, samples + len(entry.packet)
            rows += sum(row.tobytes() in markers for row in entry.packet.images.reshape(-1, SIDE))
    return publishers, samples, rows


def _run_cluster(folder: Path, seed: int) -> None:
    command = [
        *(sys.executable, "-m", "meshlore", "cluster", "--nodes", "2", "--alpha", "100", "--keep"),
        *("--data", str(folder / "data"), "-o", str(folder / "run"), "--seed", str(seed), "--json"),
        *("--timeout", str(RUN_S)),
    ]
    done = subprocess.run(
        command, env=os.environ | QUICK, capture_output=True, text=True, timeout=2 * RUN_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the cluster failed: {done.stderr[-500:]}")


def _send(data: bytes) -> None:
    """Over a TCP connection on loopback, as nodes do, but in the clear."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"planted: " + data)
        server.accept()[0].close()
