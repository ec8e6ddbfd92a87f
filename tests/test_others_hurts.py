"""Where other registries of actors have hurt their users, by project and issue."""

from __future__ import annotations

import functools
import gc
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    KeyAlreadyRegistered,
    RegistryRef,
    Terminated,
)
from tests.support import (
    Counting,
    Gate,
    Listener,
    in_threads,
    nothing_remains,
    poll,
    told_when,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Suspended(AggregateRegistry):
    """A registry whose thread is held up by a message."""

    def on_receive(self, message: Gate) -> None:
        message.pass_through()


@pytest.fixture
def suspended() -> Generator[RegistryRef[Counting]]:
    """A registry that does nothing in its own thread until the test is over."""
    with Suspended.start(Counting) as registry:
        gate = Gate()
        registry.tell(gate)
        gate.wait_until_reached()
        yield registry
        gate.open()


def looked_up(registry: RegistryRef[Any], key: object) -> list[object]:
    """Return what each way of looking up finds of a key."""
    return [
        registry.get(key),
        key in registry,
        [registry[key] for found in registry if found == key],
        key in registry.keys(),  # noqa: SIM118  # a call of its own
        dict(registry.items()).get(key),
        len(registry) - len(registry.values()),
    ]


@pytest.mark.parametrize("how", ["stop", "failure", "passivation", "foreign"])
def test_elixir_lookup_gen_registry_15_horde_127_no_look_up_returns_a_dead_actor(
    how: str, suspended: RegistryRef[Counting]
) -> None:
    """There a dead process is found until the registry's process has heard of its end."""
    ref: pykka.ActorRef[Any]
    if how == "foreign":
        ref = pykka.ThreadingActor.start()
        suspended.register("a", ref)
    else:
        ref = suspended.get_or_start("a")
    assert looked_up(suspended, "a") == [ref, True, [ref], True, ref, 0]
    if how == "failure":
        suspended.ref("a").proxy().fail.defer(ValueError("no"))
    elif how == "passivation":
        suspended.ref("a").call(Counting.passivate)
    else:
        ref.stop()
    poll(ref.actor_stopped.is_set)
    assert looked_up(suspended, "a") == [None, False, [], False, None, 0]


@pytest.mark.parametrize("how", ["tell", "on_start", "constructor", "SystemExit"])
def test_elixir_listeners_hear_of_crashes(how: str, listener: pykka.ActorRef[Listener]) -> None:
    """There they hear of registrations, and of those ends only that somebody has asked for."""
    error: BaseException = SystemExit() if how == "SystemExit" else OSError("no")

    class Crashing(AggregateMixin, pykka.ThreadingActor):
        def __init__(self) -> None:
            super().__init__()
            if how == "constructor":
                raise error

        def on_start(self) -> None:
            if how == "on_start":
                raise error

        def on_receive(self, message: Any) -> None:
            raise error

    registry = AggregateRegistry.start(Crashing, max_failures=0)
    registry.subscribe(listener)
    registry.ref("a").tell("crash")
    event = Terminated("a", 1, EndReason.FAILED, error)
    if how in {"on_start", "constructor"}:
        event = Terminated("a", 1, EndReason.START_FAILED, error)
    if how == "SystemExit":  # it stops the listener, too, which may not have heard by then
        poll(lambda: not listener.is_alive())
        assert registry._table._ends[EndReason.FAILED] == 1
    else:
        told = told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
        assert [e for e in told if isinstance(e, Terminated)] == [event]
        assert next(e.cause for e in told if isinstance(e, Terminated)) is error
    registry.stop()


def test_elixir_8611_refused_registrations_leave_no_rows(counters: RegistryRef[Counting]) -> None:
    """There each refusal leaves a row that is never taken out."""
    foreign, other = pykka.ThreadingActor.start(), pykka.ThreadingActor.start()
    counters.register("foreign", foreign)
    counters.get_or_start("a")
    table = counters._table

    def size() -> tuple[int, ...]:
        alarms = sum(len(bucket) for bucket in table._alarms._buckets.values())
        return len(table._entries), len(table.foreign._rows), len(table._watchers), alarms

    before = size()
    refused: list[Callable[[], object]] = [
        lambda: counters.start_new("a"),
        lambda: counters.register("a", other),
        lambda: counters.register("foreign", other),
        lambda: counters.get_or_start("foreign") and counters.start_new("foreign"),
        lambda: counters.ref("foreign").ask("x"),
    ]
    for call in refused * 20:
        with pytest.raises(KeyAlreadyRegistered):
            call()
    assert size() == before
    assert counters.ref("a").stop() is True
    assert counters.unregister("foreign", foreign) is True
    assert nothing_remains(counters)
    foreign.stop()
    other.stop()


@pytest.mark.parametrize("how", ["start", "start_new", "get_or_start", "register", "a message"])
def test_horde_267_a_look_up_right_after_a_registration_finds_it(
    how: str, counters: RegistryRef[Counting]
) -> None:
    """There it finds nothing for a while."""
    for key in range(50):
        ref: pykka.ActorRef[Any]
        if how == "start":
            ref = Counting.start(counters, key)
        elif how == "register":
            ref = pykka.ThreadingActor.start()
            counters.register(key, ref)
        elif how == "a message":
            urn = counters.ref(key).call(Counting.whoami)[1]
            ref = counters[key]
            assert ref.actor_urn == urn
        else:
            ref = getattr(counters, how)(key)
        looks = in_threads([functools.partial(counters.get, key)] * 2)
        assert [*looks, counters.get(key)] == [ref] * 3
        ref.stop()


def is_gone(registry: RegistryRef[Any], key: object) -> bool:
    """Tell whether the key's aggregate stops, or has stopped."""
    return key not in registry


@pytest.mark.parametrize("predecessor", [False, True])
def test_horde_250_of_racers_one_wins(
    *, predecessor: bool, counters: RegistryRef[Counting]
) -> None:
    """There both may lose: each sees the other and gives way."""
    racers = 4
    for key in range(25):
        if predecessor:
            counters.get_or_start(key).stop(block=False)
            poll(functools.partial(is_gone, counters, key))
        outcomes = in_threads([functools.partial(counters.start_new, key)] * racers)
        winners = [ref for ref in outcomes if isinstance(ref, pykka.ActorRef)]
        losers = [error for error in outcomes if isinstance(error, KeyAlreadyRegistered)]
        assert (len(winners), len(losers)) == (1, racers - 1), outcomes
        assert counters[key] is winners[0]


def test_swarm_136_no_tracker_is_on_the_hot_path(suspended: RegistryRef[Counting]) -> None:
    """There one process tracks all names, and everybody stands in line for it."""
    ref = suspended.start_new("a")
    assert suspended["a"] is suspended.get_or_start("a") is ref
    assert suspended.ref("a").call(Counting.add) == 1
    assert suspended.ref("b").ask(None) is None
    assert suspended.ref("c").submit(Counting.add).get() == 1
    assert sorted(suspended) == ["a", "b", "c"]
    assert ref.stop() is True
    assert suspended.get_or_start("a") is not ref
    foreign = pykka.ThreadingActor.start()
    suspended.register("foreign", foreign)
    assert suspended.unregister("foreign", foreign) is True
    foreign.stop()
    assert suspended.stats().activations == 4


def test_akka_net_8501_nothing_is_dropped_silently_when_incarnations_change() -> None:
    """There messages that come while a shard is handed over are dropped without a word."""
    handled: Counter[tuple[int, int]] = Counter()
    most = 100

    class Passing(Counting):
        def on_receive(self, message: tuple[int, int]) -> None:
            handled[message] += 1
            if message[1] % 3 == 0:
                self.passivate()

    with AggregateRegistry.start(Passing, max_live=2) as registry:

        def send(sender: int) -> None:
            for i in range(most):
                registry.ref(i % 3).tell((sender, i))

        assert in_threads([functools.partial(send, sender) for sender in range(3)]) == [None] * 3
        poll(lambda: handled.total() >= 3 * most)
        stats = registry.stats()
        assert stats.dead_letters == {}
        assert sum(stats.ends.values()) > 0
    assert handled == Counter((sender, i) for sender in range(3) for i in range(most))


def test_orleans_370_memory_has_a_limit() -> None:
    """There idle activations are collected by age only, however many there are."""
    instances: list[weakref.ref[Any]] = []

    class Large(Counting):
        def on_start(self) -> None:
            super().on_start()
            self.content = bytearray(100_000)
            instances.append(weakref.ref(self))

    most = 5
    with AggregateRegistry.start(Large, max_live=most) as registry:
        for key in range(40):
            assert registry.ref(key).call(Large.add) == 1
            assert registry.stats().live <= most
        gc.collect()
        poll(lambda: sum(instance() is not None for instance in instances) <= most)
    assert len(instances) == 40


def test_commanded_551_a_load_that_eats_the_timeout_of_a_message_is_not_in_vain() -> None:
    """There the command fails, the load is thrown away, and so the next one fails as well.

    Here, too, a timeout is for everything that comes before the answer. What it ends is the
    message: no handler will run it. The load goes on, and the next message finds it done.
    """
    gate = Gate()
    handled: list[str] = []

    class Loading(AggregateMixin, pykka.ThreadingActor):
        def on_start(self) -> None:
            gate.pass_through()

        def on_receive(self, message: str) -> str:
            handled.append(message)
            return message

    with AggregateRegistry.start(Loading) as registry:
        address = registry.ref("a")
        for _ in range(2):
            with pytest.raises(pykka.Timeout, match=r"'a' did not answer .* message has expired$"):
                address.ask("in a hurry", timeout=0.01)
        gate.wait_until_reached()
        with pytest.raises(pykka.Timeout):
            address.using(timeout=0.01).call(Loading.on_receive, "in a hurry")
        patient = address.ask("patient", block=False)
        gate.open()
        assert patient.get() == "patient"
        assert address.ask("in time", timeout=60) == "in time"
        assert handled == ["patient", "in time"]
        stats = registry.stats()
        assert (stats.activations, stats.expired) == (1, 3)
