"""Tasks and results as plain maps: the round trip, and that no foreign map does harm."""

import contextlib
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import pack, pack_array, unpack
from meshlore.errors import DecodeError, InvalidTask
from meshlore.knowledge.space import Space
from meshlore.node.results import (
    Answer,
    Classified,
    Evaluated,
    FineTuned,
    Generated,
    Learned,
    result_from_map,
    result_to_map,
)
from meshlore.node.tasks import (
    MAX_GENERATED,
    MAX_IMAGES,
    Classify,
    Evaluate,
    FineTune,
    Generate,
    Skill,
    from_map,
    to_map,
)

SPACE = Space((1, 8, 8), ("a", "b", "c"), levels=17)
MAX_BYTES = 100_000
quick = settings(deadline=None)

seeds = st.integers(0, 2**31 - 1)
wheres = st.sampled_from(["best", "here", "ben"])
versions = st.sampled_from(["now", "before"])
shares = st.floats(0, 1)


@st.composite
def tasks(draw):
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(1, 4))
    images, labels = rng.integers(0, 17, (n, 1, 8, 8)).astype(np.uint8), rng.integers(0, 3, n)
    match draw(st.sampled_from(["classify", "generate", "evaluate", "fine-tune", "skill"])):
        case "skill":
            names = draw(st.lists(st.sampled_from(SPACE.classes), min_size=1, unique=True))
            return Skill(tuple(names), where=draw(st.sampled_from(["best", "ben"])))
        case "classify":
            return Classify(images, where=draw(wheres))
        case "generate":
            label, n = draw(st.sampled_from(SPACE.classes)), draw(st.integers(1, MAX_GENERATED))
            return Generate(label, n, draw(seeds), where=draw(wheres), version=draw(versions))
        case "evaluate":
            return Evaluate(images, labels, where=draw(wheres), version=draw(versions))
    return FineTune(images, labels, steps=draw(st.integers(0, 100_000)))


def plain(task):
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(task).items()}


def over_the_wire(value):
    return unpack(pack(value), max_bytes=10 * MAX_BYTES, max_items=10_000)


@quick
@given(tasks())
def test_a_task_survives_the_wire(task):
    again = from_map(over_the_wire(to_map(task)), SPACE, max_bytes=MAX_BYTES)
    assert type(again) is type(task)
    assert plain(again) == plain(task)


foreign = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(foreign)
def test_a_foreign_value_is_an_invalid_task(value):
    with pytest.raises(InvalidTask):
        from_map(value, SPACE, max_bytes=MAX_BYTES)


@quick
@given(tasks().map(to_map), st.data())
def test_a_task_with_any_field_changed_is_a_task_still_or_an_invalid_one(fields, data):
    name = data.draw(st.sampled_from([*fields, "more"]))
    changed = fields | {name: data.draw(foreign)}
    if isinstance(fields.get(name), dict):
        inner = data.draw(st.sampled_from([*fields[name], "more"]))
        changed[name] = fields[name] | {inner: data.draw(foreign)}
    with contextlib.suppress(InvalidTask):
        task = from_map(changed, SPACE, max_bytes=MAX_BYTES)
        assert set(to_map(task)) == set(fields), "what is accepted has exactly the known fields"


@quick
@given(tasks().map(to_map), st.data())
def test_a_task_that_lacks_a_field_is_refused(fields, data):
    del fields[data.draw(st.sampled_from(sorted(fields)))]
    with pytest.raises(InvalidTask):
        from_map(fields, SPACE, max_bytes=MAX_BYTES)


IMAGES = np.zeros((2, 1, 8, 8), np.uint8)
CLASSIFY, GENERATE = to_map(Classify(IMAGES)), to_map(Generate("a"))
EVALUATE, TUNE = to_map(Evaluate(IMAGES, [0, 1])), to_map(FineTune(IMAGES, [0, 1]))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (CLASSIFY | {"kind": "rm -rf"}, "no such task: 'rm -rf'"),
        (CLASSIFY | {"images": pack_array(IMAGES[:0])}, "images of shape"),
        (CLASSIFY | {"images": pack_array(IMAGES[:, :, :7])}, "images of shape"),
        (CLASSIFY | {"images": pack_array(IMAGES[0])}, "images of shape"),
        (CLASSIFY | {"images": pack_array(IMAGES.astype(np.float32))}, "float32"),
        (CLASSIFY | {"images": pack_array(IMAGES + 17)}, "pixel level 17"),
        (CLASSIFY | {"images": pack_array(np.zeros((2000, 1, 8, 8), np.uint8))}, "malformed"),
        (GENERATE | {"label": "z"}, "no class 'z' in this mesh: its classes are a, b, c"),
        (GENERATE | {"n": 0}, "0 images"),
        (GENERATE | {"n": MAX_GENERATED + 1}, "4097 images"),
        (GENERATE | {"n": True}, "'n' is a bool"),
        (GENERATE | {"seed": -1}, "seed -1"),
        (GENERATE | {"seed": 2**31}, "seed 2147483648"),
        (GENERATE | {"version": "tomorrow"}, "version 'tomorrow'"),
        (EVALUATE | {"labels": pack_array(np.array([0]))}, "labels do not fit"),
        (EVALUATE | {"labels": pack_array(np.array([0, 3]))}, "labels do not fit"),
        (EVALUATE | {"labels": pack_array(np.array([0, -1]))}, "labels do not fit"),
        (EVALUATE | {"labels": pack_array(np.array([[0, 1]]))}, "labels do not fit"),
        (TUNE | {"steps": -1}, "-1 steps"),
        (TUNE | {"steps": 1_000_001}, "1000001 steps"),
        (TUNE | {"where": "ben"}, "unknown field 'where'"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_its_cause(fields, cause):
    with pytest.raises(InvalidTask) as caught:
        from_map(fields, SPACE, max_bytes=MAX_BYTES)
    assert cause in str(caught.value)


def test_the_cap_on_the_number_of_images_holds_also_where_bytes_are_no_limit():
    many = pack_array(np.zeros((MAX_IMAGES + 1, 1, 8, 8), np.uint8))
    with pytest.raises(InvalidTask, match="images of shape"):
        from_map(CLASSIFY | {"images": many}, SPACE, max_bytes=2**40)


def test_an_empty_array_with_impossible_sides_is_an_invalid_task():
    images = {"dtype": "uint8", "shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": b""}
    with pytest.raises(InvalidTask):
        from_map(CLASSIFY | {"images": images}, SPACE, max_bytes=MAX_BYTES)


@st.composite
def results(draw):
    names = st.text(max_size=5)
    answer = Answer(draw(names), draw(names), draw(st.sampled_from(["here", "peer", "anchor"])), 0.0, ("x",))
    match draw(st.integers(0, 4)):
        case 4:
            before, after = (draw(st.dictionaries(st.sampled_from(SPACE.classes), shares)) for _ in range(2))
            home = draw(st.none() | shares), draw(st.none() | shares)
            return Learned(("a", "b"), 40, before, after, *home, draw(st.booleans()), draw(names), answer)
        case 0:
            labels = draw(st.lists(st.sampled_from(SPACE.classes), max_size=4))
            by = tuple(draw(names) for _ in labels)
            return Classified(tuple(labels), tuple(draw(shares) for _ in labels), by, answer)
        case 1:
            images = np.random.default_rng(draw(seeds)).integers(0, 17, (2, 1, 8, 8)).astype(np.uint8)
            return Generated(images, "a", draw(shares), answer)
        case 2:
            per_class = draw(st.dictionaries(st.sampled_from(SPACE.classes), shares))
            return Evaluated(3, draw(shares), draw(shares), draw(st.none() | shares), per_class, answer)
    return FineTuned(3, *(draw(shares) for _ in range(4)), draw(st.booleans()), answer)


@quick
@given(results())
def test_a_result_survives_the_wire_with_the_time_that_its_asker_saw(result):
    again = result_from_map(over_the_wire(result_to_map(result)), took_s=1.5)
    assert type(again) is type(result)
    assert plain(again) == plain(replace(result, answer=replace(result.answer, took_s=1.5)))


@quick
@given(results().map(result_to_map), st.data())
def test_a_malformed_result_is_a_decode_error(fields, data):
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        changed = fields | {data.draw(st.text(min_size=12, max_size=14)): 1}
    else:
        changed = {key: value for key, value in fields.items() if key != name}
    with pytest.raises(DecodeError):
        result_from_map(changed, took_s=0.0)
