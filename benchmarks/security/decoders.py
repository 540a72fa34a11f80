"""Every decoder that foreign bytes reach, with inputs that it accepts, from which others are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from libp2p.peer.id import ID
from meshlore.codec import pack, unpack
from meshlore.errors import DecodeError
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.packet import decode as decode_packet
from meshlore.knowledge.packet import encode as encode_packet
from meshlore.knowledge.space import Space
from meshlore.mesh import circuit, frames, messages
from meshlore.mesh.reconcile import Answer
from meshlore.mesh.records import issue_record, read_record
from meshlore.node import results
from meshlore.node.protocol import FrameReader
from meshlore.node.results import Classified, result_from_map, result_to_map
from meshlore.node.router import Competence
from meshlore.node.tasks import Classify, from_map, to_map
from meshlore.security.authority import Authority, links_from
from meshlore.security.certificates import Certificate, Charter
from meshlore.security.governance import delegate, revoke, rotate_root
from meshlore.security.identity import Identity
from meshlore.security.invites import Invite, InviteBook
from meshlore.security.join import answer_request, build_request, finish
from meshlore.security.keyring import Keyring
from meshlore.security.membership import found_mesh
from meshlore.security.sealing import open_sealed, seal
from multiaddr import Multiaddr

NOW = 1_800_000_000.0
SPACE = Space((1, 8, 8), ("cat", "cow", "dog"))


@dataclass(frozen=True)
class Decoder:
    """``decode`` takes foreign bytes and returns, or raises a `MeshloreError`; anything else is a crash."""

    name: str
    decode: Callable[[bytes], Any]
    samples: tuple[bytes, ...]


def all_decoders(folder: Path) -> list[Decoder]:
    """All of them; ``folder`` is for the keys of the mesh whose inputs they read."""
    founder = found_mesh(folder / "founder", "fuzz", "founder", SPACE.to_map(), ["node"], now=NOW)
    identity, host = Identity.generate(), founder.peer_id
    address = f"/ip4/127.0.0.1/tcp/4001/p2p/{host}"
    book = InviteBook(folder / "invites.db", founder.mesh_id)
    invite = book.create([address], ["node", "requester"], NOW)
    request, pending = build_request(invite, identity, host, "new")
    answer = answer_request(request, identity.peer_id, founder, book, NOW, [address])
    governed = revoke(delegate(rotate_root(founder, NOW), NOW)[0], identity.peer_id, NOW)
    record = issue_record(host, [address], bytes(8), founder.identity.sign, NOW)
    other = issue_record(identity.peer_id, ["/ip4/10.0.0.1/tcp/1"], bytes(8), identity.sign, NOW)
    introduction = messages.Introduction(record, int(NOW), frozenset({other.mark}))
    hello = messages.hello_body(messages.Hello(introduction, {"stage": 1}, bytes(16), (other,)))
    difference = Answer([("ab" * 32, 9)], frozenset({1, 2}), frozenset({2}))
    sealed = seal(_sample_packet(), credentials=founder, seq=1, now=NOW)

    target = circuit.pb.PeerId(id=ID.from_string(host).to_bytes())
    asked_of_relays = (
        circuit.pb.HopMessage(type=circuit.pb.HopMessage.RESERVE),
        circuit.pb.HopMessage(type=circuit.pb.HopMessage.CONNECT, peer=target),
    )
    place = circuit.pb.Reservation(expire=int(NOW), addrs=[Multiaddr(address).to_bytes()])
    reserved = circuit.pb.HopMessage(type=circuit.pb.HopMessage.STATUS, status=circuit.pb.OK, reservation=place)
    offered = circuit.pb.StopMessage(type=circuit.pb.StopMessage.CONNECT, peer=target)

    def admission(data: bytes) -> object:
        message = unpack(data, max_bytes=8256, max_items=16)
        if not isinstance(message, dict) or set(message) != {"hello", "links"} or type(message["hello"]) is not bytes:
            raise DecodeError("an admission message of an unknown kind")
        return founder.check(message["hello"], host, NOW, links_from(message["links"]))

    def frame(data: bytes) -> None:
        decoder = frames.Decoder()
        decoder.feed(data)
        while decoder.next_frame() is not None:
            continue

    def no_book(data: bytes) -> bytes:
        return answer_request(data, identity.peer_id, replace(founder, root=None), book, NOW)

    return [
        Decoder("frame", frame, (frames.encode(frames.Frame("mesh.hello", 7, hello)),)),
        Decoder("hello", lambda data: messages.read_hello(_value(data), host), (pack(hello),)),
        Decoder("address record", read_record, (record.data, other.data)),
        Decoder("sync", lambda data: messages.read_sync(_value(data)), (pack(messages.sync_body(bytes(256))),)),
        Decoder(
            "sync answer",
            lambda data: messages.read_sync_answer(_value(data)),
            (pack(messages.sync_answer_body(difference)),),
        ),
        Decoder("find", lambda data: messages.read_find(_value(data)), (pack(messages.find_body(host)),)),
        Decoder(
            "announce",
            lambda data: messages.read_announce(_value(data)),
            (pack(messages.announce_body([("ab" * 32, 9)])),),
        ),
        Decoder(
            "competence",
            lambda data: Competence.from_map(_value(data), SPACE),
            (pack(Competence((0.5,) * 3, ()).to_map()),),
        ),
        Decoder(
            "admission",
            admission,
            (
                pack(
                    {"hello": founder.certificate_bytes, "links": [link.encode() for link in governed.authority.links]}
                ),
            ),
        ),
        Decoder("relay asked", circuit.read_asked, tuple(asked.SerializeToString() for asked in asked_of_relays)),
        Decoder(
            "relay answer",
            lambda data: circuit.read_reservation(data, host),
            (reserved.SerializeToString(),),
        ),
        Decoder("circuit", circuit.is_circuit, (offered.SerializeToString(),)),
        Decoder("certificate", Certificate.decode, (founder.certificate_bytes,)),
        Decoder("charter", Charter.decode, (founder.charter.encode(),)),
        Decoder("authority", lambda data: Authority.decode(data, founder.charter), (governed.authority.encode(),)),
        Decoder("join request", no_book, (request,)),
        Decoder("join answer", lambda data: finish(pending, data, now=NOW), (answer,)),
        Decoder("invite code", lambda data: Invite.parse(data.decode("latin-1")), (invite.code().encode(),)),
        Decoder("keyring", Keyring.decode, (founder.keyring.encode(),)),
        Decoder("sealed packet", lambda data: open_sealed(data, founder, NOW), (sealed,)),
        Decoder("knowledge", lambda data: decode_packet(data, SPACE), (_sample_packet(), _logit_packet())),
        Decoder(
            "task",
            lambda data: from_map(_value(data), SPACE, max_bytes=1 << 20),
            (pack(to_map(Classify(_images(4), where="here"))),),
        ),
        Decoder("task result", lambda data: result_from_map(_value(data), took_s=0.0), (_result(),)),
        Decoder(
            "control event",
            lambda data: list(FrameReader().feed(data)),
            (len(_result()).to_bytes(4, "big") + _result(),),
        ),
    ]


def _value(data: bytes) -> Any:
    return unpack(data, max_bytes=1 << 20)


def _images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SPACE.levels, (n, *SPACE.shape)).astype(np.uint8)


def _sample_packet() -> bytes:
    logits = np.zeros((9, 3), np.float16)
    counts = np.array([4, 4, 4])
    return encode_packet(SamplePacket(SPACE.id, "condensed", _images(9), np.arange(9) % 3, logits, counts))


def _logit_packet() -> bytes:
    return encode_packet(LogitPacket(SPACE.id, ("ab" * 32,), (np.ones((9, 3), np.float16),)))


def _result() -> bytes:
    return pack(result_to_map(Classified(("cat",), (0.5,), ("ben",), results.Answer("ben", "id", "peer", 0.1))))
