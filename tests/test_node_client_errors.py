"""The client against a control API whose node is a fake: typed results, typed errors, and never a hang."""

import asyncio
import time

import numpy as np
import pytest
from meshlore.codec import pack, pack_array
from meshlore.errors import (
    ConfigError,
    DaemonNotRunning,
    DeadlineExceeded,
    InvalidTask,
    MeshloreError,
    NoCapableNode,
    Refused,
    StateError,
)
from meshlore.knowledge.space import Space
from meshlore.node import client as client_module
from meshlore.node.client import connect
from meshlore.node.control import ControlServer
from meshlore.node.protocol import frame, socket_path
from meshlore.node.results import Answer, Classified, Generated, result_to_map
from meshlore.node.tasks import Classify, Evaluate, FineTune, Generate

SPACE = Space((1, 8, 8), ("a", "b"), levels=17)
IMAGES = np.zeros((2, 8, 8), np.uint8)
ANSWER = Answer("ben", "ben-id", "peer", 9.0, ("cid",))


class FakeNode:
    """What the control API shows; ``submit`` is what a test makes of it."""

    def __init__(self) -> None:
        self.tasks: list = []
        self.cancelled = asyncio.Event()

    def status(self):
        return {"name": "fake", "space": SPACE.to_map()}

    def peers(self):
        return [{"name": "ben"}]

    def knowledge(self):
        return {"images": pack_array(np.full((1, 1, 8, 8), 16, np.uint8)), "labels": ["b"]}

    async def invite(self, role, lifetime_s):
        if role == "anchor":
            raise ConfigError("this device cannot invite", "ask the founder")
        return f"code-{role}-{lifetime_s:g}"

    async def submit(self, task, timeout_s, progress):
        self.tasks.append(task)
        try:
            return await self.perform(task, timeout_s, progress)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def perform(self, _task, _timeout_s, progress):
        for fraction in (0.25, 0.5, 1.0):
            progress(fraction, "classifying")
            await asyncio.sleep(0.02)
        return result_to_map(Classified(("a", "b"), (0.5, 1.0), ("ann", "ann"), ANSWER))


@pytest.fixture
async def node(tmp_path):
    node = FakeNode()
    server = ControlServer(tmp_path, node)
    await server.start()
    node.server = server
    yield node
    await server.stop()


def performs(node, error_or_result):
    async def perform(*_):
        if isinstance(error_or_result, BaseException):
            raise error_or_result
        return error_or_result

    node.perform = perform


async def test_without_a_daemon_the_client_says_so_and_how_to_start_one(tmp_path):
    with pytest.raises(DaemonNotRunning, match=r"no daemon runs in .*meshlore run"):
        async with connect(tmp_path):
            pass


async def test_a_socket_that_a_killed_daemon_left_is_no_daemon(tmp_path, node):
    await node.server.stop()
    socket_path(tmp_path).touch()
    with pytest.raises(DaemonNotRunning):
        async with connect(tmp_path):
            pass


async def test_a_result_is_typed_timed_by_the_client_and_reports_progress(tmp_path, node):
    said = []
    async with connect(tmp_path) as mesh:
        result = await mesh.submit(Classify(IMAGES), on_progress=lambda *news: said.append(news))
    assert (result.labels, result.confidence) == (("a", "b"), (0.5, 1.0))
    assert (result.answer.node, result.answer.hop, result.answer.tried) == ("ben", "peer", ("cid",))
    assert result.answer.took_s < 5, "not what the daemon measured"
    assert [fraction for fraction, _ in said] == sorted(fraction for fraction, _ in said)
    assert (1.0, "classifying") in said


async def test_images_travel_as_levels_and_come_back_as_pixels(tmp_path, node):
    performs(node, result_to_map(Generated(np.full((2, 1, 8, 8), 16, np.uint8), "b", 1.0, ANSWER)))
    async with connect(tmp_path) as mesh:
        result = await mesh.submit(Generate("b", 2))
        images, labels = await mesh.knowledge()
    assert (result.images.shape, result.images.max()) == ((2, 8, 8), 255)
    assert (images.shape, labels) == ((1, 1, 8, 8), ("b",))


@pytest.mark.parametrize(
    "error",
    [NoCapableNode("nobody", "wait"), InvalidTask("bad"), Refused("no", "later", code="busy"), StateError("lost")],
)
async def test_an_error_of_the_daemon_arrives_as_what_it_is(tmp_path, node, error):
    performs(node, error)
    async with connect(tmp_path) as mesh:
        with pytest.raises(type(error)) as caught:
            await mesh.submit(Classify(IMAGES))
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "task",
    [
        Classify([]),
        Classify(np.zeros((2, 8, 8), np.int32)),
        Evaluate(IMAGES, ["a", "z"]),
        FineTune(IMAGES, ["a"]),
        "classify",
    ],
    ids=["no images", "wrong dtype", "unknown class", "too few labels", "no task"],
)
async def test_a_wrong_task_is_refused_before_anything_is_sent(tmp_path, node, task):
    async with connect(tmp_path) as mesh:
        with pytest.raises(InvalidTask):
            await mesh.submit(task)
    assert node.tasks == []


async def test_a_bug_in_the_daemon_is_a_typed_error_not_a_hang(tmp_path, node):
    performs(node, ZeroDivisionError("a bug"))
    async with connect(tmp_path) as mesh:
        with pytest.raises(MeshloreError):
            await asyncio.wait_for(mesh.submit(Classify(IMAGES)), 5)


async def test_a_status_that_fails_is_a_typed_error(tmp_path, node):
    async with connect(tmp_path) as mesh:
        node.status = node.peers = lambda: 1 // 0
        for ask in (mesh.status, mesh.peers):
            with pytest.raises(MeshloreError, match="failed"):
                await ask()


async def test_a_daemon_that_stops_during_a_task_is_gone(tmp_path, node):
    started = asyncio.Event()

    async def hang(*_):
        started.set()
        await asyncio.sleep(60)

    node.perform = hang
    async with connect(tmp_path) as mesh:
        asked = asyncio.create_task(mesh.submit(Classify(IMAGES)))
        await asyncio.wait_for(started.wait(), 5)
        await node.server.stop()
        with pytest.raises(DaemonNotRunning):
            await asyncio.wait_for(asked, 5)


async def test_a_daemon_that_says_nothing_costs_the_deadline_and_a_little(tmp_path, node, monkeypatch):
    monkeypatch.setattr(client_module, "GRACE_S", 0.1)
    node.perform = lambda *_: asyncio.sleep(60)
    started = time.monotonic()
    async with connect(tmp_path) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.submit(Classify(IMAGES), timeout_s=0.2)
    assert time.monotonic() - started < 2
    await asyncio.wait_for(node.cancelled.wait(), 2)


async def test_a_client_that_gives_up_ends_its_task_in_the_daemon(tmp_path, node):
    node.perform = lambda *_: asyncio.sleep(60)
    async with connect(tmp_path) as mesh:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(mesh.submit(Classify(IMAGES)), 0.3)
    await asyncio.wait_for(node.cancelled.wait(), 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        pack([1]),
        pack({"task": {}}),
        *(pack({"task": {}, "timeout_s": t}) for t in (0, -1, 1e9, "1", True)),
    ],
)
async def test_a_malformed_request_is_answered_with_an_invalid_task(tmp_path, node, body):
    async with connect(tmp_path) as mesh:
        response = await mesh._http.post("/task", content=body)
    assert b"InvalidTask" in response.content
    assert node.tasks == []


async def test_an_invite_is_a_code_or_the_reason_why_not(tmp_path, node):
    async with connect(tmp_path) as mesh:
        assert await mesh.invite(lifetime_s=60) == "code-node-60"
        with pytest.raises(ConfigError, match="ask the founder"):
            await mesh.invite(role="anchor")


@pytest.mark.parametrize(
    "stream", [b"", frame({"event": "progress", "fraction": 0.1, "label": "x"}), b"\xff" * 8, b"\0\0\0\1\xc1"]
)
async def test_an_answer_without_a_result_is_gone(tmp_path, stream):
    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = b'{"space":' + str(SPACE.to_map()).replace("'", '"').encode() + b"}" if b"/status" in head else stream
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, socket_path(tmp_path))
    async with server, connect(tmp_path) as mesh:
        with pytest.raises(MeshloreError, match=r"daemon.*(malformed|without a result)"):
            await asyncio.wait_for(mesh.submit(Classify(IMAGES)), 5)


async def test_the_socket_is_private_and_gone_with_the_daemon(tmp_path, node):
    path = socket_path(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    await node.server.stop()
    assert not path.exists()
