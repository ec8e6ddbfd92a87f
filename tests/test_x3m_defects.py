"""The known defects of X3m System's aggregate registry, where this one comes from."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
from pykka import messages

from pykka_registry import AggregateMixin, AggregateRegistry, KeyAlreadyRegistered, RegistryRef
from tests.support import PATIENCE, Counting, Gate, join, start_thread


def test_1_asking_whether_a_key_is_there_ends_nothing(counters: RegistryRef[Counting]) -> None:
    """There `has_key?` reads a field that is never set, and takes the whole registry down."""
    ref = counters.get_or_start("a")
    assert "a" in counters
    assert "b" not in counters
    assert counters.is_alive()
    assert ref.is_alive()


def test_2_a_start_on_a_taken_key_leaks_no_actor(counters: RegistryRef[Counting]) -> None:
    """There the child has been started by the time the key turns out to be taken."""
    ref = counters.start_new("a")
    threads = threading.active_count()
    for _ in range(10):
        with pytest.raises(KeyAlreadyRegistered):
            counters.start_new("a")
    assert threading.active_count() == threads
    assert pykka.ActorRegistry.get_by_class(Counting) == [ref]


def test_5_a_slow_load_delays_no_other_key() -> None:
    """There the facade loads events in its own call: one slow load makes a live key wait."""
    gate = Gate()

    class Loading(AggregateMixin, pykka.ThreadingActor):
        def __init__(self) -> None:
            super().__init__()
            if self.key == "slow constructor":
                gate.pass_through()

        def on_start(self) -> None:
            if self.key == "slow load":
                gate.pass_through()

        def hello(self) -> Any:
            return self.key

    for slow in ("slow constructor", "slow load"):
        gate = Gate()
        with AggregateRegistry.start(Loading) as registry:
            thread = start_thread(lambda slow=slow, r=registry: r.get_or_start(slow))  # type: ignore[misc]
            gate.wait_until_reached()
            assert registry.get_or_start("quick").proxy().hello().get() == "quick"
            assert registry.proxy().get("quick").get() is registry["quick"]
            assert slow not in registry
            gate.open()
            join(thread)
            assert slow in registry


def test_6_a_load_that_fails_serves_no_command() -> None:
    """There it is registered before it is loaded: a store error leaves an empty one that serves."""
    served: list[object] = []
    gate = Gate()

    class Loading(AggregateMixin, pykka.ThreadingActor):
        def on_start(self) -> None:
            gate.pass_through()
            raise OSError("the store does not answer")

        def on_receive(self, message: Any) -> Any:
            served.append(message)

    with AggregateRegistry.start(Loading) as registry:
        future = registry.proxy().get_or_start("a").get()
        gate.wait_until_reached()
        assert registry.get("a") is None
        half_made = pykka.ActorRegistry.get_by_class(Loading)[0]
        command = half_made.ask("command", block=False)
        gate.open()
        with pytest.raises(OSError, match="the store does not answer"):
            future.get()
        with pytest.raises(pykka.ActorDeadError):
            command.get()
        assert served == []
        assert registry.get("a") is None


def test_7_unloading_loses_neither_the_running_command_nor_the_queue(
    counters: RegistryRef[Counting],
) -> None:
    """There 4 of 4 callers lose their answer."""
    gate = Gate()
    ref = counters.get_or_start("a")
    running = ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    queued = [ref.proxy().add() for _ in range(3)]
    unloaded = ref.stop(block=False)
    gate.open()
    assert running.get() is None
    assert [future.get() for future in queued] == [1, 2, 3]
    assert unloaded.get() is True


def test_8_a_callers_timeout_ends_neither_the_aggregate_nor_its_queue(
    counters: RegistryRef[Counting],
) -> None:
    """There the caller's timeout kills both."""
    gate = Gate()
    ref = counters.get_or_start("a")
    running = ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    queued = [ref.proxy().add() for _ in range(3)]
    with pytest.raises(pykka.Timeout):
        running.get(timeout=0.01)
    gate.open()
    assert [future.get() for future in queued] == [1, 2, 3]
    assert counters["a"] is ref


def test_11_a_dead_actor_is_not_returned_for_a_moment(counters: RegistryRef[Counting]) -> None:
    """There a dead pid is returned until the monitor's message is handled."""
    for i in range(200):
        ref = counters.get_or_start("a")
        if i % 2:
            assert ref.stop() is True
        else:
            ref.proxy().fail.defer(ValueError("no"))
            assert ref.actor_stopped.wait(PATIENCE)
        assert counters.get("a") is None


def test_11_no_ref_that_is_returned_was_dead_before_the_call() -> None:
    """A reader at full speed, against starts and ends of every kind."""
    done = threading.Event()
    looked = found = 0

    with AggregateRegistry.start(Counting) as registry:
        ended: list[pykka.ActorRef[Any]] = []

        def churn() -> None:
            try:
                for i in range(100):
                    ref = registry.get_or_start("a")
                    if i % 2:
                        ref.stop()
                    else:
                        ref.tell(messages.ProxyCall(("fail",), (ValueError(),), {}))
                        ref.actor_stopped.wait(PATIENCE)
                    ended.append(ref)
            finally:
                done.set()

        thread = start_thread(churn)
        while not done.is_set():
            known_dead = len(ended)
            ref = registry.get("a")
            looked += 1
            if ref is not None:
                found += 1
                assert ref not in ended[max(0, known_dead - 5) : known_dead]
        join(thread)
    assert looked > 100
    assert found > 0


def test_11_a_ref_is_alive_when_it_leaves_the_table(
    counters: RegistryRef[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes the look-up safe without a lock: first the table forgets the ref, then it dies."""
    ref = counters.get_or_start("a")
    stopping = counters._table.stopping
    alive: list[bool] = []

    def watch(incarnation: Any) -> None:
        alive.append(ref.is_alive())
        stopping(incarnation)

    monkeypatch.setattr(counters._table, "stopping", watch)
    ref.stop()
    assert alive == [True]
