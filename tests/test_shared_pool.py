"""The shared pool: what is due waits in its queue, and is run by few tasks of its executor."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from pykka_registry import _pool
from pykka_registry._after import After
from tests.support import PATIENCE, Gate, NoThreads, in_threads, poll, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY = 1_000


class Counting(concurrent.futures.ThreadPoolExecutor):
    """Counts its tasks."""

    submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


class Failing(Counting):
    """Does something else than to take a task, or right after it."""

    def __init__(self, error: BaseException, *, takes: bool) -> None:
        super().__init__(1)
        self.error: BaseException | None = error
        self.takes = takes

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        error, self.error = self.error, None
        if error is None:
            return super().submit(fn, *args, **kwargs)
        if self.takes:
            super().submit(fn, *args, **kwargs)
        raise error


def shared_with(executor: concurrent.futures.Executor) -> _pool._Shared:
    shared = _pool._Shared()
    shared._executor = executor
    return shared


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_pool._Shared, Counting]]:
    """A shared pool of two threads."""
    monkeypatch.setattr(_pool, "WIDTH", 2)
    with Counting(2) as executor:
        yield shared_with(executor), executor


def nobody_is_left(shared: _pool._Shared) -> bool:
    return not (shared._due or shared._coming or shared._running)


def test_however_many_are_due_the_executor_has_no_more_tasks_than_threads(
    narrow: tuple[_pool._Shared, Counting],
) -> None:
    shared, executor = narrow
    gates = [Gate(), Gate()]
    for gate in gates:
        shared.do(gate.pass_through)
        gate.wait_until_reached()
    done: list[int] = []
    for number in range(MANY):
        shared.do(done.append, number)
    assert executor.submitted == 2
    assert done == []
    gates[1].open()
    poll(lambda: len(done) == MANY)
    assert done == list(range(MANY))
    gates[0].open()
    poll(lambda: nobody_is_left(shared))
    assert executor.submitted == 2


def test_nobody_counts_on_a_task_that_the_executor_has_yet_to_begin(
    narrow: tuple[_pool._Shared, Counting],
) -> None:
    shared, executor = narrow
    gates = [Gate(), Gate()]
    for gate in gates:
        executor.submit(gate.pass_through)
        gate.wait_until_reached()
    done: list[int] = []
    for number in range(5):
        shared.do(done.append, number)
    assert executor.submitted == 2 + 5
    for gate in gates:
        gate.open()
    poll(lambda: len(done) == 5)
    poll(lambda: nobody_is_left(shared))


def test_what_comes_as_the_last_worker_is_about_to_leave_is_run_by_it() -> None:
    with Counting(1) as executor:
        shared = shared_with(executor)
        done = threading.Event()

        class Late:
            """Stands in for the lock: something comes after the worker has found nothing."""

            entered = 0

            def __enter__(self) -> None:
                self.entered += 1
                if self.entered == 2:
                    shared._due.append((done.set, ()))

            def __exit__(self, *_exc_info: object) -> None:
                pass

        shared._lock = cast("Any", Late())
        shared._work(object())
        assert done.is_set()
        assert nobody_is_left(shared)


def test_each_is_run_once_whoever_comes_and_leaves(
    narrow: tuple[_pool._Shared, Counting],
) -> None:
    """Workers come and leave all the time: for each task the senders wait until it was run."""
    shared, _ = narrow
    runs = [0] * 4

    def send(sender: int) -> None:
        def run() -> None:
            runs[sender] += 1
            done.release()

        done = threading.Semaphore(0)
        for _ in range(MANY):
            shared.do(run)
            assert done.acquire(timeout=PATIENCE)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads([lambda sender=sender: send(sender) for sender in range(4)])  # type: ignore[misc]
    finally:
        sys.setswitchinterval(interval)
    assert runs == [MANY] * 4
    poll(lambda: nobody_is_left(shared))


def test_what_fails_is_logged_and_the_next_is_run(caplog: pytest.LogCaptureFixture) -> None:
    with Counting(1) as executor:
        shared = shared_with(executor)
        gate, done = Gate(), threading.Event()

        def fail() -> NoReturn:
            raise SystemExit("mine")

        shared.do(gate.pass_through)
        shared.do(fail)
        shared.do(done.set)
        gate.open()
        wait_for(done)
        poll(lambda: nobody_is_left(shared))
    (record,) = caplog.records
    assert record.getMessage().endswith("failed in the pool")
    assert record.exc_info is not None
    assert record.exc_info[0] is SystemExit


@pytest.mark.parametrize("takes", [False, True])
def test_an_executor_that_has_no_thread_to_give_has_a_spare_one_come(takes: bool) -> None:
    with Failing(RuntimeError("no thread"), takes=takes) as executor:
        shared = shared_with(executor)
        done: list[int] = []
        shared.do(done.append, 1)
        poll(lambda: done == [1])
        poll(lambda: nobody_is_left(shared))


def test_if_there_is_no_thread_at_all_it_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Failing(RuntimeError("no thread"), takes=False) as executor:
        shared = shared_with(executor)
        done: list[int] = []
        with NoThreads(monkeypatch), pytest.raises(RuntimeError):
            shared.do(done.append, 1)
        assert nobody_is_left(shared)
        shared.do(done.append, 2)
        poll(lambda: done == [2])


def test_if_there_is_no_thread_for_it_who_runs_comes_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its sender comes again, and may find that nobody runs by then, and no thread either."""
    with Counting(1) as executor:
        shared = shared_with(executor)
        gate, done = Gate(), threading.Event()
        shared.do(gate.pass_through)
        gate.wait_until_reached()
        shared._executor = Failing(RuntimeError("no thread"), takes=False)
        with NoThreads(monkeypatch), pytest.raises(RuntimeError):
            shared.do(done.set)
        gate.open()
        wait_for(done)
        poll(lambda: nobody_is_left(shared))


def test_if_another_has_run_it_meanwhile_that_is_said_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Failing(RuntimeError("no thread"), takes=True) as executor:
        shared = shared_with(executor)
        done = threading.Event()

        class Refusing:
            def do(self, *_args: Any) -> NoReturn:
                wait_for(done)
                poll(lambda: not shared._running)
                raise RuntimeError("no thread")

        monkeypatch.setattr(_pool, "_spares", Refusing())
        with pytest.raises(RuntimeError):
            shared.do(done.set)
        assert nobody_is_left(shared)


def test_a_worker_that_the_log_has_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise SystemExit

    def fail() -> NoReturn:
        raise LookupError("mine")

    with Counting(1) as executor:
        shared = shared_with(executor)
        with monkeypatch.context() as patch:
            patch.setattr(_pool, "log", end)
            shared.do(fail)
            poll(lambda: nobody_is_left(shared))
        done = threading.Event()
        shared.do(done.set)
        wait_for(done)


def test_what_an_interrupt_has_come_upon_is_run_by_the_next_worker() -> None:
    with Failing(KeyboardInterrupt(), takes=False) as executor:
        shared = shared_with(executor)
        done: list[int] = []
        with contextlib.suppress(KeyboardInterrupt):
            shared.do(done.append, 1)
        assert not shared._coming
        assert done == []
        shared.do(done.append, 2)
        poll(lambda: done == [1, 2])


@pytest.mark.parametrize("count", [3, MANY])
def test_what_is_to_be_done_is_done_in_order_and_what_fails_is_done_again(count: int) -> None:
    after, done = After(), list[int]()

    def do(number: int) -> None:
        done.append(number)
        if done.count(1) == 1 and number == 1:
            raise KeyboardInterrupt

    for number in range(count):
        after.do(do, number)
    with pytest.raises(KeyboardInterrupt):
        after.run()
    after.run()
    after.run()
    assert done == [0, 1, *range(1, count)]
