"""Listeners: one end per start, in order, whatever the listener does."""

from __future__ import annotations

import functools
import queue
import threading
from collections import defaultdict
from typing import Any, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    Registered,
    RegistryRef,
    Terminated,
)
from pykka_registry._courier import Courier
from tests.support import (
    Counting,
    Gate,
    Listener,
    Runtime,
    in_threads,
    poll,
    start_thread,
    told_count,
    told_when,
    wait_for,
)


def test_each_start_has_one_end_and_they_alternate(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    counters.subscribe(listener)

    def churn(key: int) -> None:
        for i in range(50):
            ref = counters.get_or_start(key)
            if i % 2:
                ref.stop()
            else:
                ref.proxy().fail.defer(ValueError("no"))
                ref.actor_stopped.wait()

    assert in_threads([functools.partial(churn, i) for i in range(4)]) == [None] * 4
    ends = told_when(
        listener, lambda told: sum(isinstance(event, Terminated) for event in told) == 200
    )
    by_key: defaultdict[Any, list[Any]] = defaultdict(list)
    for event in ends:
        by_key[event.key].append(event)
    assert len(by_key) == 4
    for events in by_key.values():
        assert [type(event) for event in events] == [Registered, Terminated] * 50
        numbers = [event.incarnation for event in events]
        assert numbers[::2] == numbers[1::2] == sorted(set(numbers))


def test_a_listener_hears_what_happens_after_it_subscribed(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    counters.get_or_start("before").stop()
    counters.subscribe(listener)
    counters.subscribe(listener)
    ref = counters.get_or_start("a")
    assert told_count(listener, 1) == [Registered("a", 2, ref)]
    counters.unsubscribe(listener)
    counters.unsubscribe(listener)
    ref.stop()
    counters.subscribe(listener)
    other = counters.get_or_start("b")
    assert told_count(listener, 2)[1] == Registered("b", 3, other)


def test_an_event_is_told_to_those_who_had_subscribed_when_it_happened(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    """The courier is held up between an event and its telling; who comes in between hears not."""
    gate = Gate()

    class HeldUp(pykka.ActorRef[Listener]):
        def tell(self, message: Any) -> None:
            gate.pass_through()
            super().tell(message)

    first = Listener.start()
    first.__class__ = HeldUp
    counters.subscribe(first)
    ref = counters.get_or_start("a")
    gate.wait_until_reached()
    ref.stop()
    counters.subscribe(listener)
    gate.open()
    again = counters.get_or_start("a")
    assert told_count(listener, 1) == [Registered("a", 2, again)]
    assert len(told_count(first, 3)) == 3
    first.stop()


def test_a_listener_whose_inbox_is_full_holds_up_no_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full(pykka.ThreadingActor):
        @staticmethod
        def _create_actor_inbox() -> Any:
            return cast("Any", queue.Queue)(maxsize=1)

        def on_receive(self, message: Any) -> None:
            gate.pass_through()

    gate = Gate()
    registry = AggregateRegistry.start(Counting, drain_timeout=0.5)
    full = Full.start()
    registry.subscribe(full)
    ref = registry.get_or_start("a")
    gate.wait_until_reached()
    ref.stop()
    registry.get_or_start("b")
    assert registry.get_or_start("c").proxy().add(1).get() == 1
    assert registry.drain() == []
    assert not registry.is_alive()
    assert "ends with a listener that blocks" in caplog.text
    gate.open()
    full.stop()


def test_a_dead_listener_is_dropped(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    dead = Listener.start()
    counters.subscribe(dead)
    counters.subscribe(listener)
    dead.stop()
    counters.get_or_start("a").stop()
    assert len(told_count(listener, 2)) == 2
    assert counters._table.courier.listeners == (listener,)


def test_a_failing_listener_disturbs_nobody(
    counters: RegistryRef[Counting],
    listener: pykka.ActorRef[Listener],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FullRef(pykka.ActorRef[Listener]):
        def tell(self, message: Any) -> None:
            raise RuntimeError("inbox is full")

    failing = Listener.start()
    failing.__class__ = FullRef
    counters.subscribe(failing)
    counters.subscribe(listener)
    ref = counters.get_or_start("a")
    assert told_count(listener, 1) == [Registered("a", 1, ref)]
    assert "inbox is full" in caplog.text
    assert counters.is_alive()
    failing.stop()


def test_a_slow_listener_disturbs_nobody(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    gate = Gate()

    class Slow(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> None:
            gate.pass_through()

    slow = Slow.start()
    counters.subscribe(slow)
    counters.subscribe(listener)
    refs = [counters.get_or_start(key) for key in range(10)]
    gate.wait_until_reached()
    for ref in refs:
        ref.stop()
    assert len(told_count(listener, 20)) == 20
    gate.open()
    slow.stop()


def test_subscribing_works_as_a_message(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    counters.proxy().subscribe(listener).get()
    ref = counters.get_or_start("a")
    assert told_count(listener, 1) == [Registered("a", 1, ref)]
    counters.proxy().unsubscribe(listener).get()
    assert counters._table.courier.listeners == ()


def test_shutdown_tells_every_end_before_it_is_over(listener: pykka.ActorRef[Listener]) -> None:
    registry = AggregateRegistry.start(Counting)
    registry.subscribe(listener)
    for key in range(20):
        registry.get_or_start(key)
    registry.stop()
    told = listener.proxy().told.get()
    ends = [event for event in told if isinstance(event, Terminated)]
    assert sorted(event.key for event in ends) == list(range(20))
    assert {event.reason for event in ends} == {EndReason.DRAINED}


def test_a_listener_may_use_the_registry(counters: RegistryRef[Counting]) -> None:
    """When `Terminated` arrives the key is free or about to be: a start succeeds."""
    restarted = threading.Event()

    class Restarter(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> None:
            if isinstance(message, Terminated) and message.incarnation < 20:
                counters.start_new(message.key)
            elif isinstance(message, Terminated):
                restarted.set()
            else:
                message.ref.stop(block=False)

    restarter = Restarter.start()
    counters.subscribe(restarter)
    counters.start_new("a")
    wait_for(restarted)
    counters.unsubscribe(restarter)
    restarter.stop()


def test_an_abandoned_one_has_one_end(listener: pykka.ActorRef[Listener]) -> None:
    gate = Gate()

    class Stuck(AggregateMixin, Runtime):
        def wait_at(self) -> None:
            gate.pass_through()

    registry = AggregateRegistry.start(Stuck)
    registry.subscribe(listener)
    ref = registry.get_or_start("a")
    ref.proxy().wait_at()
    gate.wait_until_reached()
    assert registry.drain(timeout=0.01) == ["a"]
    gate.open()
    ended = start_thread(ref.actor_stopped.wait)
    ended.join()
    assert listener.proxy().told.get() == [
        Registered("a", 1, ref),
        Terminated("a", 1, EndReason.ABANDONED),
    ]


@pytest.fixture
def no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system grant no thread to any courier."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.endswith("-courier"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_courier")
def test_a_registry_whose_courier_gets_no_thread_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="can't start new thread"):
        AggregateRegistry.start(Counting, on_dead_letter=print)


@pytest.mark.usefixtures("no_courier")
def test_who_subscribes_when_the_courier_gets_no_thread_is_told_and_not_listed(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    with pytest.raises(RuntimeError, match="can't start new thread"):
        counters.subscribe(listener)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        counters.proxy().subscribe(listener).get()
    assert counters._table.courier.listeners == ()
    assert counters.ref("a").call(Counting.add) == 1
    assert counters.drain() == []


def test_the_courier_of_a_registry_that_fails_to_start_ends() -> None:
    class Unborn(AggregateRegistry):
        def __init__(self, table: Any = None) -> None:
            super().__init__(table)
            raise OSError("unborn")

    with pytest.raises(OSError, match="unborn"):
        Unborn.start(Counting, name="unborn", on_dead_letter=print)
    poll(lambda: "unborn-courier" not in {thread.name for thread in threading.enumerate()})


def test_a_courier_that_has_ended_takes_nothing_and_starts_no_more() -> None:
    courier = Courier("courier")
    assert courier.finish(timeout=0) is True
    listener = Listener.start()
    courier.post(Terminated("a", 1, EndReason.STOPPED), (listener,))
    courier.start()
    assert courier._thread is None
    assert listener.proxy().told.get() == []
    listener.stop()
