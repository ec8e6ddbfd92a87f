"""The future: all that Pykka's promises, and the choice between a handler and a withdrawal."""

from __future__ import annotations

import asyncio
import functools
import operator
import queue
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from pykka_registry._future import Future, _release
from tests.support import (
    PATIENCE,
    Gate,
    in_threads,
    join,
    start_thread,
    tiny_switch_interval,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# Pykka's own future is the model: whatever it does, ours does, too.
@pytest.fixture(params=[Future, pykka.ThreadingFuture])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_get_returns_what_was_set(make: Any) -> None:
    future = make()
    future.set(3)
    assert future.get() == 3
    assert future.get(timeout=0) == 3


def test_get_raises_what_was_set(make: Any) -> None:
    future = make()
    try:
        [].pop()
    except IndexError:
        future.set_exception()
    for _ in range(2):
        with pytest.raises(IndexError):
            future.get()


def test_an_exception_may_be_a_class_only(make: Any) -> None:
    future = make()
    future.set_exception((ValueError, None, None))
    with pytest.raises(ValueError, match=r"^$"):
        future.get()


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_get_gives_up_after_its_timeout(make: Any, timeout: float) -> None:
    future = make()
    with pytest.raises(pykka.Timeout, match=rf"^{timeout} seconds$"):
        future.get(timeout=timeout)
    future.set(1)
    assert future.get() == 1


@pytest.mark.parametrize("wrong", ["5", (1,), float("nan"), True])
def test_a_timeout_that_is_no_number_is_refused(wrong: Any) -> None:
    future: Future[int] = Future()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"^timeout must be a number of seconds, not "):
            future.get(timeout=wrong)
        future.give(3)
    assert future.get(timeout=0) == 3


def test_it_is_set_once(make: Any) -> None:
    def hook(timeout: float | None) -> None:
        raise AssertionError(timeout)

    future = make()
    future.set(1)
    again: list[Callable[[], object]] = [
        lambda: future.set(2),
        lambda: future.set_exception((ValueError, ValueError(), None)),
        lambda: future.set_get_hook(hook),
    ]
    for call in again:
        with pytest.raises(queue.Full):
            call()
    assert future.get() == 1


def test_a_future_with_a_hook_cannot_be_set(make: Any) -> None:
    future = make()

    def hook(timeout: float | None) -> tuple[str, float | None]:
        return "hooked", timeout

    future.set_get_hook(hook)
    with pytest.raises(queue.Full):
        future.set(1)
    assert future.get(timeout=5) == ("hooked", 5)
    assert future.get() == ("hooked", 5)


def test_a_hook_runs_once_for_many(make: Any) -> None:
    calls: list[float | None] = []

    def hook(timeout: float | None) -> int:
        calls.append(timeout)
        return len(calls)

    future = make()
    future.set_get_hook(hook)
    assert in_threads([future.get] * 8) == [1] * 8
    assert len(calls) == 1


def test_who_comes_second_to_a_hook_that_fails_runs_it_with_the_seconds_that_are_left() -> None:
    gate = Gate()
    timeouts: list[float | None] = []
    future: Future[Any] = Future()

    def hook(timeout: float | None) -> str:
        timeouts.append(timeout)
        if len(timeouts) == 1:
            gate.pass_through()
            raise ValueError("the first time")
        return "result"

    future.set_get_hook(hook)
    failed: list[BaseException | None] = []

    def fail() -> None:
        try:
            future.get()
        except ValueError as error:
            failed.append(error)

    first = start_thread(fail)
    gate.wait_until_reached()
    results: list[Any] = []
    second = start_thread(lambda: results.append(future.get(timeout=PATIENCE)))
    assert future._hook is not None
    assert future._hook._run is not None
    while not future._hook._run.over._waiters:
        pass
    gate.open()
    join(first)
    join(second)
    assert len(failed) == 1
    assert results == ["result"]
    assert timeouts[0] is None
    assert timeouts[1] is not None
    assert 0 < timeouts[1] < PATIENCE


def test_a_hook_that_has_its_result_keeps_nobody_waiting() -> None:
    future: Future[Any] = Future()
    future.set_get_hook(str)
    assert future.get() == "None"

    def poll() -> list[Any]:
        return [future.get(timeout=0) for _ in range(2_000)]

    with tiny_switch_interval():
        assert in_threads([poll] * 4) == [["None"] * 2_000] * 4


def test_a_hook_that_is_interrupted_can_run_again() -> None:
    raises: list[BaseException] = [KeyboardInterrupt()]

    def hook(timeout: float | None) -> str:
        if raises:
            raise raises.pop()
        return "result"

    future: Future[Any] = Future()
    future.set_get_hook(hook)
    with pytest.raises(KeyboardInterrupt):
        future.get()
    assert future.get(timeout=0) == "result"


def test_who_waits_for_anothers_hook_gives_up_in_time() -> None:
    gate = Gate()
    future: Future[Any] = Future()
    future.set_get_hook(lambda _timeout: gate.pass_through())
    thread = start_thread(future.get)
    gate.wait_until_reached()
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)
    gate.open()
    join(thread)
    assert future.get() is None


def test_everybody_who_waits_is_woken(make: Any) -> None:
    future = make()
    waiting = threading.Barrier(9)

    def get() -> Any:
        waiting.wait()
        return future.get(timeout=PATIENCE)

    def put() -> Any:
        waiting.wait()
        future.set(7)

    assert in_threads([*[get] * 8, put]) == [7] * 8 + [None]


def test_a_hook_wakes_who_waits() -> None:
    future: Future[Any] = Future()
    thread_results: list[Any] = []
    thread = start_thread(lambda: thread_results.append(future.get()))
    while not future._waiters:
        pass
    future.set_get_hook(lambda _timeout: "hooked")
    join(thread)
    assert thread_results == ["hooked"]


def test_map_filter_join_and_reduce_work(make: Any) -> None:
    one: pykka.Future[Iterable[int]] = make()
    two: pykka.Future[Iterable[int]] = make()
    one.set([1, 2, 3])
    two.set([4])
    assert one.map(sum).get() == 6
    assert one.filter(lambda x: x > 1).get() == [2, 3]
    assert one.join(two).get() == [[1, 2, 3], [4]]
    assert one.reduce(operator.add).get() == 6
    assert pykka.get_all([one, two]) == [[1, 2, 3], [4]]


def test_it_can_be_awaited(make: Any) -> None:
    async def wait() -> Any:
        return await future

    future = make()
    future.set(3)
    assert asyncio.run(wait()) == 3


def test_a_withdrawn_message_is_not_begun() -> None:
    future: Future[Any] = Future()
    error = ValueError("given up")
    assert future.withdraw(error) is True
    assert future.begin() is False
    assert future.fail(ValueError("too late")) is False
    with pytest.raises(ValueError, match="given up"):
        future.get()


def test_a_message_that_has_begun_cannot_be_withdrawn() -> None:
    future: Future[Any] = Future()
    assert future.begin() is True
    assert future.withdraw(ValueError("given up")) is False
    future.set(1)
    assert future.get() == 1


def test_to_begin_and_to_withdraw_is_one_choice() -> None:
    with tiny_switch_interval():
        for _ in range(500):
            future: Future[Any] = Future()
            calls: list[Callable[[], bool]] = [
                future.begin,
                functools.partial(future.withdraw, ValueError()),
            ]
            results = in_threads(calls)
            assert sorted(map(bool, results)) == [False, True]


def test_it_can_be_awaited_before_it_is_set() -> None:
    async def wait() -> int:
        asyncio.get_running_loop().call_soon(future.set, 3)
        return await future

    future: Future[int] = Future()
    assert asyncio.run(wait()) == 3


def test_an_answer_comes_to_a_loop_in_the_way_that_is_safe_from_another_thread() -> None:
    """In debug mode a loop refuses any other way."""

    async def wait() -> int:
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        assert future._waiters
        thread = start_thread(lambda: future.set(3))
        result = await asyncio.wait_for(task, PATIENCE)
        join(thread)
        return result

    future: Future[int] = Future()
    assert asyncio.run(wait(), debug=True) == 3


async def awaited(future: Future[int]) -> int:
    return await future


def test_an_answer_hurts_nobody_when_the_loop_that_awaits_it_was_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: Future[int] = Future()
    called: list[object] = []
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(awaited(future))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert future._waiters
    future.add_done_callback(called.append)
    future.set(3)
    assert called == [future]
    assert future.get(timeout=0) == 3
    assert caplog.records == []
    task._log_destroy_pending = False  # it never ends, with its loop closed


def test_a_task_may_be_cancelled_as_the_answer_comes() -> None:
    """The loop is to wake it, and finds that it waits no more."""

    async def cancel() -> None:
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        assert future._waiters
        future.set(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    future: Future[int] = Future()
    asyncio.run(cancel())
    assert future.get(timeout=0) == 3


def test_who_is_woken_once_more_is_no_trouble() -> None:
    """As after an interrupt that comes right after the first time."""
    asleep = threading.Lock()
    asleep.acquire()
    for _ in range(2):
        _release(asleep)
    assert not asleep.locked()


# Callbacks.


def test_a_callback_of_one_that_is_done_is_called_at_once_and_its_trouble_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: Future[int] = Future()
    future.set(1)
    called: list[int] = []

    def fail(done: Future[int]) -> None:
        called.append(done.get(timeout=0))
        raise ValueError("trouble")

    future.add_done_callback(fail)
    assert called == [1]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "trouble" in caplog.text


def give(future: Future[int]) -> None:
    future.set(1)


def give_hook(future: Future[int]) -> None:
    future.set_get_hook(lambda _timeout: 1)


@pytest.mark.parametrize("settle", [give, give_hook])
def test_an_interrupt_in_a_callback_is_raised_when_all_were_called(
    settle: Callable[[Future[int]], None],
) -> None:
    future: Future[int] = Future()
    calls: list[int] = []

    def be_interrupted(_: object) -> None:
        calls.append(0)
        if len(calls) == 1:
            raise KeyboardInterrupt

    future.add_done_callback(be_interrupted)
    future.add_done_callback(lambda _: calls.append(1))
    future.add_done_callback(lambda _: calls.append(2))
    with pytest.raises(KeyboardInterrupt):
        settle(future)
    # Nobody can know how far the one that was interrupted had come.
    assert calls == [0, 0, 1, 2]
    assert future.get(timeout=0) == 1
