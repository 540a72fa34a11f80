import dataclasses
import lzma
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import PacketError
from meshlore.knowledge import compression, packet
from meshlore.knowledge.packet import coarse, decode, encode, published_counts
from meshlore.knowledge.space import Space
from packets import DIGITS, GREY, SPACES, answers, assert_same, changed, samples

CODECS = ["zlib", "lzma", "lzma-pixel-major", "webp"]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("changes", [{}, {"logits": None}, {"epsilon": 4.0}], ids=str)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_samples_survive_the_wire(space, changes, n):
    sent = samples(space, n, **changes)
    assert_same(decode(encode(sent), space), sent)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SPACES), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_noise_survives_the_wire(space, n, seed, blank):
    random = np.random.default_rng(seed)
    high = 1 if blank else space.levels
    images = random.integers(0, high, (n, *space.shape), dtype=np.uint8)
    sent = samples(space, n, seed, images=images)
    assert_same(decode(encode(sent), space), sent)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_later_answers_survive_the_wire(space):
    assert_same(decode(encode(answers(space)), space), answers(space))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("n", [1, 5, 17])
def test_every_image_codec_is_lossless(monkeypatch, codec, space, n):
    monkeypatch.setattr(compression, "_smallest", lambda all_of: {"codec": codec, "data": all_of[codec]})
    images = samples(space, n).images
    np.testing.assert_array_equal(
        compression.unsqueeze_images(compression.squeeze_images(images), images.shape), images
    )


def test_the_smallest_codec_is_kept(monkeypatch):
    sizes = {}

    def remember(encodings):
        sizes.update({name: len(data) for name, data in encodings.items()})
        return {"codec": "zlib", "data": encodings["zlib"]}

    for space in SPACES:
        images = samples(space, 40).images
        with monkeypatch.context() as patch:
            patch.setattr(compression, "_smallest", remember)
            compression.squeeze_images(images)
        assert set(sizes) == set(CODECS)
        assert len(compression.squeeze_images(images)["data"]) == min(sizes.values())


def test_digit_samples_take_half_a_byte_per_pixel_and_coarse_answers_take_less_than_exact_ones():
    sent = samples(n=200)
    rounded = dataclasses.replace(sent, logits=coarse(sent.logits))
    without = dataclasses.replace(sent, logits=None)
    assert len(encode(without)) / 200 < 32
    exact_bytes, coarse_bytes = (len(encode(one)) - len(encode(without)) for one in (sent, rounded))
    assert coarse_bytes < 0.5 * exact_bytes


@pytest.mark.parametrize("make", [samples, answers])
def test_bytes_of_another_space_are_refused(make):
    other = dataclasses.replace(DIGITS, version=2)
    with pytest.raises(PacketError, match="another space"):
        decode(encode(make()), other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v": 2}, "version 2"),
        ({"v": True}, "'v'"),
        ({"kind": "weights"}, "neither"),
        ({"kind": 1}, "neither"),
        ({"extra": 1}, "unknown field"),
        ({"source": "Condensed"}, "source"),
        ({"source": "x" * 33}, "source"),
        ({"source": "condensed\n"}, "source"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": 1}, "epsilon"),
        ({"counts": [0] * 9}, "counts"),
        ({"counts": [0] * 9 + [-1]}, "counts"),
        ({"counts": [0] * 9 + [1.0]}, "counts"),
        ({"counts": [0] * 9 + [2**63]}, "counts"),
        ({"n": 0}, "0 samples"),
        ({"n": -5}, "-5 samples"),
        ({"n": 4097}, "4097 samples"),
        ({"n": 29}, "exactly"),
        ({"n": 31}, "exactly"),
        ({"labels": None}, "labels"),
        ({"labels": {"codec": "raw", "data": bytes([0, 11] * 30)}}, "label"),
        ({"labels": {"codec": "raw", "data": bytes(59)}}, "exactly 60 bytes"),
        ({"labels": {"codec": "bz2", "data": bytes(60)}}, "unknown codec"),
        ({"images": {"codec": "raw", "data": bytes([17]) * 1920}}, "value 17"),
        ({"images": {"codec": "zlib", "data": zlib.compress(bytes(1921))}}, "exactly"),
        ({"images": {"codec": "zlib", "data": zlib.compress(bytes(1920)) + b"x"}}, "exactly"),
        ({"images": {"codec": "zlib", "data": zlib.compress(bytes(1920))[:-1]}}, "exactly"),
        ({"images": {"codec": "zlib", "data": b"nonsense"}}, "damaged"),
        ({"images": {"codec": "lzma", "data": lzma.compress(bytes(1920))}}, "lzma"),
        ({"images": {"codec": "webp", "data": b"RIFF"}}, "not one lossless"),
        ({"images": {"codec": "raw", "data": bytes(1920), "size": 1920}}, "unknown field"),
        ({"logits": {"codec": "raw", "data": b"\x00\x7e" * 300}}, "exactly|NaN"),
        ({"logits": {"codec": "raw", "data": b"\x00" * 300 + b"\x7c" * 300}}, "NaN"),
    ],
)
def test_a_packet_with_one_flaw_is_refused_whole(changes, words):
    with pytest.raises(PacketError, match=words):
        decode(changed(encode(samples()), **changes), DIGITS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"about": []}, "sizes"),
        ({"about": [], "sizes": []}, "packet names"),
        ({"about": ["0" * 64] * 3}, "packet names"),
        ({"about": ["0" * 63, "1" * 64, "2" * 64]}, "SHA-256"),
        ({"about": ["G" * 64, "1" * 64, "2" * 64]}, "SHA-256"),
        ({"about": [1, 2, 3]}, "string"),
        ({"sizes": [5, 1, 11]}, "exactly"),
        ({"sizes": [5, 0, 13]}, "sizes"),
        ({"sizes": [4096] * 2}, "sizes"),
        ({"n": 1}, "unknown field"),
    ],
)
def test_answers_with_one_flaw_are_refused_whole(changes, words):
    with pytest.raises(PacketError, match=words):
        decode(changed(encode(answers()), **changes), DIGITS)


def webp_of(images, **options):
    picture = compression.io.BytesIO()
    from PIL import Image

    Image.fromarray(images).save(picture, "WEBP", **options)
    return picture.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (webp_of(np.zeros((48, 48), np.uint8), lossless=True), "not 48x40"),
        (webp_of(np.zeros((40, 48), np.uint8), quality=80), "lossless"),
        (webp_of(np.zeros((40, 48, 4), np.uint8), lossless=True), "RGBA"),
        (webp_of(np.zeros((40, 48), np.uint8), lossless=True, exif=b"Exif\0\0MM\0*"), "lossless"),
        (webp_of(np.arange(40 * 48 * 3).reshape(40, 48, 3).astype(np.uint8), lossless=True), "colour"),
        (webp_of(np.full((40, 48), 3, np.uint8), lossless=True), "more than the samples"),
        (webp_of(np.zeros((40, 48), np.uint8), lossless=True) + b"trailing", "lossless"),
        (webp_of(np.zeros((40, 48), np.uint8), lossless=True)[:-2], "lossless"),
    ],
)
def test_only_the_expected_webp_picture_is_accepted(data, words):
    # 26 samples of 8x8 lie on a sheet of 6 columns and 5 rows, the last four cells empty
    with pytest.raises(PacketError, match=words):
        compression.unsqueeze_images({"codec": "webp", "data": data}, (26, 1, 8, 8))


@pytest.mark.parametrize("codec", ["zlib", "lzma"])
def test_a_bomb_takes_no_more_memory_than_the_samples_should(codec):
    bomb = zlib.compress(bytes(2**26), 9) if codec == "zlib" else compression._lzma(bytes(2**26))
    data = changed(encode(samples()), images={"codec": codec, "data": bomb})
    tracemalloc.start()
    try:
        with pytest.raises(PacketError, match="exactly"):
            decode(data, DIGITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * 2**20  # LZMA's dictionary alone is half of that


def test_declared_sizes_are_checked_before_anything_is_unpacked():
    large = Space((3, 64, 64), ("a", "b"))
    data = changed(encode(samples(large, 2)), n=4096)
    with pytest.raises(PacketError, match="4096 samples of"):
        decode(data, large)


def test_too_many_bytes_are_refused_unread():
    with pytest.raises(PacketError, match="at most"):
        decode(bytes(packet.MAX_BODY_BYTES + 1), DIGITS)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((30, 8, 8), np.uint8)},
        {"images": np.zeros((30, 1, 8, 8), np.float32)},
        {"images": np.zeros((29, 1, 8, 8), np.uint8)},
        {"labels": np.full(30, 10)},
        {"labels": np.zeros(30, np.int32)},
        {"labels": np.zeros(0, np.int64)},
        {"logits": np.zeros((30, 10), np.float32)},
        {"logits": np.zeros((30, 9), np.float16)},
        {"logits": np.full((30, 10), np.inf, np.float16)},
        {"class_counts": np.full(10, -1)},
        {"class_counts": np.full(10, 0.5)},
        {"source": ""},
        {"epsilon": float("nan")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_would_be_refused_is_not_sent(changes):
    with pytest.raises(PacketError):
        encode(samples(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"about": ("0" * 64,)},
        {"about": ("x", "y", "z")},
        {"about": (), "logits": ()},
        {
            "logits": (
                np.zeros((1, 10), np.float16),
                np.zeros((1, 9), np.float16),
                np.zeros((1, 10), np.float16),
            )
        },
        {"logits": (np.zeros((65537, 10), np.float16),) * 3},
    ],
    ids=str,
)
def test_answers_that_would_be_refused_are_not_sent(changes):
    with pytest.raises(PacketError):
        encode(answers(**changes))


def test_coarse_logits_keep_the_answer_and_take_few_values():
    exact = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32) * 8
    rounded = coarse(exact)
    assert rounded.dtype == np.float16
    assert rounded.max() == 0
    assert len(np.unique(rounded)) <= 25
    assert (rounded[np.arange(50), exact.argmax(axis=1)] == 0).all()
    assert np.isfinite(coarse(exact * 1e30)).all()


def test_published_counts_are_rough_and_silent_about_withheld_classes():
    counts = np.array([0, 3, 12, 60, 100, 5000], np.int64)
    published = published_counts(counts, np.array([2, 2, 3, 4, 5], np.int64))
    assert published.tolist() == [0, 0, 16, 64, 128, 4096]
    assert published.dtype == np.int64
    assert not published_counts(counts, np.zeros(0, np.int64)).any()


seeds = st.sampled_from(
    [encode(samples()), encode(samples(GREY, 3)), encode(samples(n=1, logits=None)), encode(answers())]
)


@settings(max_examples=300, deadline=None)
@given(seeds, st.data())
def test_mutated_bytes_are_refused_or_still_a_valid_packet(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        position = draw.draw(st.integers(0, len(damaged) - 1))
        if draw.draw(st.booleans()):
            damaged[position] = draw.draw(st.integers(0, 255))
        else:
            del damaged[position : position + draw.draw(st.integers(1, 9))]
            if not damaged:
                return
    for space in (DIGITS, GREY):
        try:
            decoded = decode(bytes(damaged), space)
        except PacketError:
            continue
        encode(decoded)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CODECS), st.data())
def test_mutated_image_data_is_refused_or_gives_the_agreed_shape(codec, draw):
    images = samples(n=12).images
    encodings = {}
    original = compression._smallest
    compression._smallest = lambda all_of: encodings.update(all_of) or original(all_of)
    try:
        compression.squeeze_images(images)
    finally:
        compression._smallest = original
    damaged = bytearray(encodings[codec])
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    try:
        decoded = compression.unsqueeze_images({"codec": codec, "data": bytes(damaged)}, images.shape)
    except PacketError:
        return
    assert decoded.shape == images.shape
    assert decoded.dtype == np.uint8


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(PacketError):
        decode(data, DIGITS)
