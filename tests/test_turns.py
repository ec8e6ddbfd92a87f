"""Turns: who is run by whom, and what must not be held while others are."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
import traceback
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    PooledActor,
    RegistryStopped,
    Undeliverable,
    _flag,
    _future,
    _life,
    _pool,
    _pooled_life,
    _turns,
    _waits,
)
from tests.support import PATIENCE, Gate, NoThreads, join, poll, start_thread, wait_for
from tests.test_mending import Aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry import RegistryRef


class Noting(AggregateMixin, PooledActor):
    """Notes the threads in which it ends, in a dict that outlives it."""

    def __init__(self, ends: dict[str, threading.Thread] | None = None) -> None:
        super().__init__()
        self._ends = {} if ends is None else ends

    def on_start(self) -> None:
        if self.key == "bad":
            raise ValueError("no start")

    def on_stop(self) -> None:
        self._ends[self.key] = threading.current_thread()

    def add(self) -> int:
        return 1

    def run(self, function: Callable[[], Any]) -> Any:
        return function()


# No business of the one who waits.


def test_who_waits_for_a_new_one_does_not_run_the_end_of_the_one_that_makes_room() -> None:
    ends: dict[str, threading.Thread] = {}
    with AggregateRegistry.start(Noting, args=(ends,), max_live=1) as registry:
        assert registry.ref("cold").call(Noting.add) == 1
        assert registry.ref("new").call(Noting.add) == 1
        assert registry.get_or_start("newer").is_alive()
        assert set(ends) == {"cold", "new"}
        assert threading.current_thread() not in ends.values()


def test_who_does_not_wait_for_a_stop_does_not_run_it_and_who_waits_does() -> None:
    ends: dict[str, threading.Thread] = {}
    with AggregateRegistry.start(Noting, args=(ends,)) as registry:
        for key in ("later", "with a timeout", "now"):
            registry.ref(key).call(Noting.add)
        assert registry.ref("later").stop(block=False).get(timeout=PATIENCE) is True
        assert registry.ref("with a timeout").stop(timeout=PATIENCE) is True
        assert registry.ref("now").stop() is True
        me = threading.current_thread()
        helped = {key: thread is me for key, thread in ends.items()}
        assert helped == {"later": False, "with a timeout": False, "now": True}


def test_a_callback_of_a_future_may_wait_for_what_it_sends() -> None:
    """One that runs while its thread sends something else, whose wake-ups are held back then."""
    held: list[object] = []
    answers: list[object] = []
    with AggregateRegistry.start(Noting, backoff=(PATIENCE, PATIENCE)) as registry:
        assert registry.ref("good").call(Noting.add) == 1
        with pytest.raises(Undeliverable):
            registry.ref("bad").call(Noting.add)
        waiting: Any = registry.ref("bad").submit(Noting.add)  # the key rests

        def ask(_: object) -> None:
            held.append(_waits.mine.held)
            answers.append(registry.ref("good").submit(Noting.add).get(timeout=PATIENCE))

        waiting.add_done_callback(ask)
        assert registry.ref("bad").stop() is False  # this fails what waits
        assert held == [None]
        assert answers == [1]
        assert _waits.mine.held is None


# In a forked child.

LOCKS: dict[str, Callable[[], list[Any]]] = {
    "the shared pool": lambda: [_pool._shared._lock],
    "the spare threads": lambda: [_pool._spares._lock],
    "the inboxes": lambda: _pooled_life._LOCKS,
    "the lives": lambda: _life._LOCK,
    "the stop flags": lambda: _flag._LOCK,
    "the waits": lambda: [_waits._lock],
}


def use_every_lock() -> None:
    with AggregateRegistry.start(Noting) as registry:
        for key in range(64):
            assert registry.ref(key).call(Noting.add) == 1
        patient = registry.ref(0).using(timeout=PATIENCE)
        assert patient.call(Noting.add) == 1
        assert registry.ref(1).call(Noting.run, lambda: patient.call(Noting.add)) == 1
        assert registry[0].actor_urn != registry[1].actor_urn
        assert registry[0].actor_stopped.wait(0) is False
        done = threading.Event()
        _pool._spares.do(done.set)
        wait_for(done)
        assert registry[0].stop() is True


def end_if_it_hangs() -> None:
    """Have a signal end a forked child after a while."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)


def leave(check: Callable[[], None]) -> NoReturn:
    """End a forked child: with 0 if the check passes, and by a signal if it hangs."""
    status = 1
    try:
        end_if_it_hangs()
        check()
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("whose", LOCKS)
def test_a_forked_child_hangs_in_no_lock_that_somebody_held(whose: str) -> None:
    use_every_lock()  # so that what is made once is there
    with contextlib.ExitStack() as held:
        for lock in LOCKS[whose]():
            held.enter_context(lock)
        pid = os.fork()
        if pid == 0:
            leave(use_every_lock)
    assert os.waitpid(pid, 0)[1] == 0


class Forking(AggregateMixin, PooledActor):
    """Forks in its handler; the child checks something there, or comes back to the asker."""

    def fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            end_if_it_hangs()
        return pid

    def fork_and(self, check: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            leave(check)
        return pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["helped", "in the pool"])
def test_a_child_that_is_forked_in_a_handler_is_refused_and_runs_nothing(
    timeout: float | None,
) -> None:
    with AggregateRegistry.start(Forking) as registry:
        address = registry.ref("k").using(timeout=timeout)
        other = registry.ref("other").using(timeout=timeout)
        registry.get_or_start("other")

        def check() -> None:
            calls: list[Callable[[], object]] = [
                lambda: registry.get("k"),
                lambda: registry.get_or_start("new"),
                lambda: address.call(Forking.fork),
                lambda: other.call(Forking.fork),
                lambda: other.ask("x"),
                lambda: other.tell("x"),
                other.stop,
            ]
            for call in calls:
                with pytest.raises(RegistryStopped, match="forked"):
                    call()
            assert _waits.mine.running == []
            use_every_lock()  # and another registry is of use

        assert os.waitpid(address.call(Forking.fork_and, check), 0)[1] == 0


FORKS: dict[str, Callable[[RegistryRef[Forking]], int]] = {
    "call": lambda registry: registry.ref("k").call(Forking.fork),
    "ask": lambda registry: registry["k"].proxy().fork().get(),
    "start": lambda registry: registry.ref("new").call(Forking.fork),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("how", FORKS)
def test_a_child_that_comes_back_from_a_handler_goes_on_and_is_refused(how: str) -> None:
    """Who waits has run it: a thread of the pool would come back to the pool."""
    executor = Aside()
    with AggregateRegistry.start(Forking, executor=executor) as registry:
        inbox: Any = registry.get_or_start("k").actor_inbox

        def check() -> None:
            with pytest.raises(RegistryStopped, match="forked"):
                registry.ref("k").call(Forking.fork)
            assert _waits.mine.running == []
            assert not inbox.is_due()
            use_every_lock()

        pid = FORKS[how](registry)
        if pid == 0:
            leave(check)
        assert os.waitpid(pid, 0)[1] == 0
        executor.open()


class ForkingThread(AggregateMixin, pykka.ThreadingActor):
    def fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            end_if_it_hangs()
        return pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_is_all_of_an_actors_thread_ends_with_it() -> None:
    with AggregateRegistry.start(ForkingThread) as registry:
        assert os.waitpid(registry.ref("k").call(ForkingThread.fork), 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("what", ["start", "call"])
def test_a_child_that_is_forked_in_a_start_is_refused_what_it_started_for(what: str) -> None:
    pids: list[int] = []

    class Starting(Forking):
        def on_start(self) -> None:
            pids.append(self.fork())

    with AggregateRegistry.start(Starting, executor=Aside()) as registry:

        def start() -> None:
            if what == "start":
                registry.get_or_start("k")
            else:
                registry.ref("k").ask("unhandled")

        refused = ""
        try:
            start()
        except RegistryStopped as error:
            refused = str(error)
        if pids == [0]:
            os._exit(0 if "forked" in refused else 2)
        assert refused == ""
        assert os.waitpid(pids[0], 0)[1] == 0
        registry.ref("k").stop()


# Where no thread is to be had.


def test_what_no_thread_can_be_started_for_the_spare_ones_that_there_are_come_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spares = _pool._Spares()
    gate, done = Gate(), threading.Event()

    def fail() -> None:
        raise SystemExit("trouble")

    spares.do(gate.pass_through)
    gate.wait_until_reached()
    with NoThreads(monkeypatch):
        spares.do(fail)
        spares.do(done.set)
    gate.open()
    wait_for(done)
    assert "trouble" in caplog.text
    poll(lambda: not spares._threads)


def test_what_was_to_have_a_thread_of_its_own_gets_one_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = threading.Event()
    with NoThreads(monkeypatch):
        _pool.in_spare_thread(done.set)
        _turns.remember()
    assert not done.is_set()
    _turns.remember()
    wait_for(done)


def test_who_waits_in_an_actor_runs_what_no_thread_can_be_started_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    with NoThreads(monkeypatch):
        _pool.rescue(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("what", ["active", "new"])
def test_who_waits_runs_what_the_executor_has_cancelled_and_no_thread_can_be_started_for(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_future, "_FORGOTTEN", 0.001)
    executor = concurrent.futures.ThreadPoolExecutor(1)
    with AggregateRegistry.start(Noting, executor=executor) as registry:
        registry.get_or_start("active")
        gate = Gate()
        executor.submit(gate.pass_through)
        gate.wait_until_reached()
        answer = registry.ref(what).submit(Noting.run, threading.current_thread)
        with NoThreads(monkeypatch):
            executor.shutdown(wait=False, cancel_futures=True)
            assert answer.get(timeout=PATIENCE) is threading.current_thread()
        gate.open()


def test_of_two_who_want_the_shared_pool_first_one_makes_it() -> None:
    shared, other = _pool._Shared(), concurrent.futures.ThreadPoolExecutor(1)

    class Late:
        """Stands in for the lock: another thread has made the pool before it is to be had."""

        def __enter__(self) -> None:
            shared._executor = other

        def __exit__(self, *_exc_info: object) -> None:
            pass

    shared._lock = cast("Any", Late())
    assert shared.get() is other


def test_a_dead_ref_needs_no_lock_that_a_lost_thread_might_hold() -> None:
    """As in a child that was forked while another thread was sending."""
    with AggregateRegistry.start(Noting) as registry:
        ref: Any = registry.get_or_start("a")
        assert registry.ref("a").stop() is True
        errors: list[type[BaseException]] = []

        def send() -> None:
            for send in (ref.tell, partial(ref.ask, block=False)):
                try:
                    send("anything").get(timeout=PATIENCE)
                except pykka.ActorDeadError as error:
                    errors.append(type(error))

        with ref._life.inbox._lock:
            join(start_thread(send))
        assert errors == [pykka.ActorDeadError] * 2


@pytest.mark.parametrize(("count", "lets_the_pool_come"), [(2, False), (_turns.MANY + 1, True)])
def test_who_would_have_to_run_many_others_first_lets_the_pool_come_before(
    count: int, lets_the_pool_come: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Aside()
    with AggregateRegistry.start(Noting, executor=executor) as registry:
        assert registry.ref("a").call(Noting.add) == 1
        slept: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(_turns, "time", SimpleNamespace(sleep=slept.append))
            answers = [registry.ref("a").submit(Noting.add) for _ in range(count)]
            assert answers[0].get() == 1
        assert slept == [0] * lets_the_pool_come
        executor.open()
        assert [answer.get(timeout=PATIENCE) for answer in answers] == [1] * count


def test_a_spare_thread_that_cannot_be_started_is_not_counted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spares = _pool._Spares()
    spares._threads.add(threading.Thread())  # another's, which is about to fail
    with NoThreads(monkeypatch), pytest.raises(RuntimeError, match="can't start new thread"):
        spares.do(int)
    assert not spares._todo


def test_there_are_so_many_spare_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "WIDTH", 1)
    spares = _pool._Spares()
    gate = Gate()
    threads: list[threading.Thread] = []
    done = threading.Event()
    spares.do(gate.pass_through)
    gate.wait_until_reached()
    (only,) = spares._threads
    spares.do(lambda: threads.append(threading.current_thread()))
    spares.do(done.set)
    gate.open()
    wait_for(done)
    assert threads == [only]
    poll(lambda: not spares._threads)
