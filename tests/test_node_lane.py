"""The compute lane: one thread, long work in steps, urgent work in between."""

import asyncio
import threading
import time

import pytest
from meshlore.errors import Cancelled, Refused
from meshlore.node.lane import MAX_URGENT, Lane

WAIT_S = 5


@pytest.fixture
async def lane():
    lane = Lane("test")
    yield lane
    await lane.close()


class Training:
    """Long work that a test drives step by step, from outside the lane's thread."""

    def __init__(self, steps: int = 1000) -> None:
        self.steps, self.done = steps, 0
        self.threads: set[int] = set()
        self.running, self._turn = threading.Event(), threading.Semaphore(0)

    def __call__(self, step):
        for number in range(self.steps):
            self.running.set()
            if not self._turn.acquire(timeout=WAIT_S):
                raise AssertionError("the test never let the work go on")
            self.threads.add(threading.get_ident())
            step(number / self.steps)
            self.done += 1
        return self.done

    def go_on(self, steps: int = 1) -> None:
        self._turn.release(steps)

    async def started(self) -> None:
        assert await asyncio.to_thread(self.running.wait, WAIT_S)


async def test_urgent_work_runs_inside_the_next_training_step_and_on_the_same_thread(lane):
    training = Training()
    long = asyncio.create_task(lane.train("learning", training))
    await training.started()
    urgent = asyncio.create_task(lane.serve(lambda: (training.done, threading.get_ident())))
    await asyncio.sleep(0.05)
    assert not urgent.done(), "urgent work must not run beside a training step"
    training.go_on()
    done_then, thread = await asyncio.wait_for(urgent, WAIT_S)
    assert done_then == 0
    assert training.threads == {thread}
    assert not long.done()
    training.go_on(1000)
    assert await asyncio.wait_for(long, WAIT_S) == 1000, "the training was paused, not lost"


async def test_urgent_work_overtakes_long_work_that_waits(lane):
    order = []
    training = Training(steps=1)
    first = asyncio.create_task(lane.train("first", training))
    await training.started()
    second = asyncio.create_task(lane.train("second", lambda _step: order.append("long")))
    await asyncio.sleep(0)
    urgent = asyncio.create_task(lane.serve(lambda: order.append("urgent")))
    await asyncio.sleep(0)
    training.go_on()
    await asyncio.wait_for(asyncio.gather(first, second, urgent), WAIT_S)
    assert order == ["urgent", "long"]


async def test_long_work_runs_one_piece_at_a_time_in_the_order_it_came(lane):
    running, order = [], []

    def work(name):
        def piece(step):
            assert not running
            running.append(name)
            step(0.5)
            running.remove(name)
            order.append(name)

        return piece

    await asyncio.wait_for(asyncio.gather(*(lane.train(name, work(name)) for name in "abc")), WAIT_S)
    assert order == ["a", "b", "c"]


async def test_cancelled_training_ends_at_its_next_step_and_the_lane_goes_on(lane):
    training = Training()
    long = asyncio.create_task(lane.train("learning", training))
    await training.started()
    training.go_on()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    training.go_on(1000)
    assert await asyncio.wait_for(lane.serve(lambda: "next"), WAIT_S) == "next"
    assert training.done <= 1


async def test_training_cancelled_while_it_waits_never_starts(lane):
    training, started = Training(steps=1), []
    first = asyncio.create_task(lane.train("first", training))
    await training.started()
    waiting = asyncio.create_task(lane.train("waiting", lambda _step: started.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    training.go_on()
    await asyncio.wait_for(first, WAIT_S)
    await lane.serve(lambda: None)
    assert not started


async def test_an_exception_reaches_who_asked_and_the_lane_survives(lane):
    def broken(_step):
        raise ZeroDivisionError("in training")

    with pytest.raises(ZeroDivisionError, match="in training"):
        await lane.train("learning", broken)
    with pytest.raises(ZeroDivisionError):
        await lane.serve(lambda: 1 // 0)
    assert await lane.serve(lambda: 1) == 1
    assert lane.state.label == ""


async def test_an_exception_of_urgent_work_does_not_hurt_the_training_it_ran_inside(lane):
    training = Training(steps=2)
    long = asyncio.create_task(lane.train("learning", training))
    await training.started()
    urgent = asyncio.create_task(lane.serve(lambda: 1 // 0))
    await asyncio.sleep(0)
    training.go_on(2)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(urgent, WAIT_S)
    assert await asyncio.wait_for(long, WAIT_S) == 2


async def test_too_much_urgent_work_is_refused_as_busy(lane):
    training = Training(steps=1)
    long = asyncio.create_task(lane.train("learning", training))
    await training.started()
    waiting = [asyncio.create_task(lane.serve(lambda n=n: n)) for n in range(MAX_URGENT)]
    await asyncio.sleep(0)
    assert lane.state.waiting == MAX_URGENT
    with pytest.raises(Refused) as caught:
        await lane.serve(lambda: None)
    assert caught.value.code == "busy"
    training.go_on()
    assert await asyncio.wait_for(asyncio.gather(*waiting), WAIT_S) == list(range(MAX_URGENT))
    await long


async def test_the_state_names_what_is_trained_and_how_far_it_is(lane):
    at_three_quarters, go_on = threading.Event(), threading.Event()

    def condense(step):
        step(0.75)
        at_three_quarters.set()
        assert go_on.wait(WAIT_S)

    long = asyncio.create_task(lane.train("condensing", condense))
    assert await asyncio.to_thread(at_three_quarters.wait, WAIT_S)
    assert (lane.state.label, lane.state.fraction) == ("condensing", 0.75)
    go_on.set()
    await asyncio.wait_for(long, WAIT_S)
    assert (lane.state.label, lane.state.fraction) == ("", 0.0)


async def test_closing_ends_the_work_in_flight_and_refuses_what_waits(lane):
    training, never = Training(), []
    long = asyncio.create_task(lane.train("learning", training))
    await training.started()
    waiting = asyncio.create_task(lane.train("waiting", lambda _step: never.append(1)))
    urgent = asyncio.create_task(lane.serve(lambda: never.append(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(lane.close())
    await asyncio.sleep(0.05)
    training.go_on(1000)
    await asyncio.wait_for(closing, WAIT_S)
    results = await asyncio.wait_for(asyncio.gather(long, waiting, urgent, return_exceptions=True), WAIT_S)
    assert [type(result) for result in results] == [Cancelled] * 3
    assert not never
    assert training.done == 0, "it ended at its next step"


async def test_a_closed_lane_refuses_work_at_once(lane):
    await lane.close()
    with pytest.raises(Cancelled):
        await lane.serve(lambda: 1)
    with pytest.raises(Cancelled):
        await lane.train("learning", lambda _step: 1)
    await lane.close()


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("share", [0.5, 0.8])
async def test_tasks_that_ask_for_all_get_their_share_of_the_time_and_training_the_rest(share):
    clock, trained_s, served_s = Clock(), 0.0, 0.0
    lane = Lane("test", share=share, clock=clock)

    def serve():
        nonlocal served_s
        clock.work(0.01)
        served_s += 0.01

    async def always():
        while True:
            await lane.serve(serve)

    def train(step):
        nonlocal trained_s
        while clock.now_s < 20:
            clock.work(0.02)
            trained_s += 0.02
            step(clock.now_s / 20)
            while lane.state.waiting < len(users):
                time.sleep(0.0002)

    users = [asyncio.create_task(always()) for _ in range(12)]
    try:
        await asyncio.wait_for(lane.train("learning", train), WAIT_S)
    finally:
        for user in users:
            user.cancel()
        await lane.close()
    assert abs(served_s / (served_s + trained_s) - share) < 0.05


async def test_the_state_says_how_much_waits_and_how_long_a_piece_takes():
    clock = Clock()
    lane = Lane("test", clock=clock)
    await lane.serve(lambda: clock.work(0.02))
    assert lane.state.latency_s == pytest.approx(0.02)
    seen = []

    def train(step):
        clock.work(0.5)
        step(0.5)
        seen.append(lane.state.latency_s)

    await asyncio.wait_for(lane.train("learning", train), WAIT_S)
    await lane.serve(lambda: seen.append(lane.state.load))
    assert seen[0] > lane.state.latency_s, "a task may have to wait for a training step"
    assert seen[1] == 1, "what is being done counts"
    await lane.close()
