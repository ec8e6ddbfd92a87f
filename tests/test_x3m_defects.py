"""The known defects of X3m System's aggregate registry, where this one comes from."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
from pykka import messages

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    KeyAlreadyRegistered,
    RegistryRef,
    Undeliverable,
)
from pykka_registry._inbox import Letter
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Runtime,
    actors_of,
    join,
    nothing_remains,
    start_thread,
    threads_but_the_pools,
)
from tests.test_passivation import (
    ADD,
    IDLE,
    LATE,
    Clock,
    Worded,
    poll,
    slip_in_before_it_closes,
    wait_until_asleep,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


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
    threads = len(threads_but_the_pools())
    for _ in range(10):
        with pytest.raises(KeyAlreadyRegistered):
            counters.start_new("a")
    assert len(threads_but_the_pools()) == threads
    assert actors_of(Counting, counters) == [ref]


def test_5_a_slow_load_delays_no_other_key() -> None:
    """There the facade loads events in its own call: one slow load makes a live key wait."""
    gate = Gate()

    class Loading(AggregateMixin, Runtime):
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

    class Loading(AggregateMixin, Runtime):
        def on_start(self) -> None:
            gate.pass_through()
            raise OSError("the store does not answer")

        def on_receive(self, message: Any) -> Any:
            served.append(message)

    with AggregateRegistry.start(Loading) as registry:
        future = registry.proxy().get_or_start("a").get()
        gate.wait_until_reached()
        assert registry.get("a") is None
        half_made = actors_of(Loading, registry)[0]
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

    with AggregateRegistry.start(Counting, backoff=(0, 0), max_failures=10**6) as registry:
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

    def watch(incarnation: Any, life: Any) -> Any:
        alive.append(ref.is_alive())
        return stopping(incarnation, life)

    monkeypatch.setattr(counters._table, "stopping", watch)
    ref.stop()
    assert alive == [True]


def test_10_an_unload_timer_is_armed_again_by_each_message_and_taken_off_by_a_word(
    clock: Clock,
) -> None:
    """There it is set once: it unloads whoever is at work, and nothing takes it off."""
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        for expected in (1, 2, 3):
            wait_until_asleep(registry, "a")
            clock.forward(IDLE * 0.6, registry)
            assert registry.ref("a").call(Counting.add) == expected
        registry.ref("a").call(Worded.say, None)
        wait_until_asleep(registry, "a")
        clock.forward(10 * IDLE, registry)
        assert registry["a"] is ref
        registry.ref("a").call(Worded.say, IDLE)
        wait_until_asleep(registry, "a")
        clock.forward(IDLE + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


def test_10_an_unload_timer_is_armed_again_when_the_unloading_was_declined(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There whoever has once stayed stays for ever."""
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        slipped = slip_in_before_it_closes(registry, monkeypatch, Letter(ADD))
        clock.forward(IDLE + LATE, registry)
        poll(lambda: slipped)
        wait_until_asleep(registry, "a")
        assert registry.stats().declined == 1
        clock.forward(IDLE + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE / 6), "its timer was not armed again"


def test_14_the_idle_time_that_is_reported_is_the_real_one(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """There telemetry reports the configured time."""
    caplog.set_level("DEBUG", "pykka_registry")
    with AggregateRegistry.start(Worded, idle=IDLE, name="late") as registry:
        for key, word, passed in (("a", None, 250.5), ("b", IDLE, 320.25)):
            ref = registry.get_or_start(key)
            if word is not None:
                registry.ref(key).call(Worded.say, word)
            wait_until_asleep(registry, key)
            clock.forward(IDLE * 0.6, registry)
            registry.ref(key).call(Counting.add)
            wait_until_asleep(registry, key)
            clock.forward(passed, registry)
            assert ref.actor_stopped.wait(PATIENCE)
    assert [record.getMessage() for record in caplog.records if "idle" in record.getMessage()] == [
        "Worded 'a' #1 is passivated: idle, after 250.500 s without a message"
    ]
    assert [record.getMessage() for record in caplog.records if "word" in record.getMessage()] == [
        "Worded 'b' #2 is passivated: own word, after 320.250 s without a message"
    ]


class Saving(Counting):
    """Saves what it is told, unless the store does not answer."""

    store_fails_in = ""

    def __init__(self) -> None:
        super().__init__()
        self.reach_store("constructor")

    def on_start(self) -> None:
        super().on_start()
        self.reach_store("on_start")

    def reach_store(self, where: str) -> None:
        if Saving.store_fails_in == where:
            raise OSError("the store does not answer")

    def save(self) -> int:
        self.reach_store("save")
        return self.add()


@pytest.mark.parametrize("where", ["constructor", "on_start", "save"])
@pytest.mark.parametrize("call", ["get_or_start", "start_new", "start", "tell", "ask"])
def test_3_a_failed_start_or_save_leaves_no_empty_process_behind(
    where: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a failed save or a dry run leaves an empty process that no look-up finds."""
    monkeypatch.setattr(Saving, "store_fails_in", where)
    with AggregateRegistry.start(
        Saving, backoff=(0, 0), max_failures=2, quarantine=None
    ) as registry:
        threads = len(threads_but_the_pools())
        save = messages.ProxyCall(("save",), (), {})
        starts = {
            "get_or_start": lambda: registry.get_or_start("a"),
            "start_new": lambda: registry.start_new("a"),
            "start": lambda: Saving.start(registry, "a"),
            "tell": lambda: registry.ref("a").tell(save),
            "ask": lambda: registry.ref("a").ask(save),
        }
        for i in range(1, 11):
            if call == "tell":
                starts[call]()
            elif where == "save" and call != "ask":
                starts[call]().tell(save)
            else:
                with pytest.raises((OSError, Undeliverable)):
                    starts[call]()
            if where == "save" and call == "ask":
                # Who asked knows, and the one that could not save is where it was: registered.
                assert actors_of(Saving, registry) == [registry["a"]]
                assert registry["a"].stop() is True
            poll(lambda i=i: sum(registry.stats().ends.values()) >= i)  # type: ignore[misc]
            if call == "tell" and where != "save":  # it is tried again, but not for ever
                poll(lambda: registry.stats().quarantined == 1)
            poll(lambda: registry.stats().live == 0)
            assert actors_of(Saving, registry) == []
            assert list(registry) == []
            poll(lambda: len(threads_but_the_pools()) == threads)
            registry.release("a")
            assert nothing_is_waiting(registry)
        monkeypatch.setattr(Saving, "store_fails_in", "")
        assert registry.get_or_start("a").proxy().save().get() == 1


def nothing_is_waiting(registry: RegistryRef[Any]) -> bool:
    stats = registry.stats()
    return not any((stats.live, stats.waiting, stats.backoff, stats.quarantined, stats.queued))


def test_3_a_command_that_fails_half_way_is_no_reason_to_serve_from_an_empty_state(
    counters: RegistryRef[Counting],
) -> None:
    """There the process that is left over has no state, and is not the one that is found."""
    address = counters.ref("a")
    for expected in range(1, 6):
        assert address.call(Counting.add) == expected
        with pytest.raises(ValueError, match="no"):
            address.call(Counting.fail, ValueError("no"))
        assert actors_of(Counting, counters) == [counters["a"]]
    assert counters.stats().activations == 1
    assert counters["a"].stop() is True
    assert nothing_remains(counters)


def test_4_keys_share_no_restart_budget() -> None:
    """There five failed saves, of whichever keys, end every aggregate of the type."""
    with AggregateRegistry.start(
        Saving, restart="at once", backoff=(0, 0), max_failures=5, quarantine=None
    ) as registry:
        bystander = registry.get_or_start("bystander")
        for key in range(20):
            for _ in range(5):
                registry.ref(key).proxy().fail.defer(OSError("no"))
        poll(lambda: registry.stats().ends == {EndReason.FAILED: 100})
        poll(lambda: registry.stats().active == 21)
        assert registry.stats().quarantined == 0
        registry.ref(0).proxy().fail.defer(OSError("once too often"))
        poll(lambda: registry.stats().quarantined == 1)
        assert sorted(map(str, registry)) == sorted(["bystander", *map(str, range(1, 20))])
        with pytest.raises(Undeliverable):
            registry.ref(0).call(Counting.add)
        assert all(registry.ref(key).call(Counting.add) == 1 for key in range(1, 20))
        assert registry["bystander"] is bystander
        assert bystander.is_alive()
