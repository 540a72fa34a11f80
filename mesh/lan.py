"""Members on the same local network find each other by multicast DNS (RFC 6762, RFC 6763), without any address.

What is told to the whole network: a hash of the mesh id, never its name, and this node's signed address record.
Who hears it can do no more than dial; the handshake decides. So whoever floods the network with records makes this
node dial in vain, at a bounded rate, and no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from ..errors import DecodeError
from ..security.fields import mesh_id_to_bytes
from .interfaces import multicast_works, own_addresses
from .reasons import LanState
from .records import AddressRecord, read_record

log = logging.getLogger("meshlore.mesh")

SERVICE = "_meshlore._tcp.local."
CHUNK_BYTES = 240
MAX_CHUNKS = 7
LOOK_AGAIN_S = 10.0
RESOLVE_TIMEOUT_S = 3.0
START_TIMEOUT_S = 10.0
MAX_RESOLVING = 32


class LanDiscovery:
    """Advertises this node on the local network and reports the members that others advertise.

    Args:
        mesh_id: only services with a hash of the same one are reported.
        record: this node's present address record.
        heard: called on the event loop with each valid record of a node of this mesh, also repeatedly.
    """

    def __init__(
        self, mesh_id: str, record: Callable[[], AddressRecord], heard: Callable[[AddressRecord], None]
    ) -> None:
        self._tag, self._record, self._heard = tag_of(mesh_id), record, heard
        self._name = f"{secrets.token_hex(8)}.{SERVICE}"
        self._resolving: set[asyncio.Task[None]] = set()
        self.state = LanState.OFF

    async def run(self) -> None:
        """Until cancelled. A network that comes, goes or changes is taken up within `LOOK_AGAIN_S`."""
        while True:
            hosts = own_addresses()
            if not await asyncio.to_thread(multicast_works):
                self._become(LanState.NO_MULTICAST, "no multicast here: members nearby are not found by themselves")
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                await self._meet(hosts)
            except (OSError, ZeroconfError, TimeoutError) as error:
                self._become(
                    LanState.NO_MULTICAST, f"multicast DNS does not work here ({str(error) or type(error).__name__})"
                )
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _meet(self, hosts: list[str]) -> None:
        """Until this device's addresses change."""
        network = AsyncZeroconf(interfaces=hosts, ip_version=IPVersion.V4Only)
        try:
            record = self._record()
            async with asyncio.timeout(START_TIMEOUT_S):
                await (await network.async_register_service(self._service(record, hosts)))
            self._become(LanState.ON, "members on the local network are found by multicast DNS")
            browser = AsyncServiceBrowser(network.zeroconf, SERVICE, handlers=[self._changed])
            while own_addresses() == hosts:
                if (now := self._record()) != record:
                    record = now
                    async with asyncio.timeout(START_TIMEOUT_S):
                        await (await network.async_update_service(self._service(record, hosts)))
                await asyncio.sleep(LOOK_AGAIN_S)
            await browser.async_cancel()
        finally:
            for task in self._resolving:
                task.cancel()
            await network.async_close()

    def _service(self, record: AddressRecord, hosts: list[str]) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE,
            self._name,
            port=_port_in(record),
            properties=properties_of(self._tag, record),
            server=f"{self._name.partition('.')[0]}.local.",
            parsed_addresses=hosts,
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        # zeroconf calls with keywords, on the event loop
        if name == self._name or state_change is ServiceStateChange.Removed or len(self._resolving) >= MAX_RESOLVING:
            return
        task = asyncio.ensure_future(self._resolve(zeroconf, name))
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(zeroconf, 1000 * RESOLVE_TIMEOUT_S):
            return
        try:
            if (record := record_in(self._tag, info.properties)) is not None:
                self._heard(record)
        except DecodeError as error:
            log.debug("a service on the local network is not valid: %s", error)

    def _become(self, state: LanState, line: str) -> None:
        if state is not self.state:
            self.state = state
            log.info(line)


def tag_of(mesh_id: str) -> bytes:
    """What stands for a mesh on the local network: it tells members that they belong together, and nobody the id."""
    return hashlib.sha256(b"meshlore/v1/lan" + mesh_id_to_bytes(mesh_id)).hexdigest()[:32].encode()


def properties_of(tag: bytes, record: AddressRecord) -> dict[bytes, bytes]:
    """The TXT record of a service: the mesh's tag, and the address record in pieces."""
    pieces = range(0, len(record.data), CHUNK_BYTES)
    return {
        b"mesh": tag,
        **{b"r%d" % number: record.data[start : start + CHUNK_BYTES] for number, start in enumerate(pieces)},
    }


def record_in(tag: bytes, properties: Mapping[bytes, bytes | None]) -> AddressRecord | None:
    """The inverse of `properties_of`; None for a node of another mesh.

    Raises:
        DecodeError: there is no valid address record.
    """
    if properties.get(b"mesh") != tag:
        return None
    pieces = (properties.get(b"r%d" % number) or b"" for number in range(MAX_CHUNKS))
    return read_record(b"".join(pieces))


def _port_in(record: AddressRecord) -> int:
    """The TCP port of the first address, which DNS-SD asks for and no member reads."""
    parts = "".join(record.addresses[:1]).split("/")
    return int(parts[parts.index("tcp") + 1]) if "tcp" in parts else 0
