"""The two packets that carry knowledge, and their bytes.

A packet's bytes become the body of a sealed envelope, which says who made it. `decode` takes bytes
from anybody: every size is checked against the caps below before memory is taken, and a packet with
one flaw is refused whole.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import expect_map, pack, unpack
from ..errors import DecodeError, OtherSpace, PacketError
from .classes import MAX_INTRODUCED, check_added, introduced
from .compression import (
    byte_planes,
    from_byte_planes,
    squeeze,
    squeeze_images,
    unsqueeze,
    unsqueeze_images,
)
from .data import Images, Labels
from .space import Space

VERSION = 1
MAX_BODY_BYTES = 4 * 2**20
MAX_SAMPLES = 4096
MAX_IMAGE_BYTES = 8 * 2**20
MAX_LOGIT_BYTES = 8 * 2**20
MAX_ABOUT = 256
MAX_MADE_OF = 256
MAX_ANSWERS = 16 * MAX_SAMPLES
MAX_COUNT = 2**40

_SOURCE = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_PEER_ID = re.compile(r"[1-9A-HJ-NP-Za-km-z]{52}", re.ASCII)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, eq=False)
class SamplePacket:
    """Synthetic samples of one author with what its classifier says about them.

    Attributes:
        space_id: `Space.id` of the space they belong to.
        source: how they were made (``"condensed"``, ``"gaussian"``, ``"generated"``...).
        images: uint8 (n, channels, height, width), 1 <= n <= 4096, at most 8 MiB.
        labels: int64 (n,).
        logits: float16 (n, num_classes), finite; None if the author gives no answers.
        class_counts: int64 (num_classes,), how many real samples stand behind each class.
        epsilon: differential privacy spent on them, > 0; None if they are not differentially private.
        added: names of the last labels, those that the mesh was not founded with (`meshlore.knowledge.classes`).
        made_of: PeerIDs of the authors of the packets that it was cut out of, sorted, at most 256; none for a packet
            of the author's own making.
    """

    space_id: str
    source: str
    images: Images
    labels: Labels
    logits: NDArray[np.float16] | None
    class_counts: NDArray[np.int64]
    epsilon: float | None = None
    added: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class LogitPacket:
    """An author's newer answers about samples that were sent before.

    Attributes:
        space_id: `Space.id`.
        about: the names (SHA-256, hex) of the sample packets, each once, 1 to 256 of them.
        logits: for each of them float16 (v_i * n_i, num_classes), finite: about its n_i samples, then about their
            views 1 .. v_i - 1 (`meshlore.knowledge.augment.nth_view`).
        added: names of the last columns, as in `SamplePacket`.
    """

    space_id: str
    about: tuple[str, ...]
    logits: tuple[NDArray[np.float16], ...]
    added: tuple[str, ...] = ()


def encode(packet: SamplePacket | LogitPacket) -> bytes:
    """The bytes of a packet.

    Raises:
        PacketError: the packet is larger than the caps, or what `decode` would refuse.
    """
    if isinstance(packet, SamplePacket):
        _check_samples(packet)
        fields = _sample_fields(packet)
    else:
        _check_answers(packet)
        fields = _answer_fields(packet)
    body = pack(fields)
    if len(body) > MAX_BODY_BYTES:
        raise PacketError(f"the packet takes {len(body)} bytes of {MAX_BODY_BYTES}", "send fewer samples")
    return body


def decode(data: bytes, space: Space) -> SamplePacket | LogitPacket:
    """The packet in foreign bytes.

    Args:
        data: not trusted.
        space: the space of this mesh; a packet of another one is refused.

    Raises:
        PacketError: too large, damaged, of another space or version, or values out of bounds.
    """
    try:
        fields = unpack(data, max_bytes=MAX_BODY_BYTES)
        kind = fields.get("kind") if isinstance(fields, dict) else None
        if kind == "samples":
            return _decode_samples(fields, space)
        if kind == "logits":
            return _decode_answers(fields, space)
        raise PacketError("neither samples nor logits")
    except PacketError:
        raise
    except DecodeError as error:
        raise PacketError(error.message, error.remedy) from None


def coarse(logits: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """Logits as they are sent: the largest is 0, steps of one half, none below -12; a quarter of the bytes.

    Args:
        logits: (n, num_classes), finite.
    """
    relative = np.round((logits - logits.max(axis=1, keepdims=True)) * 2) / 2
    rounded: NDArray[np.float16] = np.maximum(relative, -12.0).astype(np.float16)
    return rounded


def views_answered(said: NDArray[np.float16], n: int, classes: int) -> int:
    """About how many views of n samples these answers are, the samples themselves among them; 0: they do not fit."""
    return len(said) // n if said.shape[1] == classes and len(said) % n == 0 else 0


def published_counts(counts: NDArray[np.int64], labels: Labels) -> NDArray[np.int64]:
    """The class counts as they are sent: enough to weigh an author by, too rough to count its images.

    Args:
        counts: int64 (k,), private images per class.
        labels: int64 (n,), of the samples that are published.

    Returns:
        int64 (k,): 0 where no sample of the class is published, else the power of two nearest in ratio.
    """
    shown = (np.bincount(labels, minlength=len(counts)) > 0) & (counts > 0)
    powers = np.exp2(np.round(np.log2(np.maximum(counts, 1)))).astype(np.int64)
    return np.where(shown, powers, 0)


def _sample_fields(packet: SamplePacket) -> dict[str, Any]:
    made_of = {"made_of": list(packet.made_of)} if packet.made_of else {}
    return made_of | {
        "v": VERSION,
        "kind": "samples",
        "space": packet.space_id,
        "source": packet.source,
        "epsilon": packet.epsilon,
        "added": list(packet.added),
        "counts": packet.class_counts.tolist(),
        "n": len(packet),
        "labels": squeeze(byte_planes(packet.labels.astype(np.uint16)[:, None])),
        "images": squeeze_images(packet.images),
        "logits": None if packet.logits is None else squeeze(byte_planes(packet.logits)),
    }


def _answer_fields(packet: LogitPacket) -> dict[str, Any]:
    return {
        "v": VERSION,
        "kind": "logits",
        "space": packet.space_id,
        "added": list(packet.added),
        "about": list(packet.about),
        "sizes": [len(part) for part in packet.logits],
        "logits": squeeze(byte_planes(np.concatenate(packet.logits))),
    }


def _decode_samples(value: dict[str, Any], space: Space) -> SamplePacket:
    made_of: dict[str, type | tuple[type, ...]] = {"made_of": list} if "made_of" in value else {}
    fields = expect_map(
        value,
        {
            "v": int,
            "kind": str,
            "space": str,
            "source": str,
            "epsilon": (float, type(None)),
            "added": list,
            "counts": list,
            "n": int,
            "labels": dict,
            "images": dict,
            "logits": (dict, type(None)),
            **made_of,
        },
    )
    _check_header(fields, space)
    added = check_added(fields["added"], space)
    n, classes = fields["n"], space.founding.num_classes + len(added)
    _check_size(n, space.shape)
    counts = fields["counts"]
    if len(counts) != classes or not all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts):
        raise PacketError(f"the class counts are not {classes} counts")
    labels = _array(fields["labels"], np.uint16, (n, 1))[:, 0].astype(np.int64)
    if labels.max() >= classes:
        raise PacketError(f"label {labels.max()} in a space of {classes} classes")
    images = unsqueeze_images(fields["images"], (n, *space.shape))
    if images.max() >= space.levels:
        raise PacketError(f"value {images.max()} in a space of {space.levels} levels")
    packet = SamplePacket(
        space_id=fields["space"],
        source=fields["source"],
        images=images,
        labels=labels,
        logits=None if fields["logits"] is None else _logits(fields["logits"], n, classes),
        class_counts=np.array(counts, dtype=np.int64),
        epsilon=fields["epsilon"],
        added=added,
        made_of=_made_of(fields["made_of"]) if "made_of" in fields else (),
    )
    _check_samples(packet)
    if (names := len(introduced(labels, added, space))) > MAX_INTRODUCED:
        raise PacketError(f"samples of {names} classes that the mesh was not founded with", "found it with them")
    return packet


def _decode_answers(value: dict[str, Any], space: Space) -> LogitPacket:
    fields = expect_map(
        value,
        {"v": int, "kind": str, "space": str, "added": list, "about": list, "sizes": list, "logits": dict},
    )
    _check_header(fields, space)
    added = check_added(fields["added"], space)
    about, sizes = fields["about"], fields["sizes"]
    if not all(type(name) is str for name in about):
        raise PacketError("a packet name is not a string")
    if len(sizes) != len(about) or not all(type(n) is int and 1 <= n <= MAX_ANSWERS for n in sizes):
        raise PacketError("the sizes do not match the packet names")
    _check_about(tuple(about))
    logits = _logits(fields["logits"], sum(sizes), space.founding.num_classes + len(added))
    parts = tuple(np.split(logits, np.cumsum(sizes)[:-1]))
    return LogitPacket(space_id=fields["space"], about=tuple(about), logits=parts, added=added)


def _array(value: Any, dtype: type[np.generic], shape: tuple[int, int]) -> NDArray[Any]:
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return from_byte_planes(unsqueeze(value, size_bytes=size_bytes), dtype, shape)


def _made_of(value: list[Any]) -> tuple[str, ...]:
    if not value or not all(type(author) is str for author in value):
        raise PacketError("what it was made of is no list of PeerIDs")
    return tuple(value)


def _logits(value: Any, n: int, classes: int) -> NDArray[np.float16]:
    if n * classes * 2 > MAX_LOGIT_BYTES:
        raise PacketError(f"{n} x {classes} logits", f"at most {MAX_LOGIT_BYTES} bytes of them fit a packet")
    logits: NDArray[np.float16] = _array(value, np.float16, (n, classes))
    if not np.isfinite(logits).all():
        raise PacketError("the logits hold NaN or infinity")
    return logits


def _check_header(fields: dict[str, Any], space: Space) -> None:
    if fields["v"] != VERSION:
        raise PacketError(f"packet version {fields['v']}, not {VERSION}", "run the same meshlore everywhere")
    if fields["space"] != space.id:
        raise OtherSpace("the packet belongs to another space", "the mesh's classes or sizes differ")


def _check_size(n: int, shape: tuple[int, ...]) -> None:
    if not 1 <= n <= MAX_SAMPLES:
        raise PacketError(f"{n} samples", f"a packet holds 1 to {MAX_SAMPLES}")
    if n * math.prod(shape) > MAX_IMAGE_BYTES:
        raise PacketError(f"{n} samples of {shape}", f"a packet holds at most {MAX_IMAGE_BYTES} bytes of them")


def _check_samples(packet: SamplePacket) -> None:
    n, classes = len(packet.labels), len(packet.class_counts)
    _check_size(n, packet.images.shape[1:])
    if not _SOURCE.fullmatch(packet.source):
        raise PacketError(f"source {packet.source[:40]!r} is not a short lower-case name")
    if packet.epsilon is not None and not 0 < packet.epsilon < math.inf:
        raise PacketError(f"epsilon {packet.epsilon}", "it is a positive number, or None")
    if packet.images.dtype != np.uint8 or packet.images.ndim != 4 or len(packet.images) != n:
        raise PacketError(f"images {packet.images.dtype} {packet.images.shape} for {n} labels")
    if packet.labels.dtype != np.int64 or not 0 <= packet.labels.min() <= packet.labels.max() < classes:
        raise PacketError(f"labels are not int64 below {classes}")
    if packet.class_counts.dtype != np.int64 or not packet.class_counts.min() >= 0:
        raise PacketError("class counts are not int64 of 0 or more")
    if packet.logits is not None:
        _check_logits(packet.logits, n, classes)
    if packet.made_of:
        _check_made_of(packet.made_of)


def _check_answers(packet: LogitPacket) -> None:
    _check_about(packet.about)
    if len(packet.logits) != len(packet.about):
        raise PacketError(f"{len(packet.logits)} sets of logits about {len(packet.about)} packets")
    classes = packet.logits[0].shape[-1]
    for part in packet.logits:
        if not 1 <= len(part) <= MAX_ANSWERS:
            raise PacketError(f"{len(part)} answers about one packet", f"1 to {MAX_ANSWERS} are allowed")
        _check_logits(part, len(part), classes)
    if sum(part.nbytes for part in packet.logits) > MAX_LOGIT_BYTES:
        raise PacketError("too many logits for one packet", "send several packets")


def _check_logits(logits: NDArray[np.float16], n: int, classes: int) -> None:
    if logits.dtype != np.float16 or logits.shape != (n, classes):
        raise PacketError(f"logits {logits.dtype} {logits.shape}, not float16 {(n, classes)}")
    if not np.isfinite(logits).all():
        raise PacketError("the logits hold NaN or infinity")


def _check_made_of(authors: tuple[str, ...]) -> None:
    if len(authors) > MAX_MADE_OF or list(authors) != sorted(set(authors)):
        raise PacketError(f"made of {len(authors)} authors' packets", f"at most {MAX_MADE_OF}, each once and sorted")
    if not all(_PEER_ID.fullmatch(author) for author in authors):
        raise PacketError("one whose packet it was made of is no PeerID")


def _check_about(about: tuple[str, ...]) -> None:
    if not 1 <= len(about) <= MAX_ABOUT or len(set(about)) != len(about):
        raise PacketError(f"{len(about)} packet names", f"1 to {MAX_ABOUT} different ones are allowed")
    if not all(_SHA256_HEX.fullmatch(name) for name in about):
        raise PacketError("a packet name is not a SHA-256 in lower-case hex")
