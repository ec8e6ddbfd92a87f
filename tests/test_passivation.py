"""Aggregates retire when they are idle, or say so, and no message is lost by it."""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import messages

from pykka_registry import (
    AggregateRef,
    AggregateRegistry,
    EndReason,
    RegistryRef,
    Terminated,
)
from pykka_registry._alarms import Alarms
from pykka_registry._inbox import Inbox, Letter
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Referee,
    in_threads,
    join,
    nothing_remains,
    poll,
    start_thread,
    tiny_switch_interval,
    told_count,
    told_when,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ADD = messages.ProxyCall(attr_path=("add",), args=(), kwargs={})

IDLE = 100
LATE = 4
"""By how many seconds a retirement after `IDLE` seconds may come late at most."""


class Clock:
    """Stands still until a test lets time pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.3
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def forward(self, seconds: float, registry: RegistryRef[Any]) -> None:
        """Let time pass; return when the registry has rung the alarms that are due."""
        self.now += seconds
        # A registry rings what is due before it takes its next message.
        for _ in range(2):
            registry.proxy().keys().get()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Worded(Counting):
    """Says when it wants to retire."""

    def say(self, *words: float | None) -> None:
        for word in words:
            self.passivate(word)


def ends(listener: pykka.ActorRef[Listener], count: int) -> list[Terminated]:
    """Wait for so many ends, and return them."""
    told = told_when(
        listener, lambda told: sum(isinstance(event, Terminated) for event in told) >= count
    )
    return [event for event in told if isinstance(event, Terminated)]


def wait_until_asleep(registry: RegistryRef[Any], *keys: object) -> None:
    """Wait until these aggregates have nothing to do, and know it."""
    for key in keys:
        inbox: Any = registry[key].actor_inbox
        poll(functools.partial(is_asleep, inbox))


def is_asleep(inbox: Inbox) -> bool:
    return inbox.idle_since() is not None


# Idle for as long as the registry says.


def test_an_aggregate_retires_after_the_registrys_idle_time_and_not_before(
    clock: Clock, listener: pykka.ActorRef[Listener]
) -> None:
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        registry.subscribe(listener)
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - 0.1, registry)
        assert registry["a"] is ref
        wait_until_asleep(registry, "a")
        clock.forward(0.1 + LATE, registry)
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.IDLE)]
        assert EndReason.IDLE.is_passivation
        assert registry.stats().ends == {EndReason.IDLE: 1}
        assert registry.stats().live == 0
        assert nothing_remains(registry)


def test_each_registry_has_its_own_idle_time(clock: Clock) -> None:
    with (
        AggregateRegistry.start(Counting) as never,
        AggregateRegistry.start(Counting, idle=math.inf) as neither,
        AggregateRegistry.start(Counting, idle=IDLE) as soon,
        AggregateRegistry.start(Counting, idle=20 * IDLE) as later,
    ):
        registries = (never, neither, soon, later)
        stopped = [registry.get_or_start("a").actor_stopped for registry in registries]
        for registry in registries:
            wait_until_asleep(registry, "a")
        for registry in registries:
            clock.forward(IDLE, registry)
        assert stopped[2].wait(PATIENCE)
        assert ["a" in registry for registry in registries] == [True, True, False, True]
        for registry in registries:
            clock.forward(10 * IDLE, registry)
        assert stopped[3].wait(PATIENCE)
        assert ["a" in registry for registry in registries] == [True, True, False, False]


def test_with_no_idle_time_at_all_it_retires_as_soon_as_nothing_waits(
    listener: pykka.ActorRef[Listener],
) -> None:
    with AggregateRegistry.start(Counting, idle=0) as registry:
        registry.subscribe(listener)
        for expected in range(1, 6):
            assert registry.ref("a").call(Counting.add) == 1
            assert ends(listener, expected)[-1] == Terminated("a", expected, EndReason.IDLE)
        assert registry.get_or_start("b").actor_stopped.wait(PATIENCE)


def test_a_retired_aggregate_runs_on_stop_and_its_key_lives_on(clock: Clock) -> None:
    calls: list[tuple[str, str]] = []

    class Noting(Counting):
        def on_start(self) -> None:
            super().on_start()
            calls.append(("on_start", self.actor_urn))

        def on_stop(self) -> None:
            calls.append(("on_stop", self.actor_urn))
            self.passivate()  # too late to mean anything

    with AggregateRegistry.start(Noting, idle=IDLE) as registry:
        address = registry.ref("a")
        assert [address.call(Counting.add) for _ in range(3)] == [1, 2, 3]
        first = registry["a"]
        wait_until_asleep(registry, "a")
        clock.forward(IDLE + LATE, registry)
        assert first.actor_stopped.wait(PATIENCE)
        assert address.call(Counting.add) == 1
        second = registry["a"]
        assert calls == [
            ("on_start", first.actor_urn),
            ("on_stop", first.actor_urn),
            ("on_start", second.actor_urn),
        ]


# What counts as activity.

TRAFFIC: dict[str, Callable[[AggregateRef[Counting], pykka.ActorRef[Any]], object]] = {
    "ref.tell": lambda address, _ref: address.tell(ADD),
    "ref.ask": lambda address, _ref: address.ask(ADD),
    "ref.ask that fails": lambda address, _ref: address.ask("no such thing"),
    "ref.call": lambda address, _ref: address.call(Counting.add),
    "ref.submit": lambda address, _ref: address.submit(Counting.add),
    "ref.proxy call": lambda address, _ref: address.proxy().add(),
    "ref.proxy defer": lambda address, _ref: address.proxy().add.defer(),
    "ref.proxy attribute": lambda address, _ref: address.proxy().count.get(),
    "ref.proxy set": lambda address, _ref: setattr(address.proxy(), "count", 7),
    "plain tell": lambda _address, ref: ref.tell(ADD),
    "plain ask": lambda _address, ref: ref.ask(ADD),
    "plain proxy call": lambda _address, ref: ref.proxy().add(),
    "plain proxy defer": lambda _address, ref: ref.proxy().add.defer(),
    "plain proxy attribute": lambda _address, ref: ref.proxy().count.get(),
    "plain proxy set": lambda _address, ref: setattr(ref.proxy(), "count", 7),
    "an answer that fails": lambda _address, ref: ref.proxy().fail(ValueError("no")),
}


@pytest.mark.parametrize("traffic", TRAFFIC.values(), ids=TRAFFIC)
def test_all_traffic_counts_through_whichever_ref(
    traffic: Callable[[AggregateRef[Counting], pykka.ActorRef[Any]], object], clock: Clock
) -> None:
    """akka.net #7395: a busy entity was passivated because only some of its traffic counted."""
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        for _ in range(3):
            wait_until_asleep(registry, "a")
            clock.forward(IDLE * 0.6, registry)
            assert ref.is_alive()
            traffic(registry.ref("a"), ref)
        wait_until_asleep(registry, "a")
        assert registry.stats().ends == {}
        clock.forward(IDLE + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


READING: dict[str, Callable[[RegistryRef[Counting]], object]] = {
    "stats": lambda registry: registry.stats(),
    "get": lambda registry: registry.get("a"),
    "get_or_start": lambda registry: registry.get_or_start("a"),
    "item": lambda registry: registry["a"],
    "in": lambda registry: "a" in registry,
    "len": len,
    "iteration": list,
    "items": lambda registry: registry.items(),
    "wait_for": lambda registry: registry.wait_for("a"),
    "ref": lambda registry: repr(registry.ref("a").proxy()),
    "a message to the registry": lambda registry: registry.proxy().get("a").get(),
    "is_alive": lambda registry: registry["a"].is_alive(),
    "a plain proxy, unused": lambda registry: registry["a"].proxy(),
    "dead_letters": lambda registry: registry.dead_letters,
}


@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_reading_and_looking_up_are_no_activity(
    read: Callable[[RegistryRef[Counting]], object], clock: Clock
) -> None:
    """Commanded #606: a state query cancelled the idle timer for good."""
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        for _ in range(2):
            clock.forward(IDLE * 0.4, registry)
            assert ref.is_alive()
            read(registry)
        clock.forward(IDLE * 0.2 + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


def test_an_aggregate_at_work_is_not_idle_however_long_it_takes(clock: Clock) -> None:
    gate = Gate()
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        done = registry.ref("a").proxy().wait_at(gate)
        gate.wait_until_reached()
        for _ in range(5):
            clock.forward(IDLE + LATE, registry)
        gate.open()
        done.get()
        assert registry["a"] is ref
        assert registry.stats().ends == {}
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - LATE, registry)
        assert registry["a"] is ref
        wait_until_asleep(registry, "a")
        clock.forward(2 * LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


# The aggregate's own word.

WORDS: dict[str, tuple[tuple[float | None, ...], float]] = {
    "sooner than the registry says": ((50,), 50),
    "later than the registry says": ((400,), 400),
    "never": ((None,), math.inf),
    "for ever": ((math.inf,), math.inf),
    "now": ((0,), 0),
    "never, then soon": ((None, 50), 50),
    "soon, then never": ((50, None), math.inf),
    "now, then soon": ((0, 50), 50),
    "now, then never": ((0, None), math.inf),
    "never, then now": ((None, 0), 0),
    "later, then soon": ((400, 50), 50),
    "soon, then later": ((50, 400), 400),
    "now, then never, then soon": ((0, None, 50), 50),
}


@pytest.mark.parametrize(("words", "expected"), WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("where", ["constructor", "on_start", "handler", "proxy", "plain proxy"])
def test_its_latest_word_takes_the_place_of_the_registrys(
    where: str,
    words: tuple[float | None, ...],
    expected: float,
    clock: Clock,
    listener: pykka.ActorRef[Listener],
) -> None:
    class Speaking(Worded):
        def __init__(self) -> None:
            super().__init__()
            if where == "constructor" and self.key == "a":
                self.say(*words)

        def on_start(self) -> None:
            super().on_start()
            if where == "on_start" and self.key == "a":
                self.say(*words)

    with AggregateRegistry.start(Speaking, idle=IDLE) as registry:
        registry.subscribe(listener)
        ref = registry.get_or_start("a")
        if where == "handler":
            ref.ask(messages.ProxyCall(attr_path=("say",), args=words, kwargs={}))
        elif where in {"proxy", "plain proxy"}:
            proxy: Any = registry.ref("a").proxy() if where == "proxy" else ref.proxy()
            gate = Gate()
            proxy.wait_at(gate)
            said = [proxy.passivate(word) for word in words]
            gate.open()
            assert [future.get() for future in said] == [None] * len(words)
        if expected:
            wait_until_asleep(registry, "a")
            clock.forward(min(expected, 10_000) - 1, registry)
            assert registry["a"] is ref
            wait_until_asleep(registry, "a")
            clock.forward(1 + expected / 32 if expected < math.inf else 1e6, registry)
        if expected < math.inf:
            assert ends(listener, 1) == [Terminated("a", 1, EndReason.OWN_WORD)]
            assert EndReason.OWN_WORD.is_passivation
        else:
            assert registry["a"] is ref
            assert registry.stats().ends == {}


def test_a_word_said_later_takes_the_place_of_an_earlier_one(clock: Clock) -> None:
    with AggregateRegistry.start(Worded) as registry:
        address = registry.ref("a")
        ref = registry.get_or_start("a")
        address.call(Worded.say, IDLE)
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - 0.1, registry)
        address.call(Worded.say, None)
        wait_until_asleep(registry, "a")
        clock.forward(20 * IDLE, registry)
        assert registry["a"] is ref
        address.call(Worded.say, IDLE)
        wait_until_asleep(registry, "a")
        clock.forward(IDLE + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)
        assert registry.stats().declined == 0


def test_each_message_begins_the_time_that_it_has_given_itself_anew(clock: Clock) -> None:
    with AggregateRegistry.start(Worded) as registry:
        ref = registry.get_or_start("a")
        registry.ref("a").call(Worded.say, IDLE)
        for _ in range(3):
            wait_until_asleep(registry, "a")
            clock.forward(IDLE * 0.6, registry)
            registry.ref("a").call(Counting.add)
        assert registry["a"] is ref
        wait_until_asleep(registry, "a")
        clock.forward(IDLE + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


def test_a_word_holds_for_one_incarnation(clock: Clock, listener: pykka.ActorRef[Listener]) -> None:
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        registry.subscribe(listener)
        registry.ref("a").call(Worded.say, 0)
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.OWN_WORD)]
        assert registry.ref("a").call(Counting.add) == 1
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - 0.1, registry)
        assert "a" in registry
        wait_until_asleep(registry, "a")
        clock.forward(0.1 + LATE, registry)
        assert ends(listener, 2)[-1] == Terminated("a", 2, EndReason.IDLE)


def test_whoever_retires_at_once_handles_what_waits_first(
    listener: pykka.ActorRef[Listener],
) -> None:
    gate = Gate()

    class Weary(Worded):
        def rest_at(self, gate: Gate) -> str:
            self.passivate()
            gate.pass_through()
            return self.actor_urn

    with AggregateRegistry.start(Weary) as registry:
        registry.subscribe(listener)
        address, ref = registry.ref("a"), registry.get_or_start("a")
        urn = address.submit(Weary.rest_at, gate)
        gate.wait_until_reached()
        answers = [address.submit(Counting.add), ref.proxy().add(), address.submit(Counting.add)]
        who = ref.proxy().whoami()
        address.tell(ADD)
        gate.open()
        assert [answer.get() for answer in answers] == [1, 2, 3]
        assert who.get() == ("a", urn.get())
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.OWN_WORD)]
        assert address.call(Counting.add) == 1
        assert registry.stats().activations == 2


def test_whoever_retires_in_on_start_handles_what_has_activated_it(
    listener: pykka.ActorRef[Listener],
) -> None:
    class Mayfly(Counting):
        def on_start(self) -> None:
            super().on_start()
            self.passivate()

    with AggregateRegistry.start(Mayfly) as registry:
        registry.subscribe(listener)
        for expected in range(1, 4):
            assert registry.ref("a").call(Counting.add) == 1
            assert ends(listener, expected)[-1] == Terminated("a", expected, EndReason.OWN_WORD)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ("soon", TypeError, "after must be a number of seconds, not 'soon'"),
        ((1,), TypeError, r"after must be a number of seconds, not \(1,\)"),
        (math.nan, TypeError, "after must be a number of seconds, not nan"),
        (-1, ValueError, "after must be at least 0 seconds, not -1"),
        (-math.inf, ValueError, "after must be at least 0 seconds, not -inf"),
    ],
)
def test_a_word_that_means_nothing_changes_nothing(
    wrong: Any, error: type[Exception], text: str, clock: Clock
) -> None:
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        with pytest.raises(error, match=text):
            registry.ref("a").call(Worded.say, wrong)
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - 0.1, registry)
        assert registry["a"] is ref
        wait_until_asleep(registry, "a")
        clock.forward(0.1 + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE)


def test_an_aggregate_made_by_hand_has_nothing_to_retire_from() -> None:
    with pytest.raises(AttributeError, match="it was constructed by hand; start it with Counting"):
        Counting().passivate()


# Refused when work is waiting.


def slip_in_before_it_looks(
    _registry: RegistryRef[Any], monkeypatch: pytest.MonkeyPatch, letter: Letter
) -> list[str]:
    """Send a letter when the aggregate has been asked to retire, and has not seen that yet."""
    slipped: list[str] = []
    nudge = Inbox.nudge

    def put_and_nudge(self: Inbox) -> None:
        if not slipped and self.owner is not None:
            self.accept(letter)
            slipped.append("before it looks")
        nudge(self)

    monkeypatch.setattr(Inbox, "nudge", put_and_nudge)
    return slipped


def slip_in_before_it_closes(
    registry: RegistryRef[Any], monkeypatch: pytest.MonkeyPatch, letter: Letter
) -> list[str]:
    """Send a letter when the aggregate has found nothing to do, and is about to retire."""
    slipped: list[str] = []
    rest = registry._table.rest

    def put_and_rest(incarnation: Any) -> Any:
        if not slipped:
            slipped.append("before it closes")
            incarnation.inbox.accept(letter)
        return rest(incarnation)

    monkeypatch.setattr(registry._table, "rest", put_and_rest)
    return slipped


SLIPS = [slip_in_before_it_looks, slip_in_before_it_closes]


@pytest.mark.parametrize("own_word", [False, True], ids=["idle", "own word"])
@pytest.mark.parametrize("slip_in", SLIPS, ids=["before it looks", "before it closes"])
def test_it_stays_when_a_message_slips_in_and_is_idle_again_later(
    slip_in: Callable[[RegistryRef[Any], pytest.MonkeyPatch, Letter], list[str]],
    own_word: bool,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AggregateRegistry.start(Worded, idle=None if own_word else IDLE) as registry:
        ref = registry.get_or_start("a")
        if own_word:
            registry.ref("a").call(Worded.say, IDLE)
        wait_until_asleep(registry, "a")
        slipped = slip_in(registry, monkeypatch, Letter(ADD))
        clock.forward(IDLE + LATE, registry)
        poll(lambda: slipped)
        wait_until_asleep(registry, "a")
        assert registry["a"] is ref
        assert ref.proxy().count.get() == 1
        assert registry.stats().declined == 1
        assert registry.stats().ends == {}
        wait_until_asleep(registry, "a")
        clock.forward(IDLE - 0.1, registry)
        assert registry["a"] is ref
        wait_until_asleep(registry, "a")
        clock.forward(0.1 + LATE, registry)
        assert ref.actor_stopped.wait(PATIENCE / 6), "its idle time has not begun anew"
        assert registry.stats().declined == 1


def test_one_that_was_to_make_way_and_need_not_is_idle_all_the_same(clock: Clock) -> None:
    """It had not answered yet when its idle time was over, and then nobody needed its place."""
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        incarnation = registry._table._entries["a"].incarnation
        assert incarnation is not None
        incarnation.asked = EndReason.EVICTED
        clock.forward(IDLE + LATE, registry)
        poll(lambda: registry.stats().ends == {EndReason.IDLE: 1})


def test_one_that_is_stopped_as_it_declines_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with AggregateRegistry.start(Worded) as registry:
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        incarnation = registry._table._entries["a"].incarnation
        assert incarnation is not None
        decline = registry._table.decline

        def stop_and_decline(incarnation: Any) -> None:
            ref.actor_stopped.set()
            decline(incarnation)

        monkeypatch.setattr(registry._table, "decline", stop_and_decline)
        incarnation.asked = EndReason.IDLE
        assert ref.proxy().add().get(timeout=PATIENCE) == 1
        poll(lambda: registry.stats().ends == {EndReason.STOPPED: 1})
        assert registry.stats().declined == 1


def test_whoever_wants_to_retire_at_once_stays_for_a_message_that_slips_in(
    monkeypatch: pytest.MonkeyPatch, listener: pykka.ActorRef[Listener]
) -> None:
    handled: list[str] = []

    class Noting(Worded):
        def add(self, amount: int = 1) -> int:
            handled.append(self.actor_urn)
            return super().add(amount)

    with AggregateRegistry.start(Noting) as registry:
        registry.subscribe(listener)
        ref = registry.get_or_start("a")
        slipped = slip_in_before_it_closes(registry, monkeypatch, Letter(ADD))
        registry.ref("a").call(Worded.say, 0)
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.OWN_WORD)]
        assert slipped
        assert handled == [ref.actor_urn]
        assert registry.stats().declined == 1


def test_no_message_that_meets_a_retirement_is_lost() -> None:
    """Many senders, and an aggregate that retires whenever it can; counted."""
    senders, each = 4, 400
    referee = Referee()
    handled: list[tuple[int, int]] = []

    class Retiring(Counting):
        def __init__(self) -> None:
            referee.enter(self.key)
            super().__init__()

        def on_stop(self) -> None:
            referee.leave(self.key)

        def take(self, sender: int, i: int) -> int:
            handled.append((sender, i))
            return i

    def send(registry: RegistryRef[Retiring], sender: int) -> int:
        address = registry.ref("a")
        for i in range(each):
            if i % 4 == sender:
                assert address.call(Retiring.take, sender, i) == i
            else:
                address.proxy().take.defer(sender, i)
        return each

    declined = 0
    for _ in range(20):
        handled.clear()
        with tiny_switch_interval(), AggregateRegistry.start(Retiring, idle=0) as registry:
            todo = [functools.partial(send, registry, sender) for sender in range(senders)]
            assert in_threads(todo) == [each] * senders
        stats = registry.stats()
        assert sorted(handled) == [(s, i) for s in range(senders) for i in range(each)]
        for sender in range(senders):
            assert [i for s, i in handled if s == sender] == list(range(each)), "out of order"
        assert sum(stats.ends.values()) == stats.activations
        assert stats.dead_letters == {}
        assert stats.ends.get(EndReason.IDLE, 0) > 1
        declined += stats.declined
        if declined:
            break
    assert declined, "no message has met a retirement"
    assert referee.fouls == []
    assert referee.live() == 0


def test_a_message_that_comes_right_after_it_has_closed_is_the_next_ones_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has said that it goes, and has done nothing else: a plain ref's messages were for it."""
    handled: list[tuple[str, str]] = []
    refused: list[str] = []
    answers: list[pykka.Future[Any]] = []

    class Noting(Worded):
        def take(self, what: str) -> str:
            handled.append((what, self.actor_urn))
            return what

    with AggregateRegistry.start(Noting) as registry:
        ref, address = registry.get_or_start("a"), registry.ref("a")
        rest = registry._table.rest

        def send_late(incarnation: Any) -> Any:
            reason = rest(incarnation)
            if reason is EndReason.OWN_WORD:
                answers.append(address.submit(Noting.take, "call"))
                address.proxy().take.defer("tell")
                asked = ref.proxy().take("plain ask")
                for call in (lambda: ref.tell("plain tell"), asked.get):
                    try:
                        call()
                    except pykka.ActorDeadError as error:
                        refused.append(type(error).__name__)
            return reason

        monkeypatch.setattr(registry._table, "rest", send_late)
        address.call(Worded.say, 0)
        poll(lambda: len(handled) == 2)
        assert answers[0].get() == "call"
        successor = registry["a"].actor_urn
        assert successor != ref.actor_urn
        assert handled == [("call", successor), ("tell", successor)]
        assert refused == ["Undeliverable", "Undeliverable"]
        assert registry.stats().dead_letters == {}


# What it costs.


def test_idle_bookkeeping_wakes_no_aggregate_and_sets_no_alarm_for_a_message(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alarms ring and are set anew while the aggregates sleep, and messages touch none."""
    alarms = rests = 0
    set_alarm: Any = Alarms[Any].set

    def count_alarm(self: Any, *args: Any) -> None:
        nonlocal alarms
        alarms += 1
        set_alarm(self, *args)

    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        rest = registry._table.rest

        def count_rest(incarnation: Any) -> Any:
            nonlocal rests
            rests += 1
            return rest(incarnation)

        refs = [registry.ref(i) for i in range(10)]
        for ref in refs:
            ref.call(Counting.add)
        wait_until_asleep(registry, *range(10))
        monkeypatch.setattr(Alarms, "set", count_alarm)
        monkeypatch.setattr(registry._table, "rest", count_rest)
        for expected in range(2, 102):
            assert [ref.call(Counting.add) for ref in refs] == [expected] * 10
        assert alarms == 0
        for expected in range(102, 112):
            wait_until_asleep(registry, *range(10))
            clock.forward(IDLE * 0.6, registry)
            assert [ref.call(Counting.add) for ref in refs] == [expected] * 10
        assert 10 <= alarms <= 100
        assert rests == 0
        assert registry.stats().ends == {}


def test_idle_times_need_no_thread_of_their_own() -> None:
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        before = set(threading.enumerate())
        for i in range(20):
            registry.ref(i).call(Worded.say, IDLE + i)
        new = set(threading.enumerate()) - before
        assert len(new) == 20
        assert {type(thread) for thread in new} == {threading.Thread}
        assert {thread.name.split("-")[0] for thread in new} == {"Worded"}


def test_an_idle_time_that_is_sooner_than_others_wakes_the_registry(
    listener: pykka.ActorRef[Listener],
) -> None:
    """It sleeps until the next alarm that it knows of, so it must hear of one before that."""
    with AggregateRegistry.start(Worded, idle=1000) as registry:
        registry.subscribe(listener)
        registry.get_or_start("a")
        registry.proxy().keys().get()
        registry.ref("b").call(Worded.say, 0.01)
        assert ends(listener, 1) == [Terminated("b", 2, EndReason.OWN_WORD)]
        assert "a" in registry


def test_a_busy_registry_retires_late_and_loses_nothing(clock: Clock) -> None:
    gate = Gate()

    class Held(AggregateRegistry):
        def wait_at(self, gate: Gate) -> None:
            gate.pass_through()

    with Held.start(Counting, idle=IDLE) as registry:
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        held = registry.proxy().wait_at(gate)
        gate.wait_until_reached()
        passed = start_thread(lambda: clock.forward(5 * IDLE, registry))
        assert registry.ref("a").call(Counting.add) == 1
        assert registry["a"] is ref
        gate.open()
        held.get()
        join(passed)
        assert registry.ref("a").call(Counting.add) in {1, 2}


# At the end.


@pytest.mark.parametrize("due", [False, True], ids=["pending", "due"])
def test_a_drain_needs_not_wait_for_idle_times(
    due: bool, clock: Clock, listener: pykka.ActorRef[Listener]
) -> None:
    with AggregateRegistry.start(Worded, idle=IDLE) as registry:
        registry.subscribe(listener)
        for i in range(30):
            registry.ref(i).call(Worded.say, *([], [2 * IDLE], [None])[i % 3])
        wait_until_asleep(registry, *range(30))
        if due:
            clock.now += 3 * IDLE
        assert registry.drain() == []
    told = [event for event in told_count(listener, 60) if isinstance(event, Terminated)]
    assert sorted(event.key for event in told) == list(range(30))
    reasons = {event.reason for event in told}
    assert EndReason.DRAINED in reasons
    assert reasons <= {EndReason.DRAINED, EndReason.IDLE, EndReason.OWN_WORD}
    assert due or reasons == {EndReason.DRAINED}
    assert nothing_remains(registry)


def test_a_stop_takes_the_idle_alarm_off(clock: Clock) -> None:
    with AggregateRegistry.start(Counting, idle=IDLE) as registry:
        assert registry.get_or_start("a").stop()
        assert nothing_remains(registry)
        clock.forward(IDLE / 2, registry)
        ref = registry.get_or_start("a")
        wait_until_asleep(registry, "a")
        clock.forward(IDLE / 2 + LATE, registry)  # the first one's time would be over now
        assert registry["a"] is ref
        assert registry.stats().ends == {EndReason.STOPPED: 1}


def test_retirements_and_stops_at_once_end_each_incarnation_once(
    listener: pykka.ActorRef[Listener],
) -> None:
    rounds = 100
    with tiny_switch_interval(), AggregateRegistry.start(Worded) as registry:
        registry.subscribe(listener)
        for _ in range(rounds):
            ref = registry.get_or_start("a")
            results = in_threads(
                [ref.proxy().passivate.defer, functools.partial(ref.stop, timeout=PATIENCE)]
            )
            assert isinstance(results[1], bool)
            assert ref.actor_stopped.wait(PATIENCE)
    told = ends(listener, rounds)
    assert [event.incarnation for event in told] == sorted({event.incarnation for event in told})
    assert len(told) == rounds
    assert {event.reason for event in told} <= {EndReason.STOPPED, EndReason.OWN_WORD}


def test_one_that_had_a_message_after_it_was_found_idle_stays() -> None:
    """It may come between the look how long nothing has come and the request to go."""
    with AggregateRegistry.start(Counting, idle=1000) as registry:
        ref = registry.get_or_start("a")
        incarnation = registry._table._entries["a"].incarnation
        assert incarnation is not None
        with registry._table._lock:
            registry._table._alarms.ring(math.inf)
            incarnation.asked = EndReason.IDLE
            incarnation.inbox.nudge()
        poll(lambda: incarnation.asked is None)
        assert registry.ref("a").call(Counting.add) == 1
        assert registry.get("a") is ref
        with registry._table._lock:
            assert registry._table._alarms.has(incarnation.entry)  # the next look will come
