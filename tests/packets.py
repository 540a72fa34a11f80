"""Packets to test with, in spaces of three kinds."""

import dataclasses

import numpy as np
from meshlore.codec import pack, unpack
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.space import Space

DIGITS = Space((1, 8, 8), tuple("0123456789"), levels=17)
GREY = Space((1, 28, 28), tuple("abc"))
COLOUR = Space((3, 9, 12), tuple(f"class {index}" for index in range(300)))
SPACES = [DIGITS, GREY, COLOUR]


def samples(space=DIGITS, n=30, seed=0, **changes):
    """Smooth blobs, one kind per class, with some noise: about what condensed samples look like."""
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(0, space.num_classes, n))
    rows, columns = np.mgrid[0 : space.height, 0 : space.width] / max(space.shape[1:])
    waves = np.sin(rows * (labels[:, None, None] % 7) + columns * (labels[:, None, None] // 7))
    values = waves[:, None] * 0.4 + 0.5 + random.normal(0, 0.05, (n, *space.shape))
    fields = {
        "space_id": space.id,
        "source": "condensed",
        "images": (values * space.levels).clip(0, space.levels - 1).astype(np.uint8),
        "labels": labels.astype(np.int64),
        "logits": random.normal(0, 4, (n, space.num_classes)).astype(np.float16),
        "class_counts": random.integers(0, 5000, space.num_classes),
        "epsilon": None,
    }
    return SamplePacket(**{**fields, **changes})


def answers(space=DIGITS, sizes=(5, 1, 12), **changes):
    random = np.random.default_rng(1)
    fields = {
        "space_id": space.id,
        "about": tuple(f"{index:064x}" for index in range(len(sizes))),
        "logits": tuple(random.normal(0, 4, (n, space.num_classes)).astype(np.float16) for n in sizes),
    }
    return LogitPacket(**{**fields, **changes})


def assert_same(first, second):
    assert type(first) is type(second)
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif field.name == "logits" and one is not None:
            assert len(one) == len(other)
            assert all(map(np.array_equal, one, other))
        else:
            assert one == other


def changed(data, **changes):
    return pack({**unpack(data, max_bytes=2**22), **changes})
