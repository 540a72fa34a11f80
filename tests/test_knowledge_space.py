import dataclasses
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.codec import pack, unpack
from meshlore.errors import DataError, DecodeError
from meshlore.knowledge.space import Space, is_class_name

SPACE = Space((3, 32, 24), ("cat", "dog", "bird"), levels=64, version=2)

names = st.text(min_size=1, max_size=20).filter(is_class_name)
spaces = st.builds(
    Space,
    st.tuples(st.sampled_from([1, 3]), st.integers(8, 64), st.integers(8, 64)),
    st.lists(names, min_size=2, max_size=12, unique_by=str.casefold).map(tuple),
    st.integers(2, 256),
    st.integers(1, 1000),
)


@given(spaces)
def test_a_space_survives_the_wire(space):
    decoded = Space.from_map(unpack(pack(space.to_map()), max_bytes=2**16))
    assert decoded == space
    assert decoded.id == space.id


@pytest.mark.parametrize(
    "changes",
    [{"shape": (1, 32, 24)}, {"classes": ("dog", "cat", "bird")}, {"levels": 256}, {"version": 3}],
)
def test_every_difference_makes_another_id(changes):
    assert dataclasses.replace(SPACE, **changes).id != SPACE.id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (2, 32, 32)}, "channels"),
        ({"shape": (1, 7, 32)}, "32x7 pixels"),
        ({"shape": (1, 32, 65)}, "65x32 pixels"),
        ({"levels": 1}, "levels"),
        ({"levels": 257}, "levels"),
        ({"version": 0}, "version"),
        ({"classes": ("cat",)}, "1 class:"),
        ({"classes": tuple(map(str, range(1001)))}, "1001 classes"),
        ({"classes": ("cat", "Cat")}, "case"),
        ({"classes": ("cat", " dog")}, "' dog'"),
        ({"classes": ("cat", "")}, "''"),
        ({"classes": ("cat", "d\nog")}, "class name"),
        ({"classes": ("cat", unicodedata.normalize("NFD", "käfer"))}, "class name"),
    ],
)
def test_values_out_of_bounds_are_refused_in_one_line(changes, words):
    with pytest.raises(DataError) as caught:
        dataclasses.replace(SPACE, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [1, 8]},
        {"shape": [1, 8, 8.0]},
        {"shape": [1, True, 8]},
        {"shape": [1, 8, 9999]},
        {"classes": ["cat", 1]},
        {"classes": ["cat", "cat"]},
        {"levels": "256"},
        {"levels": True},
        {"extra": 1},
    ],
)
def test_foreign_maps_are_refused(changes):
    with pytest.raises(DecodeError):
        Space.from_map({**SPACE.to_map(), **changes})


def test_a_foreign_value_that_is_no_map_is_refused():
    with pytest.raises(DecodeError):
        Space.from_map([1, 2])


def test_labels_are_positions_and_an_unknown_class_gets_a_hint():
    assert SPACE.label_of("bird") == 2
    with pytest.raises(DataError, match="did you mean 'cat'"):
        SPACE.label_of("Cat")
    with pytest.raises(DataError, match="it knows cat, dog, bird"):
        SPACE.label_of("horse")
