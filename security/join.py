"""How a stranger becomes a member: one request, one answer, both at most 8 KiB, without any IO here.

The joiner shows that it holds the invite by signing its request with the invite's key; the signature binds
the mesh, both peer ids and the joiner's HPKE key, so that a request is of no use to anyone else. The host
answers with the charter, a certificate and the mesh keys sealed to that HPKE key, signed by the root whose
key hashes to the mesh id in the invite (or by one that its links lead to), and bound to the request: nothing is
taken on first use.

Request: ``{v, mesh_id, host, peer_id, hpke_public_key, name, nonce, invite_key, proof}``.
Answer: ``{v, kind: "welcome", request, charter, links, certificate, sealed_keys, peers, signature}`` or
``{v, kind: "refused", request, reason, remedy}``, where ``request`` is the SHA-256 of the request.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..codec import expect_map, pack, unpack
from ..errors import ConfigError, DecodeError, InviteError, NotAMember, SecurityError
from .authority import Authority, links_from
from .certificates import MAX_CERTIFICATE_BYTES, Certificate, Charter
from .fields import check_length, check_name, check_version, mesh_id_to_bytes
from .identity import (
    SIGNATURE_BYTES,
    Identity,
    encrypt_to,
    public_key_of,
    public_key_of_seed,
    sign_with_seed,
    verify,
    verify_any,
)
from .invites import Invite, InviteBook, host_of, secret_hash_of
from .keyring import Keyring
from .membership import Credentials, check_certificate

MAX_MESSAGE_BYTES = 8192
MAX_REASON_LENGTH = 300
MAX_PEERS = 8

_NONCE_BYTES = 16
_REQUEST_FIELDS: dict[str, type | tuple[type, ...]] = {
    "v": int, "mesh_id": bytes, "host": str, "peer_id": str, "hpke_public_key": bytes, "name": str,
    "nonce": bytes, "invite_key": bytes, "proof": bytes,
}  # fmt: skip


@dataclass(frozen=True)
class PendingJoin:
    """What the joiner keeps between its request and the answer."""

    invite: Invite
    identity: Identity
    host_peer_id: str
    request_hash: bytes = field(repr=False)


@dataclass(frozen=True)
class Admission:
    """What a welcome brings. ``peers``: addresses of members, so that the host need not be up from then on."""

    identity: Identity
    charter: Charter
    certificate: Certificate
    keyring: Keyring = field(repr=False)
    peers: tuple[str, ...] = ()
    authority: Authority = field(default_factory=Authority)

    def credentials(self) -> Credentials:
        """The joiner's credentials, ready to be saved."""
        return Credentials(self.identity, self.charter, self.certificate, self.keyring, authority=self.authority)


def build_request(invite: Invite, identity: Identity, host_peer_id: str, name: str) -> tuple[bytes, PendingJoin]:
    """The joiner's message to the host that it dialled.

    Raises:
        InviteError: ``host_peer_id`` is not a host that the invite names.
        ConfigError: ``name`` is not usable.
    """
    if host_peer_id not in invite.host_peer_ids():
        raise InviteError(f"peer {host_peer_id[:64]} is not the host that the invite names", "ask for a new invite")
    try:
        check_name(name)
    except DecodeError as error:
        raise ConfigError(f"node name: {error.message}", "choose another name") from None
    seed = invite.signing_seed
    fields: dict[str, Any] = {
        "v": 1,
        "mesh_id": mesh_id_to_bytes(invite.mesh_id),
        "host": host_peer_id,
        "peer_id": identity.peer_id,
        "hpke_public_key": identity.hpke_public_key,
        "name": name,
        "nonce": secrets.token_bytes(_NONCE_BYTES),
        "invite_key": public_key_of_seed(seed),
    }
    request = pack({**fields, "proof": sign_with_seed(seed, "join-request", pack(fields))})
    return request, PendingJoin(invite, identity, host_peer_id, _hash_of(request))


def answer_request(
    data: bytes,
    remote_peer_id: str,
    credentials: Credentials,
    book: InviteBook,
    now: float,
    peers: Sequence[str] = (),
) -> bytes:
    """The host's answer; a welcome uses the invite up before it is returned.

    Args:
        data: the request, foreign and not trusted.
        remote_peer_id: who the transport's handshake says is asking.
        credentials: of this host; only one that holds the mesh root can welcome.
        now: unix seconds.
        peers: multiaddresses with ``/p2p/`` of members that the joiner may dial; the first few that
            are valid are told, fewer if the answer would be too large.

    Raises:
        DecodeError: malformed; close the connection without an answer.
        SecurityError: not this peer's, not for this host, or not proven; close likewise.
        StateError: the invite book cannot be used.
    """
    fields = _decode_request(data)
    if fields["peer_id"] != remote_peer_id:
        raise SecurityError("the join request was made by another peer than the one that shows it")
    if fields["host"] != credentials.peer_id:
        raise SecurityError("the join request was made for another host")
    proof = fields.pop("proof")
    verify(fields["invite_key"], "join-request", pack(fields), proof)
    request_hash = _hash_of(data)
    if fields["mesh_id"].hex() != credentials.mesh_id:
        return _refusal(request_hash, "the invite is for another mesh than this host's", "ask for a new invite")
    root = credentials.root
    if root is None:
        return _refusal(request_hash, "this host cannot admit members", "ask the mesh's founder for an invite")
    # Everything that can fail comes before the invite is used up.
    sealed_keys = encrypt_to(fields["hpke_public_key"], credentials.keyring.encode(), _sealing_info(request_hash))
    welcome: dict[str, Any] = {
        "v": 1,
        "kind": "welcome",
        "request": request_hash,
        "charter": credentials.charter.encode(),
        "links": [link.encode() for link in credentials.authority.links],
        "sealed_keys": sealed_keys,
        "peers": _dialable(peers)[:MAX_PEERS],
    }
    while _largest_size(welcome) > MAX_MESSAGE_BYTES:
        if not welcome["peers"]:
            return _refusal(request_hash, "the welcome to this mesh is too large", "tell the mesh's founder")
        welcome["peers"].pop()
    try:
        roles = book.redeem(secret_hash_of(fields["invite_key"]), now)
    except InviteError as error:
        return _refusal(request_hash, error.message, error.remedy)
    certificate = root.issue(
        remote_peer_id,
        fields["name"],
        roles,
        fields["hpke_public_key"],
        now,
        epoch=credentials.keyring.current.epoch,
    )
    welcome["certificate"] = certificate.encode()
    return pack({**welcome, "signature": root.sign("join-answer", pack(welcome))})


def finish(pending: PendingJoin, answer: bytes, *, now: float | None = None) -> Admission:
    """Check the host's answer and unseal what it brings.

    Args:
        answer: foreign and not trusted.
        now: unix seconds, to have the certificate's time judged by the own clock as well.

    Raises:
        InviteError: the host refused (used, expired, ...), or speaks for another mesh than the invite's.
        NotAMember: the certificate in a welcome does not make this device a member.
        SecurityError: the answer is to another request, altered, or sealed to another device.
        DecodeError: malformed.
    """
    fields = _decode_answer(answer)
    if not hmac.compare_digest(fields["request"], pending.request_hash):
        raise SecurityError("the answer belongs to another join request", "ask for a new invite and join again")
    if fields["kind"] == "refused":
        raise InviteError(fields["reason"], fields["remedy"])
    charter = Charter.decode(fields["charter"])
    if charter.mesh_id != pending.invite.mesh_id:
        raise InviteError("the host speaks for another mesh than the invite", "ask for a new invite")
    signature = fields.pop("signature")
    certificate = Certificate.decode(fields["certificate"])
    authority = Authority.of(charter, links_from(fields["links"]))
    moment = certificate.not_before if now is None else now
    verify_any(authority.issuers(charter, moment), "join-answer", pack(fields), signature)
    check_certificate(fields["certificate"], charter, pending.identity.peer_id, moment, authority)
    if not hmac.compare_digest(certificate.hpke_key_hash, pending.identity.hpke_key_hash):
        raise NotAMember("the certificate is for another HPKE key", "ask for a new invite and join again")
    keys = pending.identity.decrypt(fields["sealed_keys"], _sealing_info(pending.request_hash))
    peers = tuple(_dialable(fields["peers"]))
    return Admission(pending.identity, charter, certificate, Keyring.decode(keys), peers, authority)


def _decode_request(data: bytes) -> dict[str, Any]:
    fields = expect_map(unpack(data, max_bytes=MAX_MESSAGE_BYTES, max_items=16), _REQUEST_FIELDS)
    check_version(fields["v"])
    check_name(fields["name"])
    public_key_of(fields["peer_id"])
    for field_name, length in (
        ("mesh_id", 32),
        ("nonce", _NONCE_BYTES),
        ("invite_key", 32),
        ("proof", SIGNATURE_BYTES),
    ):
        check_length(field_name, fields[field_name], length)
    return fields


def _decode_answer(data: bytes) -> dict[str, Any]:
    value = unpack(data, max_bytes=MAX_MESSAGE_BYTES)
    if isinstance(value, dict) and value.get("kind") == "refused":
        fields = expect_map(value, {"v": int, "kind": str, "request": bytes, "reason": str, "remedy": str})
        for text in (fields["reason"], fields["remedy"]):
            if len(text) > MAX_REASON_LENGTH or not text.isprintable():
                raise DecodeError("the reason of the refusal is malformed")
    else:
        fields = expect_map(
            value,
            {
                "v": int, "kind": str, "request": bytes, "charter": bytes, "links": list, "certificate": bytes,
                "sealed_keys": bytes, "peers": list, "signature": bytes,
            },
        )  # fmt: skip
        if len(fields["peers"]) > MAX_PEERS:
            raise DecodeError(f"{len(fields['peers'])} addresses of members where at most {MAX_PEERS} are told")
        if fields["kind"] != "welcome":
            raise DecodeError("the answer is neither a welcome nor a refusal")
    check_version(fields["v"])
    return fields


def _dialable(addresses: Iterable[object]) -> list[str]:
    """Those that are valid; one bad address of somebody shall keep nobody out."""
    valid = []
    for address in addresses:
        if isinstance(address, str):
            with contextlib.suppress(DecodeError):
                host_of(address)
                valid.append(address)
    return valid


def _largest_size(welcome: dict[str, Any]) -> int:
    """The bytes of a welcome with the largest certificate there is."""
    return len(pack({**welcome, "certificate": bytes(MAX_CERTIFICATE_BYTES), "signature": bytes(SIGNATURE_BYTES)}))


def _refusal(request_hash: bytes, reason: str, remedy: str) -> bytes:
    return pack({"v": 1, "kind": "refused", "request": request_hash, "reason": reason, "remedy": remedy})


def _hash_of(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()


def _sealing_info(request_hash: bytes) -> bytes:
    return b"meshlore/v1/join-keys" + request_hash
