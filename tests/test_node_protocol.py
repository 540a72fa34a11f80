"""What a daemon and its clients say to each other: frames, errors, and where they meet."""

import contextlib
import inspect
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore import errors
from meshlore.codec import pack
from meshlore.errors import DecodeError, InvalidTask, MeshloreError
from meshlore.node.protocol import (
    MAX_MESSAGE_BYTES,
    MAX_SOCKET_PATH_BYTES,
    FrameReader,
    error_from_map,
    error_to_map,
    frame,
    socket_path,
)

values = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=9) | st.binary(max_size=9)
events = st.dictionaries(st.text(max_size=5), values, max_size=4)
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MeshloreError)]


@settings(deadline=None)
@given(st.lists(events, max_size=4), st.data())
def test_events_come_out_as_they_went_in_however_the_stream_is_cut(sent, data):
    stream = b"".join(frame(event) for event in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, received = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == sent


def test_half_a_frame_gives_nothing_yet():
    data = frame({"event": "progress"})
    reader = FrameReader()
    assert list(reader.feed(data[:-1])) == []
    assert list(reader.feed(data[-1:])) == [{"event": "progress"}]


@given(st.binary(min_size=4, max_size=40))
def test_a_foreign_stream_is_a_decode_error_or_events(data):
    with contextlib.suppress(DecodeError):
        assert all(isinstance(event, dict) for event in FrameReader().feed(data))


@pytest.mark.parametrize("body", [b"\xc1", b"", pack([1]), pack("text"), pack({"event": "x"}) + b"\x00"])
def test_a_frame_that_holds_no_map_is_a_decode_error(body):
    with pytest.raises(DecodeError):
        list(FrameReader().feed(len(body).to_bytes(4, "big") + body))


def test_an_endless_frame_is_refused_before_it_is_read():
    with pytest.raises(DecodeError):
        list(FrameReader().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")))


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_of_the_tree_arrives_as_what_it_was(kind):
    sent = kind("cause", "remedy")
    got = error_from_map(error_to_map(sent))
    assert type(got) is kind
    assert (got.message, got.remedy, got.exit_code) == ("cause", "remedy", kind.exit_code)
    assert str(got) == "cause: remedy"


@pytest.mark.parametrize("name", ["Unheard", "annotations", "__doc__", "Exception", None, 7])
def test_an_error_of_an_unknown_kind_is_a_plain_one(name):
    assert type(error_from_map({"type": name, "message": "m", "remedy": ""})) is MeshloreError


def test_a_refusal_keeps_its_code():
    sent = errors.Refused("no", "later", code="busy")
    got = error_from_map(error_to_map(sent))
    assert isinstance(got, errors.Refused)
    assert got.code == "busy"


def test_the_socket_is_in_the_home(tmp_path):
    assert socket_path(tmp_path) == tmp_path / "control.sock"


def test_a_home_with_a_long_path_gets_a_short_socket_of_its_own(tmp_path):
    homes = [tmp_path / ("h" * MAX_SOCKET_PATH_BYTES) / name for name in ("one", "two")]
    paths = [socket_path(home) for home in homes]
    assert all(len(str(path)) <= MAX_SOCKET_PATH_BYTES for path in paths)
    assert paths[0] != paths[1]
    assert paths[0] == socket_path(homes[0])


def test_a_long_folder_for_temporary_files_makes_no_socket_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * MAX_SOCKET_PATH_BYTES)))
    assert len(str(socket_path(tmp_path / ("h" * MAX_SOCKET_PATH_BYTES)))) <= MAX_SOCKET_PATH_BYTES


def test_an_error_is_one_line_on_the_wire():
    sent = error_to_map(InvalidTask("cause", "remedy"))
    assert sent["type"] == "InvalidTask"
    assert pack(sent)
