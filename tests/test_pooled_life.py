"""What differs for an aggregate that has no thread of its own: who runs it, and what stops that."""

from __future__ import annotations

import concurrent.futures
import itertools
import random
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka._envelope import Envelope
from pykka.messages import ProxyCall

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    PooledActor,
    Registered,
    Terminated,
    _life,
)
from pykka_registry._future import Future
from pykka_registry._inbox import stop_letter
from pykka_registry._pooled_life import PooledLife, submit
from tests.support import (
    PATIENCE,
    Gate,
    Listener,
    in_threads,
    told_count,
    wait_for,
)
from tests.test_mending import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pykka_registry import RegistryRef

POOL = "pykka-registry-pool"


class Pooled(AggregateMixin, PooledActor):
    """Notes the threads that it runs in, and does what tests ask of it."""

    def __init__(self, troubles: dict[str, BaseException] | None = None) -> None:
        super().__init__()
        self._troubles = troubles or {}
        self.threads: list[tuple[str, threading.Thread]] = []
        self.done: list[Any] = []
        self._come_to("constructor")

    def _come_to(self, where: str) -> None:
        self.threads.append((where, threading.current_thread()))
        trouble = self._troubles.pop(where, None)
        if trouble is not None:
            raise trouble

    def on_start(self) -> None:
        self._come_to("on_start")

    def where(self) -> list[tuple[str, threading.Thread]]:
        self._come_to("handler")
        return self.threads

    def do(self, what: Any) -> Any:
        self.done.append(what)
        return what

    def run(self, function: Callable[[], Any]) -> Any:
        return function()

    def wait_at(self, gate: Gate) -> None:
        gate.pass_through()


# Who runs it.


def test_who_waits_for_it_runs_its_constructor_its_hook_and_its_handler() -> None:
    with AggregateRegistry.start(Pooled) as registry:
        me = threading.current_thread()
        where = registry.ref("a").call(Pooled.where)
        assert where == [("constructor", me), ("on_start", me), ("handler", me)]
        threads: Any = registry.get_or_start("b").ask(ProxyCall(("where",), (), {}))
        assert threads == [("constructor", me), ("on_start", me), ("handler", me)]


def test_with_a_timeout_the_pool_runs_all_of_it() -> None:
    with AggregateRegistry.start(Pooled) as registry:
        where = registry.ref("a").using(timeout=PATIENCE).call(Pooled.where)
        assert [hook for hook, _ in where] == ["constructor", "on_start", "handler"]
        assert all(thread.name.startswith(POOL) for _, thread in where)


def test_a_shutdown_returns_after_the_last_line_of_each_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They linger between their last word to the table and their end."""
    forget = PooledLife._forget_cause
    returned = threading.Event()
    ended: list[PooledLife] = []

    def forget_slowly(life: PooledLife) -> None:
        returned.wait(0.2)  # a shutdown that waits for the turns has to wait this long
        forget(life)
        ended.append(life)

    monkeypatch.setattr(PooledLife, "_forget_cause", forget_slowly)
    registry = AggregateRegistry.start(Pooled)
    for key in range(5):
        registry.get_or_start(key)
    registry.drain()
    count = len(ended)
    returned.set()
    assert count == 5


# A Ctrl-C.


@pytest.mark.parametrize("where", ["constructor", "on_start"])
def test_a_ctrl_c_in_a_helped_start_is_raised_to_the_caller_and_frees_the_key(
    where: str, listener: pykka.ActorRef[Listener]
) -> None:
    with AggregateRegistry.start(Pooled, args=({where: KeyboardInterrupt()},)) as registry:
        registry.subscribe(listener)
        with pytest.raises(KeyboardInterrupt):
            registry.get_or_start("a")
        assert registry._table._entries == {}
        ref = registry.get_or_start("a")
        assert told_count(listener, 2) == [
            Terminated("a", 1, EndReason.START_FAILED),
            Registered("a", 2, ref),
        ]
        assert registry.is_alive()


def test_a_ctrl_c_in_a_helped_handler_fails_that_incarnation_and_its_successor_takes_the_queue(
    listener: pykka.ActorRef[Listener],
) -> None:
    with AggregateRegistry.start(Pooled, backoff=(0, 0)) as registry:
        registry.subscribe(listener)
        address = registry.ref("a")
        first = registry.get_or_start("a")
        later: list[pykka.Future[Any]] = []

        def send_and_be_interrupted() -> None:
            later.append(address.submit(Pooled.do, 1))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            address.call(Pooled.run, send_and_be_interrupted)
        assert later[0].get(timeout=PATIENCE) == 1
        second = registry["a"]
        assert told_count(listener, 3) == [
            Registered("a", 1, first),
            Terminated("a", 1, EndReason.FAILED),
            Registered("a", 2, second),
        ]
        assert registry.stats().dead_letters == {}
        assert registry.is_alive()


# An executor that does not do what it is asked to.


class Own(concurrent.futures.Executor):
    """Runs each task in a thread of its own, unless `refuse` raises."""

    def __init__(self, refuse: Callable[[], object]) -> None:
        self._refuse = refuse
        self.late: list[Callable[[], object]] = []
        """What was not run because of an exception."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        try:
            self._refuse()
        except BaseException:
            self.late.append(lambda: fn(*args, **kwargs))
            raise
        threading.Thread(target=fn, args=args, kwargs=kwargs).start()
        return concurrent.futures.Future()


def raising(*errors: BaseException | None) -> Callable[[], None]:
    """Return a function that raises these one after the other, and then no more."""
    left = list(errors)

    def refuse() -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    return refuse


def test_an_executor_that_refuses_now_and_then_loses_nothing() -> None:
    chance = random.Random(3)
    refused = itertools.count()
    handled: list[tuple[int, int]] = []
    all_handled = threading.Event()

    class Taking(Pooled):
        def take(self, sender: int, i: int) -> None:
            handled.append((sender, i))
            if len(handled) == 400:
                all_handled.set()

    def sometimes() -> None:
        if chance.random() < 0.1:
            next(refused)
            raise RuntimeError("cannot schedule new futures after shutdown")

    Taking.executor = Own(sometimes)

    def send(sender: int) -> None:
        for i in range(100):
            registry.ref(i % 10).proxy().take.defer(sender, i)

    with AggregateRegistry.start(Taking, max_live=4) as registry:
        in_threads([lambda sender=sender: send(sender) for sender in range(4)])  # type: ignore[misc]
        wait_for(all_handled)
    assert sorted(handled) == [(sender, i) for sender in range(4) for i in range(100)]
    assert next(refused) > 0
    assert registry.stats().dead_letters == {}


def test_a_ctrl_c_before_the_executor_has_taken_a_start_frees_the_key() -> None:
    class Interrupted(Pooled):
        executor = own = Own(raising(KeyboardInterrupt(), KeyboardInterrupt()))  # it is tried again

    with AggregateRegistry.start(Interrupted) as registry:
        with pytest.raises(KeyboardInterrupt):
            registry.get_or_start("a", timeout=PATIENCE)
        assert registry._table._entries == {}
        ref = registry.start_new("a")
        # It comes late after all: it finds that it is not wanted and constructs nothing.
        Interrupted.own.late[0]()
        assert registry["a"] is ref
        assert registry.stats().activations == 1


def test_a_message_whose_executor_refuses_it_is_run_by_who_waits_for_it() -> None:
    gate = Gate()

    class Refused(Pooled):
        executor = own = Own(raising())

    with AggregateRegistry.start(Refused) as registry:
        address = registry.ref("a")
        held = address.submit(Refused.wait_at, gate)
        gate.wait_until_reached()
        behind = address.submit(Refused.do, 1)
        Refused.executor = Own(raising(RuntimeError("no"), RuntimeError("no")))
        gate.open()
        assert (held.get(), behind.get()) == (None, 1)
        assert registry.stats().activations == 1


# A Ctrl-C between the lines of a turn.


@pytest.fixture
def executor() -> Aside:
    """An executor that runs nothing until it is open."""
    return Aside()


@pytest.fixture
def aside(executor: Aside) -> Generator[RegistryRef[Pooled]]:
    """A registry with one active key, whose turns are taken by who waits only."""
    with AggregateRegistry.start(Pooled, executor=executor, backoff=(0, 0)) as registry:
        registry.get_or_start("a")
        yield registry
        executor.open()


class Interrupted:
    """Stands in for a function that is interrupted when it is first called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *_args: object, **_kwargs: object) -> Any:
        self._monkeypatch.undo()
        raise KeyboardInterrupt


def test_a_message_whose_handler_has_not_begun_when_a_ctrl_c_comes_is_a_dead_letter(
    aside: RegistryRef[Pooled], executor: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = aside.ref("a")
    address.proxy().do.defer("told")
    behind = address.submit(Pooled.do, "behind")
    monkeypatch.setattr(PooledLife, "step", Interrupted(monkeypatch))
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    executor.open()
    assert behind.get(timeout=PATIENCE) == "behind"  # by the successor
    assert [letter.message.args for letter in aside.dead_letters] == [("told",)]
    assert aside.stats().activations == 2


def test_nor_has_it_begun_while_an_actor_says_that_it_stays(
    aside: RegistryRef[Pooled], executor: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = aside.ref("a")
    address.proxy().do.defer("told")
    behind = address.submit(Pooled.do, "behind")
    incarnation = incarnation_of(aside)
    incarnation.asked = EndReason.IDLE
    monkeypatch.setattr(type(aside._table), "decline", Interrupted(monkeypatch))
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    executor.open()
    assert behind.get(timeout=PATIENCE) == "behind"
    assert [letter.message.args for letter in aside.dead_letters] == [("told",)]


def test_a_message_whose_handler_has_failed_when_a_ctrl_c_comes_is_no_dead_letter(
    aside: RegistryRef[Pooled], executor: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = aside.ref("a")

    def fail() -> None:
        raise ValueError("no")

    address.proxy().run.defer(fail)
    behind = address.submit(Pooled.do, "behind")
    monkeypatch.setattr(_life, "log", Interrupted(monkeypatch))
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    executor.open()
    assert behind.get(timeout=PATIENCE) == "behind"
    assert aside.stats().dead_letters == {}
    assert aside.stats().ends == {EndReason.FAILED: 1}


def test_what_is_put_back_when_another_thread_has_closed_the_inbox_goes_to_the_successor(
    aside: RegistryRef[Pooled], executor: Aside
) -> None:
    ref, address = aside["a"], aside.ref("a")

    class Closed(deque[Any]):
        """A Ctrl-C comes as something is taken out, and another thread has set the stop flag."""

        def popleft(self) -> Any:
            super().popleft()
            in_threads([ref.actor_stopped.set])
            raise KeyboardInterrupt

    def interrupt_the_next() -> None:
        inbox: Any = ref.actor_inbox
        inbox._batch = Closed(inbox._batch)

    before = address.submit(Pooled.run, interrupt_the_next)
    told = address.proxy().do
    told.defer("told")
    behind = address.submit(Pooled.do, "behind")
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    assert before.get(timeout=0) is None
    executor.open()
    assert behind.get(timeout=PATIENCE) == "behind"
    assert address.proxy().done.get(timeout=PATIENCE) == ["told", "behind"]


def test_one_that_has_failed_when_a_ctrl_c_cuts_its_turn_short_ends_as_failed(
    aside: RegistryRef[Pooled], executor: Aside, listener: pykka.ActorRef[Listener]
) -> None:
    aside.subscribe(listener)
    address = aside.ref("a")

    def fail() -> None:
        raise ValueError("no")

    class InterruptedContext:
        """Stands in for the actor's context variables: a Ctrl-C comes as its turn leaves them."""

        def run(self, function: Callable[..., Any], *args: Any) -> None:
            life.context = None
            function(*args)
            raise KeyboardInterrupt

    life = incarnation_of(aside).life
    life.context = InterruptedContext()
    address.proxy().run.defer(fail)
    behind = address.submit(Pooled.do, "behind")
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    executor.open()
    assert behind.get(timeout=PATIENCE) == "behind"
    (end, _) = told_count(listener, 2)
    assert isinstance(end, Terminated)
    assert end.reason is EndReason.FAILED
    assert isinstance(end.cause, ValueError)


def test_one_that_is_asked_to_go_while_who_waits_runs_it_says_that_it_stays(
    aside: RegistryRef[Pooled],
) -> None:
    incarnation = incarnation_of(aside)

    def be_asked() -> None:
        incarnation.asked = EndReason.IDLE

    aside.ref("a").call(Pooled.run, be_asked)
    assert incarnation.asked is None
    assert aside.ref("a").call(Pooled.do, 1) == 1
    assert aside.stats().activations == 1


def incarnation_of(registry: RegistryRef[Pooled]) -> Any:
    """Return the incarnation of the only key."""
    (entry,) = registry._table._all_entries()
    return entry.incarnation


def test_of_two_threads_that_note_a_stop_first_neither_is_forgotten(
    aside: RegistryRef[Pooled], executor: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = incarnation_of(aside).life
    first, second = Future[bool](), Future[bool]()

    class Late:
        """Stands in for the lock: the other thread has noted its stop before it is to be had."""

        def __enter__(self) -> None:
            monkeypatch.undo()
            life._note_stop(stop_letter(first))

        def __exit__(self, *_exc_info: object) -> None:
            pass

    monkeypatch.setattr(_life, "_LOCK", [Late()])
    life._note_stop(stop_letter(second))
    executor.open()
    assert aside.ref("a").stop() is True
    assert (first.get(timeout=PATIENCE), second.get(timeout=PATIENCE)) == (True, True)


def test_what_is_to_begin_waits_in_its_pool_once() -> None:
    executor = Aside()
    with AggregateRegistry.start(Pooled, executor=executor) as registry:
        registry.ref("k").tell(1)
        incarnation = registry._table._entries["k"].incarnation
        assert incarnation is not None
        submit(incarnation)
        assert len(executor._tasks) == 1
        executor.open()
        assert registry.get_or_start("k", timeout=PATIENCE).is_alive()


def test_what_has_lost_its_place_does_not_begin_before_it_has_another() -> None:
    """Its thread could not be started, and yet a task comes late that was told of it."""
    executor = Aside()
    with AggregateRegistry.start(Pooled, executor=executor) as registry:
        registry.ref("k").tell(1)
        incarnation = incarnation_of(registry)
        table = registry._table
        table._change(partial(table._refuse, incarnation, RuntimeError("no thread")))
        assert table.admission.live == 0
        (late,) = executor._tasks
        late()
        assert not incarnation.begun
        table.tick()
        assert table.admission.live == 1
        executor.open()
        assert registry.get_or_start("k", timeout=PATIENCE).is_alive()


def test_a_stop_that_another_thread_answers_and_takes_out_meanwhile() -> None:
    life = _life.Life(None)
    stops = life.begin_to_end().stops
    futures = [Future[bool](), Future[bool]()]
    for future in futures:
        stops.append(letter := stop_letter(future))
        future.add_done_callback(lambda _, letter=letter: stops.remove(letter))  # type: ignore[misc]
    life.answer_stops()
    assert [future.get(timeout=PATIENCE) for future in futures] == [True, True]
    assert stops == []


def test_an_asker_with_a_future_of_pykkas_own_is_answered() -> None:
    with AggregateRegistry.start(Pooled) as registry:
        future = pykka.ThreadingFuture[Any]()
        registry.get_or_start("k").actor_inbox.put(
            Envelope(ProxyCall(("do",), ("it",), {}), future)
        )
        assert future.get(timeout=PATIENCE) == "it"
