"""The registry's end: everything ends with it, in parallel, and nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    DeadLetterReason,
    EndReason,
    Quarantined,
    Registered,
    RegistryRef,
    RegistryStopped,
    Terminated,
    Undeliverable,
    WaitCycle,
    _waits,
)
from pykka_registry._life import Life
from tests.support import (
    ON_POOL,
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Runtime,
    in_threads,
    join,
    nothing_remains,
    poll,
    start_thread,
    threads_but_the_pools,
    tiny_switch_interval,
    told_when,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry._inbox import Inbox


def test_leaving_the_with_block_stops_everything() -> None:
    before = threads_but_the_pools()
    with AggregateRegistry.start(Counting) as registry:
        refs = [registry.get_or_start(key) for key in range(20)]
    assert not registry.is_alive()
    assert not any(ref.is_alive() for ref in refs)
    assert threads_but_the_pools() == before
    assert len(registry) == 0
    assert not registry._table._entries
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.threads
@pytest.mark.parametrize("call", ["stop", "drain"])
def test_when_a_shutdown_returns_no_thread_is_left(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads linger between their last word to the table and their end."""
    returned = threading.Event()

    def answer_slowly(life: Life) -> None:
        returned.wait(0.2)  # a shutdown that waits for the threads has to wait this long
        answer_stops(life)

    answer_stops = Life.answer_stops
    monkeypatch.setattr(Life, "answer_stops", answer_slowly)
    before = threads_but_the_pools()
    registry = AggregateRegistry.start(Counting)
    for key in range(5):
        registry.get_or_start(key)
    getattr(registry, call)()
    left = threads_but_the_pools() - before
    returned.set()
    assert left == set()


class InTheEnd(logging.Handler):
    """Does something when a dead letter is logged, in the thread of whoever left it over."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self._function = function
        self.results: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.results.append(self._function())

    def __enter__(self) -> list[object]:
        logging.getLogger("pykka_registry").addHandler(self)
        return self.results

    def __exit__(self, *_exc_info: object) -> None:
        logging.getLogger("pykka_registry").removeHandler(self)


def leave_over(registry: RegistryRef[Counting]) -> None:
    """Have an aggregate fail and leave a message over that nobody will handle."""
    gate = Gate()
    registry.ref("a").proxy().wait_at(gate)
    gate.wait_until_reached()
    registry.ref("a").proxy().fail.defer(ValueError("no"))
    registry.ref("a").tell("left over")
    gate.open()


def test_a_shutdown_by_a_thread_that_is_about_to_end_does_not_wait_for_itself() -> None:
    registry = AggregateRegistry.start(Counting, max_failures=0, quarantine=None)
    with InTheEnd(registry.drain) as results:
        leave_over(registry)
        registry.actor_stopped.wait(PATIENCE)
        poll(lambda: results)
    assert results == [[]]


def test_a_log_that_blocks_keeps_no_shutdown_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykka_registry._closing._LAST_LINES", 0.01)
    registry = AggregateRegistry.start(Counting, max_failures=0, quarantine=None)
    gate = Gate()
    with InTheEnd(gate.pass_through):
        leave_over(registry)
        gate.wait_until_reached()
        assert registry.drain() == []
        gate.open()


def test_what_was_accepted_is_handled_first() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Counting)
    proxy = registry.get_or_start("a").proxy()
    proxy.wait_at(gate)
    futures = [proxy.add() for _ in range(10)]
    gate.wait_until_reached()
    stopped = registry.stop(block=False)
    gate.open()
    assert stopped.get() is True
    assert [future.get() for future in futures] == list(range(1, 11))
    registry.stop()


def test_aggregates_are_stopped_in_parallel() -> None:
    everybody_stops = threading.Barrier(10)

    class Meeting(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            everybody_stops.wait(PATIENCE)  # passes only if all ten are in here at once

    with AggregateRegistry.start(Meeting) as registry:
        for key in range(10):
            registry.get_or_start(key)
    assert not everybody_stops.broken


def test_an_activation_that_was_under_way_is_stopped_when_it_ends() -> None:
    gate = Gate()
    hooks: list[str] = []

    class Slow(AggregateMixin, Runtime):
        def on_start(self) -> None:
            gate.pass_through()
            hooks.append("on_start")

        def on_stop(self) -> None:
            hooks.append("on_stop")

    registry = AggregateRegistry.start(Slow)
    future = registry.proxy().get_or_start("a").get()
    gate.wait_until_reached()
    stopped = registry.stop(block=False)
    registry.ask("by now it is stopping")
    with pytest.raises(RegistryStopped):
        registry.get_or_start("a")
    gate.open()
    assert stopped.get() is True
    assert not future.get().is_alive()
    assert hooks == ["on_start", "on_stop"]
    registry.stop()


def test_who_waits_for_a_predecessor_when_the_registry_stops_is_told() -> None:
    gate = Gate()

    class SlowToStop(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            gate.pass_through()

    registry = AggregateRegistry.start(SlowToStop)
    registry.get_or_start("a").stop(block=False)
    gate.wait_until_reached()
    future = registry.proxy().get_or_start("a").get()
    stopped = registry.stop(block=False)
    registry.ask("by now it is stopping")
    gate.open()
    with pytest.raises(RegistryStopped):
        future.get()
    stopped.get()
    registry.stop()


class Stuck(AggregateMixin, Runtime):
    """Hangs in one of its hooks, or in a handler, until the gate is opened."""

    def __init__(self, where: str, gate: Gate) -> None:
        super().__init__()
        self._where = where
        self._gate = gate

    def on_start(self) -> None:
        self._hang("on_start")

    def on_stop(self) -> None:
        self._hang("on_stop")

    def handle(self) -> None:
        self._hang("handler")

    def _hang(self, where: str) -> None:
        if self._where == where and self.key == "stuck":
            self._gate.pass_through()


@pytest.mark.parametrize("where", ["on_start", "handler", "on_stop"])
def test_what_does_not_end_in_time_is_abandoned_by_name(
    where: str, listener: pykka.ActorRef[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Stuck, args=(where, gate), name="accounts")
    registry.subscribe(listener)
    good = registry.get_or_start("good")
    starting = registry.proxy().get_or_start("stuck").get()
    if where != "on_start":
        starting.get().proxy().handle()
    if where != "on_stop":
        gate.wait_until_reached()
    with caplog.at_level("ERROR"):
        assert registry.drain(timeout=0.05) == ["stuck"]
    assert not good.is_alive()
    assert not registry.is_alive()
    assert "registry 'accounts' abandons 1 aggregate that did not end in time: 'stuck'" in (
        caplog.text
    )
    ends = [event for event in listener.proxy().told.get() if isinstance(event, Terminated)]
    assert {(event.key, event.reason) for event in ends} == {
        ("good", EndReason.DRAINED),
        ("stuck", EndReason.ABANDONED),
    }
    if where == "on_start":
        with pytest.raises(RegistryStopped):
            starting.get()
    assert registry.get("stuck") is None
    assert registry.drain() == ["stuck"]
    gate.open()
    while registry._table._entries:  # its late end frees the key; its thread is what we wait for
        for thread in threading.enumerate():
            if thread.name.startswith("Stuck"):
                join(thread)
    assert registry.stats().quarantined == 0
    assert len(listener.proxy().told.get()) == len(ends) + (1 if where == "on_start" else 2)
    assert registry.drain() == []


def test_an_abandoned_key_is_quarantined(listener: pykka.ActorRef[Listener]) -> None:
    """A registry that has abandoned a key is stopping, so only its table can be asked."""
    gate = Gate()
    registry = AggregateRegistry.start(Stuck, args=("handler", gate))
    registry.subscribe(listener)
    ref = registry.get_or_start("stuck")
    ref.proxy().handle()
    gate.wait_until_reached()
    table = registry._table
    assert table.abandon() == ["stuck"]
    assert table.abandon() == ["stuck"]
    for call in (registry.get_or_start, registry.start_new):
        with pytest.raises(Quarantined) as raised:
            call("stuck")
        assert raised.value.key == "stuck"
        assert "did not start or end in time" in str(raised.value)
    assert registry.get("stuck") is None
    assert not ref.is_alive()
    gate.open()
    while table._entries:  # its late end frees the key
        pass
    again = registry.get_or_start("stuck")
    assert again is not ref
    registry.stop()
    assert listener.proxy().told.get() == [
        Registered("stuck", 1, ref),
        Terminated("stuck", 1, EndReason.ABANDONED),
        Registered("stuck", 2, again),
        Terminated("stuck", 2, EndReason.DRAINED),
    ]


def test_a_drain_may_be_made_shorter_but_not_longer() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Stuck, args=("handler", gate), drain_timeout=3600)
    ref = registry.get_or_start("stuck")
    ref.proxy().handle()
    gate.wait_until_reached()
    stopped = registry.stop(block=False)
    with pytest.raises(pykka.Timeout):
        registry.stop(timeout=0.01)
    assert registry.drain(timeout=0.01) == ["stuck"]
    assert stopped.get() is True
    gate.open()
    wait_for(ref.actor_stopped)


@pytest.mark.parametrize("seconds", [float("inf"), 1e10])
def test_a_shutdown_may_have_all_the_time_there_is(
    seconds: float, listener: pykka.ActorRef[Listener]
) -> None:
    registry = AggregateRegistry.start(Counting, drain_timeout=seconds)
    registry.subscribe(listener)
    registry.get_or_start("a")
    assert registry.drain(timeout=seconds) == []
    assert not registry.is_alive()


@pytest.mark.parametrize("call", ["stop", "drain"])
def test_who_comes_to_a_shutdown_late_waits_for_its_end(call: str) -> None:
    """The registry is dead to Pykka by then, and its `on_stop` still runs."""
    gate = Gate()

    class SlowToStop(AggregateRegistry):
        def on_stop(self) -> None:
            gate.pass_through()

    registry = SlowToStop.start(Counting)
    first = start_thread(registry.stop)
    gate.wait_until_reached()
    assert not registry.is_alive()
    finished: list[bool] = []

    def come_late() -> None:
        getattr(registry, call)()
        finished.append(registry._table.finished.done())

    late = start_thread(come_late)
    with pytest.raises(pykka.Timeout):
        registry.stop(timeout=0.01)
    gate.open()
    join(late)
    join(first)
    assert finished == [True]


def test_a_registry_may_stop_itself_in_its_own_thread() -> None:
    class Own(AggregateRegistry):
        def on_stop(self) -> None:
            results.append(self.actor_ref.stop())
            results.append(self.actor_ref.drain())

    results: list[Any] = []
    registry = Own.start(Counting)
    registry.stop()
    assert results == [True, []]


def test_drains_at_once_all_return_the_same() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Stuck, args=("handler", gate))
    ref = registry.get_or_start("stuck")
    ref.proxy().handle()
    gate.wait_until_reached()
    calls: list[Callable[[], Any]] = [lambda: registry.drain(timeout=0.05) for _ in range(5)]
    assert in_threads(calls) == [["stuck"]] * 5
    gate.open()
    wait_for(ref.actor_stopped)


@pytest.mark.parametrize("call", ["stop", "drain"])
def test_an_aggregate_that_stops_its_own_registry_does_not_wait_for_itself(
    call: str, counters: RegistryRef[Counting]
) -> None:
    proxy = counters.get_or_start("a").proxy()
    counters.get_or_start("b")
    result = proxy.run(getattr(counters, call)).get()
    assert result in (True, [])
    counters.drain()
    assert not counters.is_alive()


def test_system_exit_while_others_are_blocked_on_asks() -> None:
    """Several wait for the one that exits, in its queue or its handler; all are answered."""
    gate = Gate()
    registry = AggregateRegistry.start(Counting)
    exiting = registry.get_or_start("exiting").proxy()

    def exit_later() -> None:
        gate.pass_through()
        raise SystemExit(3)

    first = exiting.run(exit_later)
    gate.wait_until_reached()
    waiting = [
        registry.get_or_start(key).proxy().run(lambda: exiting.add().get()) for key in range(5)
    ]
    main_waits = [exiting.add() for _ in range(5)]
    results_from_threads = start_thread(lambda: in_threads([future.get for future in main_waits]))
    gate.open()
    for future in [first, *waiting, *main_waits]:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=PATIENCE)
    join(results_from_threads)
    assert registry.actor_stopped.wait(PATIENCE)


@pytest.mark.parametrize("registry_first", [True, False])
def test_stop_all_in_any_order_hangs_nothing(registry_first: bool) -> None:
    registry = AggregateRegistry.start(Counting)
    refs = [registry.get_or_start(key) for key in range(3)]
    refs[0].proxy().run(lambda: refs[1].ask("hello")).get()
    if registry_first:
        pykka.ActorRegistry.unregister(registry)
        pykka.ActorRegistry.register(registry)
    stops: list[Any] = pykka.ActorRegistry.stop_all(block=registry_first)
    assert len(stops) == (1 if ON_POOL else 4)  # a pooled aggregate is stopped by its registry
    actors: list[pykka.ActorRef[Any]] = [*refs, registry]
    for actor in actors:
        assert actor.actor_stopped.wait(PATIENCE)
    registry.stop()


def test_stop_all_inside_a_handler_is_refused_instead_of_hanging(
    counters: RegistryRef[Counting],
) -> None:
    proxy = counters.get_or_start("a").proxy()
    if ON_POOL:  # its registry stops it, and does not wait for the one that asked
        assert proxy.run(pykka.ActorRegistry.stop_all).get() == [True]
        return
    with pytest.raises(WaitCycle):
        proxy.run(pykka.ActorRegistry.stop_all).get()


def test_two_that_exit_at_once_both_end() -> None:
    registry = AggregateRegistry.start(Counting)
    both = threading.Barrier(2, timeout=PATIENCE)

    def exit_together() -> None:
        both.wait()
        raise SystemExit

    futures = [registry.get_or_start(key).proxy().run(exit_together) for key in "ab"]
    for future in futures:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=PATIENCE)
    assert registry.actor_stopped.wait(PATIENCE)


class OwnRegistry(AggregateRegistry):
    """A registry with hooks and messages of its own."""

    hooks: list[str]
    raises: BaseException | None = None

    def on_stop(self) -> None:
        self.hooks.append("on_stop")
        if self.raises is not None:
            raise self.raises

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message


def test_a_registrys_on_stop_runs_after_its_aggregates_have_ended() -> None:
    hooks: list[str] = []
    OwnRegistry.hooks = hooks

    class Hooked(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            hooks.append("aggregate")

    with OwnRegistry.start(Hooked) as registry:
        registry.get_or_start("a")
    assert hooks == ["aggregate", "on_stop"]


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(3)])
def test_a_registrys_on_stop_may_fail(
    raised: BaseException, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    OwnRegistry.hooks = []
    monkeypatch.setattr(OwnRegistry, "raises", raised)
    registry = OwnRegistry.start(Counting, name="accounts")
    registry.get_or_start("a")
    assert registry.stop() is True
    assert "registry 'accounts' raised in on_stop" in caplog.text


def test_system_exit_in_the_registrys_own_handler_ends_all() -> None:
    OwnRegistry.hooks = []
    registry = OwnRegistry.start(Counting)
    bystander = pykka.ThreadingActor.start()
    ref = registry.get_or_start("a")
    with pytest.raises(pykka.ActorDeadError) as raised:
        registry.ask(SystemExit(3))
    assert isinstance(raised.value.__cause__, SystemExit)
    actors: list[pykka.ActorRef[Any]] = [ref, registry, bystander]
    for actor in actors:
        assert actor.actor_stopped.wait(PATIENCE)
    assert OwnRegistry.hooks == ["on_stop"]


def test_a_stopping_registry_returns_no_actor_that_is_still_active() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Counting)
    ref = registry.get_or_start("a")
    ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    stopped = registry.stop(block=False)
    registry.ask("by now it is stopping")
    assert registry.get("a") is ref
    for call in (registry.get_or_start, registry.start_new):
        with pytest.raises(RegistryStopped):
            call("a")
    gate.open()
    assert stopped.get() is True
    registry.stop()


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(3)])
def test_a_registry_whose_on_start_fails_ends_its_aggregates_too(raised: BaseException) -> None:
    class Failing(AggregateRegistry):
        def on_start(self) -> None:
            gate.pass_through()
            raise raised

    gate = Gate()
    registry = Failing.start(Counting)
    gate.wait_until_reached()
    ref = registry.get_or_start("a")
    gate.open()
    assert ref.actor_stopped.wait(PATIENCE)
    registry._table.join()
    with pytest.raises(RegistryStopped):
        registry.get_or_start("b")


def test_asks_that_the_registry_has_not_handled_when_it_ends_fail() -> None:
    registry = AggregateRegistry.start(Stuck, args=("handler", stuck := Gate()))
    ref = registry.get_or_start("stuck")
    ref.proxy().handle()
    stuck.wait_until_reached()
    blocked = registry.proxy().get(Blocking(gate := Gate()))
    gate.wait_until_reached()
    drained = registry._drain(0)
    asked = registry.ask("anything", block=False)
    stopped = registry.stop(block=False)
    drained_too = registry._drain(None)
    gate.open()
    assert blocked.get() is None
    assert drained.get() == drained_too.get() == ["stuck"]
    assert stopped.get() is True
    with pytest.raises(pykka.ActorDeadError, match="registry 'Stuck' has stopped"):
        asked.get()
    with pytest.raises(pykka.ActorDeadError):
        registry.ask("anything")
    stuck.open()
    wait_for(ref.actor_stopped)


class Blocking:
    """A key that blocks whoever hashes it first."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __hash__(self) -> int:
        self._gate.pass_through()
        return 1


def test_a_suspended_registry_blocks_no_lookup_no_send_and_no_activation(
    listener: pykka.ActorRef[Listener],
) -> None:
    gate = Gate()
    with AggregateRegistry.start(Counting) as registry:
        ref = registry.get_or_start("a")
        registry.proxy().get(Blocking(gate))  # the registry's thread is in there now
        gate.wait_until_reached()
        assert registry.get("a") is ref
        assert ref.proxy().add(1).get() == 1
        assert ref.stop() is True
        assert registry.get("a") is None
        again = registry.get_or_start("a")
        assert registry["a"] is again
        assert registry.start_new("b").is_alive()
        with pytest.raises(ValueError, match="no"):
            again.proxy().fail(ValueError("no")).get()
        foreign = pykka.ThreadingActor.start()
        registry.register("f", foreign)
        assert registry["f"] is foreign
        foreign.stop()
        assert registry.get("f") is None
        another = pykka.ThreadingActor.start()
        registry.register("f", another)
        assert sorted(registry) == ["a", "b", "f"]
        registry.subscribe(listener)
        another.stop()
        again.stop()
        told_when(listener, lambda told: [event.key for event in told].count("a") == 1)
        gate.open()


def test_empty_tables_after_every_kind_of_end() -> None:
    """After all has ended no row, waiter, actor or thread is left, and refusals grow nothing."""
    before = threads_but_the_pools()

    class Various(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key == "no start":
                raise ValueError("no")

    with AggregateRegistry.start(Various) as registry:
        table = registry._table
        for _ in range(3):
            registry.start_new("stopped").stop()
            registry.get_or_start("own stop").proxy().stop().get()
            failing = registry.get_or_start("failed")
            failing.proxy().fail.defer(ValueError("no"))
            failing.actor_stopped.wait(PATIENCE)
            with pytest.raises(ValueError, match="no"):
                registry.get_or_start("no start")
        registry.start_new("taken")
        for _ in range(10):
            with pytest.raises(Exception, match="taken"):
                registry.start_new("taken")
        registry["taken"].stop()
        for thread in threads_but_the_pools() - before:
            if thread.name.startswith("Various"):
                join(thread)
        assert table._entries == {}
        assert table.active == {}
        assert table.foreign._rows == {}
        assert pykka.ActorRegistry.get_all() == [registry]
        assert len(threads_but_the_pools() - before) == 1


# The process.


def run_python(
    code: str, *, timeout: float = PATIENCE, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **kwargs,
    )


PREAMBLE = """
import os, pykka, signal, sys, threading
from pykka_registry import *
from tests.support import Runtime

class Account(AggregateMixin, Runtime):
    def on_stop(self):
        print("stopped", self.key, flush=True)

registry = AggregateRegistry.start(Account)
ref = registry.get_or_start("a")
"""


@pytest.mark.parametrize(
    ("how", "status"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError('no')", 1)]
)
def test_the_interpreter_ends_with_a_live_registry(how: str, status: int) -> None:
    done = run_python(PREAMBLE + how)
    assert done.returncode == status
    assert done.stdout == "stopped a\n"
    assert "Exception in thread" not in done.stderr


def test_ctrl_c_ends_the_interpreter() -> None:
    done = run_python(PREAMBLE + "os.kill(os.getpid(), signal.SIGINT); threading.Event().wait()")
    assert done.stdout == "stopped a\n"
    assert "KeyboardInterrupt" in done.stderr


IN_A_FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork with threads
foreign = pykka.ThreadingActor.start()

def attempt(name, call):
    try:
        print(name, call())
    except RegistryStopped as error:
        print(name, "RegistryStopped" if "forked" in str(error) else error)
    except pykka.ActorDeadError as error:
        print(name, "ActorDeadError" if "forked" in str(error) else error)

if os.fork() == 0:
    for name in ("keys", "values", "items", "stop", "drain", "proxy", "stats"):
        attempt(name, lambda: eval("registry." + name)())
    attempt("get", lambda: registry.get("a"))
    attempt("getitem", lambda: registry["a"])
    attempt("in", lambda: "a" in registry)
    attempt("ref", lambda: registry.ref("a"))
    attempt("dead_letters", lambda: registry.dead_letters)
    attempt("wait_for", lambda: registry.wait_for("a"))
    attempt("release", lambda: registry.release("a"))
    attempt("len", lambda: len(registry))
    attempt("iter", lambda: list(registry))
    attempt("get_or_start", lambda: registry.get_or_start("a"))
    attempt("start_new", lambda: registry.start_new("a"))
    attempt("start", lambda: Account.start(registry, "a"))
    attempt("register", lambda: registry.register("a", foreign))
    attempt("unregister", lambda: registry.unregister("a", foreign))
    attempt("subscribe", lambda: registry.subscribe(foreign))
    attempt("unsubscribe", lambda: registry.unsubscribe(foreign))
    attempt("ask", lambda: registry.ask("x"))
    attempt("tell", lambda: registry.tell("x"))
    with registry:
        pass
    attempt("an aggregate's ask", lambda: ref.ask("x"))
    attempt("a new registry", lambda: AggregateRegistry.start(Account).get_or_start("b").stop())
    sys.stdout.flush()
    os._exit(0)
os.wait()
foreign.stop()
print("parent", registry.get("a") is ref, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told_why_nothing_works() -> None:
    done = run_python(PREAMBLE + IN_A_FORK)
    assert done.returncode == 0, done.stderr
    *child, parent, stopped = done.stdout.splitlines()
    assert parent == "parent True"
    assert stopped == "stopped a"
    new_registry = child[-2:]
    assert new_registry == ["stopped b", "a new registry True"]
    asked = child[-3]
    assert asked == "an aggregate's ask ActorDeadError"
    refused = [line.rsplit(" ", 1) for line in child[:-3]]
    assert len(refused) == 25
    assert {answer for _, answer in refused} == {"RegistryStopped"}, refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_others_hold_the_locks_hangs_nothing(
    counters: RegistryRef[Counting],
) -> None:
    """In the child every lock is new: the threads that may have held the old ones are not there."""
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            counters.get_or_start("x").stop()

    thread = start_thread(churn)
    ref = counters.get_or_start("a")
    held = Gate()

    def hold_the_locks() -> None:
        with counters._table._lock, cast("Inbox", ref.actor_inbox)._lock, _waits._lock:
            held.pass_through()

    statuses: list[int] = []
    holders: list[threading.Thread] = []
    for attempt in range(20):
        if attempt == 10:  # half of the forks come as they may, half with all the locks held
            holders.append(start_thread(hold_the_locks))
            held.wait_until_reached()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(20)  # a child that hangs is ended, and seen
                with contextlib.suppress(RegistryStopped):
                    counters.get_or_start("y")
                    os._exit(2)
                with contextlib.suppress(pykka.ActorDeadError):
                    ref.ask("x")
                    os._exit(3)
                status = 0
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(status)
        statuses.append(os.waitpid(pid, 0)[1])
    held.open()
    join(holders[0])
    done.set()
    join(thread)
    assert statuses == [0] * 20


# Letters that flow while it shuts down.


class Passing(AggregateMixin, Runtime):
    """Takes note of what it is told, and does what the note says, which may be to tell others."""

    handled: list[Any]
    sent: list[Any]
    refused: list[BaseException]
    starts: list[Any]
    fails_to_start: bool

    @classmethod
    def reset(cls) -> None:
        cls.handled, cls.sent, cls.refused, cls.starts = [], [], [], []
        cls.fails_to_start = False

    def on_start(self) -> None:
        Passing.starts.append(self.key)
        if Passing.fails_to_start:
            raise ValueError("no start")

    def note(self, what: Any) -> Any:
        Passing.handled.append(what)
        return what

    def wait_at(self, gate: Gate) -> None:
        gate.pass_through()

    def fail(self) -> None:
        raise ValueError("no")

    def hop(self, hops: int, keys: int) -> None:
        """Tell the next key, so many times in all."""
        Passing.handled.append(hops)
        if hops:
            self.registry.ref(hops % keys).proxy().hop.defer(hops - 1, keys)
            Passing.sent.append(hops - 1)

    def descend(self, levels: int) -> int:
        """Ask the next key, which asks the next one."""
        if not levels:
            return 0
        below: int = self.registry.ref(("level", levels)).call(Passing.descend, levels - 1)
        return 1 + below

    def ping(self, other: Any) -> None:
        """Tell the other, for ever."""
        Passing.handled.append(self.key)
        try:
            self.registry.ref(other).proxy().ping.defer(self.key)
        except RegistryStopped as error:
            Passing.refused.append(error)
        else:
            Passing.sent.append(other)


@pytest.fixture(autouse=True)
def nothing_passed() -> None:
    Passing.reset()


def begin_to_drain(registry: RegistryRef[Any]) -> pykka.Future[Any]:
    """Return a future of the shutdown, which has begun."""
    future = registry._drain(None)
    registry.ask("by now it is stopping")
    return future


def reported(registry: RegistryRef[Any]) -> int:
    return sum(registry.stats().dead_letters.values())


@pytest.mark.parametrize("keys", [2, 7, 1000])
def test_letters_between_its_own_aggregates_flow_until_all_is_quiet(keys: int) -> None:
    """Each wakes the next one up, which has been retired by then or was never there."""
    registry = AggregateRegistry.start(Passing)
    gate = Gate()
    for key in range(min(keys, 10)):
        registry.get_or_start(key)
    first = registry.ref(0).proxy()
    first.wait_at(gate)
    first.hop(300, keys)
    gate.wait_until_reached()
    drained = begin_to_drain(registry)
    gate.open()
    assert drained.get(timeout=PATIENCE) == []
    registry.drain()
    assert Passing.handled == list(range(300, -1, -1))
    assert len(Passing.sent) == 300
    assert registry.dead_letters == []
    assert set(registry.stats().ends) == {EndReason.DRAINED}
    assert nothing_remains(registry)


def test_asks_between_its_own_aggregates_are_answered_while_it_drains() -> None:
    registry = AggregateRegistry.start(Passing)
    gate = Gate()
    registry.ref("first").proxy().wait_at(gate)
    gate.wait_until_reached()
    depth = registry.ref("first").submit(Passing.descend, 30)
    drained = begin_to_drain(registry)
    gate.open()
    assert depth.get(timeout=PATIENCE) == 30
    assert drained.get(timeout=PATIENCE) == []
    assert len(Passing.starts) >= 31
    registry.drain()


def test_what_is_sent_in_on_stop_is_handled_by_aggregates_that_start_for_it() -> None:
    """The last words of one wake up the next, which has last words of its own."""

    class LastWords(Passing):
        def on_stop(self) -> None:
            if self.key < 30:
                self.registry.ref(self.key + 1).proxy().note.defer(self.key)

    registry = AggregateRegistry.start(LastWords)
    registry.get_or_start(0)
    assert registry.drain() == []
    assert Passing.handled == list(range(30))
    assert Passing.starts == list(range(31))
    assert registry.dead_letters == []
    assert nothing_remains(registry)


def test_a_drain_is_over_as_soon_as_all_is_quiet() -> None:
    """With an hour to go it must not use it up; what lingers is not kept for long."""
    registry = AggregateRegistry.start(Passing, drain_timeout=3600)
    gate = Gate()
    for key in range(20):
        registry.get_or_start(key)
    registry.ref(0).proxy().wait_at(gate)
    gate.wait_until_reached()
    registry.ref(0).proxy().hop.defer(50, 20)
    drained = begin_to_drain(registry)
    gate.open()
    assert drained.get(timeout=PATIENCE) == []
    assert len(Passing.handled) == 51
    registry.drain()


def test_everybody_else_is_refused_while_it_drains() -> None:
    registry = AggregateRegistry.start(Passing, name="accounts")
    other = AggregateRegistry.start(Counting)
    gate = Gate()
    registry.ref("a").proxy().wait_at(gate)
    gate.wait_until_reached()
    drained = begin_to_drain(registry)
    a, absent = registry.ref("a"), registry.ref("absent")
    calls: list[Callable[[], object]] = []
    for ref in (a, absent):
        calls += [
            lambda ref=ref: ref.tell("x"),  # type: ignore[misc]
            lambda ref=ref: ref.ask("x"),  # type: ignore[misc]
            lambda ref=ref: ref.ask("x", block=False).get(),  # type: ignore[misc]
            lambda ref=ref: ref.call(Passing.note, "x"),  # type: ignore[misc]
            lambda ref=ref: ref.submit(Passing.note, "x").get(),  # type: ignore[misc]
            lambda ref=ref: ref.proxy().note("x").get(),  # type: ignore[misc]
            lambda ref=ref: ref.proxy().note.defer("x"),  # type: ignore[misc]
        ]
    calls += [
        lambda: registry.get_or_start("a"),
        lambda: registry.get_or_start("absent"),
        lambda: registry.start_new("absent"),
        lambda: Passing.start(registry, "absent"),
        lambda: registry.wait_for("a"),
        lambda: registry.register("f", other),
    ]
    others: list[Callable[[Callable[[], object]], object]] = [
        lambda call: call(),
        lambda call: other.ref("b").call(Counting.run, call),
        lambda call: _reraise(in_threads([call])),
    ]
    count = 0
    for whoever in others:
        for call in calls:
            with pytest.raises(RegistryStopped, match="registry 'accounts' is stopping"):
                whoever(call)
            count += 1
    assert count == 60
    assert absent.stop() is False
    assert registry.release("a") is False
    gate.open()
    assert drained.get(timeout=PATIENCE) == []
    assert Passing.handled == []
    assert Passing.starts == ["a"]
    assert registry.dead_letters == []
    assert a.stop() is False
    with pytest.raises(RegistryStopped):
        a.tell("x")
    registry.drain()
    other.drain()


def _reraise(results: list[Any]) -> None:
    (result,) = results
    raise result


def test_a_stop_by_address_still_works_while_it_drains() -> None:
    registry = AggregateRegistry.start(Passing)
    gate = Gate()
    registry.ref("a").proxy().wait_at(gate)
    noted = registry.ref("a").proxy().note(1)
    gate.wait_until_reached()
    drained = begin_to_drain(registry)
    stopped = registry.ref("a").stop(block=False)
    gate.open()
    assert stopped.get(timeout=PATIENCE) is True
    assert noted.get(timeout=PATIENCE) == 1
    assert drained.get(timeout=PATIENCE) == []
    assert registry.stats().ends == {EndReason.DRAINED: 1}
    registry.drain()


def test_a_ping_pong_that_never_ends_is_cut_at_the_deadline_and_all_of_it_reported() -> None:
    registry = AggregateRegistry.start(Passing, drain_timeout=0.3, dead_letters=10)
    pairs = 3
    for i in range(pairs):
        registry.ref(("ping", i)).proxy().ping.defer(("pong", i))
        Passing.sent.append(("ping", i))
    poll(lambda: len(Passing.handled) > 100)
    abandoned = registry.drain()
    assert set(abandoned) <= {(who, i) for who in ("ping", "pong") for i in range(pairs)}
    assert {i for _, i in abandoned} == set(range(pairs))
    poll(lambda: registry.stats().quarantined == 0)
    assert nothing_remains(registry)
    # Each ball was dropped once: refused to its player, or reported.
    assert len(Passing.sent) == len(Passing.handled) + reported(registry)
    assert len(Passing.refused) + reported(registry) == pairs
    assert set(registry.stats().dead_letters) <= {
        DeadLetterReason.ABANDONED,
        DeadLetterReason.REGISTRY_STOPPED,
    }


def test_what_waits_for_those_who_are_abandoned_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = AggregateRegistry.start(Stuck, args=("handler", gate := Gate()), name="accounts")
    stuck = registry.ref("stuck")
    stuck.proxy().handle()
    gate.wait_until_reached()
    for i in range(3):
        stuck.tell(i)
    asked = stuck.ask("asked", block=False)
    plain = registry["stuck"].ask("asked plainly", block=False)
    stopped = stuck.stop(block=False)
    plain_ref = registry["stuck"]
    with caplog.at_level("ERROR"):
        assert registry.drain(timeout=0.05) == ["stuck"]
    assert "'stuck'" in caplog.text
    for future in (asked, plain):
        with pytest.raises(Undeliverable):
            future.get(timeout=PATIENCE)
    assert stopped.get(timeout=PATIENCE) is False
    assert [letter.message for letter in registry.dead_letters] == [0, 1, 2]
    assert registry.stats().dead_letters == {DeadLetterReason.ABANDONED: 3}
    assert registry.stats().ends == {EndReason.ABANDONED: 1}
    assert not plain_ref.is_alive()
    gate.open()
    poll(lambda: registry.stats().quarantined == 0)
    assert registry.stats().dead_letters == {DeadLetterReason.ABANDONED: 3}
    assert nothing_remains(registry)


def test_all_that_are_abandoned_are_named(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Passing)
    for key in range(10):
        registry.ref(key).proxy().wait_at(gate)
    for key in range(10, 20):
        registry.get_or_start(key)
    poll(lambda: registry.stats().active == 20)
    with caplog.at_level("ERROR"):
        assert sorted(registry.drain(timeout=0.5)) == list(range(10))
    assert "abandons 10 aggregates" in caplog.text
    assert registry.stats().ends == {EndReason.ABANDONED: 10, EndReason.DRAINED: 10}
    assert sorted(registry.drain()) == list(range(10))
    gate.open()
    poll(lambda: registry.stats().quarantined == 0)
    assert registry.drain() == []


def test_letters_to_a_key_that_rests_longer_than_a_shutdown_takes_are_reported() -> None:
    registry = AggregateRegistry.start(
        Passing, backoff=(3600, 3600), failure_window=7200, drain_timeout=0.1
    )
    registry.ref("a").proxy().fail.defer()
    poll(lambda: registry.stats().ends == {EndReason.FAILED: 1})
    for i in range(3):
        registry.ref("a").proxy().note.defer(i)
    asked = registry.ref("a").submit(Passing.note, 3)
    starting = registry.proxy().get_or_start("a").get()
    assert registry.stats().backoff == 1
    assert registry.drain() == []
    with pytest.raises(RegistryStopped):
        starting.get(timeout=PATIENCE)
    with pytest.raises(Undeliverable):
        asked.get(timeout=PATIENCE)
    assert registry.stats().dead_letters == {DeadLetterReason.REGISTRY_STOPPED: 3}
    assert len(registry.dead_letters) == 3
    assert Passing.handled == []
    assert registry.stats().backoff == 0
    assert Passing.starts == ["a"]


def test_letters_to_a_key_that_rests_for_a_short_time_are_handled() -> None:
    registry = AggregateRegistry.start(Passing, backoff=(0.2, 0.2))
    registry.ref("a").proxy().fail.defer()
    poll(lambda: registry.stats().ends == {EndReason.FAILED: 1})
    for i in range(3):
        registry.ref("a").proxy().note.defer(i)
    assert registry.drain() == []
    assert Passing.handled == [0, 1, 2]
    assert registry.dead_letters == []


def test_a_key_that_rests_while_nobody_waits_for_it_delays_no_shutdown() -> None:
    registry = AggregateRegistry.start(
        Passing, restart="at once", backoff=(3600, 3600), drain_timeout=3600
    )
    registry.ref("a").proxy().fail.defer()
    poll(lambda: registry.stats().backoff == 1)
    starting = registry.proxy().get_or_start("a").get()
    drained = registry._drain(None)
    assert drained.get(timeout=PATIENCE) == []
    with pytest.raises(RegistryStopped):
        starting.get(timeout=PATIENCE)
    assert Passing.starts == ["a"]
    registry.drain()


def test_a_quarantined_key_delays_no_shutdown_and_is_not_named() -> None:
    registry = AggregateRegistry.start(Passing, max_failures=0, quarantine=None, drain_timeout=3600)
    registry.ref("a").proxy().fail.defer()
    poll(lambda: registry.stats().quarantined == 1)
    drained = registry._drain(None)
    assert drained.get(timeout=PATIENCE) == []
    assert registry.stats().quarantined == 0
    registry.drain()


def test_letters_to_keys_that_get_no_place_are_reported() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Passing, max_live=1, drain_timeout=0.1)
    registry.ref("holder").proxy().wait_at(gate)
    gate.wait_until_reached()
    asked: list[pykka.Future[Any]] = []
    for key in range(5):
        registry.ref(key).proxy().note.defer(key)
        asked.append(registry.ref(key).submit(Passing.note, key))
    starting = registry.proxy().get_or_start("another").get()
    assert registry.stats().waiting == 6
    assert registry.drain() == ["holder"]
    with pytest.raises(RegistryStopped):
        starting.get(timeout=PATIENCE)
    for future in asked:
        with pytest.raises(Undeliverable):
            future.get(timeout=PATIENCE)
    assert sorted(letter.key for letter in registry.dead_letters) == list(range(5))
    assert registry.stats().dead_letters == {DeadLetterReason.REGISTRY_STOPPED: 5}
    assert registry.stats().waiting == 0
    assert Passing.starts == ["holder"]
    gate.open()
    poll(lambda: registry.stats().quarantined == 0)
    assert nothing_remains(registry)


def test_those_who_wait_for_a_place_get_it_while_it_drains() -> None:
    gate = Gate()
    registry = AggregateRegistry.start(Passing, max_live=1)
    registry.ref("holder").proxy().wait_at(gate)
    gate.wait_until_reached()
    for key in range(20):
        registry.ref(key).proxy().note.defer(key)
    assert registry.stats().waiting == 20
    drained = begin_to_drain(registry)
    gate.open()
    assert drained.get(timeout=PATIENCE) == []
    assert sorted(Passing.handled) == list(range(20))
    assert registry.dead_letters == []
    registry.drain()


@pytest.mark.parametrize("backoff", [(0, 0), (0.1, 30)])
def test_a_key_that_cannot_start_is_not_tried_for_as_long_as_a_shutdown_takes(
    backoff: tuple[float, float],
) -> None:
    """Its letters are reported once its budget is spent, as at any other time."""
    registry = AggregateRegistry.start(Passing, backoff=backoff, max_failures=5, drain_timeout=1)
    gate = Gate()
    registry.ref("a").proxy().wait_at(gate)
    gate.wait_until_reached()
    registry.ref("a").proxy().fail.defer()
    registry.ref("a").proxy().note.defer("told")
    Passing.fails_to_start = True
    drained = begin_to_drain(registry)
    gate.open()
    assert drained.get(timeout=PATIENCE) == []
    registry.drain()
    assert [letter.message.args for letter in registry.dead_letters] == [("told",)]
    assert len(Passing.starts) <= 1 + 6


class Told(NamedTuple):
    seed: int
    number: int

    @property
    def key(self) -> int:
        return (self.seed * 7 + self.number) % 10


def send_until_refused(registry: RegistryRef[Passing], seed: int, flowing: threading.Event) -> int:
    """Send in all ways, and let aggregates fail and send; return how many notes were told."""
    told = 0
    for i in itertools.count():
        note = Told(seed, i)
        ref = registry.ref(note.key)
        try:
            if i % 10 == 0:
                ref.proxy().fail.defer()
            elif i % 10 == 1:
                with contextlib.suppress(Undeliverable):
                    ref.call(Passing.note, "asked")
            elif i % 10 == 2:
                ref.proxy().hop.defer(5, 10)
                Passing.sent.append(5)
            else:
                ref.proxy().note.defer(note)
                told += 1
        except RegistryStopped:
            break
        if i == 200:
            flowing.set()
    return told


@pytest.mark.parametrize("how", ["drain", "stop", "stop_all", "stop_all, registry first"])
def test_nothing_is_lost_if_a_shutdown_comes_while_letters_flow(how: str) -> None:
    """Every letter that was accepted is handled or reported; senders are refused, not kept."""
    registry = AggregateRegistry.start(Passing, backoff=(0, 0), max_failures=10**6, idle=0)
    if how.endswith("first"):
        pykka.ActorRegistry.unregister(registry)
        pykka.ActorRegistry.register(registry)
    flowing = threading.Event()
    results: list[Any] = []
    sends = [functools.partial(send_until_refused, registry, seed, flowing) for seed in range(4)]
    with tiny_switch_interval():
        thread = start_thread(lambda: results.extend(in_threads(sends)))
        wait_for(flowing)
        if how.startswith("stop_all"):
            pykka.ActorRegistry.stop_all()
        else:
            getattr(registry, how)()
        join(thread)
    registry.drain()
    told = sum(results)
    noted = [note for note in Passing.handled if isinstance(note, Told)]
    hops = [note for note in Passing.handled if isinstance(note, int)]
    dead = [letter.message for letter in registry.dead_letters]
    assert len(dead) == reported(registry)  # few enough to have kept them all
    dead_notes = [message for message in dead if message.attr_path == ("note",)]
    dead_hops = [message for message in dead if message.attr_path == ("hop",)]
    assert told == len(noted) + len(dead_notes) > 100
    assert len(set(noted)) == len(noted)
    assert len(Passing.sent) == len(hops) + len(dead_hops) > 10
    assert nothing_remains(registry)
    for seed in range(4):
        for key in range(10):
            mine = [note.number for note in noted if note.seed == seed and note.key == key]
            assert mine == sorted(mine)


def test_registries_whose_aggregates_send_to_each_other_drain_one_after_the_other() -> None:
    """To the one that drains the other's aggregates are strangers; it may still use the other."""
    first = AggregateRegistry.start(Passing, name="first")
    second = AggregateRegistry.start(Passing, name="second")
    registries = {"first": first, "second": second}
    accepted: list[str] = []
    refused: list[str] = []

    class Across(Passing):
        def across(self, left: int) -> None:
            Passing.handled.append(left)
            there = "second" if self.registry is first_across else "first"
            target = second_across if there == "second" else first_across
            if left:
                try:
                    target.ref(left % 5).proxy().across.defer(left - 1)
                    accepted.append(there)
                except RegistryStopped:
                    refused.append(there)

    first.drain()
    second.drain()
    assert not any(registry.is_alive() for registry in registries.values())
    first_across = AggregateRegistry.start(Across, name="first")
    second_across = AggregateRegistry.start(Across, name="second")
    gates = [Gate() for _ in range(5)]
    for key, gate in enumerate(gates):
        first_across.ref(key).proxy().wait_at(gate)
        first_across.ref(key).proxy().across.defer(100)
        gate.wait_until_reached()
    drained = begin_to_drain(first_across)
    for gate in gates:
        gate.open()
    assert drained.get(timeout=PATIENCE) == []
    first_across.drain()
    assert second_across.drain() == []
    # Each of the five went over to the second registry once, and none came back.
    assert accepted == ["second"] * 5
    assert refused == ["first"] * 5
    assert sorted(Passing.handled) == [99] * 5 + [100] * 5
    assert first_across.dead_letters == second_across.dead_letters == []


def test_two_registries_drain_at_once_though_their_aggregates_ask_each_other() -> None:
    """Who is refused learns it, and who waits gets its answer, for both give what they accepted."""
    registries: list[RegistryRef[Any]] = []
    outcomes: list[str] = []

    class Asking(Passing):
        def ask_across(self, gate: Gate) -> str:
            gate.pass_through()
            other = registries[self.registry is registries[0]]
            try:
                answer: str = other.ref(self.key).call(Asking.note, "hello")
            except (RegistryStopped, Undeliverable) as error:
                answer = type(error).__name__
            outcomes.append(answer)
            return answer

    registries += [AggregateRegistry.start(Asking, name=str(i)) for i in range(2)]
    gate = Gate()
    futures = [
        registry.ref(key).submit(Asking.ask_across, gate)
        for registry in registries
        for key in range(5)
    ]
    poll(lambda: sum(registry.stats().active for registry in registries) == 10)
    gate.wait_until_reached()
    drains = [begin_to_drain(registry) for registry in registries]
    gate.open()
    for drained in drains:
        assert drained.get(timeout=PATIENCE) == []
    assert [future.get(timeout=PATIENCE) for future in futures] == ["RegistryStopped"] * 10
    assert outcomes == ["RegistryStopped"] * 10
    for registry in registries:
        registry.drain()


def test_an_aggregate_may_keep_a_registry_of_its_own() -> None:
    """It is drained by its owner's last hook, while the owner's registry drains."""
    inner: list[RegistryRef[Any]] = []

    class Owner(Passing):
        def on_start(self) -> None:
            super().on_start()
            self.mine = AggregateRegistry.start(Passing, name=f"of {self.key}")
            inner.append(self.mine)

        def delegate(self, what: Any) -> None:
            self.mine.ref(what % 3).proxy().note.defer(what)

        def on_stop(self) -> None:
            assert self.mine.drain() == []

    registry = AggregateRegistry.start(Owner)
    for i in range(100):
        registry.ref(i % 4).proxy().delegate.defer(i)
    assert registry.drain() == []
    assert sorted(Passing.handled) == list(range(100))
    assert len(inner) == 4
    assert not any(one.is_alive() for one in inner)
    assert all(nothing_remains(one) for one in inner)


FLOWING = """
import atexit, threading
import pykka
from pykka_registry import *
from tests.support import Runtime

handled, sent = [], []

class Player(AggregateMixin, Runtime):
    def ping(self, other):
        handled.append(other)
        try:
            self.registry.ref(other).proxy().ping.defer(self.key)
        except RegistryStopped:
            return
        sent.append(other)

    def note(self, what):
        handled.append(what)

registry = AggregateRegistry.start(
    Player, drain_timeout=0.5, idle=0, dead_letters=10**6, max_live=5
)

@atexit.register
def report():
    for thread in threading.enumerate():
        if thread.name.startswith("Player"):
            thread.join()
    dead = sum(registry.stats().dead_letters.values())
    print(len(sent) == len(handled) + dead, len(handled) > 100, flush=True)

flowing = threading.Event()

def send(seed):
    for i in range(10**6):
        try:
            registry.ref((seed + i) % 10).proxy().note.defer(i)
        except RegistryStopped:
            print("refused\\n", end="", flush=True)  # in one piece
            return
        sent.append(i)
        if i == 100:
            flowing.set()

registry.ref("ping").proxy().ping.defer("pong")
sent.append("ping")
for seed in range(3):
    threading.Thread(target=send, args=(seed,)).start()
flowing.wait()
"""


@pytest.mark.parametrize(("how", "status"), [("", 0), ("raise SystemExit(3)", 3)])
def test_the_interpreter_ends_while_letters_flow(how: str, status: int) -> None:
    done = run_python(FLOWING + how)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == ["refused"] * 3 + ["True True"], done.stderr
    assert "Exception in thread" not in done.stderr
