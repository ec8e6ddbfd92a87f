"""What a registry tells of its aggregates: every end, who has come, how many there are."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pykka
import pytest
from pykka import messages

from pykka_registry import (
    AggregateMixin,
    AggregateRef,
    AggregateRegistry,
    DeadLetter,
    DeadLetterReason,
    EndReason,
    Quarantined,
    Registered,
    RegistryRef,
    RegistryStopped,
    Stats,
    Terminated,
    Undeliverable,
    WaitCycle,
    _registry,
)
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    in_threads,
    join,
    nothing_remains,
    poll,
    start_thread,
    told_when,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ADD = messages.ProxyCall(attr_path=("add",), args=(), kwargs={})
TROUBLE = ValueError("no")


class Watched(Counting):
    """Fails to start, or waits in its hooks, if its key says so."""

    gate: Gate

    def __init__(self) -> None:
        super().__init__()
        if self.key == "no constructor":
            raise TROUBLE

    def on_start(self) -> None:
        super().on_start()
        if self.key == "no start":
            raise TROUBLE
        if self.key in {"slow start", "slow and no start"}:
            Watched.gate.pass_through()
        if self.key == "slow and no start":
            raise TROUBLE

    def on_stop(self) -> None:
        if self.key == "slow stop":
            Watched.gate.pass_through()

    def on_failure(self, *_exc_info: Any) -> None:
        if self.key == "slow stop":
            Watched.gate.pass_through()

    def stop_myself(self) -> None:
        self.stop()


@pytest.fixture(autouse=True)
def gate() -> Gate:
    Watched.gate = Gate()
    return Watched.gate


def ends(listener: pykka.ActorRef[Listener], count: int) -> list[Terminated]:
    """Wait for so many ends, and return them."""
    told = told_when(
        listener, lambda told: sum(isinstance(event, Terminated) for event in told) >= count
    )
    return [event for event in told if isinstance(event, Terminated)]


# Every end is seen.


def stop_by_address(registry: RegistryRef[Watched]) -> None:
    registry.get_or_start("a")
    assert registry.ref("a").stop() is True


def stop_by_plain_ref(registry: RegistryRef[Watched]) -> None:
    assert registry.get_or_start("a").stop() is True


def stop_itself(registry: RegistryRef[Watched]) -> None:
    registry.ref("a").call(Watched.stop_myself)


def set_its_flag(registry: RegistryRef[Watched]) -> None:
    registry.get_or_start("a").actor_stopped.set()


def be_used(registry: RegistryRef[Watched]) -> None:
    assert registry.ref("a").call(Watched.add) == 1


def passivate(registry: RegistryRef[Watched]) -> None:
    registry.ref("a").call(Watched.passivate, 0)


def need_a_place(registry: RegistryRef[Watched]) -> None:
    registry.ref("a").call(Watched.add)
    registry.ref("b").call(Watched.add)


def fail_by_address(registry: RegistryRef[Watched]) -> None:
    registry.ref("a").proxy().fail.defer(TROUBLE)


def fail_by_plain_ref(registry: RegistryRef[Watched]) -> None:
    registry.get_or_start("a").proxy().fail.defer(TROUBLE)


def fail_to_construct(registry: RegistryRef[Watched]) -> None:
    with pytest.raises(ValueError, match="no"):
        registry.get_or_start("no constructor")


def fail_to_start(registry: RegistryRef[Watched]) -> None:
    registry.ref("no start").submit(Watched.add)


def drain(registry: RegistryRef[Watched]) -> None:
    registry.get_or_start("a")
    assert registry.drain() == []


def start_too_slowly(registry: RegistryRef[Watched]) -> None:
    with pytest.raises(Quarantined):
        registry.get_or_start("slow start", timeout=PATIENCE)  # with a timeout nobody helps


def stop_too_slowly(registry: RegistryRef[Watched]) -> None:
    registry.get_or_start("slow stop").stop(block=False)


def unregister(registry: RegistryRef[Watched]) -> None:
    foreign = pykka.ThreadingActor.start()
    registry.register("a", foreign)
    assert registry.unregister("a", foreign) is True
    foreign.stop()


def die_unseen(registry: RegistryRef[Watched]) -> None:
    foreign = pykka.ThreadingActor.start()
    registry.register("a", foreign)
    foreign.stop()


HOWS: list[tuple[Callable[[RegistryRef[Watched]], None], dict[str, Any], EndReason, bool]] = [
    (stop_by_address, {}, EndReason.STOPPED, False),
    (stop_by_plain_ref, {}, EndReason.STOPPED, False),
    (stop_itself, {}, EndReason.STOPPED, False),
    (set_its_flag, {}, EndReason.STOPPED, False),
    (be_used, {"idle": 0}, EndReason.IDLE, False),
    (passivate, {}, EndReason.OWN_WORD, False),
    (passivate, {"idle": 3600}, EndReason.OWN_WORD, False),
    (need_a_place, {"max_live": 1}, EndReason.EVICTED, False),
    (fail_by_address, {}, EndReason.FAILED, True),
    (fail_by_address, {"max_failures": 0}, EndReason.FAILED, True),
    (fail_by_plain_ref, {}, EndReason.FAILED, True),
    (fail_to_construct, {}, EndReason.START_FAILED, True),
    (fail_to_start, {}, EndReason.START_FAILED, True),
    (drain, {}, EndReason.DRAINED, False),
    (start_too_slowly, {"start_timeout": 0.1}, EndReason.ABANDONED, False),
    (stop_too_slowly, {"stop_timeout": 0.1}, EndReason.ABANDONED, False),
    (unregister, {}, EndReason.UNREGISTERED, False),
    (die_unseen, {}, EndReason.UNKNOWN, False),
]


@pytest.mark.parametrize(
    ("how", "policies", "reason", "caused"), HOWS, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_end_is_told_once_with_its_reason_and_its_cause(
    *,
    how: Callable[[RegistryRef[Watched]], None],
    policies: dict[str, Any],
    reason: EndReason,
    caused: bool,
    listener: pykka.ActorRef[Listener],
    gate: Gate,
) -> None:
    registry = AggregateRegistry.start(Watched, **policies)
    registry.subscribe(listener)
    how(registry)
    end = ends(listener, 1)[0]
    assert (end.incarnation, end.reason) == (1, reason)
    assert end.cause is (TROUBLE if caused else None)
    assert registry.stats().ends == {reason: 1}
    if reason is EndReason.ABANDONED:  # its late end is told to nobody
        gate.open()
        poll(lambda: registry.stats().quarantined == 0)
    registry.drain()
    everything = listener.proxy().told.get()
    assert [event.incarnation for event in everything if isinstance(event, Terminated)] == (
        [1, 2] if reason is EndReason.EVICTED else [1]
    )
    begun = reason is not EndReason.START_FAILED and how is not start_too_slowly
    assert isinstance(everything[0], Registered) is begun


def test_a_system_exit_is_a_failure_with_that_cause(listener: pykka.ActorRef[Listener]) -> None:
    """It stops every actor, the listener included, so the one that notes it here is no actor."""
    registry = AggregateRegistry.start(Watched)
    ending = SystemExit(3)
    future = registry.ref("a").submit(Watched.fail, ending)
    with pytest.raises(Undeliverable) as raised:
        future.get(timeout=PATIENCE)
    assert raised.value.__cause__ is ending
    assert registry.actor_stopped.wait(PATIENCE)
    assert registry.stats().ends == {EndReason.FAILED: 1}
    registry.drain()


def test_which_reasons_are_passivations() -> None:
    assert {reason for reason in EndReason if reason.is_passivation} == {
        EndReason.IDLE,
        EndReason.OWN_WORD,
        EndReason.EVICTED,
    }
    assert len(EndReason) == 10


def test_events_of_one_cause_compare_by_what_they_tell() -> None:
    assert Terminated("a", 1, EndReason.FAILED, TROUBLE) == Terminated("a", 1, EndReason.FAILED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Terminated("a", 1, EndReason.FAILED).key = "b"  # type: ignore[misc]  # that is the test


def test_failures_and_retirements_of_many_keys_are_all_told(
    listener: pykka.ActorRef[Listener],
) -> None:
    with AggregateRegistry.start(Watched, idle=0, backoff=(0, 0), max_failures=10**6) as registry:
        registry.subscribe(listener)

        def churn(key: int) -> int:
            for i in range(20):
                if i % 2:
                    registry.ref(key).tell(ADD)
                else:
                    registry.ref(key).proxy().fail.defer(TROUBLE)
            return 20

        assert in_threads([lambda k=k: churn(k) for k in range(8)]) == [20] * 8  # type: ignore[misc]
    told = listener.proxy().told.get()
    begun = [event.incarnation for event in told if isinstance(event, Registered)]
    ended = [event for event in told if isinstance(event, Terminated)]
    assert sorted(begun) == sorted(event.incarnation for event in ended)
    assert len(set(begun)) == len(begun) >= 80
    assert sum(event.reason is EndReason.FAILED for event in ended) == 80
    assert all((event.cause is TROUBLE) is (event.reason is EndReason.FAILED) for event in ended)


# wait_for.


@pytest.mark.parametrize("by", ["get_or_start", "tell", "start", "register", "message"])
def test_wait_for_returns_when_somebody_has_made_the_key_active(by: str) -> None:
    foreign = pykka.ThreadingActor.start()
    with AggregateRegistry.start(Watched) as registry:
        future = registry.proxy().wait_for("a").get()
        results: list[Any] = []
        threads = [
            start_thread(lambda: results.append(registry.wait_for("a", timeout=PATIENCE)))
            for _ in range(3)
        ]
        poll(lambda: len(registry._table._watchers.get("a", ())) == 4)
        another = registry.proxy().wait_for("b").get()
        if by == "get_or_start":
            registry.get_or_start("a")
        elif by == "tell":
            registry.ref("a").tell(ADD)
        elif by == "start":
            Watched.start(registry, "a")
        elif by == "register":
            registry.register("a", foreign)
        else:
            registry.proxy().get_or_start("a").get()
        ref = future.get(timeout=PATIENCE)
        for thread in threads:
            join(thread)
        assert ref is registry["a"]
        assert results == [ref] * 3
        with pytest.raises(pykka.Timeout):
            another.get(timeout=0.001)
        assert registry.wait_for("a") is ref
    foreign.stop()


def test_wait_for_starts_nothing_and_gives_up_after_its_timeout() -> None:
    with AggregateRegistry.start(Watched) as registry:
        for timeout in (0, -1, 0.01):
            with pytest.raises(pykka.Timeout, match="key 'a' did not become active within"):
                registry.wait_for("a", timeout=timeout)
        assert registry.stats().activations == 0
        assert nothing_remains(registry)
        with pytest.raises(TypeError, match="a key must be hashable"):
            registry.wait_for(cast("Any", []))
        with pytest.raises(TypeError, match="must be a number of seconds"):
            registry.wait_for("a", timeout="1")  # type: ignore[arg-type]  # that is the test


def test_wait_for_waits_for_the_end_of_on_start(gate: Gate) -> None:
    with AggregateRegistry.start(Watched) as registry:
        starting = registry.proxy().get_or_start("slow start").get()
        gate.wait_until_reached()
        with pytest.raises(pykka.Timeout):
            registry.wait_for("slow start", timeout=0.01)
        waiting = registry.proxy().wait_for("slow start").get()
        gate.open()
        assert waiting.get(timeout=PATIENCE) is starting.get(timeout=PATIENCE)


def test_wait_for_does_not_return_one_that_ends_and_waits_for_the_next(gate: Gate) -> None:
    with AggregateRegistry.start(Watched) as registry:
        first = registry.get_or_start("slow stop")
        first.stop(block=False)
        gate.wait_until_reached()
        waiting = registry.proxy().wait_for("slow stop").get()
        registry.ref("slow stop").tell(ADD)
        assert not waiting.done()
        gate.open()
        assert waiting.get(timeout=PATIENCE) is not first


def test_wait_for_waits_through_failed_starts_and_quarantine(gate: Gate) -> None:
    with AggregateRegistry.start(Watched, max_failures=0, quarantine=None) as registry:
        registry.get_or_start("a")
        registry.ref("a").proxy().fail.defer(TROUBLE)
        poll(lambda: registry.stats().quarantined == 1)
        waiting = registry.proxy().wait_for("a").get()
        assert not waiting.done()
        assert registry.release("a") is True
        assert not waiting.done()
        ref = registry.get_or_start("a")
        assert waiting.get(timeout=PATIENCE) is ref


def test_wait_for_finds_foreign_actors_and_no_dead_ones() -> None:
    first, second = pykka.ThreadingActor.start(), pykka.ThreadingActor.start()
    with AggregateRegistry.start() as registry:
        registry.register("a", first)
        assert registry.wait_for("a") is first
        first.stop()
        with pytest.raises(pykka.Timeout):
            registry.wait_for("a", timeout=0.01)
        waiting = registry.proxy().wait_for("a").get()
        registry.register("a", second)
        assert waiting.get(timeout=PATIENCE) is second
    second.stop()


def test_who_waits_when_the_registry_stops_is_told() -> None:
    registry = AggregateRegistry.start(Watched)
    results: list[BaseException] = []

    def wait() -> None:
        try:
            registry.wait_for("a", timeout=PATIENCE)
        except RegistryStopped as error:
            results.append(error)

    thread = start_thread(wait)
    future = registry.proxy().wait_for("b").get()
    inside = registry.ref("c").submit(Counting.run, lambda: registry.wait_for("d"))
    poll(lambda: len(registry._table._watchers) == 3)
    assert registry.drain() == []
    join(thread)
    assert len(results) == 1
    for failed in (future, inside):
        with pytest.raises(RegistryStopped):
            failed.get(timeout=PATIENCE)
    with pytest.raises(RegistryStopped):
        registry.wait_for("a", timeout=0)
    assert nothing_remains(registry)


def test_an_aggregate_may_wait_for_another() -> None:
    with AggregateRegistry.start(Watched) as registry:
        waiting = registry.ref("a").submit(
            Counting.run, lambda: registry.wait_for("b", timeout=PATIENCE)
        )
        poll(lambda: registry._table._watchers)
        ref = registry.get_or_start("b")
        assert waiting.get(timeout=PATIENCE) is ref
        assert registry.ref("a").call(Counting.run, registry.wait_for, "a") is registry["a"]


@pytest.mark.parametrize("where", ["on_start", "on_stop"])
def test_an_aggregate_that_would_wait_for_itself_is_refused(where: str) -> None:
    class Selfish(Counting):
        def on_start(self) -> None:
            super().on_start()
            self.look("on_start")

        def on_stop(self) -> None:
            self.look("on_stop")

        def look(self, here: str) -> None:
            if here == where:
                try:
                    self.registry.wait_for(self.key, timeout=1)
                except (WaitCycle, pykka.Timeout) as error:
                    raised.append(error)

    raised: list[BaseException] = []
    with AggregateRegistry.start(Selfish) as registry:
        registry.get_or_start("a").stop()
    assert [type(error) for error in raised] == [WaitCycle]


def test_waiting_leaves_nothing_behind() -> None:
    with AggregateRegistry.start(Watched) as registry:

        def wait(i: int) -> bool:
            try:
                registry.wait_for(i % 3, timeout=0 if i % 2 else PATIENCE)
            except pykka.Timeout:
                return False
            return True

        def start() -> bool:
            poll(lambda: registry._table._watchers.keys() >= {0, 1, 2})
            refs = [registry.get_or_start(key) for key in range(3)]
            return all(ref.is_alive() for ref in refs)

        waits: list[Callable[[], bool]] = [functools.partial(wait, i) for i in range(30)]
        results = in_threads([start, *waits])
        assert sum(result is True for result in results) >= 16
        assert not registry._table._watchers


# Statistics.


def test_at_first_all_is_zero_and_no_number_can_be_changed() -> None:
    with AggregateRegistry.start(Watched) as registry:
        stats = registry.stats()
        assert stats == Stats(
            active=0,
            live=0,
            waiting=0,
            starting=0,
            stopping=0,
            backoff=0,
            quarantined=0,
            queued=0,
            activations=0,
            ends={},
            declined=0,
            redelivered=0,
            expired=0,
            dead_letters={},
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.live = 1  # type: ignore[misc]  # that is the test
        with pytest.raises(TypeError):
            stats.ends[EndReason.IDLE] = 1  # type: ignore[index]  # that is the test
        with pytest.raises(TypeError):
            stats.dead_letters[DeadLetterReason.ENDED] = 1  # type: ignore[index]  # the same
        registry.get_or_start("a").stop()
        assert stats.ends == {}
        assert registry.stats().ends == {EndReason.STOPPED: 1}


def states(registry: RegistryRef[Any]) -> dict[str, int]:
    """Return what is not zero of what there is now."""
    stats = registry.stats()
    now = ("active", "live", "waiting", "starting", "stopping", "backoff", "quarantined", "queued")
    return {name: getattr(stats, name) for name in now if getattr(stats, name)}


def test_each_state_is_counted_while_it_lasts(gate: Gate) -> None:
    with AggregateRegistry.start(
        Watched, backoff=(1e6, 1e6), failure_window=1e7, max_failures=1, quarantine=None
    ) as registry:
        starting = registry.proxy().get_or_start("slow start").get()
        gate.wait_until_reached()
        assert states(registry) == {"live": 1, "starting": 1}
        asked = registry.ref("slow start").submit(Watched.add)
        registry.ref("slow start").tell(ADD)
        assert states(registry) == {"live": 1, "starting": 1, "queued": 2}
        gate.open()
        assert asked.get(timeout=PATIENCE) == 1
        assert states(registry) == {"live": 1, "active": 1}
        starting.get().stop()
        assert states(registry) == {}

        gate = Watched.gate = Gate()
        registry.get_or_start("slow stop").stop(block=False)
        gate.wait_until_reached()
        assert states(registry) == {"live": 1, "stopping": 1}
        stopping = registry.ref("slow stop").stop(block=False)
        assert states(registry) == {"live": 1, "stopping": 1}, "a request to stop is no message"
        gate.open()
        stopping.get(timeout=PATIENCE)
        assert states(registry) == {}

        fail_to_start(registry)
        poll(lambda: registry.stats().ends.get(EndReason.START_FAILED) == 1)
        assert states(registry) == {}
        registry.ref("no start").tell(ADD)
        resting = registry.proxy().get_or_start("no start").get()
        assert states(registry) == {"backoff": 1, "queued": 1}
        registry.ref("no start").stop()
        with pytest.raises(Undeliverable):
            resting.get(timeout=PATIENCE)
        assert states(registry) == {}

        foreign = pykka.ThreadingActor.start()
        registry.register("foreign", foreign)
        assert states(registry) == {}  # it counts aggregates
        foreign.stop()
        assert registry.stats().activations == 2


def test_keys_that_wait_for_their_turn_are_counted(gate: Gate) -> None:
    with AggregateRegistry.start(Watched, max_starting=1) as registry:
        futures = [registry.proxy().get_or_start("slow start").get()]
        gate.wait_until_reached()
        futures += [registry.proxy().get_or_start(key).get() for key in range(5)]
        registry.ref("last").tell(ADD)
        assert states(registry) == {"live": 1, "starting": 1, "waiting": 6, "queued": 1}
        gate.open()
        for future in futures:
            future.get(timeout=PATIENCE)
        registry.wait_for("last", timeout=PATIENCE)
        assert states(registry) == {"live": 7, "active": 7}


def test_a_quarantined_key_is_counted_until_it_is_released() -> None:
    with AggregateRegistry.start(Watched, max_failures=0, quarantine=None) as registry:
        for key in range(3):
            registry.ref(key).proxy().fail.defer(TROUBLE)
        poll(lambda: registry.stats().quarantined == 3)
        assert states(registry) == {"quarantined": 3}
        for left in (2, 1, 0):
            registry.release(left)
            assert registry.stats().quarantined == left
        assert states(registry) == {}


def test_an_abandoned_one_is_live_and_quarantined(gate: Gate) -> None:
    with AggregateRegistry.start(Watched, start_timeout=0.1) as registry:
        start_too_slowly(registry)
        assert states(registry) == {"live": 1, "quarantined": 1}
        gate.open()
        poll(lambda: states(registry) == {})
        assert registry.stats().activations == 0


def test_what_an_incarnation_leaves_over_is_counted_when_another_gets_it(gate: Gate) -> None:
    with AggregateRegistry.start(Watched, backoff=(0, 0)) as registry:
        address = registry.ref("a")
        address.proxy().wait_at(gate)
        gate.wait_until_reached()
        address.proxy().fail.defer(TROUBLE)
        for _ in range(3):
            address.tell(ADD)
        gate.open()
        assert address.call(Watched.add) == 4
        assert registry.stats().redelivered in {3, 4}  # the last one may have come in time or not
        assert registry.stats().dead_letters == {}


def test_what_has_expired_meanwhile_is_not_counted_as_handed_on(gate: Gate) -> None:
    """Nobody gets it."""
    with AggregateRegistry.start(Watched, backoff=(0, 0)) as registry:
        address = registry.ref("slow stop")
        handler = Gate()
        address.proxy().wait_at(handler)
        handler.wait_until_reached()
        address.proxy().fail.defer(TROUBLE)

        asked: list[Any] = [address.submit(Watched.add) for _ in range(3)]
        handler.open()
        gate.wait_until_reached()  # on_failure: what was left over is in the key's queue by now
        assert registry.stats().queued == 3
        for future in asked:  # as a blocking ask does at its timeout
            assert registry._table.expire(address.key, future, 0) is not None
        assert registry.stats().expired == 3
        for _ in range(2):
            address.tell(ADD)
        gate.open()
        assert address.call(Watched.add) == 3
        assert registry.stats().redelivered == 0


def test_what_outlives_a_failed_start_is_still_counted_when_another_gets_it(gate: Gate) -> None:
    class Moody(Watched):
        def on_start(self) -> None:
            super().on_start()
            starts.append(self.key)
            if len(starts) == 2:
                raise TROUBLE

    starts: list[Any] = []
    with AggregateRegistry.start(Moody, backoff=(0, 0)) as registry:
        address = registry.ref("a")
        address.proxy().wait_at(gate)
        gate.wait_until_reached()
        address.proxy().fail.defer(TROUBLE)
        address.tell(ADD)
        address.tell(ADD)
        gate.open()
        poll(lambda: registry.stats().activations == 2)
        assert len(starts) == 3
        assert address.call(Watched.add) == 3
        assert registry.stats().redelivered == 2


def test_only_what_nobody_will_handle_counts_as_expired(gate: Gate) -> None:
    with AggregateRegistry.start(Watched) as registry:
        address = registry.ref("a")
        running = address.proxy().wait_at(gate)
        gate.wait_until_reached()
        for expected in range(1, 6):
            with pytest.raises(pykka.Timeout):
                address.ask(ADD, timeout=0.001)
            assert registry.stats().expired == expected
        with pytest.raises(pykka.Timeout):
            running.get(timeout=0.001)  # it has begun
        with pytest.raises(pykka.Timeout):
            address.submit(Watched.add).get(timeout=0.001)  # not a blocking ask
        gate.open()
        assert address.call(Watched.add) == 2
        assert registry.stats().expired == 5


def test_a_retirement_that_a_message_prevents_is_counted(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AggregateRegistry.start(Watched) as registry:
        address = registry.ref("a")

        def passivate_with_a_message_waiting() -> None:
            address.tell(ADD)

        address.call(Counting.run, passivate_with_a_message_waiting)
        assert address.call(Watched.add) == 2
        assert registry.stats().declined == 0
        rest = registry._table.rest

        def slip_in(incarnation: Any) -> EndReason | None:
            if incarnation.idle == 0 and registry.stats().declined == 0:
                address.tell(ADD)
            return rest(incarnation)

        monkeypatch.setattr(registry._table, "rest", slip_in)
        address.call(Watched.passivate)
        poll(lambda: registry.stats().ends == {EndReason.OWN_WORD: 1})
        assert registry.stats().declined == 1


class CountingKey:
    """A key that counts how often it is looked at."""

    looks = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        CountingKey.looks += 1
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        CountingKey.looks += 1
        return isinstance(other, CountingKey) and self.value == other.value


def calls_of(function: Callable[[], object]) -> int:
    """Count what Python calls while the function runs, in this thread."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_to_read_statistics_costs_the_same_at_any_size() -> None:
    """A dashboard that cost 10 to 20 % CPU while nobody looked (OrleansDashboard #130)."""
    foreign = pykka.ThreadingActor.start()
    with AggregateRegistry.start(Watched, max_failures=0, quarantine=None) as registry:
        registry.get_or_start(CountingKey(-1)).stop()
        few = calls_of(registry.stats)
        assert few > 1
        for i in range(200):
            if i % 4 == 0:
                registry.ref(CountingKey(i)).proxy().fail.defer(TROUBLE)
            elif i % 4 == 1:
                registry.register(CountingKey(i), foreign)
            else:
                registry.get_or_start(CountingKey(i))
        poll(lambda: registry.stats().quarantined == 50)
        looks = CountingKey.looks
        many = calls_of(registry.stats)
        assert CountingKey.looks == looks
        assert registry.stats().active == 100
        assert many <= few + 10  # the sums by reason have grown by a reason
    foreign.stop()


def test_statistics_hold_together_whenever_they_are_read() -> None:
    """They are taken at one moment: whoever was activated is active, stopping, or has ended."""
    with AggregateRegistry.start(Watched, idle=0, backoff=(0, 0), max_failures=10**6) as registry:
        done = threading.Event()
        read = 0

        def churn(seed: int) -> int:
            for i in range(100):
                if i % 5:
                    registry.ref((seed + i) % 7).tell(ADD)
                else:
                    registry.ref((seed + i) % 7).proxy().fail.defer(TROUBLE)
            return 100

        def look() -> int:
            nonlocal read
            while not done.is_set():
                stats = registry.stats()
                ended = sum(stats.ends.values())
                assert stats.activations == ended + stats.active + stats.stopping
                assert stats.live == stats.active + stats.stopping + stats.starting
                assert stats.quarantined == 0
                read += 1
            return 100

        def churn_all() -> int:
            try:
                results = in_threads([lambda s=s: churn(s) for s in range(4)])  # type: ignore[misc]
                assert results == [100] * 4
            finally:
                done.set()
            return 100

        assert in_threads([look, churn_all]) == [100, 100]
        assert read > 0
        poll(lambda: registry.stats().queued == 0)


# Dead letters.


def test_dead_letters_are_the_last_ones_oldest_first_and_all_are_counted(gate: Gate) -> None:
    heard: list[DeadLetter] = []
    with AggregateRegistry.start(Watched, dead_letters=3, on_dead_letter=heard.append) as registry:
        ref = registry.get_or_start("a")
        ref.proxy().wait_at(gate)
        gate.wait_until_reached()
        registry.ref("a").stop(block=False)
        for i in range(5):
            ref.tell(i)
        gate.open()
        wait_for(ref.actor_stopped)
        poll(lambda: registry.stats().dead_letters == {DeadLetterReason.ENDED: 5})
        expected = [DeadLetter("a", i, DeadLetterReason.ENDED) for i in range(5)]
        assert registry.dead_letters == expected[2:]
        assert registry.dead_letters is not registry.dead_letters
        registry.dead_letters.clear()
        assert registry.dead_letters == expected[2:]
    assert heard == expected
    assert registry.dead_letters == expected[2:]


def test_none_are_kept_if_so_wished_and_all_are_counted() -> None:
    with AggregateRegistry.start(Watched, dead_letters=0, max_failures=0) as registry:
        registry.ref("no start").tell(ADD)
        poll(lambda: registry.stats().dead_letters == {DeadLetterReason.QUARANTINED: 1})
        assert registry.dead_letters == []


def test_a_hook_that_fails_or_uses_the_registry_disturbs_nothing() -> None:
    heard: list[Any] = []

    def hook(letter: DeadLetter) -> None:
        heard.append((letter.message, registry.stats().quarantined))
        raise TROUBLE

    with AggregateRegistry.start(
        Watched, on_dead_letter=hook, max_failures=0, quarantine=None
    ) as registry:
        for key in ("no start", "no constructor"):
            registry.ref(key).tell(ADD)
        poll(lambda: len(heard) == 2)
        assert registry.ref("a").call(Watched.add) == 1
        assert registry.stats().quarantined == 2
    assert [message for message, _ in heard] == [ADD, ADD]


def test_a_hook_that_blocks_keeps_no_sender_waiting(gate: Gate) -> None:
    with AggregateRegistry.start(
        Watched, on_dead_letter=lambda _letter: gate.pass_through(), max_failures=0
    ) as registry:
        for i in range(5):
            registry.ref("no start").tell(i)
            poll(lambda i=i: registry.stats().dead_letters == {DeadLetterReason.QUARANTINED: i + 1})  # type: ignore[misc]
            assert registry.release("no start") is True
        gate.wait_until_reached()
        assert registry.ref("a").call(Watched.add) == 1
        gate.open()


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_a_hook_that_stops_the_registry_does_not_wait_for_itself(how: str) -> None:
    answers: list[object] = []

    def hook(_letter: DeadLetter) -> None:
        answers.append(registry.drain() if how == "drain" else registry.stop())

    registry = AggregateRegistry.start(
        Watched, on_dead_letter=hook, max_failures=0, drain_timeout=2 * PATIENCE
    )
    registry.ref("no start").tell("told")
    poll(lambda: answers)
    poll(lambda: not registry.is_alive())
    assert registry.drain() == []
    assert answers == [[] if how == "drain" else True]


def test_a_hook_that_blocks_holds_up_no_shutdown_for_all_of_its_time(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_registry, "_LAST_WORDS", 0.1)
    registry = AggregateRegistry.start(
        Watched, on_dead_letter=lambda _letter: gate.pass_through(), max_failures=0
    )
    registry.ref("no start").tell("told")
    gate.wait_until_reached()
    drained = start_thread(lambda: registry.drain(timeout=2 * PATIENCE))
    join(drained)
    assert "ends with a listener that blocks" in caplog.text
    gate.open()


def test_who_asked_is_told_and_makes_no_dead_letter() -> None:
    with AggregateRegistry.start(Watched, max_failures=0, quarantine=None) as registry:
        for _ in range(3):
            with pytest.raises(Undeliverable):
                registry.ref("no start").call(Watched.add)
        assert registry.dead_letters == []
        assert registry.stats().dead_letters == {}


# The same as messages.


def test_refs_waits_statistics_and_releases_work_as_messages() -> None:
    with AggregateRegistry.start(Watched, max_failures=0, quarantine=None) as registry:
        proxy = registry.proxy()
        address: AggregateRef[Watched] = proxy.ref("a").get()
        assert address == registry.ref("a")
        waiting = proxy.wait_for("a").get()
        assert not waiting.done()
        assert address.call(Watched.add) == 1
        assert waiting.get(timeout=PATIENCE) is registry["a"]
        assert proxy.wait_for("a").get().get() is registry["a"]
        assert proxy.stats().get() == registry.stats()
        assert proxy.release("a").get() is False
        address.proxy().fail.defer(TROUBLE)
        poll(lambda: registry.stats().quarantined == 1)
        with pytest.raises(Quarantined) as raised:
            proxy.get_or_start("a").get()
        assert raised.value.__cause__ is TROUBLE
        assert proxy.stats().get().quarantined == 1
        assert proxy.release("a").get() is True
        assert proxy.release("a").get() is False
        for call in (proxy.ref, proxy.wait_for, proxy.release):
            with pytest.raises(TypeError, match="a key must be hashable"):
                call([]).get()


def test_a_release_of_an_abandoned_key_is_refused_as_a_message_too(gate: Gate) -> None:
    with AggregateRegistry.start(Watched, start_timeout=0.1) as registry:
        start_too_slowly(registry)
        with pytest.raises(Quarantined) as raised:
            registry.proxy().release("slow start").get()
        assert raised.value.is_abandoned is True
        assert registry.is_alive()
        gate.open()


def test_who_waits_by_message_and_lets_go_is_forgotten() -> None:
    with AggregateRegistry.start(Watched) as registry:
        proxy = registry.proxy()
        kept = [proxy.wait_for(("kept", i)).get() for i in range(100)]
        for i in range(2_000):
            proxy.wait_for(("gone", i)).get()
            proxy.wait_for("one").get()
        assert registry.ref("one").call(Watched.add) == 1
        left = sum(map(len, registry._table._watchers.values()))
        assert left <= 3 * len(kept)
        for i, future in enumerate(kept):
            registry.ref(("kept", i)).tell(ADD)
            assert future.get(timeout=PATIENCE).is_alive()


def test_who_waits_by_message_and_gives_up_is_forgotten_with_the_registry() -> None:
    registry = AggregateRegistry.start(Watched)
    future = registry.proxy().wait_for("never").get()
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.001)
    registry.drain()
    assert nothing_remains(registry)
    with pytest.raises(RegistryStopped):
        future.get(timeout=0)


class WaitsFor(AggregateMixin, pykka.ThreadingActor):
    """Waits for "b" if it is "a", and starts "a" if it is "b"."""

    def on_start(self) -> None:
        registry = self.registry
        if self.key == "a":
            registry.wait_for("b")
        elif self.key == "b":
            registry.get_or_start("a")


def test_who_waits_for_a_key_that_was_absent_waits_for_whoever_comes_there() -> None:
    with AggregateRegistry.start(WaitsFor) as registry:
        first = registry.proxy().get_or_start("a").get()
        poll(lambda: registry._table._watchers)
        with pytest.raises(WaitCycle, match=r"'a'"):
            registry.get_or_start("b", timeout=PATIENCE)
        registry.start_new("c")
        # The next one starts nobody, so the first has what it waits for.
        WaitsFor.on_start = WaitsFor.on_stop  # type: ignore[method-assign]
        assert registry.get_or_start("b").is_alive()
        assert first.get(timeout=PATIENCE).is_alive()


def test_watchers_who_have_gone_are_looked_for_though_a_count_was_cut_short() -> None:
    with AggregateRegistry.start(Counting) as registry:
        table = registry._table
        table._watchers_purge_in = -5
        for number in range(200):
            table.watch(number)
        assert len(table._watchers) < 200
