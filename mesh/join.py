"""Joining a mesh: one short conversation with the host of an invite, inside the Noise upgrade.

The joiner is not a member yet, so it needs no host and no multiplexer of its own: it dials TCP, does
libp2p's Noise handshake (which proves that the host is the peer the invite names), says what
`security.join` gives it to say, reads the answer and hangs up.
"""

from __future__ import annotations

import time

import trio

from . import upstream  # isort: skip
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from ..errors import DecodeError, InviteError, PeerError, SecurityError, Unreachable
from ..security.identity import Identity
from ..security.invites import Invite
from ..security.join import Admission, PendingJoin, build_request, finish
from .admission import read_message, write_message
from .bridge import Bridge
from .dispatch import one_line
from .messages import peer_id_in


async def join_mesh(invite: Invite, identity: Identity, name: str, timeout_s: float = 15.0) -> Admission:
    """Turn an invite into membership; `Admission.credentials` is what to save.

    Args:
        invite: parsed from the code that ``meshlore invite`` printed.
        identity: of this device, new or kept.
        name: what this device will be called in the mesh.
        timeout_s: for all addresses of the invite together.

    Raises:
        InviteError: expired, used, foreign, or refused by the host.
        Unreachable: no address of the invite answers.
        SecurityError, DecodeError: who answers is not who the invite promises.
    """
    if invite.expires_at <= time.time():
        raise InviteError("the invite has expired", "ask for a new one; check this device's clock")
    bridge = Bridge("meshlore-join")
    await bridge.start()
    try:
        answer, pending = await bridge.call(_ask_hosts, invite, identity, name, timeout_s)
    finally:
        await bridge.stop()
    return finish(pending, answer, now=time.time())


async def _ask_hosts(invite: Invite, identity: Identity, name: str, timeout_s: float) -> tuple[bytes, PendingJoin]:
    share_s = timeout_s / len(invite.addresses)
    reason = ""
    for address in invite.addresses:
        host_id = peer_id_in(address) or ""
        request, pending = build_request(invite, identity, host_id, name)
        try:
            with trio.fail_after(share_s):
                return await _ask(Multiaddr(address), ID.from_string(host_id), identity, request), pending
        except (InviteError, SecurityError, DecodeError):
            raise
        except trio.TooSlowError:
            reason = f"{address}: no answer within {share_s:.0f} s"
        except PeerError as error:
            reason = f"{address}: {error.message}"
        except Exception as error:
            reason = f"{address}: {' '.join(str(error.__cause__ or error).split())[:160]}"
    raise Unreachable(
        f"no host of the invite answers ({reason})",
        "is `meshlore run` running there, and reachable from here?",
    )


async def _ask(address: Multiaddr, host_id: ID, identity: Identity, request: bytes) -> bytes:
    key_pair = create_new_key_pair(identity.private_key_bytes)
    noise = NoiseTransport(key_pair, noise_privkey=new_x25519().private_key)
    raw = await TCP().dial(address)
    try:
        session = await SecurityMultistream({upstream.NOISE: noise}).secure_outbound(raw, host_id)
        await write_message(session, {"join": request})
        reply = await read_message(session)
    finally:
        with upstream.shielded(1):
            await raw.close()
    if type(answer := reply.get("answer")) is bytes:
        return answer
    if type(refused := reply.get("refused")) is str:
        raise InviteError(f"the host refused: {one_line(refused)}", "ask its owner")
    raise DecodeError("the host answered something else than a join")
