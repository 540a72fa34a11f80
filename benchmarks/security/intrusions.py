"""Intrusions, each tried over and over against a real libp2p host: how many got in, and how the others ended.

The host's limits on how often an address may try are lifted, so that each try is judged for what it shows.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import trio
from meshlore.errors import MeshloreError, PeerError
from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.knowledge.space import Space
from meshlore.mesh.bridge import Bridge
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.mesh.transport import Body, Caller, TransportLimits
from meshlore.node.library import Library
from meshlore.node.store import PacketStore
from meshlore.security.governance import revoke
from meshlore.security.identity import Identity
from meshlore.security.invites import InviteBook
from meshlore.security.join import answer_request
from meshlore.security.membership import Credentials, found_mesh
from meshlore.security.sealing import name_of, seal

from . import attackers
from .figures import Figure

SPACE = Space((1, 8, 8), ("cat", "dog"))
UNLIMITED = TransportLimits(strangers_per_s=1e6, strangers_burst=1e6, members_per_s=1e6, members_burst=1e6)


@dataclass
class Host:
    """The node that is attacked, and what it should count none of."""

    credentials: Credentials
    transport: Libp2pTransport
    mesh: Mesh
    served: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.mesh.addresses()[0]

    async def serve(self, caller: Caller, _body: Body) -> Body:
        self.served.append(caller.name)
        return {}


def measure_intrusions(tries: int) -> list[Figure]:
    """One figure per intrusion: how many of ``tries`` succeeded."""
    with tempfile.TemporaryDirectory(prefix="meshlore-intrusions-") as folder:
        return asyncio.run(_measure(Path(folder), tries))


async def _measure(folder: Path, tries: int) -> list[Figure]:
    host = await _start(folder)
    bridge = Bridge("attackers")
    await bridge.start()
    ends: dict[str, dict[str, int]] = {}
    try:
        for name, attempt in _strangers(host, folder).items():
            ends[name] = await bridge.call(attackers.repeat, attempt, tries)
        recorded = await _record(host, bridge)
        replay = attackers.replaying(host.address, recorded, lambda: len(host.served))
        ends["replayed request"] = await bridge.call(attackers.repeat, replay, tries)
        ends["role not held"] = await _ask_without_the_role(host, tries)
    finally:
        await bridge.stop()
        await host.mesh.stop()
    ends |= _packets(host.credentials, folder, tries)
    figures = [_figure(name, counts) for name, counts in ends.items()]
    strangers = len(host.served) - host.served.count("recorded")
    return [*figures, Figure("intrusions", "requests served to any of them", strangers, most=0)]


def _figure(name: str, ends: dict[str, int]) -> Figure:
    others = ", ".join(f"{count} {end}" for end, count in ends.items() if end != "in")
    return Figure("intrusions", name, ends.get("in", 0), most=0, unit=f"of {sum(ends.values())}", note=others[:70])


async def _start(folder: Path) -> Host:
    founder = found_mesh(folder / "founder", "target", "founder", SPACE.to_map(), ["node"], now=time.time())
    book = InviteBook(folder / "invites.db", founder.mesh_id)

    def answer(request: bytes, peer_id: str) -> bytes:
        return answer_request(request, peer_id, founder, book, time.time())

    transport = Libp2pTransport(founder, answer_join=answer, limits=UNLIMITED)
    host = Host(founder, transport, Mesh(transport, store=MemoryStore()))
    host.mesh.serve("task", host.serve, frozenset({"requester"}))
    await host.mesh.start()
    return host


def _strangers(host: Host, folder: Path) -> dict[str, attackers.Try]:
    """Attackers that are no members, or not any more."""
    now, founder, address = time.time(), host.credentials, host.address
    expired, revoked = _member(founder, "expired", now - 40 * 86_400), _member(founder, "revoked", now)
    host.transport.renew(revoke(founder, revoked.peer_id, now))
    other = found_mesh(folder / "other", "other", "mallory", SPACE.to_map(), ["node"], now=now)
    thief, forger = Identity.generate(), found_mesh(folder / "forger", "target", "forger", {}, ["node"], now=now)
    forged = replace(forger.certificate, mesh_id=founder.mesh_id)
    book = InviteBook(folder / "invites.db", founder.mesh_id)
    invite = book.create([address], ["node"], now)
    book.redeem(invite.secret_hash, now)

    def showing(credentials: Credentials) -> attackers.Try:
        hello = {"hello": credentials.certificate_bytes, "links": []}
        return attackers.showing(address, credentials.identity, hello)

    stolen = {"hello": founder.certificate_bytes, "links": []}
    return {
        "plaintext client": attackers.plaintext(address),
        "no certificate": attackers.showing(address, thief, {"hello": b"", "links": []}),
        "another's certificate": attackers.showing(address, thief, stolen),
        "forged certificate": attackers.showing(address, forger.identity, {"hello": forged.encode(), "links": []}),
        "expired certificate": showing(expired),
        "revoked member": showing(revoked),
        "member of another mesh": showing(other),
        "used invite": attackers.joining(address, invite),
    }


async def _record(host: Host, bridge: Bridge) -> bytes:
    """What a member sends on the wire when it connects and asks for a task once."""
    recorder, recording = attackers.Recorder(host.address), asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(recorder.run)
            bridge.post(recording.set_result, port)

    running = asyncio.create_task(bridge.call(run))
    port = await recording
    member = Libp2pTransport(_member(host.credentials, "recorded", time.time(), "node", "requester"))
    mesh = Mesh(member, store=MemoryStore())
    await mesh.start()
    try:
        await member.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.transport.peer_id}", 20)
        await member.request(host.transport.peer_id, "task", {}, timeout_s=20)
    finally:
        await mesh.stop()
        running.cancel()
        await asyncio.wait([running])
    if not recorder.sent or "recorded" not in host.served:
        raise RuntimeError("nothing was recorded that could be replayed")
    return recorder.sent


async def _ask_without_the_role(host: Host, tries: int) -> dict[str, int]:
    """A member that is no requester asks for tasks, and comes back whenever it is hung up on."""
    member = Libp2pTransport(_member(host.credentials, "anchor", time.time(), "anchor"))
    mesh = Mesh(member, store=MemoryStore())
    await mesh.start()
    ends: Counter[str] = Counter()
    for _ in range(tries):
        try:
            await member.connect(host.address, 20)
            await member.request(host.transport.peer_id, "task", {}, timeout_s=20)
            ends["in"] += 1
        except PeerError as error:
            ends[str(getattr(error, "code", type(error).__name__))] += 1
        except MeshloreError as error:
            ends[error.message.partition(":")[0]] += 1
    await mesh.stop()
    return dict(ends.most_common())


def _packets(founder: Credentials, folder: Path, tries: int) -> dict[str, dict[str, int]]:
    """Packets that were superseded, numbered twice, made tomorrow, of another mesh, or of another space."""
    now = time.time()
    author = _member(founder, "author", now)
    other = found_mesh(folder / "elsewhere", "elsewhere", "mallory", SPACE.to_map(), ["node"], now=now)
    asker = _member(founder, "asker", now, "requester")
    store = PacketStore(folder / "library")
    library = Library(SPACE, founder, store)
    old, new = (seal(_body(SPACE, seed), credentials=author, seq=seed, now=now) for seed in (1, 2))
    for data in (old, new):
        library.admit(name_of(data), data, now)
    held = store.inventory()
    attacks = {
        "replayed packet": lambda _: old,
        "number used twice": lambda seed: seal(_body(SPACE, 10 + seed), credentials=author, seq=2, now=now),
        "packet from tomorrow": lambda seed: seal(_body(SPACE, seed), credentials=author, seq=9, now=now + 86_400),
        "packet of another mesh": lambda seed: seal(_body(SPACE, seed), credentials=other, seq=9, now=now),
        "packet of another space": lambda seed: seal(
            _body(Space((1, 8, 8), ("ant", "bee")), seed), credentials=author, seq=9, now=now
        ),
        "packet of a requester": lambda seed: seal(_body(SPACE, seed), credentials=asker, seq=9, now=now),
    }
    ends: dict[str, dict[str, int]] = {}
    for name, make in attacks.items():
        counts: Counter[str] = Counter()
        for seed in range(tries):
            data = make(seed)
            try:
                library.admit(name_of(data), data, now)
                counts["in"] += 1
            except MeshloreError as error:
                counts[type(error).__name__] += 1
        ends[name] = dict(counts.most_common())
    if store.inventory() != held:
        raise RuntimeError("a refused packet was kept")
    return ends


def _member(founder: Credentials, name: str, issued_at: float, *roles: str) -> Credentials:
    identity = Identity.generate()
    if founder.root is None:
        raise RuntimeError("a founder holds the root")
    key = identity.hpke_public_key
    certificate = founder.root.issue(identity.peer_id, name, roles or ("node",), key, issued_at)
    return Credentials(identity, founder.charter, certificate, founder.keyring)


def _body(space: Space, seed: int) -> bytes:
    images = np.random.default_rng(seed).integers(0, space.levels, (4, *space.shape)).astype(np.uint8)
    fields: dict[str, Any] = {"labels": np.arange(4) % 2, "logits": None, "class_counts": np.array([8, 8])}
    return encode(SamplePacket(space.id, "condensed", images, **fields))
