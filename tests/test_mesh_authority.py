"""The root's word crosses the mesh: revoked members are cut off everywhere, and a new root is followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from meshlore.codec import pack
from meshlore.errors import NotAMember, Refused
from meshlore.mesh.authority import KEYS, KIND, AuthoritySpread
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import HeartbeatSettings
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.node.membership import Membership
from meshlore.node.renewal import Renewal
from meshlore.security.governance import revoke, rotate_root
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, found_mesh

QUICK = MeshSettings(heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1), tick_s=0.05, request_timeout_s=3)


class Member:
    """One member as the daemon sets it up, but for learning."""

    def __init__(self, home: Path, credentials: Credentials, network: MemoryNetwork | None) -> None:
        self.membership = Membership(home, credentials)
        self.transport = MemoryTransport(credentials, network) if network else Libp2pTransport(credentials)
        self.mesh = Mesh(self.transport, store=MemoryStore(), settings=QUICK, on_peer=lambda _: self.spread.wake())
        self.spread = AuthoritySpread(self.mesh, self.transport, self.membership)
        self.renewal = Renewal(self.membership, self.mesh, certificate_of=self.transport.certificate_of)
        self.membership.listeners += [
            self.transport.renew, lambda _: self.spread.wake(), lambda _: self.renewal.wake(),
        ]  # fmt: skip

    @property
    def authority(self) -> object:
        return self.membership.credentials.authority

    def neighbours(self) -> set[str]:
        return self.transport.connected()


class Town:
    def __init__(self, folder: Path, network: MemoryNetwork | None, cleanup: AsyncExitStack) -> None:
        self._folder, self._network, self._cleanup = folder, network, cleanup
        self.founder = found_mesh(folder / "founder", "town", "founder", {}, ["node"], now=time.time())

    def credentials(self, name: str) -> Credentials:
        identity = Identity.generate()
        assert self.founder.root is not None
        certificate = self.founder.root.issue(
            identity.peer_id, name, ["node"], identity.hpke_public_key, time.time() - 60
        )
        return Credentials(identity, self.founder.charter, certificate, self.founder.keyring)

    async def start(self, credentials: Credentials, *bootstrap: Member) -> Member:
        home = self._folder / credentials.peer_id
        credentials.save(home)
        member = Member(home, credentials, self._network)
        await member.mesh.start([other.mesh.addresses()[0] for other in bootstrap])
        self._cleanup.push_async_callback(member.mesh.stop)
        running = [asyncio.create_task(member.spread.run()), asyncio.create_task(member.renewal.run())]
        self._cleanup.push_async_callback(asyncio.wait, running)
        for task in running:
            self._cleanup.callback(task.cancel)
        return member


@pytest.fixture(params=["memory", "libp2p"])
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as cleanup:
        yield Town(tmp_path, MemoryNetwork(delay_s=0.001) if request.param == "memory" else None, cleanup)


@pytest.fixture
async def memory_town(tmp_path: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as cleanup:
        yield Town(tmp_path, MemoryNetwork(delay_s=0.001), cleanup)


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_revoked_member_is_hung_up_on_by_all_and_let_in_by_none(town: Town) -> None:
    founder = await town.start(town.founder)
    ben = await town.start(town.credentials("ben"), founder)
    eve = await town.start(town.credentials("eve"), founder, ben)
    await until(lambda: all(len(member.neighbours()) == 2 for member in (founder, ben, eve)))
    await founder.membership.change(lambda own: revoke(own, eve.transport.peer_id, time.time()))
    await until(lambda: not eve.neighbours() and ben.authority == founder.authority)
    assert ben.neighbours() == {founder.transport.peer_id}
    for member in (founder, ben):
        with pytest.raises(NotAMember, match="revoked"):
            await eve.transport.connect(member.mesh.addresses()[0], 5)
        assert Credentials.load(member.membership.home).authority == founder.authority, "not kept for a restart"


async def test_the_mesh_key_changes_for_all_but_the_revoked_one_and_for_who_was_away(town: Town) -> None:
    founder = await town.start(town.founder)
    ben = await town.start(town.credentials("ben"), founder)
    eve = await town.start(town.credentials("eve"), founder, ben)
    mallory, dan = town.credentials("mallory"), town.credentials("dan")
    await until(lambda: all(len(member.neighbours()) == 2 for member in (founder, ben, eve)))
    old = eve.membership.credentials.keyring
    for peer_id in (eve.transport.peer_id, mallory.peer_id):
        await founder.membership.change(lambda own, peer_id=peer_id: revoke(own, peer_id, time.time()))
    late = await town.start(dan, ben)
    new = founder.membership.credentials.keyring
    assert new.current.epoch == old.current.epoch + 2
    await until(lambda: all(member.membership.credentials.keyring == new for member in (ben, late)))
    assert Credentials.load(ben.membership.home).keyring == new, "not kept for a restart"
    assert eve.membership.credentials.keyring == old
    with pytest.raises(Refused) as caught:
        await late.mesh.request(ben.transport.peer_id, KEYS, {"digest": old.digest}, timeout_s=5)
    assert caught.value.code == "no-such-keys"


async def test_a_peer_that_passes_on_other_keys_is_not_believed(memory_town: Town) -> None:
    founder = await memory_town.start(memory_town.founder)
    liar = await memory_town.start(memory_town.credentials("liar"), founder)
    await founder.membership.change(lambda own: revoke(own, memory_town.credentials("eve").peer_id, time.time()))
    new = founder.membership.credentials.keyring
    await until(lambda: liar.membership.credentials.keyring == new)

    async def lie(_caller: object, _body: object) -> dict[str, bytes]:
        told.append(True)
        return {"keyring": Keyring.generate().encode()}

    told: list[bool] = []
    liar.mesh.serve(KEYS, lie)
    ben = await memory_town.start(memory_town.credentials("ben"), liar)
    await until(lambda: told)
    await until(lambda: ben.membership.credentials.keyring == new)


async def test_who_was_away_hears_of_a_revocation_from_any_member(memory_town: Town) -> None:
    founder = await memory_town.start(memory_town.founder)
    ben, eve, dan = (memory_town.credentials(name) for name in ("ben", "eve", "dan"))
    present = await memory_town.start(ben, founder)
    await until(present.neighbours)
    await founder.membership.change(lambda own: revoke(own, eve.peer_id, time.time()))
    await until(lambda: present.authority == founder.authority)
    await founder.mesh.stop()
    late = await memory_town.start(dan, present)
    await until(lambda: late.authority == founder.authority)


async def test_a_word_of_the_root_crosses_a_line_of_members(memory_town: Town) -> None:
    line = [await memory_town.start(memory_town.founder)]
    for number in range(7):
        line.append(await memory_town.start(memory_town.credentials(f"member-{number}"), line[-1]))
    await line[0].membership.change(lambda own: revoke(own, Identity.generate().peer_id, time.time()))
    await until(lambda: all(member.authority == line[0].authority for member in line))


async def test_members_follow_a_new_root_and_one_that_was_away_still_gets_in(town: Town) -> None:
    founder = await town.start(town.founder)
    ben = await town.start(town.credentials("ben"), founder)
    await until(ben.neighbours)
    away = town.credentials("away")
    await founder.membership.change(lambda own: rotate_root(own, time.time()))
    root_key = founder.membership.credentials.authority.root_key(town.founder.charter)
    await until(lambda: ben.membership.credentials.certificate.is_from(root_key))
    back = await town.start(away, founder)
    await until(lambda: back.membership.credentials.certificate.is_from(root_key))
    assert back.authority == founder.authority


async def test_without_an_overlap_members_of_the_old_root_are_out(memory_town: Town) -> None:
    founder = await memory_town.start(memory_town.founder)
    ben = await memory_town.start(memory_town.credentials("ben"), founder)
    await until(ben.neighbours)
    await founder.membership.change(lambda own: rotate_root(own, time.time() - 1, overlap_s=0))
    await until(lambda: not founder.neighbours())
    with pytest.raises(NotAMember):
        await ben.transport.connect(founder.mesh.addresses()[0], 5)


async def test_a_forged_word_is_refused_and_changes_nothing(memory_town: Town) -> None:
    founder = await memory_town.start(memory_town.founder)
    eve = await memory_town.start(memory_town.credentials("eve"), founder)
    await until(eve.neighbours)
    forged = revoke(memory_town.founder, eve.transport.peer_id, time.time()).authority
    forged = replace(forged, revocations=replace(forged.revocations, version=9))
    for document in (forged.encode(), b"\x00", pack({"v": 1})):
        with pytest.raises(Refused):
            await eve.mesh.request(
                founder.transport.peer_id, KIND, {"links": 0, "version": 9, "document": document}, timeout_s=5
            )
    assert founder.authority == memory_town.founder.authority
