"""The registry's end: everything ends with it, in parallel, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    Quarantined,
    Registered,
    RegistryRef,
    RegistryStopped,
    Terminated,
    WaitCycle,
    _waits,
)
from pykka_registry._table import Table
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    in_threads,
    join,
    start_thread,
    told_when,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry._inbox import Inbox


def test_leaving_the_with_block_stops_everything() -> None:
    before = set(threading.enumerate())
    with AggregateRegistry.start(Counting) as registry:
        refs = [registry.get_or_start(key) for key in range(20)]
    assert not registry.is_alive()
    assert not any(ref.is_alive() for ref in refs)
    assert set(threading.enumerate()) == before
    assert len(registry) == 0
    assert not registry._table._entries
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.parametrize("call", ["stop", "drain"])
def test_when_a_shutdown_returns_no_thread_is_left(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads linger between their last word to the table and their end."""
    leave = Table.leave
    returned = threading.Event()

    def leave_slowly(table: Table) -> None:
        leave(table)
        if threading.current_thread().name.startswith("Counting"):
            returned.wait(0.2)  # a shutdown that waits for the threads has to wait this long

    monkeypatch.setattr(Table, "leave", leave_slowly)
    before = set(threading.enumerate())
    registry = AggregateRegistry.start(Counting)
    for key in range(5):
        registry.get_or_start(key)
    getattr(registry, call)()
    left = set(threading.enumerate()) - before
    returned.set()
    assert left == set()


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

    class Meeting(AggregateMixin, pykka.ThreadingActor):
        def on_stop(self) -> None:
            everybody_stops.wait(PATIENCE)  # passes only if all ten are in here at once

    with AggregateRegistry.start(Meeting) as registry:
        for key in range(10):
            registry.get_or_start(key)
    assert not everybody_stops.broken


def test_an_activation_that_was_under_way_is_stopped_when_it_ends() -> None:
    gate = Gate()
    hooks: list[str] = []

    class Slow(AggregateMixin, pykka.ThreadingActor):
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

    class SlowToStop(AggregateMixin, pykka.ThreadingActor):
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


class Stuck(AggregateMixin, pykka.ThreadingActor):
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
    assert "registry 'accounts' abandons 1 aggregates that did not end in time: 'stuck'" in (
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
    assert registry._table._quarantined == 0
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
    assert table.abandon() == []
    for call in (registry.get_or_start, registry.start_new):
        with pytest.raises(Quarantined) as raised:
            call("stuck")
        assert raised.value.key == "stuck"
        assert "did not end in time" in str(raised.value)
    assert registry.get("stuck") is None
    gate.open()
    ref.stop()
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
    assert len(stops) == 4
    actors: list[pykka.ActorRef[Any]] = [*refs, registry]
    for actor in actors:
        assert actor.actor_stopped.wait(PATIENCE)
    registry.stop()


def test_stop_all_inside_a_handler_is_refused_instead_of_hanging(
    counters: RegistryRef[Counting],
) -> None:
    proxy = counters.get_or_start("a").proxy()
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

    class Hooked(AggregateMixin, pykka.ThreadingActor):
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
    before = set(threading.enumerate())

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
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("Various"):
                join(thread)
        assert table._entries == {}
        assert table.active == {}
        assert table._foreign == {}
        assert pykka.ActorRegistry.get_all() == [registry]
        assert len(set(threading.enumerate()) - before) == 1


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

class Account(AggregateMixin, pykka.ThreadingActor):
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
    for name in ("keys", "values", "items", "stop", "drain", "proxy().keys"):
        attempt(name, lambda: eval("registry." + name)())
    attempt("get", lambda: registry.get("a"))
    attempt("getitem", lambda: registry["a"])
    attempt("in", lambda: "a" in registry)
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
    assert len(refused) == 20
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
