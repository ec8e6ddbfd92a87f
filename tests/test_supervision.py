"""Aggregates that fail rest, come back, or are quarantined, each key on its own account."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pykka
import pytest
from pykka import messages

from pykka_registry import (
    AggregateRegistry,
    DeadLetter,
    DeadLetterReason,
    EndReason,
    KeyAlreadyRegistered,
    Quarantined,
    RegistryRef,
    Terminated,
    Undeliverable,
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
    from collections.abc import Callable, Hashable, Iterator

ADD = messages.ProxyCall(attr_path=("add",), args=(), kwargs={})

REST = 100
"""Seconds of backoff that pass only if a test lets them."""

LEAST, MOST = 0.8, 1.25
"""Between which parts of its backoff a key comes back: jitter, and an alarm's own width."""

LONG = 1_000_000.0


class Clock:
    """Stands still until a test lets time pass, or leaves its `with` block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.3
        self._runs_from: float | None = None
        monkeypatch.setattr(time, "monotonic", self._read)

    def _read(self) -> float:
        passed = 0.0 if self._runs_from is None else time.perf_counter() - self._runs_from
        return self.now + passed

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exc_info: object) -> None:
        """Run from now on, so that a shutdown that waits does not do so for ever."""
        self._runs_from = time.perf_counter()

    def forward(self, seconds: float, registry: RegistryRef[Any]) -> None:
        """Let time pass; return when the registry has rung the alarms that are due."""
        self.now += seconds
        # A registry rings what is due before it takes its next message.
        for _ in range(2):
            registry.proxy().keys().get()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Troubled(Counting):
    """Fails to start as often as it is told to, and takes notes."""

    failing_starts: int = 0
    starts: int = 0
    notes: list[Any]
    gate: Gate | None = None
    """Where `on_start` waits."""
    last_gate: Gate | None = None
    """Where `on_failure` waits."""

    @classmethod
    def reset(cls) -> None:
        cls.failing_starts = cls.starts = 0
        cls.notes = []
        cls.gate = cls.last_gate = None

    def on_failure(self, *_exc_info: Any) -> None:
        if Troubled.last_gate is not None:
            Troubled.last_gate.pass_through()

    def on_start(self) -> None:
        super().on_start()
        cls = Troubled
        cls.starts += 1
        if cls.gate is not None:
            cls.gate.pass_through()
        if cls.failing_starts:
            cls.failing_starts -= 1
            raise OSError(f"start {cls.starts}")

    def on_receive(self, message: Any) -> Any:
        Troubled.notes.append(message)
        if isinstance(message, BaseException):
            raise message
        return message


@pytest.fixture(autouse=True)
def no_trouble_left() -> Iterator[None]:
    Troubled.reset()
    yield
    Troubled.reset()


def ends(listener: pykka.ActorRef[Listener], count: int) -> list[Terminated]:
    """Wait for so many ends, and return them."""
    told = told_when(
        listener, lambda told: sum(isinstance(event, Terminated) for event in told) >= count
    )
    return [event for event in told if isinstance(event, Terminated)]


def fail(registry: RegistryRef[Any], key: Hashable, times: int = 1) -> None:
    """Let the key's incarnations fail of messages; return when they have ended."""
    for _ in range(times):
        fail_once(registry, key, lambda: None)


def fail_once(registry: RegistryRef[Any], key: Hashable, meanwhile: Callable[[], None]) -> None:
    before = registry.stats().ends.get(EndReason.FAILED, 0)
    registry.ref(key).tell(ValueError("no"))
    meanwhile()
    poll(lambda: registry.stats().ends.get(EndReason.FAILED, 0) == before + 1)


def fail_resting(registry: RegistryRef[Any], key: Hashable, clock: Clock, rest: float) -> None:
    """Let the key fail once, where it rests before that, as it has failed before."""
    fail_once(registry, key, lambda: clock.forward(rest * MOST, registry))


def no_failure_is_kept(registry: RegistryRef[Any]) -> bool:
    return not registry._table._failures._records


# When a key comes back.


def test_on_message_a_failed_aggregate_stays_away_until_somebody_wants_it(
    clock: Clock, listener: pykka.ActorRef[Listener]
) -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        registry.subscribe(listener)
        ref = registry.get_or_start("a")
        fail(registry, "a")
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.FAILED)]
        assert not ref.is_alive()
        stats = registry.stats()
        assert (stats.active, stats.live, stats.backoff, stats.quarantined) == (0, 0, 0, 0)
        clock.forward(10 * REST, registry)
        assert "a" not in registry
        assert registry.stats().activations == 1
        assert registry.ref("a").ask("hello") == "hello"
        assert registry.stats().activations == 2


@pytest.mark.parametrize("how", ["tell", "on_start", "plain tell"])
def test_at_once_it_comes_back_by_itself_when_it_has_rested(clock: Clock, how: str) -> None:
    with (
        AggregateRegistry.start(Troubled, restart="at once", backoff=(REST, REST)) as registry,
        clock,
    ):
        if how == "on_start":
            Troubled.failing_starts = 1
            with pytest.raises(OSError, match="start 1"):
                registry.get_or_start("a")
        elif how == "tell":
            registry.ref("a").tell(ValueError("no"))
        else:
            registry.get_or_start("a").tell(ValueError("no"))
        poll(lambda: registry.stats().backoff == 1)
        assert registry.stats().live == 0
        clock.forward(REST * LEAST - 1, registry)
        assert registry.stats().backoff == 1
        assert Troubled.starts == 1
        clock.forward(REST * (MOST - LEAST) + 1, registry)
        assert registry.wait_for("a", timeout=PATIENCE).is_alive()
        assert Troubled.starts == 2


def quarantines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says of keys that are closed."""
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    return [line for line in lines if "is quarantined" in line]


def test_a_quarantine_is_logged_outside_the_lock(caplog: pytest.LogCaptureFixture) -> None:
    locked: list[bool] = []

    class Key(str):
        __slots__ = ()

        def __repr__(self) -> str:
            locked.append(registry._table._lock.locked())
            return "<the key>"

    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=2, quarantine=2.5, name="troubles"
    ) as registry:
        fail(registry, Key(), 3)
        poll(lambda: registry.stats().quarantined == 1)
        line = (
            "key <the key> of registry 'troubles' is quarantined after 3 failures, for 2.5 seconds"
        )
        poll(lambda: quarantines(caplog) == [line])
    assert locked
    assert not any(locked)


@pytest.mark.parametrize("how", ["by its key", "by a plain ref", "by itself"])
def test_at_once_does_not_bring_back_what_somebody_has_stopped(how: str, clock: Clock) -> None:
    class Quitting(Troubled):
        def fail_at(self, gate: Gate) -> None:
            gate.pass_through()
            if how == "by itself":
                self.stop()
            raise ValueError("no")

    gate = Gate()
    with (
        AggregateRegistry.start(Quitting, restart="at once", backoff=(REST, REST)) as registry,
        clock,
    ):
        ref = registry.ref("a")
        ref.proxy().fail_at.defer(gate)
        gate.wait_until_reached()
        stopped = None
        if how == "by its key":
            stopped = ref.stop(block=False)
        elif how == "by a plain ref":
            stopped = registry["a"].stop(block=False)
        gate.open()
        poll(lambda: not registry.stats().live)
        assert stopped is None or stopped.get(timeout=PATIENCE) is True
        assert registry.stats().backoff == 0
        clock.forward(REST * MOST, registry)
        assert registry.stats().activations == 1


@pytest.mark.parametrize("how", ["tell", "on_start"])
def test_never_means_quarantine_after_the_first_failure(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with AggregateRegistry.start(
        Troubled, restart="never", backoff=(0, 0), max_failures=100, quarantine=None
    ) as registry:
        if how == "on_start":
            Troubled.failing_starts = 1
            with pytest.raises(OSError, match="start 1"):
                registry.get_or_start("a")
        else:
            fail(registry, "a")
        assert registry.stats().quarantined == 1
        with pytest.raises(Quarantined) as raised:
            registry.get_or_start("a")
        assert isinstance(raised.value.__cause__, OSError if how == "on_start" else ValueError)
        why = (
            "failed, and restart='never'; once the cause is mended, registry.release(key) opens it"
            f"; the cause: {raised.value.__cause__!r}"
        )
        assert str(raised.value) == f"key 'a' is quarantined: it {why}"
        with pytest.raises(Undeliverable) as undeliverable:
            registry.ref("a").tell("x")
        assert str(undeliverable.value) == f"aggregate 'a' is quarantined, for it {why}"
        line = "key 'a' of registry 'Troubled' is quarantined after 1 failure, until it is released"
        poll(lambda: quarantines(caplog) == [line])
        assert Troubled.starts == 1
        assert registry.release("a") is True
        assert registry.get_or_start("a").is_alive()


def test_never_means_never_however_short_a_quarantine_is(clock: Clock) -> None:
    with AggregateRegistry.start(Troubled, restart="never", quarantine=1) as registry, clock:
        fail(registry, "a")
        clock.forward(LONG, registry)
        assert registry.stats().quarantined == 1
        with pytest.raises(Undeliverable, match="is quarantined"):
            registry.ref("a").tell("hello")
        assert registry.release("a") is True
        assert registry.ref("a").ask("hello") == "hello"


@pytest.mark.parametrize("restart", ["on message", "at once", "never"])
def test_a_planned_end_is_followed_by_no_restart(restart: Any) -> None:
    with AggregateRegistry.start(Troubled, restart=restart, backoff=(0, 0)) as registry:
        for _ in range(10):
            assert registry.get_or_start("a").stop() is True
            assert registry.ref("a").stop() is False
        assert Troubled.starts == 10
        assert nothing_remains(registry)
        assert no_failure_is_kept(registry)


def test_an_exception_that_an_asker_got_is_no_failure() -> None:
    with AggregateRegistry.start(Troubled, restart="never", max_failures=0) as registry:
        address = registry.ref("a")
        ref = registry.get_or_start("a")
        for i in range(10):
            with pytest.raises(ValueError, match="no"):
                address.ask(ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                ref.ask(ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                address.call(Troubled.fail, ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                address.submit(Troubled.fail, ValueError("no")).get()
            with pytest.raises(ValueError, match="no"):
                address.proxy().fail(ValueError("no")).get()
            with pytest.raises(AttributeError):
                address.proxy().nothing.get()
            assert address.call(Troubled.add) == i + 1
        assert registry["a"] is ref
        assert registry.stats().ends == {}
        assert no_failure_is_kept(registry)


def test_an_answer_that_nobody_waits_for_any_longer_is_no_failure_either() -> None:
    gate = Gate()
    with AggregateRegistry.start(Troubled, restart="never", max_failures=0) as registry:

        def fail_late() -> None:
            gate.pass_through()
            raise ValueError("no")

        future = registry.ref("a").submit(Troubled.run, fail_late)
        with pytest.raises(pykka.Timeout):
            future.get(timeout=0.001)
        gate.wait_until_reached()
        gate.open()
        assert registry.ref("a").call(Troubled.add) == 1
        assert registry.stats().ends == {}


# Backoff.


def test_each_failure_doubles_the_time_that_the_key_rests_up_to_the_most(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled,
            backoff=(REST, 8 * REST),
            max_failures=100,
            failure_window=LONG,
            start_timeout=LONG,
        ) as registry,
        clock,
    ):
        fail(registry, "a")
        for rest in (1, 2, 4, 8, 8, 8):
            starts = Troubled.starts
            registry.ref("a").tell(ValueError("no"))
            clock.forward(rest * REST * LEAST - 1, registry)
            assert registry.stats().backoff == 1
            assert Troubled.starts == starts
            clock.forward(rest * REST * (MOST - LEAST) + 1, registry)
            poll(lambda starts=starts: registry.stats().ends[EndReason.FAILED] == starts + 1)  # type: ignore[misc]
            assert registry.stats().backoff == 0
        assert Troubled.starts == 7


def test_a_thousand_failures_do_not_make_a_number_too_large(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled, backoff=(1e-9, 1e-3), max_failures=10**6, failure_window=LONG
        ) as registry,
        clock,
    ):
        Troubled.failing_starts = 2
        rests_until = [0.0]
        for i in range(2):
            with pytest.raises(OSError, match=f"start {i + 1}$"):
                # Time passes in the registry only; its alarm rings because of the next message.
                clock_forward_until(clock, registry, registry.proxy().get_or_start("a").get())
            record = registry._table._failures.get("a")
            assert record is not None
            assert record.rests_until > rests_until[-1]
            rests_until.append(record.rests_until)
            record.count += 2_000  # a float ends at 2 ** 1024
        clock.forward(1, registry)
        assert registry.get_or_start("a").is_alive()


def clock_forward_until(clock: Clock, registry: RegistryRef[Any], future: pykka.Future[Any]) -> Any:
    clock.forward(1, registry)
    return future.get(timeout=PATIENCE)


def test_keys_that_failed_together_do_not_come_back_together(clock: Clock) -> None:
    with (
        AggregateRegistry.start(Troubled, restart="at once", backoff=(REST, REST)) as registry,
        clock,
    ):
        for key in range(50):
            registry.ref(key).tell(ValueError("no"))
        poll(lambda: registry.stats().backoff == 50)
        resting: list[int] = []
        for second in range(int(REST * MOST) + 1):
            resting.append(registry.stats().backoff)
            clock.forward(1, registry)
            if second < REST * LEAST:
                assert resting[-1] == 50
        assert registry.stats().backoff == 0
        came_back = [before - after for before, after in itertools.pairwise(resting)]
        assert sum(came_back) == 50 - resting[-1]
        assert sum(count > 0 for count in came_back) > 5
        assert max(came_back) < 25


def test_a_key_that_rests_delays_no_other(clock: Clock) -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        fail(registry, "a")
        waiting = registry.ref("a").proxy().add()
        assert registry.stats().backoff == 1
        for key in range(20):
            assert registry.ref(key).ask("hello") == "hello"
        assert registry.stats().backoff == 1
        clock.forward(REST * MOST, registry)
        assert waiting.get(timeout=PATIENCE) == 1


def test_without_backoff_the_next_one_starts_at_once() -> None:
    with AggregateRegistry.start(Troubled, backoff=(0, 0), max_failures=20) as registry:
        for i in range(20):
            registry.ref("a").tell(ValueError("no"))
            assert registry.ref("a").ask(i) == i
        assert registry.stats().ends == {EndReason.FAILED: 20}


# What a failure does to those who wait.


def test_what_a_failing_handler_leaves_over_goes_to_the_successor_first_and_in_order(
    clock: Clock,
) -> None:
    gate = Gate()
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        address = registry.ref("a")
        address.proxy().wait_at(gate)
        gate.wait_until_reached()
        address.tell(ValueError("no"))
        address.tell(1)
        asked = address.ask(2, block=False)
        address.tell(3)
        gate.open()
        poll(lambda: registry.stats().backoff == 1)
        address.tell(4)
        asked_later = address.ask(5, block=False)
        assert registry.stats().queued == 5
        assert [type(note) for note in Troubled.notes] == [ValueError]
        clock.forward(REST * MOST, registry)
        assert asked.get(timeout=PATIENCE) == 2
        assert asked_later.get(timeout=PATIENCE) == 5
        assert Troubled.notes[1:] == [1, 2, 3, 4, 5]
        assert registry.stats().redelivered == 3
        assert registry.dead_letters == []


def test_after_a_failed_start_askers_get_the_cause_and_tells_wait_for_the_next(
    clock: Clock,
) -> None:
    Troubled.gate = gate = Gate()
    Troubled.failing_starts = 1
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        address = registry.ref("a")
        address.tell(1)
        gate.wait_until_reached()
        asked = [address.ask(i, block=False) for i in range(10, 13)]
        address.tell(2)
        starting = registry.proxy().get_or_start("a").get()
        stopping = address.stop(block=False)
        address.tell(3)
        gate.open()
        for future in asked:
            with pytest.raises(Undeliverable) as raised:
                future.get(timeout=PATIENCE)
            assert isinstance(raised.value.__cause__, OSError)
            assert raised.value.key == "a"
        with pytest.raises(OSError, match="start 1"):
            starting.get(timeout=PATIENCE)
        stats = registry.stats()
        assert stats.backoff == 1
        assert Troubled.notes == []
        assert registry.dead_letters == []
        clock.forward(REST * MOST, registry)
        assert stopping.get(timeout=PATIENCE) is True
        poll(lambda: Troubled.notes == [1, 2, 3])
        assert registry.dead_letters == []


@pytest.mark.parametrize("call", ["get_or_start", "start_new", "start"])
def test_who_wants_a_resting_key_waits_and_then_has_it(clock: Clock, call: str) -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        fail(registry, "a")
        results: list[Any] = []
        thread = start_thread(lambda: results.append(start(registry, call)("a")))
        poll(lambda: registry.stats().backoff == 1)
        assert registry.get("a") is None
        assert "a" not in registry
        assert len(registry) == 0
        clock.forward(REST * LEAST - 1, registry)
        assert results == []
        clock.forward(REST * (MOST - LEAST) + 1, registry)
        join(thread)
        assert results == [registry["a"]]


def start(registry: RegistryRef[Any], call: str) -> Callable[..., pykka.ActorRef[Any]]:
    if call == "start":
        return functools.partial(Troubled.start, registry)
    function: Callable[..., pykka.ActorRef[Any]] = getattr(registry, call)
    return function


def test_of_many_that_want_a_resting_key_as_new_one_gets_it(clock: Clock) -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        fail(registry, "a")
        futures = [registry.proxy().start_new("a").get() for _ in range(5)]
        futures += [registry.proxy().get_or_start("a").get() for _ in range(5)]
        assert registry.stats().backoff == 1
        clock.forward(REST * MOST, registry)
        ref = futures[0].get(timeout=PATIENCE)
        for future in futures[1:5]:
            with pytest.raises(KeyAlreadyRegistered):
                future.get(timeout=PATIENCE)
        assert [future.get(timeout=PATIENCE) for future in futures[5:]] == [ref] * 5


def wait_briefly(registry: RegistryRef[Any], call: str) -> object:
    if call == "ask":
        return registry.ref("a").ask("hello", timeout=0.01)
    return start(registry, call)("a", timeout=0.01)


@pytest.mark.parametrize("call", ["get_or_start", "start_new", "start", "ask"])
def test_who_does_not_wait_long_enough_leaves_no_resting_key_behind(
    clock: Clock, call: str
) -> None:
    with (
        AggregateRegistry.start(Troubled, backoff=(REST, REST), failure_window=REST) as registry,
        clock,
    ):
        fail(registry, "a")
        with pytest.raises(pykka.Timeout):
            wait_briefly(registry, call)
        assert registry.stats().backoff == 0
        assert registry.stats().expired == (call == "ask")
        clock.forward(REST * (MOST + 1) * MOST, registry)
        assert nothing_remains(registry)
        assert no_failure_is_kept(registry)
        assert Troubled.starts == 1


@pytest.mark.parametrize("call", ["get_or_start", "ask"])
def test_a_restart_at_once_happens_though_somebody_has_given_up_waiting_for_it(
    clock: Clock, call: str
) -> None:
    with (
        AggregateRegistry.start(Troubled, restart="at once", backoff=(REST, REST)) as registry,
        clock,
    ):
        registry.ref("a").tell(ValueError("no"))
        poll(lambda: registry.stats().backoff == 1)
        with pytest.raises(pykka.Timeout):
            wait_briefly(registry, call)
        assert registry.stats().backoff == 1
        clock.forward(REST * MOST, registry)
        assert registry.wait_for("a", timeout=PATIENCE).is_alive()
        assert Troubled.notes[1:] == []


def test_to_stop_a_resting_key_reports_who_waits_for_it() -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry:
        registry.get_or_start("a")
        Troubled.last_gate = gate = Gate()
        address = registry.ref("a")
        address.tell(ValueError("no"))
        gate.wait_until_reached()
        address.tell("told")
        asked = address.ask("asked", block=False)
        starting = registry.proxy().get_or_start("a").get()
        gate.open()
        poll(lambda: registry.stats().backoff == 1)
        assert address.stop() is False
        for future in (asked, starting):
            with pytest.raises(Undeliverable, match="was stopped while it rested") as raised:
                future.get(timeout=PATIENCE)
            assert isinstance(raised.value.__cause__, ValueError)
        assert registry.dead_letters == [DeadLetter("a", "told", DeadLetterReason.STOPPED)]
        assert isinstance(registry.dead_letters[0].cause, ValueError)
        stats = registry.stats()
        assert (stats.backoff, stats.queued) == (0, 0)
        assert stats.dead_letters == {DeadLetterReason.STOPPED: 1}
        assert address.stop() is False
        assert Troubled.starts == 1


def test_to_stop_a_key_that_is_to_come_back_by_itself_keeps_it_away(clock: Clock) -> None:
    with (
        AggregateRegistry.start(Troubled, restart="at once", backoff=(REST, REST)) as registry,
        clock,
    ):
        registry.ref("a").tell(ValueError("no"))
        poll(lambda: registry.stats().backoff == 1)
        assert registry.ref("a").stop() is False
        assert registry.stats().backoff == 0
        clock.forward(REST * MOST, registry)
        assert Troubled.starts == 1
        assert "a" not in registry


def test_a_resting_key_is_taken_for_foreign_actors_while_somebody_waits_for_it() -> None:
    foreign = pykka.ThreadingActor.start()
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry:
        fail(registry, "a")
        registry.ref("a").tell("told")
        with pytest.raises(KeyAlreadyRegistered):
            registry.register("a", foreign)
        registry.ref("a").stop()
        registry.register("a", foreign)
        assert registry["a"] is foreign
    foreign.stop()


def test_letters_are_not_lost_when_the_one_who_would_have_started_their_key_leaves(
    clock: Clock,
) -> None:
    """A registry without a class has nobody to give them to then, and says so."""
    with AggregateRegistry.start(backoff=(REST, REST), drain_timeout=1) as registry, clock:
        Troubled.start(registry, "a")
        gate = Troubled.last_gate = Gate()
        address = registry.ref("a")
        address.tell(ValueError("no"))
        gate.wait_until_reached()
        address.tell("told")
        asked = address.ask("asked", block=False)
        thread = start_thread(lambda: start_and_give_up(registry))
        poll(lambda: registry._table._entries["a"].requests)
        gate.open()
        poll(lambda: registry.stats().backoff == 1)
        join(thread)
        clock.forward(REST * MOST, registry)
        with pytest.raises(Undeliverable):
            asked.get(timeout=5)
        assert [letter.message for letter in registry.dead_letters] == ["told"]
        assert registry.stats().queued == 0
        assert registry.stats().backoff == 0


def start_and_give_up(registry: RegistryRef[Any]) -> None:
    with pytest.raises(pykka.Timeout):
        Troubled.start(registry, "a", timeout=1)


# The budget, and quarantine.


@pytest.mark.parametrize("most", [0, 1, 3])
def test_one_failure_too_many_and_the_key_is_quarantined(most: int) -> None:
    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=most, quarantine=None
    ) as registry:
        fail(registry, "a", times=most)
        assert registry.stats().quarantined == 0
        assert registry.get_or_start("a").is_alive()
        fail(registry, "a")
        assert registry.stats().quarantined == 1
        with pytest.raises(Quarantined, match=r"registry\.release\(key\) opens it") as raised:
            registry.get_or_start("a")
        assert raised.value.key == "a"
        assert raised.value.is_abandoned is False
        assert Troubled.starts == most + 1


def test_failed_starts_and_failed_handlers_count_alike() -> None:
    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=3, quarantine=None
    ) as registry:
        fail(registry, "a", times=2)
        Troubled.failing_starts = 2
        for _ in range(2):
            with pytest.raises(OSError, match="start"):
                registry.get_or_start("a")
        assert registry.stats().quarantined == 1


def test_keys_never_share_a_budget() -> None:
    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=3, quarantine=None
    ) as registry:
        for key in range(30):
            fail(registry, key, times=3)
        assert registry.stats().ends == {EndReason.FAILED: 90}
        assert registry.stats().quarantined == 0
        assert all(registry.ref(key).ask("hello") == "hello" for key in range(30))
        fail(registry, 7)
        assert registry.stats().quarantined == 1
        assert sorted(registry) == [key for key in range(30) if key != 7]
        assert registry.release(7) is True


def test_who_gives_up_on_a_key_that_rests_is_told_why() -> None:
    cause = ValueError("no")
    late = "aggregate 'a' did not answer within 0.01 seconds and will not: the message has expired"
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry:
        address = registry.ref("a")
        fail(registry, "a")
        with pytest.raises(pykka.Timeout) as raised:  # nobody waited, so nothing is kept but a date
            address.ask("x", timeout=0.01)
        assert str(raised.value) == f"{late}; it rests after a failure"
        assert address.stop() is False
        Troubled.last_gate = Gate()
        address = registry.ref("b")
        address.tell(cause)
        Troubled.last_gate.wait_until_reached()
        address.tell("waits")
        Troubled.last_gate.open()
        poll(lambda: registry.stats().backoff == 1)
        with pytest.raises(pykka.Timeout) as raised:
            address.ask("x", timeout=0.01)
        text = f"{late}; it rests after a failure; the cause: {cause!r}"
        assert str(raised.value) == text.replace("'a'", "'b'")
        assert raised.value.__cause__ is cause
        assert address.stop() is False  # else the registry waits until it has rested


def test_a_quarantined_key_refuses_everything_at_once_with_the_last_cause() -> None:
    first, last = ValueError("first"), ValueError("last")
    foreign = pykka.ThreadingActor.start()
    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=1, quarantine=None
    ) as registry:
        address = registry.ref("a")
        for error in (first, last):
            address.tell(error)
        poll(lambda: registry.stats().quarantined == 1)
        sends: list[Callable[[], object]] = [
            lambda: address.tell("x"),
            lambda: address.ask("x"),
            lambda: address.ask("x", timeout=0),
            lambda: address.ask("x", block=False).get(),
            lambda: address.call(Troubled.add),
            address.submit(Troubled.add).get,
            address.proxy().add().get,
            address.proxy().count.get,
            address.proxy().add.defer,
        ]
        for send in sends:
            with pytest.raises(Undeliverable, match="is quarantined") as undeliverable:
                send()
            assert undeliverable.value.__cause__ is last
            assert undeliverable.value.key == "a"
        starts: list[Callable[[], object]] = [
            lambda: registry.get_or_start("a"),
            lambda: registry.start_new("a"),
            lambda: Troubled.start(registry, "a"),
            lambda: registry.register("a", foreign),
            lambda: registry.proxy().get_or_start("a").get().get(),
        ]
        for call in starts:
            with pytest.raises(Quarantined) as quarantined:
                call()
            assert quarantined.value.__cause__ is last
        assert address.stop() is False
        assert registry.get("a") is None
        with pytest.raises(pykka.Timeout):
            registry.wait_for("a", timeout=0.01)
        stats = registry.stats()
        assert (stats.quarantined, stats.live, stats.queued) == (1, 0, 0)
        assert stats.dead_letters == {}
        assert Troubled.starts == 2
    foreign.stop()


def test_who_waits_when_a_key_is_quarantined_is_told() -> None:
    gate = Gate()
    told: list[DeadLetter] = []
    with AggregateRegistry.start(
        Troubled, max_failures=0, quarantine=None, on_dead_letter=told.append
    ) as registry:
        address = registry.ref("a")
        address.proxy().wait_at(gate)
        gate.wait_until_reached()
        address.tell(ValueError("no"))
        address.tell("told")
        asked = address.ask("asked", block=False)
        Troubled.last_gate = last = Gate()
        gate.open()
        last.wait_until_reached()
        starting = registry.proxy().get_or_start("a").get()
        address.tell("told later")
        asked_later = address.ask("asked later", block=False)
        stopped = address.stop(block=False)
        last.open()
        for future in (asked, asked_later):
            with pytest.raises(Undeliverable, match="is quarantined") as undeliverable:
                future.get(timeout=PATIENCE)
            assert isinstance(undeliverable.value.__cause__, ValueError)
        with pytest.raises(Quarantined) as quarantined:
            starting.get(timeout=PATIENCE)
        assert isinstance(quarantined.value.__cause__, ValueError)
        assert stopped.get(timeout=PATIENCE) is False
        assert registry.dead_letters == [
            DeadLetter("a", message, DeadLetterReason.QUARANTINED)
            for message in ("told", "told later")
        ]
        assert all(isinstance(letter.cause, ValueError) for letter in registry.dead_letters)
        assert registry.stats().queued == 0
    assert told == registry.dead_letters


def test_a_release_opens_the_key_and_forgets_its_failures(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled, backoff=(REST, REST), max_failures=0, quarantine=None
        ) as registry,
        clock,
    ):
        for round_ in range(5):
            fail(registry, "a")
            assert registry.stats().quarantined == 1
            clock.forward(1, registry)
            assert registry.release("a") is True
            assert registry.release("a") is False
            assert nothing_remains(registry)
            assert no_failure_is_kept(registry)
            assert registry.ref("a").ask(round_) == round_  # at once: it need not rest


def test_after_the_stated_time_a_key_is_released_by_itself(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled, backoff=(0, 0), max_failures=2, quarantine=REST, failure_window=LONG
        ) as registry,
        clock,
    ):
        for expected in (3, 6):
            fail(registry, "a", times=3)
            clock.forward(REST - 1, registry)
            with pytest.raises(Undeliverable):
                registry.ref("a").tell("hello")
            clock.forward(REST * MOST - REST + 1, registry)
            assert registry.stats().quarantined == 0
            assert nothing_remains(registry)
            assert no_failure_is_kept(registry)
            assert Troubled.starts == expected
        assert registry.ref("a").ask("hello") == "hello"


def test_without_a_stated_time_it_stays_closed(clock: Clock) -> None:
    with AggregateRegistry.start(Troubled, max_failures=0, quarantine=None) as registry, clock:
        fail(registry, "a")
        clock.forward(LONG, registry)
        assert registry.stats().quarantined == 1
        with pytest.raises(Undeliverable):
            registry.ref("a").tell("hello")


def test_a_key_that_comes_back_by_itself_does_not_leave_its_quarantine_by_itself(
    clock: Clock,
) -> None:
    with (
        AggregateRegistry.start(
            Troubled, restart="at once", backoff=(0, 0), max_failures=0, quarantine=REST
        ) as registry,
        clock,
    ):
        registry.ref("a").tell(ValueError("no"))
        poll(lambda: registry.stats().quarantined == 1)
        clock.forward(REST * MOST, registry)
        assert registry.stats().quarantined == 0
        assert Troubled.starts == 1
        assert registry.ref("a").ask("hello") == "hello"


def test_to_release_what_is_not_quarantined_does_nothing(clock: Clock) -> None:
    with AggregateRegistry.start(Troubled, backoff=(REST, REST)) as registry, clock:
        assert registry.release("absent") is False
        Troubled.gate = gate = Gate()
        starting = registry.proxy().get_or_start("a").get()
        gate.wait_until_reached()
        assert registry.release("a") is False
        gate.open()
        ref = starting.get(timeout=PATIENCE)
        assert registry.release("a") is False
        assert registry["a"] is ref
        Troubled.last_gate = last = Gate()
        ref.tell(ValueError("no"))
        last.wait_until_reached()
        assert registry.release("a") is False
        registry.ref("a").tell("hello")
        last.open()
        poll(lambda: registry.stats().backoff == 1)
        assert registry.release("a") is False
        assert registry.stats().backoff == 1
        clock.forward(REST * MOST, registry)
        poll(lambda: Troubled.notes[-1] == "hello")
        with pytest.raises(TypeError, match="a key must be hashable"):
            registry.release(cast("Any", []))


@pytest.mark.parametrize("where", ["starting", "stopping"])
def test_an_abandoned_key_cannot_be_released_and_its_late_end_frees_it(
    clock: Clock,
    listener: pykka.ActorRef[Listener],
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    with (
        AggregateRegistry.start(
            Troubled, start_timeout=REST, stop_timeout=REST, quarantine=1
        ) as registry,
        clock,
    ):
        registry.subscribe(listener)
        if where == "starting":
            Troubled.gate = gate
            waiting = registry.proxy().get_or_start("a").get()
        else:
            ref = registry.get_or_start("a")
            Troubled.last_gate = gate
            ref.tell(ValueError("no"))
            gate.wait_until_reached()
            waiting = registry.proxy().get_or_start("a").get()
        gate.wait_until_reached()
        registry.ref("a").tell("told")
        asked = registry.ref("a").ask("asked", block=False)
        clock.forward(REST * MOST, registry)
        assert registry.stats().quarantined == 1
        assert registry.stats().live == 1
        with pytest.raises(Quarantined, match="did not start or end in time") as raised:
            waiting.get(timeout=PATIENCE)
        did_not = "start" if where == "starting" else "end"
        line = f"Troubled 'a' #1 did not {did_not} in time; its key is quarantined until its "
        assert quarantines(caplog) == [f"{line}thread ends"]
        assert raised.value.is_abandoned is True
        with pytest.raises(Undeliverable):
            asked.get(timeout=PATIENCE)
        assert registry.dead_letters == [DeadLetter("a", "told", DeadLetterReason.ABANDONED)]
        clock.forward(LONG, registry)  # no time sets it free
        with pytest.raises(Quarantined) as raised:
            registry.release("a")
        assert raised.value.is_abandoned is True
        with pytest.raises(Undeliverable):
            registry.ref("a").tell("x")
        with pytest.raises(Quarantined):
            registry.start_new("a")
        assert registry.ref("a").stop() is False
        gate.open()
        poll(lambda: registry.stats().quarantined == 0)
        assert registry.release("a") is False
        assert nothing_remains(registry)
        assert no_failure_is_kept(registry)
        Troubled.gate = Troubled.last_gate = None
        assert registry.ref("a").ask("hello") == "hello"
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.ABANDONED)]


def test_failures_are_forgotten_a_while_after_the_last_one(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled, backoff=(0, 0), max_failures=3, failure_window=REST
        ) as registry,
        clock,
    ):
        for _ in range(4):
            for _ in range(3):
                fail(registry, "a")
                clock.forward(REST * 0.9, registry)  # each one begins the time anew
            assert not no_failure_is_kept(registry)
            clock.forward(REST * 0.2, registry)
            assert no_failure_is_kept(registry)
            assert nothing_remains(registry)
        fail(registry, "a", times=3)
        clock.forward(REST * 0.9, registry)
        assert registry.stats().quarantined == 0
        fail(registry, "a")
        assert registry.stats().quarantined == 1


@pytest.mark.parametrize("late", [False, True])
def test_failures_of_a_key_that_comes_and_goes_are_forgotten_just_as_soon(
    clock: Clock, *, late: bool
) -> None:
    """It is stopped more often than its failures take to be forgotten."""
    with (
        AggregateRegistry.start(
            Troubled, backoff=(0, 0), max_failures=1, failure_window=REST, quarantine=None
        ) as registry,
        clock,
    ):
        for _ in range(3):
            fail(registry, "a")
            for _ in range(3):
                assert registry.ref("a").ask("hello") == "hello"
                clock.forward(REST * 0.3, registry)
                assert not no_failure_is_kept(registry)
                assert registry.ref("a").stop()
            if late:  # their time passes while it starts
                Troubled.gate = gate = Gate()
                answer = registry.ref("a").ask("hello", block=False)
                gate.wait_until_reached()
                clock.forward(REST * 0.2, registry)
                assert not no_failure_is_kept(registry)
                Troubled.gate = None
                gate.open()
                assert answer.get(timeout=PATIENCE) == "hello"
            else:
                clock.forward(REST * 0.2, registry)
            assert no_failure_is_kept(registry)


def test_what_has_failed_once_leaves_nothing_behind_after_its_time(clock: Clock) -> None:
    with (
        AggregateRegistry.start(
            Troubled, backoff=(1, 1), failure_window=REST, quarantine=REST, max_failures=1
        ) as registry,
        clock,
    ):
        for key in range(100):
            registry.ref(key).tell(ValueError("no"))
        poll(lambda: registry.stats().ends.get(EndReason.FAILED) == 100)
        for key in range(50):
            registry.ref(key).tell(ValueError("again"))
        clock.forward(2, registry)
        poll(lambda: registry.stats().quarantined == 50)
        clock.forward(REST * MOST, registry)
        assert nothing_remains(registry)
        assert no_failure_is_kept(registry)


# Poison.


@pytest.mark.parametrize("restart", ["on message", "at once"])
def test_an_aggregate_that_cannot_start_is_not_tried_for_ever(restart: Any) -> None:
    """akka.net #7629: a poison entity restarts for ever."""
    Troubled.failing_starts = 10**9
    with AggregateRegistry.start(
        Troubled, restart=restart, backoff=(0, 0.01), max_failures=7, quarantine=None
    ) as registry:
        for i in range(10):
            registry.ref("a").tell(i)
            if i == 0:
                poll(lambda: registry.stats().quarantined == 1)
                break
        assert Troubled.starts == 8
        assert registry.stats().ends == {EndReason.START_FAILED: 8}
        assert registry.dead_letters == [DeadLetter("a", 0, DeadLetterReason.QUARANTINED)]
        with pytest.raises(Undeliverable):
            registry.ref("a").tell("x")
        assert Troubled.starts == 8


def test_poison_is_not_swallowed_twice() -> None:
    """A message whose handler began is never run again, so it cannot poison the successor."""
    with AggregateRegistry.start(
        Troubled, backoff=(0, 0), max_failures=100, restart="at once"
    ) as registry:
        for i in range(100):
            registry.ref("a").tell(ValueError(i))
        assert registry.ref("a").ask("hello") == "hello"
        assert [note.args for note in Troubled.notes[:-1]] == [(i,) for i in range(100)]
        assert registry.stats().ends == {EndReason.FAILED: 100}


def test_an_aggregate_that_cannot_start_is_not_tried_for_ever_however_long_it_rests(
    clock: Clock,
) -> None:
    """A rest longer than the window in which failures count must not hide them."""
    Troubled.failing_starts = 10**9
    with (
        AggregateRegistry.start(
            Troubled,
            restart="at once",
            backoff=(REST, 8 * REST),
            failure_window=REST / 2,
            max_failures=3,
            quarantine=None,
        ) as registry,
        clock,
    ):
        registry.ref("a").tell("hello")
        for tries in range(1, 4):
            poll(lambda tries=tries: registry.stats().ends.get(EndReason.START_FAILED) == tries)  # type: ignore[misc]
            clock.forward(8 * REST * MOST, registry)
        poll(lambda: registry.stats().ends.get(EndReason.START_FAILED) == 4)
        assert registry.stats().quarantined == 1


def test_an_aggregate_whose_every_start_takes_long_is_not_tried_for_ever(clock: Clock) -> None:
    """Its failures are not forgotten while it starts, though that takes longer than they count."""
    Troubled.failing_starts = 10**9
    with (
        AggregateRegistry.start(
            Troubled,
            backoff=(0, 0),
            failure_window=REST,
            start_timeout=LONG,
            max_failures=3,
            quarantine=None,
        ) as registry,
        clock,
    ):
        for tries in range(1, 5):
            Troubled.gate = gate = Gate()
            starting = registry.proxy().get_or_start("a").get()
            gate.wait_until_reached()
            clock.forward(REST * 2, registry)
            gate.open()
            with pytest.raises(OSError, match=f"start {tries}"):
                starting.get(timeout=PATIENCE)
        assert registry.stats().quarantined == 1


class Moody:
    """A key that can be told to fail."""

    fails = False

    def __hash__(self) -> int:
        if self.fails:
            raise ValueError("no hash")
        return 1


def test_a_key_that_fails_when_its_time_has_come_does_not_hold_up_others(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody()
    with AggregateRegistry.start(Troubled, restart="at once", backoff=(REST, REST)) as registry:
        with clock:
            for key in (moody, "a"):
                registry.ref(key).tell(ValueError("no"))
            poll(lambda: registry.stats().backoff == 2)
            moody.fails = True
            clock.forward(REST * MOST, registry)
            moody.fails = False
            poll(lambda: "a" in registry)
            assert registry.stats().backoff == 0
        assert registry.is_alive()
    assert [r.getMessage() for r in caplog.records if "alarm" in r.getMessage()] == [
        f"the alarm of key {moody!r} failed"
    ]


def test_whoever_waits_for_its_turn_only_does_so_for_as_long_as_it_takes(clock: Clock) -> None:
    """There are places enough, so no time limit for a place applies."""
    Troubled.gate = gate = Gate()
    with (
        AggregateRegistry.start(Troubled, max_starting=1, start_timeout=4 * REST) as registry,
        clock,
    ):
        registry.ref("a").tell("hello")
        gate.wait_until_reached()
        clock.forward(2 * REST, registry)
        registry.ref("b").tell("hello")
        asked = registry.ref("c").ask("hello", block=False)
        clock.forward(2.5 * REST, registry)
        poll(lambda: Troubled.starts == 2)  # a was abandoned
        clock.forward(2 * REST, registry)
        stats = registry.stats()
        assert (stats.quarantined, stats.starting, stats.waiting) == (1, 1, 1)
        gate.open()
        assert asked.get(timeout=PATIENCE) == "hello"


# What the dead leave behind.


class Remembered(Counting):
    """Dies of what it is told to die of, and is known to have existed."""

    made: list[weakref.ref[Remembered]]
    fails_in: str

    def __init__(self) -> None:
        super().__init__()
        Remembered.made.append(weakref.ref(self))
        self._fail_in("constructor")

    def on_start(self) -> None:
        super().on_start()
        self._fail_in("on_start")

    def _fail_in(self, where: str) -> None:
        if Remembered.fails_in == where:
            raise OSError("start")


@pytest.fixture
def made(caplog: pytest.LogCaptureFixture) -> list[weakref.ref[Remembered]]:
    # What pytest captures of the log has the exceptions, too.
    caplog.set_level(logging.CRITICAL, logger="pykka_registry")
    Remembered.fails_in = ""
    Remembered.made = []
    return Remembered.made


def is_gone(actor: weakref.ref[Remembered]) -> bool:
    """Tell whether an actor is gone, once its thread has ended."""
    for thread in threading.enumerate():
        if thread.name == "Remembered-1":
            join(thread)
    gc.collect()
    return actor() is None


@pytest.mark.parametrize("how", ["tell", "ask", "on_start", "constructor", "stop"])
@pytest.mark.parametrize("then", ["absent", "successor", "quarantined and released"])
def test_the_dead_are_not_kept_alive(
    how: str, then: str, clock: Clock, made: list[weakref.ref[Remembered]]
) -> None:
    """An exception's traceback holds the frames that it has passed, and those hold the actor."""
    with (
        AggregateRegistry.start(
            Remembered,
            backoff=(1, 1),
            failure_window=10,
            max_failures=0 if then.startswith("quarantined") else 1,
            quarantine=None,
        ) as registry,
        clock,
    ):
        address = registry.ref("a")
        if how in {"on_start", "constructor"}:
            Remembered.fails_in = how
            with pytest.raises(OSError, match="start"):
                registry.get_or_start("a")
            Remembered.fails_in = ""
        elif how == "tell":
            address.proxy().fail.defer(ValueError("no"))
            poll(lambda: registry.stats().ends)
        else:
            registry.get_or_start("a")
            if how == "ask":
                with pytest.raises(ValueError, match="no"):
                    address.call(Remembered.fail, ValueError("no"))
            address.stop()
        if then == "quarantined and released":
            assert registry.release("a") is (how in {"tell", "on_start", "constructor"})
        elif then == "successor":
            successor = registry.proxy().get_or_start("a").get()
            clock.forward(2, registry)
            assert successor.get(timeout=PATIENCE).is_alive()
        else:
            clock.forward(20, registry)
            assert nothing_remains(registry)
            assert no_failure_is_kept(registry)
        assert len(made) == 1 + (then == "successor")
        assert is_gone(made[0])


def test_a_plain_ref_that_somebody_keeps_keeps_no_actor(
    made: list[weakref.ref[Remembered]],
) -> None:
    with AggregateRegistry.start(Remembered) as registry:
        ref = registry.get_or_start("a")
        address = registry.ref("a")
        future = address.submit(Remembered.fail, ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            future.get()
        del future
        address.proxy().fail.defer(ValueError("no"))
        wait_for(ref.actor_stopped)
        poll(lambda: registry.stats().ends)
        assert is_gone(made[0])
        assert not ref.is_alive()


def test_a_dead_letter_keeps_no_actor_alive(made: list[weakref.ref[Remembered]]) -> None:
    """The last ones are kept, maybe for as long as the registry lives; their cause is one, too."""
    with AggregateRegistry.start(Remembered, max_failures=0, quarantine=None) as registry:
        gate = Gate()
        address = registry.ref("a")
        address.proxy().wait_at(gate)
        gate.wait_until_reached()
        address.proxy().fail.defer(ValueError("no"))
        address.tell("told")
        gate.open()
        poll(lambda: registry.stats().quarantined == 1)
        assert registry.release("a") is True
        (letter,) = registry.dead_letters
        assert isinstance(letter.cause, ValueError)
        del letter
        assert is_gone(made[0])


class Chained(Remembered):
    """Fails in ways in which one exception leads to another."""

    def on_start(self) -> None:
        super().on_start()
        if self.key == "in on_start":
            self.on_receive("__context__")

    def on_receive(self, message: Any) -> None:
        saved = self._saved()
        try:
            self._fail()
        except LookupError as error:
            if message == "__cause__":
                raise OSError("start") from error
            if message == "a group":
                raise ExceptionGroup("all", [saved, error]) from None
            if message == "never raised":
                raise OSError("start") from ValueError("never raised")
            if message == "handed up":
                raise OSError("start") from self._hand_up()
            if message == "a circle":
                error.__context__ = saved
                saved.__context__ = error
            raise OSError("start")  # noqa: B904  # it has led to this all the same

    def _saved(self) -> Exception:
        for error in self._errors():
            return error
        raise AssertionError

    def _errors(self) -> Iterator[Exception]:
        try:
            self._fail()
        except LookupError as error:
            yield error

    def _hand_up(self) -> Exception:
        # No traceback has this frame: what it returns was caught below it.
        return _caught()

    def _fail(self) -> None:
        raise LookupError(id(self))


def _caught() -> Exception:
    try:
        int("no number")
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "how",
    [
        *("__cause__", "__context__", "a circle", "a group", "never raised", "handed up"),
        *("in on_start", "in constructor"),
    ],
)
@pytest.mark.parametrize("kept", ["quarantined", "resting", "dead letter"])
def test_no_exception_that_has_led_to_the_end_keeps_the_actor_alive(
    how: str, kept: str, made: list[weakref.ref[Remembered]]
) -> None:
    Remembered.fails_in = "constructor" if how == "in constructor" else ""
    with AggregateRegistry.start(
        Chained,
        backoff=(1000, 1000),
        max_failures=0 if kept == "quarantined" else 5,
        quarantine=None,
    ) as registry:
        address = registry.ref(how)
        gate = Gate()
        if how.startswith("in "):
            address.tell(how)
        else:
            address.proxy().wait_at(gate)
            gate.wait_until_reached()
            address.tell(how)
            address.tell("told")
            gate.open()
        poll(lambda: registry.stats().ends)
        if kept == "dead letter":
            address.stop()
            (cause, *_) = {letter.cause for letter in registry.dead_letters}
        else:
            poll(lambda: registry.stats().quarantined + registry.stats().backoff)
            (entry,) = registry._table._entries.values()
            cause = entry.cause
        assert cause is not None
        text = "".join(traceback.format_exception(cause))
        assert "raise " in text
        assert __file__ in text, "its lines can be read"
        for thread in threading.enumerate():
            if thread.name.startswith("Chained-"):
                join(thread)
        assert is_gone(made[0])
        del cause
        address.stop()


def test_an_aggregates_end_closes_no_generator_that_is_not_its_own() -> None:
    def fail() -> object:
        try:
            return Path("not there").stat()
        except OSError as error:
            return error

    def generate() -> Iterator[object]:
        yield fail()
        yield "still there"

    class Using(Counting):
        def on_receive(self, message: Any) -> None:
            raise ValueError("no") from next(message)

    generator = generate()
    with AggregateRegistry.start(Using) as registry:
        registry.ref("a").tell(generator)
        poll(lambda: registry.stats().ends)
        poll(lambda: not registry.stats().live)
    assert next(generator) == "still there"


# All at once.


def test_many_threads_that_let_many_keys_fail_never_let_two_of_a_key_live() -> None:
    """Each key ends as often as it was told to fail, whoever told it, and nothing else is lost."""
    with AggregateRegistry.start(
        Troubled, restart="at once", backoff=(0, 0.001), max_failures=10**6
    ) as registry:

        def trouble(seed: int) -> int:
            for i in range(25):
                registry.ref((seed + i) % 5).tell(ValueError(i))
                registry.ref((seed + i) % 5).tell(i)
            return 25

        results = in_threads([lambda seed=seed: trouble(seed) for seed in range(8)])  # type: ignore[misc]
        assert results == [25] * 8
        for key in range(5):
            assert registry.ref(key).ask("last") == "last"
        stats = registry.stats()
        assert stats.ends == {EndReason.FAILED: 200}
        assert stats.dead_letters == {}
        assert sum(isinstance(note, ValueError) for note in Troubled.notes) == 200
        assert sum(isinstance(note, int) for note in Troubled.notes) == 200


def test_what_others_wait_in_is_not_closed_with_the_frames_of_a_failure() -> None:
    """A generator that has caught an exception may go on, though a handler fails of it later."""
    kept: list[Exception] = []

    def pool() -> Iterator[int]:
        for number in itertools.count():
            try:
                raise ConnectionError("the database is down")  # noqa: TRY301
            except ConnectionError as error:
                kept.append(error)
            yield number

    class Unlucky(Counting):
        def on_receive(self, message: Any) -> None:
            raise OSError("no") from kept[0]

    numbers = pool()
    assert next(numbers) == 0
    with AggregateRegistry.start(Unlucky, max_failures=0, quarantine=None) as registry:
        registry.ref("a").tell("x")
        poll(lambda: registry.stats().quarantined)
        poll(lambda: registry.stats().live == 0)
    assert next(numbers) == 1
