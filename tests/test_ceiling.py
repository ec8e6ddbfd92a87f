"""Never more live than may be, never more starting at once, and nobody waits in vain."""

from __future__ import annotations

import functools
import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import messages

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    DeadLetter,
    DeadLetterReason,
    EndReason,
    Overloaded,
    Quarantined,
    RegistryRef,
    Terminated,
    Undeliverable,
    _waits,
)
from pykka_registry._admission import Admission
from pykka_registry._inbox import Inbox, Letter
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Referee,
    Runtime,
    in_threads,
    join,
    nothing_remains,
    poll,
    start_thread,
    start_timeout,
    tiny_switch_interval,
)
from tests.test_passivation import ADD, Clock, ends, wait_until_asleep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pykka_registry._entry import Incarnation

HOPELESS = "all places are held by aggregates that wait for such a place"
ALL_LIVE = r"1 aggregate is live, of max_live=1, and none became idle within 0\.05 seconds"


@pytest.fixture(autouse=True)
def no_wait_is_left() -> Generator[None]:
    yield
    assert _waits._blocked == {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Places(Referee):
    """Knows the most that were live at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0
        self.most = 0

    def enter(self, key: Any) -> None:
        super().enter(key)
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def leave(self, key: Any) -> None:
        with self._lock:
            self._now -= 1
        super().leave(key)


class Placed(Counting):
    """Tells a referee when it lives: from its constructor's first line to its last hook's last."""

    def __init__(self, places: Places) -> None:
        self.places = places
        places.enter(self.key)
        super().__init__()

    def on_stop(self) -> None:
        self.places.leave(self.key)


def hold(registry: RegistryRef[Any], *keys: object) -> list[tuple[Gate, pykka.Future[None]]]:
    """Keep these aggregates at work."""
    held: list[tuple[Gate, pykka.Future[None]]] = []
    for key in keys:
        gate = Gate()
        held.append((gate, registry.ref(key).proxy().wait_at(gate)))
        gate.wait_until_reached()
    return held


def let_go(held: list[tuple[Gate, pykka.Future[None]]]) -> None:
    for gate, done in held:
        gate.open()
        done.get(timeout=PATIENCE)


# Never more than may be, and the coldest goes.


@pytest.mark.parametrize("max_live", [1, 3])
def test_never_more_are_live_than_may_be_and_nothing_is_lost(max_live: int) -> None:
    """Many threads, many more keys than places: they come and go all the time."""
    senders, each, keys = 6, 150, 12
    places = Places()
    chance = random.Random(7)
    orders = [[chance.randrange(keys) for _ in range(each)] for _ in range(senders)]
    handled: list[tuple[Any, int, int]] = []

    class Taking(Placed):
        def take(self, sender: int, i: int) -> None:
            handled.append((self.key, sender, i))

    def send(registry: RegistryRef[Taking], sender: int) -> None:
        for i, key in enumerate(orders[sender]):
            if i % 3:
                registry.ref(key).proxy().take.defer(sender, i)
            else:
                registry.ref(key).call(Taking.take, sender, i)

    with (
        tiny_switch_interval(),
        AggregateRegistry.start(Taking, args=(places,), max_live=max_live) as registry,
    ):
        results = in_threads([functools.partial(send, registry, s) for s in range(senders)])
        assert results == [None] * senders
    assert len(handled) == senders * each
    for sender, order in enumerate(orders):
        for key in range(keys):
            sent = [i for i, to in enumerate(order) if to == key]
            assert [i for k, s, i in handled if (k, s) == (key, sender)] == sent
    assert places.fouls == []
    assert places.most == max_live
    assert places.live() == 0
    stats = registry.stats()
    assert stats.ends[EndReason.EVICTED] > keys
    assert stats.dead_letters == {}
    assert stats.expired == 0
    assert nothing_remains(registry)


def test_evictions_and_own_retirements_and_declines_at_once_lose_nothing() -> None:
    """Senders race with evictions, until some of those were declined."""
    senders, each = 4, 200
    handled: list[int] = []
    places = Places()

    class Taking(Placed):
        def take(self, i: int) -> None:
            handled.append(i)
            if i % 7 == 0:
                self.passivate()

    def send(registry: RegistryRef[Taking], sender: int) -> None:
        for i in range(each):
            registry.ref((sender + i) % 5).proxy().take.defer(i)

    declined = evicted = own_word = 0
    for _ in range(50):
        handled.clear()
        with (
            tiny_switch_interval(),
            AggregateRegistry.start(Taking, args=(places,), max_live=2) as registry,
        ):
            in_threads([functools.partial(send, registry, s) for s in range(senders)])
        assert sorted(handled) == sorted(list(range(each)) * senders)
        stats = registry.stats()
        assert sum(stats.ends.values()) == stats.activations
        declined += stats.declined
        evicted += stats.ends.get(EndReason.EVICTED, 0)
        own_word += stats.ends.get(EndReason.OWN_WORD, 0)
        if declined and evicted and own_word:
            break
    assert declined
    assert evicted
    assert own_word
    assert places.most == 2
    assert places.fouls == []


def test_the_coldest_idle_one_goes_and_a_visited_one_stays(
    listener: pykka.ActorRef[Listener],
) -> None:
    """As SIEVE does: the hand passes over who was visited since it last came by."""
    with AggregateRegistry.start(Counting, max_live=3) as registry:
        registry.subscribe(listener)

        def start(key: str, *visited: str) -> None:
            for visitor in visited:
                registry.ref(visitor).call(Counting.add)
            wait_until_asleep(registry, *registry)
            registry.get_or_start(key)

        start("a")
        start("b")
        start("c")
        start("d", "a")  # a was visited, so b goes
        start("e")  # the hand was left at c
        start("f", "d")  # d was visited, and so was e, by nobody: it goes
        start("g")  # a was not visited again
        assert [event.key for event in ends(listener, 4)] == ["b", "c", "e", "a"]
        assert sorted(registry) == ["d", "f", "g"]
    assert [event.reason for event in ends(listener, 4)][:4] == [EndReason.EVICTED] * 4
    assert EndReason.EVICTED.is_passivation


def test_to_look_an_aggregate_up_is_no_visit(listener: pykka.ActorRef[Listener]) -> None:
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        registry.subscribe(listener)
        registry.get_or_start("a")
        registry.get_or_start("b")
        wait_until_asleep(registry, "a", "b")
        assert "a" in registry
        assert registry["a"] is registry.get_or_start("a")
        assert registry.stats().active == 2
        registry.get_or_start("c")
        assert ends(listener, 1) == [Terminated("a", 1, EndReason.EVICTED)]


def test_a_plain_refs_message_is_a_visit_too(listener: pykka.ActorRef[Listener]) -> None:
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        registry.subscribe(listener)
        registry.get_or_start("a").proxy().add().get()
        registry.get_or_start("b")
        wait_until_asleep(registry, "a", "b")
        registry.get_or_start("c")
        assert ends(listener, 1) == [Terminated("b", 2, EndReason.EVICTED)]


def test_an_evicted_aggregate_runs_on_stop_and_comes_back_with_its_next_message() -> None:
    stopped: list[Any] = []

    class Noting(Counting):
        def on_stop(self) -> None:
            stopped.append(self.key)

    with AggregateRegistry.start(Noting, max_live=1) as registry:
        for i, key in enumerate("abab"):
            assert registry.ref(key).call(Counting.add) == 1
            assert registry.stats().ends.get(EndReason.EVICTED, 0) == i
            assert stopped == list("aba"[:i])


def test_a_busy_aggregate_is_never_evicted(listener: pykka.ActorRef[Listener]) -> None:
    """However cold it is: b gets the message, but a's work is not done."""
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        registry.subscribe(listener)
        a, b = registry.get_or_start("a"), registry.get_or_start("b")
        (held_a, held_b) = hold(registry, "a", "b")
        new = registry.ref("c").submit(Counting.add)
        waiting = [b.proxy().add() for _ in range(3)]
        stats = registry.stats()
        assert (stats.live, stats.waiting, stats.starting, stats.queued) == (2, 1, 0, 1)
        for _ in range(3):  # whatever the registry does now and then
            registry.proxy().keys().get()
        assert (a.is_alive(), b.is_alive(), "c" in registry) == (True, True, False)
        let_go([held_b])
        assert [answer.get() for answer in waiting] == [1, 2, 3]
        assert new.get(timeout=PATIENCE) == 1
        assert ends(listener, 1) == [Terminated("b", 2, EndReason.EVICTED)]
        assert registry["a"] is a
        let_go([held_a])


@pytest.mark.usefixtures("clock")
def test_nobody_counts_on_a_busy_one_to_go() -> None:
    """Time stands still, so there is no second try: the first that is idle goes at once."""
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        (held_a, held_b) = hold(registry, "a", "b")
        new = registry.ref("c").submit(Counting.add)
        let_go([held_b])
        assert new.get(timeout=PATIENCE) == 1
        let_go([held_a])


@pytest.mark.parametrize("how", ["idle", "stop", "fail", "own word"])
def test_whoever_waits_gets_the_place_as_soon_as_somebody_is_idle_or_ends(how: str) -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        ref = registry.get_or_start("a")
        held = hold(registry, "a")
        if how == "stop":
            ref.stop(block=False)
        elif how == "fail":
            ref.proxy().fail.defer(ValueError("no"))
        elif how == "own word":
            ref.proxy().passivate.defer()
        answers = [registry.ref("b").submit(Counting.add) for _ in range(2)]
        started = registry.proxy().get_or_start("b").get()
        let_go(held)
        assert [answer.get(timeout=PATIENCE) for answer in answers] == [1, 2]
        assert started.get().actor_class is Counting
        (reason,) = registry.stats().ends
        assert (
            reason
            in {
                "idle": {EndReason.EVICTED},
                "stop": {EndReason.STOPPED},
                "fail": {EndReason.FAILED},
                "own word": {EndReason.OWN_WORD, EndReason.EVICTED},
            }[how]
        )


def test_those_in_line_start_in_the_order_in_which_they_came() -> None:
    started: list[Any] = []

    class Noting(Counting):
        def on_start(self) -> None:
            super().on_start()
            started.append(self.key)

    with AggregateRegistry.start(Noting, max_live=1) as registry:
        registry.get_or_start("first")
        held = hold(registry, "first")
        for i in range(20):
            registry.ref(i).tell(ADD)
        assert registry.stats().waiting == 20
        let_go(held)
        poll(lambda: len(started) == 21)
        assert started == ["first", *range(20)]


def test_foreign_actors_take_no_place(counters: RegistryRef[Counting]) -> None:
    other = counters.get_or_start("other")
    with AggregateRegistry.start(max_live=1) as registry:
        watchers = [Listener.start() for _ in range(3)]
        for watcher in watchers:
            registry.register(watcher.actor_urn, watcher)
        Counting.start(registry, "a")
        assert len(registry) == 4
        assert registry.stats().live == 1
        for watcher in watchers:
            watcher.stop()
    assert other.is_alive()


def test_aggregates_that_tell_each_other_take_turns_in_one_place() -> None:
    """A tell waits for nobody, so one place is enough for any number that talk by it."""
    done = threading.Event()
    throws: list[Any] = []

    class Player(Counting):
        def throw(self, left: int) -> None:
            throws.append(self.key)
            if left:
                self.registry.ref((self.key + 1) % 3).proxy().throw.defer(left - 1)
            else:
                done.set()

    with AggregateRegistry.start(Player, max_live=1) as registry:
        registry.ref(0).proxy().throw.defer(60)
        assert done.wait(PATIENCE)
        assert throws == [i % 3 for i in range(61)]
        assert registry.stats().activations == 61


# Overloaded, in time.

WAITS: dict[str, Callable[[RegistryRef[Any], float], object]] = {
    "get_or_start": lambda registry, t: registry.get_or_start("new", timeout=t),
    "start_new": lambda registry, t: registry.start_new("new", timeout=t),
    "start": lambda registry, t: Counting.start(registry, "new", timeout=t),
    "ask": lambda registry, t: registry.ref("new").ask(ADD, timeout=t),
    "call": lambda registry, t: registry.ref("new").using(timeout=t).call(Counting.add),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_who_waits_for_a_place_waits_no_longer_than_its_timeout(
    wait: Callable[[RegistryRef[Any], float], object],
) -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        held = hold(registry, "a")
        with pytest.raises(Overloaded, match=ALL_LIVE) as raised:
            wait(registry, 0.05)
        assert raised.value.key == "new"
        assert isinstance(raised.value, pykka.Timeout)
        stats = registry.stats()
        assert (stats.waiting, stats.starting, stats.queued, stats.live) == (0, 0, 0, 1)
        assert registry.get("new") is None
        let_go(held)
        wait_until_asleep(registry, "a")
        assert registry.stats().activations == 1, "nobody waits for it any longer"
        assert registry["a"].stop()
        assert nothing_remains(registry)
        assert registry.ref("new").call(Counting.add) == 1


def test_nobody_waits_for_a_place_longer_than_the_registry_says(
    listener: pykka.ActorRef[Listener],
) -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        registry.subscribe(listener)
        held = hold(registry, "a")
        address = registry.ref("new")
        with start_timeout(registry, 0.05):
            address.tell("lost")
            futures: list[pykka.Future[Any]] = [
                address.ask(ADD, block=False),
                address.submit(Counting.add),
                address.proxy().add(),
                registry.proxy().get_or_start("new").get(),
            ]
            for future in futures:
                with pytest.raises(Overloaded, match=ALL_LIVE):
                    future.get(timeout=PATIENCE)
            for call in (registry.get_or_start, registry.start_new):
                with pytest.raises(Overloaded, match=ALL_LIVE):
                    call("new")
            with pytest.raises(Overloaded, match=ALL_LIVE):
                address.call(Counting.add)
        assert registry.dead_letters == [DeadLetter("new", "lost", DeadLetterReason.OVERLOADED)]
        assert registry.stats().dead_letters == {DeadLetterReason.OVERLOADED: 1}
        assert registry.stats().waiting == 0
        let_go(held)
        assert registry["a"].stop()
        assert nothing_remains(registry)
        assert address.call(Counting.add) == 1
    assert [event.key for event in ends(listener, 2)] == ["a", "new"]


def test_nobody_in_line_is_given_up_while_places_come_free(clock: Clock) -> None:
    with AggregateRegistry.start(Counting, max_live=1, start_timeout=100) as registry:
        held = hold(registry, 0)
        gates = [Gate() for _ in range(3)]
        for key, gate in enumerate(gates, start=1):
            registry.ref(key).proxy().wait_at.defer(gate)
        last = registry.ref("last").submit(Counting.add)
        for key, gate in enumerate(gates, start=1):
            clock.forward(90, registry)
            let_go(held) if key == 1 else gates[key - 2].open()
            gate.wait_until_reached()
        assert registry.stats().dead_letters == {}
        assert registry.stats().waiting == 1
        clock.forward(90, registry)
        assert registry.stats().waiting == 1, "a place has come free within its time"
        clock.forward(15, registry)
        with pytest.raises(Overloaded, match="none became idle"):
            last.get(timeout=PATIENCE)
        gates[-1].open()


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at because half a second is over."""

    def nothing(_admission: Admission) -> None: ...

    monkeypatch.setattr(Admission, "tick", nothing)


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[Inbox]:
    """Return a list of who is looked at, from now on, whether it is cold."""
    looks: list[Inbox] = []
    is_cold = Inbox.is_cold

    def count(inbox: Inbox) -> bool:
        looks.append(inbox)
        return is_cold(inbox)

    monkeypatch.setattr(Inbox, "is_cold", count)
    return looks


@pytest.mark.usefixtures("no_tick")
def test_whoever_comes_into_line_looks_at_nobody_who_is_known_to_be_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AggregateRegistry.start(Counting, max_live=20) as registry:
        held = hold(registry, *range(20))
        looks = count_looks(monkeypatch)
        answers = [registry.ref(("new", i)).submit(Counting.add) for i in range(100)]
        assert len(looks) <= 2 * 20
        let_go(held)
        assert [answer.get(timeout=PATIENCE) for answer in answers] == [1] * 100


@pytest.mark.usefixtures("no_tick")
def test_while_all_are_busy_an_activation_looks_at_no_more_of_them_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AggregateRegistry.start(Counting, max_live=20) as registry:
        held = hold(registry, *range(20))
        last: Any = registry.ref("waits").proxy().wait_at(gate := Gate())
        gates = [(gate, last)]
        looks = count_looks(monkeypatch)
        for number in range(20):  # each makes room by its end, for one that is busy at once
            gate = Gate()
            done = registry.ref(("new", number)).proxy().wait_at(gate)
            registry[number].stop(block=False)
            held.pop(0)[0].open()
            if number:  # the one before it in line
                gates[-1][0].wait_until_reached()
            gates.append((gate, done))
        assert len(looks) <= 20
        let_go(gates)


@pytest.mark.usefixtures("no_tick")
def test_one_that_is_visited_before_each_of_two_looks_goes_as_soon_as_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not at the next tick, for there is none."""
    is_cold = Inbox.is_cold
    handled = threading.Semaphore(0)
    looks: list[bool] = []

    def visit_first(inbox: Inbox) -> bool:
        if len(looks) < 2:
            is_to_say_so = inbox._nudged
            inbox.accept(Letter(messages.ProxyCall(("run",), (handled.release,), {})))
            assert handled.acquire(timeout=PATIENCE)
            # It sleeps again, or has looked up and would tell the table, which is locked now.
            poll(lambda: inbox._parked is not None or (is_to_say_so and not inbox._nudged))
        looks.append(is_cold(inbox))
        return looks[-1]

    with AggregateRegistry.start(Counting, max_live=1) as registry:
        registry.ref("a").call(Counting.add)
        monkeypatch.setattr(Inbox, "is_cold", visit_first)
        assert registry.ref("b").submit(Counting.add).get(timeout=PATIENCE) == 1
        assert looks[:2] == [False, False]
        assert registry.stats().ends == {EndReason.EVICTED: 1}


def test_who_gives_up_takes_nobody_elses_turn_away() -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        held = hold(registry, "a")
        first = registry.ref("b").submit(Counting.add)
        with pytest.raises(Overloaded):
            registry.ref("c").ask(ADD, timeout=0.01)
        with pytest.raises(Overloaded):
            registry.ref("b").ask(ADD, timeout=0.01)
        last = registry.ref("d").submit(Counting.add)
        assert registry.stats().waiting == 2
        let_go(held)
        assert (first.get(timeout=PATIENCE), last.get(timeout=PATIENCE)) == (1, 1)
        assert registry.stats().expired == 2
        assert registry.stats().activations == 3


def test_the_messages_that_wait_for_keys_that_cannot_start_are_bounded() -> None:
    with AggregateRegistry.start(Counting, max_live=1, max_queued=3) as registry:
        held = hold(registry, "a")
        for key in ("b", "b", "c"):
            registry.ref(key).tell(ADD)
        with pytest.raises(Overloaded, match="max_queued=3 messages wait for keys that are not"):
            registry.ref("b").tell(ADD)
        with pytest.raises(Overloaded, match="max_queued=3"):
            registry.ref("new").call(Counting.add)
        with pytest.raises(Overloaded, match="max_queued=3"):
            registry.ref("new").submit(Counting.add).get()
        assert registry.ref("a").submit(Counting.add) is not None  # it is active: no queue
        assert registry.stats().queued == 3
        assert registry.stats().waiting == 2
        let_go(held)
        poll(lambda: not registry.stats().queued)
        assert registry.ref("new").call(Counting.add) == 1


# Overloaded, at once.

ASKS: dict[str, Callable[[RegistryRef[Any], Any], object]] = {
    "ask": lambda registry, key: registry.ref(key).ask(ADD),
    "ask with a timeout": lambda registry, key: registry.ref(key).ask(ADD, timeout=PATIENCE),
    "call": lambda registry, key: registry.ref(key).call(Counting.add),
    "submit": lambda registry, key: registry.ref(key).submit(Counting.add).get(),
    "proxy": lambda registry, key: registry.ref(key).proxy().add().get(),
    "get_or_start": lambda registry, key: registry.get_or_start(key).proxy().add().get(),
    "start_new": lambda registry, key: registry.start_new(key).proxy().add().get(),
    "start": lambda registry, key: Counting.start(registry, key).proxy().add().get(),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_handler_that_would_wait_for_the_only_place_is_refused_at_once(
    ask: Callable[[RegistryRef[Any], Any], object],
) -> None:
    with AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as registry:
        a = registry.ref("a")

        def refused() -> Any:
            with pytest.raises(Overloaded, match=HOPELESS) as raised:
                ask(registry, "new")
            return raised.value.key

        assert a.call(Counting.run, refused) == "new"
        assert a.call(Counting.add) == 1, "the one that was refused goes on"


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_whoever_was_refused_at_once_leaves_nothing_behind(
    ask: Callable[[RegistryRef[Any], Any], object],
) -> None:
    """Its message will not be handled, so its key must not start, nor take the place of another."""
    with AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as registry:

        def refused() -> tuple[int, int, int]:
            with pytest.raises(Overloaded, match=HOPELESS):
                ask(registry, "new")
            stats = registry.stats()
            return stats.waiting, stats.queued, stats.starting

        ref = registry.get_or_start("a")
        assert registry.ref("a").call(Counting.run, refused) == (0, 0, 0)
        wait_until_asleep(registry, "a")
        assert registry["a"] is ref
        assert registry.stats().activations == 1
        assert registry.stats().ends == {}


def test_a_chain_of_handlers_that_fills_all_places_is_refused() -> None:
    """Whichever of their waits comes last: what they wait for is the key without a place."""
    with AggregateRegistry.start(Counting, max_live=4, start_timeout=2 * PATIENCE) as registry:

        def ask_next(i: int) -> Any:
            return i < 4 and registry.ref(i + 1).call(Counting.run, ask_next, i + 1)

        with pytest.raises(Overloaded, match=HOPELESS) as raised:
            registry.ref(0).call(Counting.run, ask_next, 0)
        assert raised.value.key == 4


class Nested(Counting):
    """Needs the next one to start."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last

    def on_start(self) -> None:
        super().on_start()
        if self.key < self._last:
            self.registry.get_or_start(self.key + 1)


def test_on_starts_that_fill_all_places_are_refused() -> None:
    with AggregateRegistry.start(
        Nested, args=(3,), max_live=3, start_timeout=2 * PATIENCE
    ) as registry:
        with pytest.raises(Overloaded, match=HOPELESS) as raised:
            registry.get_or_start(0)
        assert raised.value.key == 3


@pytest.mark.parametrize("width", [1, 2, 4])
def test_on_starts_that_need_each_other_get_through_whatever_the_width(width: int) -> None:
    """There are places enough, and those who wait are not at work."""
    with AggregateRegistry.start(
        Nested, args=(3 * width,), max_starting=width, start_timeout=2 * PATIENCE
    ) as registry:
        assert registry.get_or_start(0).is_alive()
        assert sorted(registry) == list(range(3 * width + 1))


class Parent(Counting):
    """Needs its child in `on_start`, or in its handler."""

    where = "on_start"
    barrier: threading.Barrier
    """Where parents meet, so that they fill the width."""

    def on_start(self) -> None:
        super().on_start()
        if self.key[0] == "parent" and self.where == "on_start":
            self.barrier.wait()
            self.load()

    def load(self) -> int:
        child = ("child", self.key[1])
        if self.key[1] % 2:
            self.registry.get_or_start(child)
        return self.registry.ref(child).call(Counting.add)


def test_a_burst_of_cold_keys_that_need_other_cold_keys_gets_through() -> None:
    width = 8
    Parent.barrier = threading.Barrier(width, timeout=PATIENCE)
    with AggregateRegistry.start(
        Parent, max_starting=width, start_timeout=2 * PATIENCE
    ) as registry:
        answers = [registry.ref(("parent", i)).submit(Counting.add) for i in range(10 * width)]
        assert [answer.get(timeout=PATIENCE) for answer in answers] == [1] * (10 * width)
        assert registry.stats().ends == {}


@pytest.mark.parametrize("how", ["ends before it answers", "rests", "stops"])
def test_a_key_that_is_to_start_later_does_not_wait_for_who_waits_for_it(how: str) -> None:
    """Who starts waits for a key that is active, or not due, and stands in line only later."""
    gates = {"child": Gate(), "failing": Gate()}

    class Fragile(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key == "parent":
                assert self.registry.ref("child").call(Counting.add) == 1

        def on_failure(self, *_exc_info: Any) -> None:
            gates["failing"].pass_through()

        def on_stop(self) -> None:
            if how == "stops" and self.key == "child" and not gates["failing"].opened.is_set():
                gates["failing"].pass_through()

    backoff = (0.05, 0.05) if how == "rests" else (0, 0)
    with AggregateRegistry.start(
        Fragile, max_starting=1, backoff=backoff, start_timeout=2 * PATIENCE
    ) as registry:
        child = registry.ref("child")
        child.proxy().wait_at(gates["child"])
        gates["child"].wait_until_reached()
        if how == "stops":
            child.stop(block=False)
        else:
            child.proxy().fail.defer(ValueError("no"))
        if how != "ends before it answers":
            gates["child"].open()
            gates["failing"].wait_until_reached()
        parent = registry.ref("parent").submit(Counting.add)
        wait_until_blocked(1)
        gates["child"].open()
        gates["failing"].open()
        assert parent.get(timeout=PATIENCE) == 1


def test_what_outsiders_wait_for_stays_within_the_width() -> None:
    """Also if they wait by way of a future that is mapped, which counts as running something."""
    gate = Gate()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            gate.pass_through()

    with AggregateRegistry.start(Slow, max_starting=2) as registry:
        futures = [registry.ref(key).submit(Counting.add) for key in range(6)]
        mapped = [future.map(lambda count: -count) for future in futures]
        threads = [start_thread(functools.partial(m.get, timeout=PATIENCE)) for m in mapped]
        wait_until_blocked(6)
        assert (registry.stats().starting, registry.stats().waiting) == (2, 4)
        gate.open()
        for thread in threads:
            join(thread)
        assert [m.get(timeout=PATIENCE) for m in mapped] == [-1] * 6


def test_an_on_stop_that_waits_for_its_own_place_is_refused_at_once() -> None:
    refused: list[str] = []

    class Clinging(Counting):
        def on_stop(self) -> None:
            if self.key == "a":
                try:
                    self.registry.ref("c").call(Counting.add)
                except Overloaded as error:
                    refused.append(error.why)

    with AggregateRegistry.start(Clinging, max_live=1, start_timeout=2 * PATIENCE) as registry:
        registry.get_or_start("a")
        assert registry.ref("b").call(Counting.add) == 1
        assert refused == [HOPELESS]


def test_two_registries_whose_places_wait_for_each_other_are_refused() -> None:
    """A handler here asks one there, which needs the place of the first."""
    with (
        AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as left,
        AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as right,
    ):
        refused: list[str] = []

        def ask(registry: RegistryRef[Counting], key: str, *args: Any) -> None:
            try:
                registry.ref(key).call(Counting.run, *args)
            except Overloaded as error:
                refused.append(error.why)

        left.ref("a").call(Counting.run, ask, right, "a", ask, left, "b", len, "")
        assert refused == [HOPELESS], "whichever wait came last"


def test_two_registries_in_which_both_wait_for_places_of_the_other() -> None:
    """Each handler waits for a place that the other one holds: one of them is refused."""
    with (
        AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as left,
        AggregateRegistry.start(Counting, max_live=1, start_timeout=2 * PATIENCE) as right,
    ):
        both = threading.Barrier(2, timeout=PATIENCE)

        def ask(other: RegistryRef[Counting]) -> int:
            both.wait()
            return other.ref("new").call(Counting.add)

        results = in_threads(
            [
                lambda: left.ref("a").call(Counting.run, ask, right),
                lambda: right.ref("a").call(Counting.run, ask, left),
            ]
        )
        refused = [result for result in results if isinstance(result, Overloaded)]
        assert [error.why for error in refused] == [HOPELESS]
        assert results.count(1) == 1, "the refused one's place serves the other"


@pytest.mark.parametrize("handlers", [2, 5])
def test_of_handlers_that_wait_for_each_others_places_at_once_the_last_is_refused(
    handlers: int,
) -> None:
    with (
        tiny_switch_interval(),
        AggregateRegistry.start(
            Counting, max_live=handlers, start_timeout=2 * PATIENCE
        ) as registry,
    ):
        for round_ in range(10):
            barrier = threading.Barrier(handlers, timeout=PATIENCE)

            def ask(key: object, barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                return registry.ref(key).call(Counting.add)

            def call(i: int, ask: Callable[[object], int] = ask, round_: int = round_) -> int:
                return registry.ref(i).call(Counting.run, ask, (round_, "new", i))

            results = in_threads([functools.partial(call, i) for i in range(handlers)])
            errors = [result for result in results if not isinstance(result, int)]
            assert [type(error) for error in errors] == [Overloaded] * len(errors)
            assert 1 <= len(errors) < handlers, "one makes way, and that is enough for some"


def test_a_handler_that_waits_for_a_key_at_rest_is_refused_when_that_finds_no_place() -> None:
    """The key failed, and rests; when it may start again, all places wait for it."""
    with AggregateRegistry.start(
        Counting, max_live=1, backoff=(0.2, 0.2), start_timeout=3
    ) as registry:
        registry.ref("b").proxy().fail.defer(ValueError("no"))
        poll(lambda: registry.stats().ends.get(EndReason.FAILED))

        def ask() -> str:
            with pytest.raises(Overloaded) as raised:
                registry.ref("b").call(Counting.add)
            return raised.value.why

        assert registry.ref("a").call(Counting.run, ask) == HOPELESS


def test_a_handler_that_only_tells_is_never_refused() -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:

        def tell() -> int:
            for key in ("b", "c", "d"):
                registry.ref(key).tell(ADD)
            return registry.stats().waiting

        assert registry.ref("a").call(Counting.run, tell) == 3
        for key in ("b", "c", "d"):
            assert registry.ref(key).call(Counting.add) in {1, 2}
        assert registry.stats().dead_letters == {}


# No false alarm.


def test_a_handler_that_waits_for_the_place_of_an_idle_one_gets_it() -> None:
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        registry.get_or_start("idle")
        asked = registry.ref("a").submit(
            Counting.run, lambda: registry.ref("new").call(Counting.add)
        )
        assert asked.get(timeout=PATIENCE) == 1
        assert registry.stats().ends == {EndReason.EVICTED: 1}


def wait_until_blocked(count: int) -> None:
    """Wait until so many handlers wait for somebody."""
    poll(lambda: len(_waits._blocked) == count)


def test_a_handler_that_waits_for_the_place_of_a_busy_one_gets_it_later() -> None:
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        held = hold(registry, "busy")
        asked = registry.ref("a").submit(
            Counting.run, lambda: registry.ref("new").call(Counting.add)
        )
        wait_until_blocked(1)
        let_go(held)
        assert asked.get(timeout=PATIENCE) == 1


def test_a_handler_that_waits_for_one_that_waits_for_a_busy_one_is_not_refused() -> None:
    with AggregateRegistry.start(Counting, max_live=3) as registry:
        held = hold(registry, "busy")
        waiting = registry.ref("waiting").submit(
            Counting.run, lambda: registry.ref("busy").call(Counting.add)
        )
        wait_until_blocked(1)
        asked = registry.ref("a").submit(
            Counting.run, lambda: registry.ref("new").call(Counting.add)
        )
        wait_until_blocked(2)
        let_go(held)
        assert waiting.get(timeout=PATIENCE) == 1
        assert asked.get(timeout=PATIENCE) == 1


def test_a_start_that_waits_for_one_that_can_go_on_is_not_refused() -> None:
    gate = Gate()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key == "slow":
                gate.pass_through()
            if self.key == "asking":
                self.registry.ref("new").call(Counting.add)

    with AggregateRegistry.start(Slow, max_live=2) as registry:
        slow = registry.proxy().get_or_start("slow").get()
        gate.wait_until_reached()
        asking = registry.proxy().get_or_start("asking").get()
        wait_until_blocked(1)
        gate.open()
        assert slow.get(timeout=PATIENCE) is not None
        assert asking.get(timeout=PATIENCE).is_alive()


def test_an_outside_thread_that_waits_for_a_place_is_never_refused_at_once() -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        held = hold(registry, "a")
        answers = [registry.ref(i).submit(Counting.add) for i in range(5)]
        let_go(held)
        assert [answer.get(timeout=PATIENCE) for answer in answers] == [1] * 5


def test_handlers_that_ask_cold_keys_are_served_when_there_are_places_enough() -> None:
    """Trees of asks, at full speed: a place for each that waits, and one for who can go on."""
    askers, places = 4, Places()
    with (
        tiny_switch_interval(),
        AggregateRegistry.start(Placed, args=(places,), max_live=2 * askers) as registry,
    ):

        def ask(i: int, n: int) -> int:
            return registry.ref(("leaf", i, n)).call(Counting.add)

        def drive(i: int) -> list[int]:
            return [registry.ref(i).call(Counting.run, ask, i, n) for n in range(40)]

        results = in_threads([functools.partial(drive, i) for i in range(askers)])
        assert results == [[1] * 40] * askers
    assert places.most <= 2 * askers
    assert places.fouls == []
    assert registry.stats().ends[EndReason.EVICTED] > 40


# So many starts at once.


def test_no_more_start_at_once_than_may() -> None:
    gates: list[Gate] = [Gate() for _ in range(10)]
    places = Places()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            places.enter(self.key)
            gates[int(self.key)].pass_through()
            places.leave(self.key)

    with AggregateRegistry.start(Slow, max_starting=3) as registry:
        for key in range(10):
            registry.ref(key).tell(ADD)
        for key in range(3):
            gates[key].wait_until_reached()
        stats = registry.stats()
        assert (stats.starting, stats.waiting, stats.queued, stats.live) == (3, 7, 10, 3)
        gates[1].open()
        gates[3].wait_until_reached()
        assert not gates[4].reached.is_set()
        for gate in gates:
            gate.open()
        assert [registry.ref(key).call(Counting.add) for key in range(10)] == [2] * 10
        assert places.most == 3


def test_a_start_that_fails_makes_way_for_the_next() -> None:
    class Failing(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key % 2:
                raise ValueError("no")

    with AggregateRegistry.start(Failing, max_starting=1, max_live=1) as registry:
        futures = [registry.proxy().get_or_start(key).get() for key in range(10)]
        for key, future in enumerate(futures):
            if key % 2:
                with pytest.raises(ValueError, match="no"):
                    future.get(timeout=PATIENCE)
            else:
                assert future.get(timeout=PATIENCE)


def test_ten_thousand_cold_keys_told_at_once_all_load() -> None:
    """Akka #20744: a thundering herd on recovery, fixed with permits."""
    keys, senders, width = 10_000, 4, 8
    done = threading.Event()
    places, starting = Places(), Places()
    handled: list[int] = []

    class Cheap(AggregateMixin, Runtime):
        def __init__(self) -> None:
            places.enter(self.key)
            starting.enter(self.key)
            super().__init__()

        def on_start(self) -> None:
            starting.leave(self.key)

        def on_receive(self, message: int) -> None:
            assert message == self.key
            handled.append(message)
            if len(handled) == keys:
                done.set()

        def on_stop(self) -> None:
            places.leave(self.key)

    def send(registry: RegistryRef[Cheap], sender: int) -> None:
        for key in range(sender, keys, senders):
            registry.ref(key).tell(key)

    with AggregateRegistry.start(Cheap, max_starting=width, max_live=50) as registry:
        assert (
            in_threads([functools.partial(send, registry, s) for s in range(senders)])
            == [None] * senders
        )
        assert done.wait(PATIENCE)
        assert sorted(handled) == list(range(keys))
        stats = registry.stats()
        assert (stats.activations, stats.waiting, stats.queued) == (keys, 0, 0)
        assert stats.dead_letters == {}
    assert starting.most <= width
    assert places.most <= 50
    assert places.fouls == []
    assert set(places.entered.values()) == {1}
    assert nothing_remains(registry)


# Threads that cannot be had, and threads that do not end.


@pytest.mark.threads
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_no_thread_to_be_had_is_the_ceiling_and_loses_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AggregateRegistry.start(Counting) as registry:
        ref = registry.get_or_start("a")
        held = hold(registry, "a")
        with monkeypatch.context() as patch:

            def no_thread(_self: threading.Thread) -> None:
                raise error

            patch.setattr(threading.Thread, "start", no_thread)
            registry.ref("b").tell(ADD)
            answer = registry.ref("c").submit(Counting.add)
            with pytest.raises(Overloaded, match=r"1 aggregate is live, and .*no thread"):
                registry.ref("d").ask(ADD, timeout=0.01)
            stats = registry.stats()
            assert (stats.live, stats.waiting, stats.queued) == (1, 2, 2)
        let_go(held)
        assert answer.get(timeout=PATIENCE) == 1
        assert registry.ref("b").call(Counting.add) in {1, 2}
        assert registry.stats().dead_letters == {}
        assert registry.stats().activations >= 3
        assert ref.actor_class is Counting


@pytest.mark.threads
def test_a_second_thread_that_cannot_be_had_for_one_that_has_begun_changes_nothing() -> None:
    """A thread that seems not to begin is started again."""

    class Late(Counting):
        @classmethod
        def _pykka_registry_launch(cls, incarnation: Incarnation) -> None:
            super()._pykka_registry_launch(incarnation)
            poll(lambda: incarnation.begun)
            raise RuntimeError("can't start new thread")

    with AggregateRegistry.start(Late, max_live=2) as registry:
        assert registry.ref("a").call(Counting.add) == 1
        assert registry.ref("b").call(Counting.add) == 1
        stats = registry.stats()
        assert (stats.live, stats.waiting, stats.activations) == (2, 0, 2)


@pytest.mark.threads
def test_threads_that_fail_to_start_now_and_then_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(3)
    normal = threading.Thread.start
    refused = itertools.count()
    handled: list[tuple[int, int]] = []

    class Taking(Counting):
        def take(self, sender: int, i: int) -> None:
            handled.append((sender, i))

    def sometimes(self: threading.Thread) -> None:
        if self.name.startswith("Taking-") and chance.random() < 0.1:
            next(refused)
            raise RuntimeError("can't start new thread")
        normal(self)

    def send(registry: RegistryRef[Taking], sender: int) -> None:
        for i in range(100):
            registry.ref(i % 10).proxy().take.defer(sender, i)

    with AggregateRegistry.start(Taking, max_live=4) as registry:
        monkeypatch.setattr(threading.Thread, "start", sometimes)
        in_threads([functools.partial(send, registry, sender) for sender in range(4)])
        poll(lambda: len(handled) == 400)
        monkeypatch.undo()
    assert sorted(handled) == [(sender, i) for sender in range(4) for i in range(100)]
    assert next(refused) > 0
    assert registry.stats().dead_letters == {}


def test_one_that_is_slow_to_stop_does_not_hold_up_others_for_ever(
    listener: pykka.ActorRef[Listener],
) -> None:
    """It was the coldest, but once it is abandoned another idle one is asked."""
    gate = Gate()

    class SlowToStop(Counting):
        def on_stop(self) -> None:
            if self.key == "slow":
                gate.pass_through()

    with AggregateRegistry.start(SlowToStop, max_live=2, stop_timeout=0.1) as registry:
        registry.subscribe(listener)
        registry.get_or_start("slow")
        registry.get_or_start("b")
        wait_until_asleep(registry, "slow", "b")
        assert registry.ref("c").submit(Counting.add).get(timeout=PATIENCE) == 1
        gate.wait_until_reached()
        assert ends(listener, 2) == [
            Terminated("slow", 1, EndReason.ABANDONED),
            Terminated("b", 2, EndReason.EVICTED),
        ]
        assert registry.stats().live == 2
        gate.open()
        poll(lambda: not registry.stats().quarantined)
        assert registry.ref("slow").call(Counting.add) == 1


def test_one_that_is_slow_to_stop_makes_nobody_else_go_in_its_place() -> None:
    gate = Gate()

    class SlowToStop(Counting):
        def on_stop(self) -> None:
            gate.pass_through()

    with AggregateRegistry.start(SlowToStop, max_live=3) as registry:
        for key in range(3):
            registry.get_or_start(key)
        wait_until_asleep(registry, *range(3))
        answer = registry.ref("new").submit(Counting.add)
        gate.wait_until_reached()
        for _ in range(3):
            registry._table.tick()
        wait_until_asleep(registry, 1, 2)
        assert (registry.stats().stopping, registry.stats().active) == (1, 2)
        gate.open()
        assert answer.get(timeout=PATIENCE) == 1
        assert registry.stats().ends == {EndReason.EVICTED: 1}


class Stuck(Counting):
    """Gets stuck where it is told to."""

    def __init__(self, where: str, gate: Gate, calls: list[str]) -> None:
        super().__init__()
        self._where = where
        self._gate = gate
        self._calls = calls
        self._pass("constructor")

    def on_start(self) -> None:
        super().on_start()
        self._pass("on_start")

    def on_stop(self) -> None:
        self._pass("on_stop")

    def _pass(self, where: str) -> None:
        if self.key == "stuck":
            self._calls.append(where)
            if where == self._where and not self._gate.opened.is_set():
                self._gate.pass_through()


@pytest.mark.parametrize("where", ["constructor", "on_start"])
def test_a_start_that_is_stuck_is_abandoned_and_makes_way(
    where: str, listener: pykka.ActorRef[Listener]
) -> None:
    gate, calls = Gate(), list[str]()
    with AggregateRegistry.start(
        Stuck, args=(where, gate, calls), max_starting=1, start_timeout=0.1
    ) as registry:
        registry.subscribe(listener)
        started = registry.proxy().get_or_start("stuck").get()
        gate.wait_until_reached()
        registry.ref("stuck").tell("lost")
        asked = registry.ref("stuck").submit(Counting.add)
        assert registry.ref("other").submit(Counting.add).get(timeout=PATIENCE) == 1
        check_that_it_is_abandoned(registry, started, asked)
        assert ends(listener, 1) == [Terminated("stuck", 1, EndReason.ABANDONED)]
        gate.open()
        poll(lambda: not registry.stats().quarantined)
        assert calls[-1] == "on_stop" or where == "constructor"
        assert registry.ref("stuck").call(Counting.add) == 1
        assert registry.ref("stuck").stop()
        assert [event.reason for event in ends(listener, 2)] == [
            EndReason.ABANDONED,
            EndReason.STOPPED,
        ]


def test_an_end_that_is_stuck_is_abandoned(listener: pykka.ActorRef[Listener]) -> None:
    gate, calls = Gate(), list[str]()
    with AggregateRegistry.start(
        Stuck, args=("on_stop", gate, calls), stop_timeout=0.1
    ) as registry:
        registry.subscribe(listener)
        stopped = registry.get_or_start("stuck").stop(block=False)
        gate.wait_until_reached()
        registry.ref("stuck").tell("lost")
        asked = registry.ref("stuck").submit(Counting.add)
        started = registry.proxy().get_or_start("stuck").get()
        assert ends(listener, 1) == [Terminated("stuck", 1, EndReason.ABANDONED)]
        check_that_it_is_abandoned(registry, started, asked)
        gate.open()
        assert stopped.get(timeout=PATIENCE) is True
        poll(lambda: not registry.stats().quarantined)
        assert registry.ref("stuck").call(Counting.add) == 1
    reasons = [event.reason for event in ends(listener, 2)]
    assert reasons == [EndReason.ABANDONED, EndReason.DRAINED]
    assert calls == ["constructor", "on_start", "on_stop"] * 2
    assert nothing_remains(registry)


def check_that_it_is_abandoned(
    registry: RegistryRef[Any], started: pykka.Future[Any], asked: pykka.Future[Any]
) -> None:
    """See that the key "stuck" is closed, and that whoever has waited for it knows."""
    with pytest.raises(Quarantined) as raised:
        started.get(timeout=PATIENCE)
    assert raised.value.is_abandoned
    assert raised.value.key == "stuck"
    with pytest.raises(Undeliverable, match="did not start or end in time"):
        asked.get(timeout=PATIENCE)
    poll(lambda: registry.dead_letters)
    assert registry.dead_letters == [DeadLetter("stuck", "lost", DeadLetterReason.ABANDONED)]
    assert "stuck" not in registry
    address = registry.ref("stuck")
    for call in (registry.get_or_start, registry.start_new):
        with pytest.raises(Quarantined):
            call("stuck")
    with pytest.raises(Undeliverable):
        address.tell(ADD)
    with pytest.raises(Undeliverable):
        address.call(Counting.add)
    with pytest.raises(Quarantined, match="still runs"):
        registry.release("stuck")
    assert address.stop() is False
    stats = registry.stats()
    assert stats.quarantined == 1
    assert stats.ends[EndReason.ABANDONED] == 1


@pytest.mark.parametrize("where", ["on_start", "on_stop"])
def test_one_that_is_abandoned_keeps_its_place(where: str) -> None:
    """Its thread is there, and a ceiling is about threads."""
    gate, calls = Gate(), list[str]()
    with AggregateRegistry.start(
        Stuck, args=(where, gate, calls), max_live=2, start_timeout=0.1, stop_timeout=0.1
    ) as registry:
        started = registry.proxy().get_or_start("stuck").get()
        if where == "on_stop":
            started.get().stop(block=False)
        gate.wait_until_reached()
        poll(lambda: registry.stats().quarantined)
        assert registry.stats().live == 1
        assert registry.ref("b").call(Counting.add) == 1
        assert registry.ref("c").submit(Counting.add).get(timeout=PATIENCE) == 1
        assert registry.stats().live == 2
        assert registry.stats().ends[EndReason.EVICTED] == 1
        held = hold(registry, "c")
        with pytest.raises(Overloaded, match="2 aggregates are live, of max_live=2"):
            registry.get_or_start("d")
        gate.open()
        assert registry.proxy().get_or_start("d").get().get(timeout=PATIENCE)
        let_go(held)


def test_a_drain_names_those_that_were_abandoned_before_and_have_not_ended() -> None:
    gate, calls = Gate(), list[str]()
    registry = AggregateRegistry.start(Stuck, args=("on_start", gate, calls), start_timeout=0.1)
    registry.ref("stuck").tell(ADD)
    gate.wait_until_reached()
    poll(lambda: registry.stats().quarantined)
    named = registry.drain()
    again = registry.drain()
    gate.open()
    assert (named, again) == (["stuck"], ["stuck"])
    poll(lambda: not registry.drain())


@pytest.mark.parametrize("waiting", [1, 2])
def test_no_more_go_than_have_to(waiting: int, clock: Clock) -> None:
    """While some are on their way out, and time stands still, nobody else is asked to go."""
    gate = Gate()
    stopping: list[Any] = []

    class SlowToStop(Counting):
        def on_stop(self) -> None:
            stopping.append(self.key)
            gate.pass_through()

    with AggregateRegistry.start(SlowToStop, max_live=5) as registry:
        for key in range(5):
            registry.get_or_start(key)
        wait_until_asleep(registry, *range(5))
        answers = [registry.ref(5 + i).submit(Counting.add) for i in range(waiting)]
        poll(lambda: len(stopping) == waiting)
        clock.forward(0, registry)
        for i in range(waiting):
            registry.ref(5 + i).tell(ADD)
        stats = registry.stats()
        assert (stats.stopping, stats.active, stats.waiting) == (waiting, 5 - waiting, waiting)
        gate.open()
        assert [answer.get() for answer in answers] == [1] * waiting
        assert registry.stats().ends == {EndReason.EVICTED: waiting}
        assert sorted(stopping) == list(range(waiting))


def test_whoever_waits_in_line_when_the_registry_stops_is_told() -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        held = hold(registry, "a")
        started = registry.proxy().get_or_start("b").get()
        told = registry.ref("c").submit(Counting.add)
        drained = start_thread(registry.drain)
        with pytest.raises(Exception, match="is stopping or has stopped"):
            started.get(timeout=PATIENCE)
        let_go(held)
        assert told.get(timeout=PATIENCE) == 1, "what was accepted is handled"
        join(drained)
    assert nothing_remains(registry)


def test_a_message_that_was_sent_when_its_key_was_about_to_be_evicted_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was asked to go, and says no: another one goes as soon as there is one."""
    with AggregateRegistry.start(Counting, max_live=2) as registry:
        a = registry.get_or_start("a")
        (held,) = hold(registry, "b")
        wait_until_asleep(registry, "a")
        rest = registry._table.rest
        slipped: list[pykka.Future[Any]] = []
        gate = Gate()

        def slip_in(incarnation: Any) -> Any:
            if not slipped:
                slipped.append(a.proxy().wait_at(gate))
            return rest(incarnation)

        monkeypatch.setattr(registry._table, "rest", slip_in)
        new = registry.ref("c").submit(Counting.add)
        gate.wait_until_reached()
        assert registry.stats().declined == 1
        assert registry.stats().waiting == 1
        let_go([held])
        assert new.get(timeout=PATIENCE) == 1
        assert registry["a"] is a
        gate.open()
        slipped[0].get()
        assert registry["a"] is a


CALLS = [
    messages.ProxyCall(attr_path=("add",), args=(), kwargs={}),
    messages.ProxyGetAttr(attr_path=("count",)),
]


@pytest.mark.parametrize("message", CALLS, ids=["call", "attribute"])
def test_a_future_that_nobody_waits_for_is_answered_when_there_is_a_place(message: Any) -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        held = hold(registry, "a")
        future = registry.ref("b").ask(message, block=False)
        with pytest.raises(pykka.Timeout):
            future.get(timeout=0.01)
        let_go(held)
        assert future.get(timeout=PATIENCE) in {0, 1}
