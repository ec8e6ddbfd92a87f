"""What was sent to a key is handled once and in order, or it expires, or it is reported."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, cast

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
    RegistryRef,
    RegistryStopped,
    Terminated,
    Undeliverable,
    WaitCycle,
)
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox
from pykka_registry._table import Table
from tests.support import (
    ON_POOL,
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Runtime,
    in_threads,
    join,
    poll,
    start_thread,
    tiny_switch_interval,
    told_when,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from pykka_registry import AggregateRef
    from pykka_registry._entry import StartRequest


class Diary:
    """What the incarnations of a registry's keys did, and the gates at which they wait."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.constructed: list[tuple[Any, str]] = []
        self.threads: set[threading.Thread] = set()
        self.gates: dict[str, Gate] = {}
        self.fail_starts = 0
        """How many starts more are to fail."""

    def gate(self, where: str) -> Gate:
        """Have the next incarnation that comes there wait."""
        return self.gates.setdefault(where, Gate())

    def come_to(self, where: str) -> None:
        self.threads.add(threading.current_thread())
        gate = self.gates.pop(where, None)
        if gate is not None:
            gate.pass_through()


class Writer(AggregateMixin, Runtime):
    """Writes down what it handles, and does what a message says."""

    def __init__(self, diary: Diary, label: str = "the registry's") -> None:
        super().__init__()
        self._diary = diary
        self.label = label
        diary.constructed.append((self.key, label))
        diary.come_to("constructor")

    def on_start(self) -> None:
        self._diary.come_to("on_start")
        if self._diary.fail_starts:
            self._diary.fail_starts -= 1
            raise OSError("the store does not answer")

    def on_stop(self) -> None:
        self._diary.come_to("on_stop")

    def on_failure(self, *_: Any) -> None:
        self._diary.come_to("on_failure")

    def on_receive(self, message: Any) -> Any:
        self._diary.come_to("handler")
        self._diary.handled.append(message)
        if isinstance(message, Gate):
            message.pass_through()
        elif isinstance(message, threading.Event):
            message.set()
        elif isinstance(message, BaseException):
            raise message
        elif message == "passivate":
            self.passivate()
        return message


class Setting:
    """A registry of writers, its diary, its listener, and its dead letters as they come."""

    def __init__(self, listener: pykka.ActorRef[Listener], **policies: Any) -> None:
        self.diary = Diary()
        self.listener = listener
        self.dead: list[DeadLetter] = []
        self._dead_or_more = threading.Condition()
        known: Any = {"backoff": (0, 0), "max_failures": 10**6, "on_dead_letter": self._bury}
        known.update(policies)
        self.registry: RegistryRef[Writer] = AggregateRegistry.start(
            Writer, args=(self.diary,), **known
        )
        self.registry.subscribe(listener)
        self.ref = self.registry.ref("a")

    def _bury(self, letter: DeadLetter) -> None:
        with self._dead_or_more:
            self.dead.append(letter)
            self._dead_or_more.notify_all()

    def dead_letters(self, count: int) -> list[DeadLetter]:
        """Wait for so many dead letters."""
        with self._dead_or_more:
            assert self._dead_or_more.wait_for(lambda: len(self.dead) >= count, PATIENCE)
            return list(self.dead)

    def end_of(self, incarnation: int) -> Terminated:
        """Wait for the end of an incarnation."""

        def has_ended(told: Sequence[Any]) -> bool:
            return any(isinstance(e, Terminated) and e.incarnation == incarnation for e in told)

        told = told_when(self.listener, has_ended)
        return next(e for e in told if isinstance(e, Terminated) and e.incarnation == incarnation)

    def hold(self) -> Gate:
        """Let the aggregate's handler wait at a gate."""
        gate = Gate()
        self.ref.tell(gate)
        gate.wait_until_reached()
        self.diary.handled.clear()
        return gate

    def is_empty(self) -> bool:
        """Tell whether no message waits, and no key has a row."""
        return not self.registry.stats().queued and not self.registry._table._entries


@pytest.fixture
def setting(listener: pykka.ActorRef[Listener]) -> Generator[Setting]:
    setting = Setting(listener)
    yield setting
    setting.registry.stop()


# In order, across incarnations.


def test_what_a_failing_incarnation_leaves_over_goes_first_and_in_order(setting: Setting) -> None:
    """What comes while it fails is queued behind, and the message that it failed of is gone."""
    gate = setting.hold()
    failing = setting.diary.gate("on_failure")
    setting.ref.tell(ValueError("no"))
    left = [1, 2, 3]
    setting.ref.tell(1)
    asked = setting.ref.ask(2, block=False)
    setting.ref.tell(3)
    gate.open()
    failing.wait_until_reached()
    assert setting.registry.get("a") is None
    setting.ref.tell(4)
    asked_later = setting.ref.ask(5, block=False)
    assert setting.registry.stats().queued == 5
    failing.open()
    assert (asked.get(), asked_later.get()) == (2, 5)
    assert setting.ref.ask(6) == 6
    first, *rest = setting.diary.handled
    assert isinstance(first, ValueError)
    assert rest == [*left, 4, 5, 6]
    stats = setting.registry.stats()
    assert stats.activations == 2
    assert stats.redelivered == 3
    assert stats.dead_letters == {}
    assert stats.ends == {EndReason.FAILED: 1}


@pytest.mark.parametrize("tail", [5, 0])
def test_left_overs_pass_through_many_failing_incarnations(setting: Setting, tail: int) -> None:
    """Each handles one more, then fails; what is left is handed on and on."""
    gate = setting.hold()
    for i in range(10):
        setting.ref.tell(i)
        setting.ref.tell(ValueError(i))
    for i in range(10, 10 + tail):
        setting.ref.tell(i)
    last = setting.ref.ask("last", block=False)
    gate.open()
    assert last.get() == "last"
    handled = [m for m in setting.diary.handled if not isinstance(m, ValueError)]
    assert handled == [*range(10 + tail), "last"]
    failed = [m.args[0] for m in setting.diary.handled if isinstance(m, ValueError)]
    assert failed == list(range(10))
    assert setting.registry.stats().activations == 11


@pytest.mark.parametrize("failures", [1, 3])
def test_tells_outlive_starts_that_fail_and_asks_do_not(setting: Setting, failures: int) -> None:
    gate = setting.diary.gate("constructor")
    setting.diary.fail_starts = failures
    setting.ref.tell(1)
    asked = setting.ref.ask("asked", block=False)
    setting.ref.tell(2)
    stopped = setting.ref.stop(block=False)
    setting.ref.tell(3)
    gate.open()
    with pytest.raises(Undeliverable, match="'a' failed to start") as raised:
        asked.get()
    assert isinstance(raised.value.__cause__, OSError)
    assert stopped.get() is True
    done = threading.Event()
    setting.ref.tell(done)
    wait_for(done)
    assert setting.diary.handled == [1, 2, 3, done]
    stats = setting.registry.stats()
    assert stats.ends[EndReason.START_FAILED] == failures
    assert stats.activations == 2
    assert stats.dead_letters == {}
    assert stats.queued == 0


def test_what_is_redelivered_is_counted_also_past_a_start_that_fails(setting: Setting) -> None:
    """One incarnation left it over and another got it, with a failed start in between."""
    gate = setting.hold()
    setting.ref.tell(ValueError("no"))
    failing = setting.diary.gate("on_failure")
    setting.ref.tell(1)
    setting.ref.tell(2)
    gate.open()
    failing.wait_until_reached()
    setting.diary.fail_starts = 1
    setting.ref.tell("was never in an inbox")
    failing.open()
    setting.end_of(2)
    assert setting.ref.ask(3) == 3
    assert setting.diary.handled[1:] == [1, 2, "was never in an inbox", 3]
    assert setting.registry.stats().redelivered == 2


def test_what_nobody_waits_for_any_more_is_not_redelivered(setting: Setting) -> None:
    gate = setting.hold()
    failing = setting.diary.gate("on_failure")
    setting.ref.tell(ValueError("no"))
    with pytest.raises(pykka.Timeout):
        setting.ref.ask("expires in the inbox", timeout=0.01)
    left = setting.ref.ask("is left over", block=False)
    gate.open()
    failing.wait_until_reached()
    with pytest.raises(pykka.Timeout):
        setting.ref.ask("expires in the queue", timeout=0.01)
    failing.open()
    assert left.get() == "is left over"
    assert setting.diary.handled[1:] == ["is left over"]
    stats = setting.registry.stats()
    assert (stats.redelivered, stats.expired, stats.queued) == (1, 2, 0)


class Ordered(AggregateMixin, Runtime):
    """Keeps what it handles outside, for what comes after it."""

    def __init__(self, handled: dict[Any, list[tuple[int, int]]]) -> None:
        super().__init__()
        self._handled = handled

    def on_receive(self, message: Any) -> Any:
        if message == "fail":
            raise ValueError("no")
        if message == "passivate":
            self.passivate()
        else:
            self._handled[self.key].append(message)
        return message


def disturb(ref: AggregateRef[Any], live: pykka.ActorRef[Any] | None, what: str) -> None:
    """End an incarnation, in one way or another."""
    if what == "stop":
        ref.stop()
    elif what != "plain stop":
        ref.tell(what)
    elif live is not None:
        live.stop()


def send_numbers(refs: Sequence[AggregateRef[Any]], sender: int, count: int) -> int:
    """Send numbers to all of them in turn; mostly nobody waits."""
    for i in range(count):
        ref = refs[i % len(refs)]
        if i % 5:
            ref.tell((sender, i))
        else:
            assert ref.ask((sender, i), timeout=PATIENCE) == (sender, i)
    for ref in refs:
        ref.ask((sender, count), timeout=PATIENCE)
    return sender


def test_what_one_thread_sends_stays_in_order_while_incarnations_come_and_go() -> None:
    """Under stops, failures and retirements; each message is handled exactly once."""
    senders, count, keys = 6, 150, 3
    handled: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    ways = ("stop", "plain stop", "fail", "passivate")
    disturbances: Counter[str] = Counter()
    over = threading.Event()
    with AggregateRegistry.start(
        Ordered, args=(handled,), backoff=(0, 0), max_failures=10**6
    ) as registry:
        refs = [registry.ref(key) for key in range(keys)]

        def disturb_all() -> None:
            while not over.is_set():
                for what, ref in itertools.product(ways, refs):
                    disturb(ref, registry.get(ref.key), what)
                    disturbances[what] += 1

        with tiny_switch_interval():
            thread = start_thread(disturb_all)
            results = in_threads(
                [functools.partial(send_numbers, refs, s, count) for s in range(senders)]
            )
            over.set()
            join(thread)
        assert results == list(range(senders))
        stats = registry.stats()
    assert stats.dead_letters == {}
    assert stats.expired == 0
    assert len(disturbances) == len(ways)
    assert stats.ends[EndReason.FAILED] > 0
    assert stats.activations > keys
    assert len(handled) == keys
    for key, sender in itertools.product(range(keys), range(senders)):
        mine = [i for who, i in handled[key] if who == sender]
        assert mine == [*range(key, count, keys), count]


def test_who_sets_the_stop_flag_from_outside_loses_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands the left-overs on in its thread, while another one runs the aggregate's end."""
    gate = setting.hold()
    live = setting.registry["a"]
    setting.ref.tell(1)
    asked = setting.ref.ask(2, block=False)
    close = Inbox.close
    life = setting.registry._table.active["a"]._life

    def close_and_wait(inbox: Inbox, error: Any, later: Any, left: Any) -> Any:
        close(inbox, error, later, left)
        gate.open()
        until = time.perf_counter() + 0.2
        while not life.is_over and time.perf_counter() < until:
            pass  # it must not end before what it has left over is handed on
        return left

    monkeypatch.setattr(Inbox, "close", close_and_wait)
    thread = start_thread(live.actor_stopped.set)
    join(thread)
    assert gate.opened.is_set()
    monkeypatch.setattr(Inbox, "close", close)
    assert asked.get() == 2
    assert setting.ref.ask(3) == 3
    assert [m for m in setting.diary.handled if not isinstance(m, Gate)] == [1, 2, 3]
    assert setting.registry.stats().dead_letters == {}


# Begun once, never again.


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError("no")])
def test_a_message_whose_handler_began_is_never_run_again(
    setting: Setting, error: Exception
) -> None:
    for i in range(5):
        setting.ref.tell(error)
        setting.ref.tell(i)
        assert setting.ref.ask("after") == "after"
    assert setting.diary.handled == [message for i in range(5) for message in (error, i, "after")]


def test_what_a_handler_has_begun_before_its_incarnation_is_stopped_is_not_run_again(
    setting: Setting,
) -> None:
    """The stop flag is set while the handler runs, and what it handles is not left over."""
    gate = Gate()
    running = setting.ref.ask(gate, block=False)
    gate.wait_until_reached()
    setting.registry["a"].actor_stopped.set()
    setting.ref.tell(1)
    gate.open()
    assert running.get() is gate
    assert setting.ref.ask(2) == 2
    assert setting.diary.handled == [gate, 1, 2]


@pytest.mark.parametrize("asked", [True, False])
def test_system_exit_in_a_handler_with_letters_left_over(
    asked: bool, listener: pykka.ActorRef[Listener]
) -> None:
    """All actors are stopped; what was accepted is handled by a successor, or reported, once."""
    setting = Setting(listener)
    bystander = setting.registry.ref("b")
    bystander.tell("b")
    gate = setting.hold()
    answer = setting.ref.ask(SystemExit(3), block=False) if asked else None
    if not asked:
        setting.ref.tell(SystemExit(3))
    told = list(range(10))
    for i in told:
        setting.ref.tell(i)
    left = [setting.ref.ask(i, block=False) for i in range(10, 20)]
    gate.open()
    if answer is not None:
        with pytest.raises(Undeliverable) as raised:
            answer.get()
        assert isinstance(raised.value.__cause__, SystemExit)
    outcomes: list[Any] = []
    for future in left:
        try:
            outcomes.append(future.get())
        except Undeliverable as error:
            outcomes.append(error)
    setting.registry.stop()
    handled = [m for m in setting.diary.handled if isinstance(m, int)]
    dead = [letter.message for letter in setting.dead]
    answered = [o for o in outcomes if isinstance(o, int)]
    assert handled == sorted(handled)
    assert sorted([m for m in handled if m < 10] + dead) == told
    assert [m for m in handled if m >= 10] == answered
    exits = [m for m in setting.diary.handled if isinstance(m, SystemExit)]
    assert len(exits) == 1
    assert len(outcomes) == 10
    assert setting.registry.stats().queued == 0


# A tell waits for nobody, and runs nobody's code.


@pytest.mark.parametrize(
    "stuck", ["constructor", "on_start", "handler", "on_stop", "on_failure", "registry"]
)
def test_a_tell_waits_for_nobody(stuck: str, setting: Setting) -> None:
    """If it waited the gate would never be opened."""
    if stuck == "registry":
        gate = Gate()
        setting.registry.proxy().get(BlockingKey(gate))
    else:
        gate = setting.diary.gate(stuck)
        setting.ref.tell("first")
        if stuck == "on_stop":
            setting.ref.stop(block=False)
        if stuck == "on_failure":
            setting.ref.tell(ValueError("no"))
    gate.wait_until_reached()
    for i in range(100):
        setting.ref.tell(i)
        setting.registry.ref("another").tell(i)
    assert not gate.opened.is_set()
    if stuck == "registry":  # it is not needed for any of that
        assert setting.ref.ask("handled") == "handled"
    assert setting.registry.ref("another").ask("handled") == "handled"
    gate.open()
    assert setting.ref.ask("last") == "last"
    for_both = [m for m in setting.diary.handled if isinstance(m, int)]
    assert Counter(for_both) == dict.fromkeys(range(100), 2)


class BlockingKey:
    """A key that blocks whoever hashes it first."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __hash__(self) -> int:
        self._gate.pass_through()
        return 1


def test_sending_runs_no_user_code_in_the_senders_thread(setting: Setting) -> None:
    class Untouchable:
        """A message that minds being looked at."""

        def __eq__(self, _: object) -> bool:
            touched.append("eq")
            return False

        def __hash__(self) -> int:
            touched.append("hash")
            return 1

        def __repr__(self) -> str:
            touched.append("repr")
            return "it"

        def __bool__(self) -> bool:
            touched.append("bool")
            return True

    touched: list[str] = []
    for end in ("stop", "passivate", "fail"):
        setting.ref.tell(Untouchable())
        asked = setting.ref.ask(Untouchable(), block=False)
        assert isinstance(asked.get(timeout=PATIENCE), Untouchable)  # with a timeout nobody helps
        touched.clear()  # the handler compares
        if end == "stop":
            setting.ref.stop(timeout=PATIENCE)
        else:
            setting.ref.tell("passivate" if end == "passivate" else ValueError("no"))
            setting.end_of(setting.registry.stats().activations)
        assert touched == []
    assert setting.registry.stats().activations == 3
    assert ON_POOL or len(setting.diary.threads) == 3
    assert threading.current_thread() not in setting.diary.threads


# Expiry.


@pytest.mark.parametrize("where", ["inbox", "starting", "stopping"])
def test_an_expired_message_is_never_handled(where: str, setting: Setting) -> None:
    if where == "inbox":
        gate = setting.hold()
    else:
        gate = setting.diary.gate("on_start" if where == "starting" else "on_stop")
        setting.ref.tell("first")
        if where == "stopping":
            setting.ref.stop(block=False)
        gate.wait_until_reached()
        setting.diary.handled.clear()
    for i in range(3):
        setting.ref.tell(i)
        with pytest.raises(
            pykka.Timeout,
            match=r"^aggregate 'a' did not answer within 0\.01 seconds and will not: "
            "the message has expired$",
        ):
            setting.ref.ask("expires", timeout=0.01)
        with pytest.raises(pykka.Timeout):
            setting.ref.using(timeout=0.01).ask("expires")
    assert setting.registry.stats().expired == 6
    gate.open()
    assert setting.ref.ask("last") == "last"
    handled = [m for m in setting.diary.handled if m != "first"]
    assert handled == [0, 1, 2, "last"]
    assert setting.registry.stats().expired == 6
    assert setting.registry.stats().dead_letters == {}
    assert setting.ref.stop() is True
    assert setting.is_empty()


def test_an_ask_that_expires_while_its_key_rests_leaves_nothing_behind(
    listener: pykka.ActorRef[Listener],
) -> None:
    setting = Setting(listener, backoff=(3600, 3600))
    setting.ref.tell(ValueError("no"))
    setting.end_of(1)
    with pytest.raises(pykka.Timeout) as raised:
        setting.ref.ask("x", timeout=0.01)
    assert not isinstance(raised.value, Overloaded)
    assert setting.registry.stats().backoff == 0
    assert setting.registry.stats().expired == 1
    assert setting.is_empty()
    setting.registry.stop()
    assert setting.registry.stats().activations == 1


@pytest.mark.parametrize("call", ["ask", "get_or_start"])
def test_who_gives_up_calls_off_no_restart_that_comes_by_itself(
    call: str, listener: pykka.ActorRef[Listener]
) -> None:
    """With restart="at once" the key is activated again whether somebody waits for it or not."""
    setting = Setting(listener, restart="at once", backoff=(3600, 3600))
    setting.ref.tell(ValueError("no"))
    setting.end_of(1)
    assert setting.registry.stats().backoff == 1
    calls: dict[str, Callable[[], Any]] = {
        "ask": lambda: setting.ref.ask("x", timeout=0.01),
        "get_or_start": lambda: setting.registry.get_or_start("a", timeout=0.01),
    }
    with pytest.raises(pykka.Timeout):
        calls[call]()
    still_to_come = setting.registry.stats().backoff
    setting.ref.stop()
    setting.registry.stop()
    assert still_to_come == 1


def test_what_has_begun_does_not_expire(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its asker has given up, but it is handled, and its answer goes nowhere."""
    gate = Gate()
    deliver = Table.deliver

    def deliver_and_see_it_begin(table: Any, key: Any, letter: Any) -> None:
        deliver(table, key, letter)
        gate.wait_until_reached()

    monkeypatch.setattr(Table, "deliver", deliver_and_see_it_begin)
    late = r"^aggregate 'a' did not answer within 0\.01 seconds; its handler has begun and goes on$"
    with pytest.raises(pykka.Timeout, match=late):
        setting.ref.ask(gate, timeout=0.01)
    gate.open()
    assert setting.ref.ask("last") == "last"
    assert setting.diary.handled == [gate, "last"]
    assert setting.registry.stats().expired == 0


def test_who_gives_up_when_it_is_about_to_be_told_has_given_up(setting: Setting) -> None:
    """The key is absent already, and its message is to be reported in a moment."""
    future: Future[Any] = Future()
    error = setting.registry._table.expire("a", future, 1)
    assert isinstance(error, pykka.Timeout)
    assert not future.fail(ValueError("too late"))
    assert setting.registry.stats().expired == 1


def test_only_a_blocking_ask_expires_its_message(setting: Setting) -> None:
    gate = setting.hold()
    hasty = setting.ref.using(timeout=0.01)
    futures = [
        setting.ref.ask("a", block=False),
        hasty.ask("b", block=False),
        hasty.submit(Writer.on_receive, "c"),
        hasty.proxy().on_receive("d"),
    ]
    for future in futures:
        late = r"^aggregate 'a' did not answer within 0\.01 seconds$"
        with pytest.raises(pykka.Timeout, match=late):
            future.get(timeout=0.01)
    waits: list[Callable[[], Any]] = [
        lambda: hasty.ask("expires"),
        lambda: hasty.call(Writer.on_receive, "expires"),
    ]
    for wait in waits:
        with pytest.raises(pykka.Timeout):
            wait()
    gate.open()
    assert setting.ref.ask("last") == "last"
    assert setting.diary.handled == ["a", "b", "c", "d", "last"]
    assert [future.get() for future in futures] == ["a", "b", "c", "d"]
    assert setting.registry.stats().expired == 2


def test_each_ask_either_is_handled_or_expires() -> None:
    """To begin a handler and to give up are one atomic choice: the numbers add up."""
    askers, asks = 6, 300
    begun: Counter[tuple[int, int]] = Counter()

    class Fickle(AggregateMixin, Runtime):
        def on_receive(self, message: Any) -> Any:
            begun[message] += 1
            sum(range(100))
            return message

    with AggregateRegistry.start(Fickle) as registry, tiny_switch_interval():
        ref = registry.ref("a")
        answered: list[tuple[int, int]] = []

        def ask(asker: int) -> int:
            for i in range(asks):
                try:
                    answered.append(cast("Any", ref.ask((asker, i), timeout=i % 10 * 1e-4)))
                except pykka.Timeout as error:
                    gave_up[(asker, i)] = "the message has expired" in str(error)
            return asker

        gave_up: dict[tuple[int, int], bool] = {}
        assert in_threads([functools.partial(ask, asker) for asker in range(askers)]) == list(
            range(askers)
        )
        ref.ask("the last one")
        stats = registry.stats()
    expired = {message for message, has_expired in gave_up.items() if has_expired}
    assert len(answered) + len(gave_up) == askers * asks
    assert len(expired) > 0
    assert len(answered) > 0
    assert stats.expired == len(expired)
    assert begun.keys().isdisjoint(expired)
    assert set(begun.values()) == {1}
    assert len(begun) - 1 == askers * asks - len(expired)


@pytest.mark.parametrize("error", [pykka.Timeout("the store's"), Overloaded("b", "is full")])
def test_a_timeout_that_the_handler_raises_is_the_answer(
    setting: Setting, error: Exception
) -> None:
    """It is the handler's, not the asker's: nothing has expired."""
    asks: list[Callable[[], Any]] = [
        lambda: setting.ref.ask(error),
        lambda: setting.ref.ask(error, timeout=PATIENCE),
        lambda: setting.ref.using(timeout=PATIENCE).call(Writer.on_receive, error),
        lambda: setting.ref.ask(error, block=False).get(),
        lambda: setting.ref.proxy().on_receive(error).get(),
    ]
    for ask in asks:
        with pytest.raises(type(error)) as raised:
            ask()
        assert raised.value is error
    assert setting.diary.handled == [error] * 5
    assert setting.registry.stats().expired == 0
    assert setting.registry.stats().activations == 1


# Dead letters.


def make_ended(setting: Setting) -> None:
    """Told through a plain ref, and left over."""
    gate = setting.hold()
    live = setting.registry["a"]
    setting.ref.stop(block=False)
    live.tell("dead")
    asked = live.ask("asked", block=False)
    gate.open()
    with pytest.raises(Undeliverable, match="ended before it handled the message"):
        asked.get()


def make_stopped(setting: Setting) -> None:
    setting.ref.tell(ValueError("no"))
    setting.end_of(1)
    setting.ref.tell("dead")
    asked = setting.ref.ask("asked", block=False)
    assert setting.ref.stop() is False
    with pytest.raises(Undeliverable, match="was stopped while it rested"):
        asked.get()


def make_quarantined(setting: Setting) -> None:
    gate = setting.hold()
    setting.ref.tell(ValueError("no"))
    setting.ref.tell("dead")
    asked = setting.ref.ask("asked", block=False)
    gate.open()
    with pytest.raises(Undeliverable, match="is quarantined, for it failed too often") as raised:
        asked.get()
    assert isinstance(raised.value.__cause__, ValueError)
    (letter,) = setting.dead_letters(1)
    assert isinstance(letter.cause, ValueError)


def make_overloaded(setting: Setting) -> None:
    gate = Gate()
    setting.registry.ref("busy").tell(gate)
    gate.wait_until_reached()
    setting.ref.tell("dead")
    asked = setting.ref.ask("asked", block=False)
    with pytest.raises(Overloaded, match="max_live=1"):
        asked.get()
    setting.dead_letters(1)
    gate.open()


def make_abandoned(setting: Setting) -> None:
    gate = setting.diary.gate("on_stop")
    setting.registry.get_or_start("a").stop(block=False)
    gate.wait_until_reached()
    setting.ref.tell("dead")
    asked = setting.ref.ask("asked", block=False)
    with pytest.raises(Undeliverable, match="did not start or end in time"):
        asked.get()
    setting.dead_letters(1)
    gate.open()


def make_registry_stopped(setting: Setting) -> None:
    setting.ref.tell(ValueError("no"))
    setting.end_of(1)
    setting.ref.tell("dead")
    asked = setting.ref.ask("asked", block=False)
    assert setting.registry.drain(timeout=0.05) == []
    with pytest.raises(Undeliverable, match="before its registry stopped"):
        asked.get()


REASONS: dict[DeadLetterReason, tuple[Callable[[Setting], None], dict[str, Any]]] = {
    DeadLetterReason.ENDED: (make_ended, {}),
    DeadLetterReason.STOPPED: (make_stopped, {"backoff": (3600, 3600)}),
    DeadLetterReason.QUARANTINED: (make_quarantined, {"max_failures": 0}),
    DeadLetterReason.OVERLOADED: (make_overloaded, {"max_live": 1, "start_timeout": 0.1}),
    DeadLetterReason.ABANDONED: (make_abandoned, {"stop_timeout": 0.1}),
    DeadLetterReason.REGISTRY_STOPPED: (make_registry_stopped, {"backoff": (3600, 3600)}),
}


@pytest.mark.parametrize("reason", DeadLetterReason)
def test_what_nobody_will_handle_is_reported_with_its_reason(
    reason: DeadLetterReason, listener: pykka.ActorRef[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    """Who asked is told; who did not gets it into the dead letters, the hook, and the log."""
    make, policies = REASONS[reason]
    setting = Setting(listener, **policies)
    make(setting)
    expected = [DeadLetter("a", "dead", reason)]
    assert setting.dead_letters(1) == expected
    assert setting.registry.dead_letters == expected
    assert setting.registry.stats().dead_letters == {reason: 1}
    assert setting.registry.stats().queued == 0
    setting.registry.stop()
    assert setting.dead == expected
    assert "dead" not in setting.diary.handled
    assert "asked" not in setting.diary.handled
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "'a'" in warnings[0]
    assert reason.value in warnings[0]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_only_the_last_dead_letters_are_kept_and_all_are_counted(
    kept: int, listener: pykka.ActorRef[Listener]
) -> None:
    setting = Setting(listener, dead_letters=kept)
    gate = setting.hold()
    live = setting.registry["a"]
    setting.ref.stop(block=False)
    for i in range(5):
        live.tell(i)
    gate.open()
    assert [letter.message for letter in setting.dead_letters(5)] == list(range(5))
    kept_messages = [letter.message for letter in setting.registry.dead_letters]
    assert kept_messages == list(range(5))[5 - kept :]
    assert setting.registry.stats().dead_letters == {DeadLetterReason.ENDED: 5}
    setting.registry.dead_letters.clear()  # what is returned is the caller's
    assert len(setting.registry.dead_letters) == kept
    setting.registry.stop()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), pykka.ActorDeadError("no")])
def test_a_hook_that_raises_hears_of_all_dead_letters_and_disturbs_nobody(
    error: BaseException, listener: pykka.ActorRef[Listener]
) -> None:
    heard: list[Any] = []

    def hook(letter: DeadLetter) -> None:
        heard.append(letter.message)
        raise error

    setting = Setting(listener, on_dead_letter=hook)
    gate = setting.hold()
    live = setting.registry["a"]
    setting.ref.stop(block=False)
    for i in range(3):
        live.tell(i)
    gate.open()
    assert setting.ref.ask("x") == "x"
    assert setting.ref.stop() is True
    setting.registry.stop()
    assert heard == [0, 1, 2]
    ends = [e for e in listener.proxy().told.get() if isinstance(e, Terminated)]
    assert [(e.incarnation, e.reason) for e in ends] == [
        (1, EndReason.STOPPED),
        (2, EndReason.STOPPED),
    ]


def test_a_hook_that_takes_its_time_holds_up_no_aggregate(
    listener: pykka.ActorRef[Listener],
) -> None:
    in_hook = Gate()
    heard: list[Any] = []

    def hook(letter: DeadLetter) -> None:
        heard.append((letter.message, threading.current_thread()))
        in_hook.pass_through()

    setting = Setting(listener, on_dead_letter=hook)
    gate = setting.hold()
    live = setting.registry["a"]
    stopped = setting.ref.stop(block=False)
    for i in range(3):
        live.tell(i)
    gate.open()
    in_hook.wait_until_reached()
    assert stopped.get() is True
    assert setting.ref.ask("x") == "x"
    assert setting.ref.stop() is True
    assert len(setting.registry.dead_letters) == 3
    assert not in_hook.opened.is_set()
    in_hook.open()
    setting.registry.stop()
    assert [message for message, _ in heard] == [0, 1, 2]
    assert len({thread for _, thread in heard}) == 1
    assert setting.diary.threads.isdisjoint(thread for _, thread in heard)


def test_a_hook_may_use_the_registry(listener: pykka.ActorRef[Listener]) -> None:
    """For example to send it again."""

    def send_again(letter: DeadLetter) -> None:
        registry.ref(letter.key).tell(letter.message)

    done = threading.Event()
    setting = Setting(listener, on_dead_letter=send_again)
    registry = setting.registry
    gate = setting.hold()
    live = registry["a"]
    setting.ref.stop(block=False)
    live.tell(done)
    gate.open()
    wait_for(done)
    assert registry.stats().dead_letters == {DeadLetterReason.ENDED: 1}
    registry.stop()


@pytest.mark.parametrize("how", ["by itself", "by a plain ref", "by its key"])
def test_a_request_to_stop_that_is_left_over_is_no_dead_letter(how: str) -> None:
    class Quitting(Counting):
        def quit(self, gate: Gate) -> None:
            gate.pass_through()
            self.stop()
            if how == "by itself":
                self.stop()

    gate = Gate()
    with AggregateRegistry.start(Quitting) as registry:
        a = registry.ref("a")
        a.proxy().quit.defer(gate)
        gate.wait_until_reached()
        if how == "by a plain ref":
            registry["a"].tell(messages._ActorStop())
        elif how == "by its key":
            a.tell(messages._ActorStop())
            a.tell(messages._ActorStop())
        gate.open()
        assert a.stop() is True or how != "by itself"
        poll(lambda: not registry.stats().live)
        assert registry.stats().dead_letters == {}
        assert registry.stats().queued == 0


@pytest.mark.parametrize("then", ["nothing", "a message"])
def test_a_stop_behind_an_ask_that_expires_starts_nothing(then: str) -> None:
    with AggregateRegistry.start(Counting, max_live=1) as registry:
        gate = Gate()
        holding = registry.ref("a").proxy().wait_at(gate)
        gate.wait_until_reached()
        b = registry.ref("b")

        def ask() -> None:
            with pytest.raises(pykka.Timeout):
                b.ask("x", timeout=0.2)

        asking = start_thread(ask)
        poll(lambda: registry.stats().queued == 1)
        stopped = b.stop(block=False)
        if then == "a message":
            b.proxy().add.defer()
        join(asking)
        assert stopped.get(timeout=PATIENCE) is False
        assert registry.stats().waiting == (then == "a message")
        gate.open()
        holding.get(timeout=PATIENCE)
        if then == "a message":
            assert b.call(Counting.add) == 2
        assert registry.stats().activations == 1 + (then == "a message")


# A bound for what waits.


def test_no_more_messages_wait_than_may_and_none_of_them_is_lost(
    listener: pykka.ActorRef[Listener],
) -> None:
    setting = Setting(listener, max_queued=10)
    other = setting.registry.ref("active")
    other.tell("active")
    assert other.ask("active") == "active"
    setting.diary.handled.clear()
    gate = setting.diary.gate("on_start")
    for i in range(10):
        setting.ref.tell(i)
    assert setting.registry.stats().queued == 10
    refused = 0
    sends: list[Callable[[AggregateRef[Writer]], Any]] = [
        lambda ref: ref.tell("refused"),
        lambda ref: ref.ask("refused"),
        lambda ref: ref.submit(Writer.on_receive, "refused").get(),
        lambda ref: ref.proxy().on_receive("refused").get(),
    ]
    for ref, send in itertools.product([setting.ref, setting.registry.ref("absent")], sends):
        with pytest.raises(Overloaded, match=r"max_queued=10 messages wait") as raised:
            send(ref)
        assert raised.value.key == ref.key
        refused += 1
    assert refused == 8
    assert other.ask("the bound is not for those that are active") is not None
    assert "absent" not in setting.registry
    stopped = setting.ref.stop(block=False)  # this is no message
    gate.open()
    assert stopped.get() is True
    assert setting.diary.handled[1:] == list(range(10))
    assert setting.registry.stats().queued == 0
    assert setting.ref.ask("there is room again") == "there is room again"
    assert setting.registry.stats().dead_letters == {}
    setting.registry.stop()


def test_what_is_left_over_is_kept_though_there_is_no_room_for_more(
    listener: pykka.ActorRef[Listener],
) -> None:
    setting = Setting(listener, max_queued=5)
    gate = setting.hold()
    failing = setting.diary.gate("on_failure")
    setting.ref.tell(ValueError("no"))
    for i in range(20):
        setting.ref.tell(i)
    gate.open()
    failing.wait_until_reached()
    assert setting.registry.stats().queued == 20
    with pytest.raises(Overloaded):
        setting.ref.tell("refused")
    failing.open()
    last = threading.Event()
    setting.registry.wait_for("a", timeout=PATIENCE)
    setting.ref.tell(last)
    wait_for(last)
    assert setting.diary.handled[1:-1] == list(range(20))
    setting.registry.stop()


def test_what_has_expired_takes_up_no_room() -> None:
    gate = Gate()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            gate.pass_through()

    with AggregateRegistry.start(Slow, max_queued=10) as registry:
        slow = registry.ref("slow")
        for i in range(5):
            slow.proxy().add.defer(10**i)
        gate.wait_until_reached()
        for _ in range(1_000):
            with pytest.raises(pykka.Timeout):
                slow.ask("x", timeout=0)
            entry = registry._table._entries["slow"]
            assert len(entry.queue) <= 2 * 5 + 1
            assert registry.stats().queued == 5
        for _ in range(5):
            registry.ref("other").tell("there is room")
        with pytest.raises(Overloaded):
            registry.ref("other").tell("there is none")
        gate.open()
        poll(lambda: "slow" in registry)
        assert slow.call(Counting.add) == 11_112
        poll(lambda: registry.stats().queued == 0)  # the other one may be starting yet
        assert registry.stats().expired == 1_000


def test_what_is_refused_as_a_cycle_takes_up_no_room() -> None:
    gate = Gate()

    class Asking(Counting):
        def on_start(self) -> None:
            super().on_start()
            for _ in range(100):
                with pytest.raises(WaitCycle):
                    self.registry.ref(self.key).call(Counting.add)
            gate.pass_through()

    with AggregateRegistry.start(Asking, max_queued=10) as registry:
        registry.ref("a").proxy().add.defer()
        gate.wait_until_reached()
        assert registry.stats().queued == 1
        gate.open()
        assert registry.ref("a").call(Counting.add) == 2


def test_requests_to_stop_take_up_no_room_and_those_in_a_row_are_one() -> None:
    gate = Gate()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key == "slow":
                gate.pass_through()

    with AggregateRegistry.start(Slow, max_queued=2) as registry:
        slow = registry.ref("slow")
        first = slow.submit(Counting.add)
        gate.wait_until_reached()
        stops = [slow.stop(block=False) for _ in range(1_000)]
        assert len(registry._table._entries["slow"].queue) == 2
        second = slow.submit(Counting.add)
        later = slow.stop(block=False)
        assert registry.stats().queued == 2
        assert registry.ref("other").stop() is False
        gate.open()
        assert first.get(timeout=PATIENCE) == 1
        assert {stop.get(timeout=PATIENCE) for stop in stops} == {True}
        assert second.get(timeout=PATIENCE) == 1, "the next incarnation has it"
        assert later.get(timeout=PATIENCE) is True
        assert registry.stats().ends == {EndReason.STOPPED: 2}


def test_who_takes_a_stop_back_that_would_never_end_does_so_for_itself_only() -> None:
    """Two wait for the same stop, and the first of them is refused: it would wait for itself."""
    refused: list[str] = []
    gate = Gate()

    class Clinging(Counting):
        def on_start(self) -> None:
            super().on_start()
            if self.key == "a":
                stop = self.registry.ref("a").stop(block=False)
                gate.pass_through()
                try:
                    stop.get()
                except WaitCycle:
                    refused.append("a")

    with AggregateRegistry.start(Clinging) as registry:
        a = registry.ref("a")
        a.tell("x")
        gate.wait_until_reached()
        other = a.stop(block=False)
        gate.open()
        assert other.get(timeout=PATIENCE) is True
        assert refused == ["a"]


def test_many_senders_at_the_bound_lose_nothing(listener: pykka.ActorRef[Listener]) -> None:
    setting = Setting(listener, max_queued=50)
    gate = setting.diary.gate("constructor")
    setting.ref.tell("first")
    gate.wait_until_reached()

    def send(sender: int) -> tuple[int, int]:
        accepted = refused = 0
        for i in range(30):
            try:
                setting.ref.tell((sender, i))
            except Overloaded:
                refused += 1
            else:
                accepted += 1
        return accepted, refused

    with tiny_switch_interval():
        results = in_threads([functools.partial(send, sender) for sender in range(4)])
    counts = [result for result in results if isinstance(result, tuple)]
    assert len(counts) == 4
    assert sum(accepted for accepted, _ in counts) == 49
    assert sum(refused for _, refused in counts) == 4 * 30 - 49
    gate.open()
    assert setting.ref.stop() is True
    assert len(setting.diary.handled) == 50
    setting.registry.stop()


# What a successor is built from.


class Heir(Writer):
    """A subclass, with an argument of its own."""


@pytest.mark.parametrize("end", ["fail", "stop", "passivate"])
def test_own_arguments_serve_one_incarnation_and_its_successor_has_the_registrys(
    end: str, setting: Setting
) -> None:
    live = Heir.start(setting.registry, "a", setting.diary, "its own")
    gate = setting.hold()
    if end == "stop":
        setting.ref.stop(block=False)
    else:
        setting.ref.tell(ValueError("no") if end == "fail" else "passivate")
    if end != "passivate":
        setting.ref.tell("left over")
    gate.open()
    assert live.actor_stopped.wait(PATIENCE)
    assert setting.ref.ask("x") == "x"
    assert setting.diary.constructed == [("a", "its own"), ("a", "the registry's")]
    assert setting.registry["a"].actor_class is Writer
    if end != "passivate":
        assert setting.diary.handled[-2:] == ["left over", "x"]


class Loner(AggregateMixin, Runtime):
    """Lives in a registry that has no class, so it has no successor but one that is started."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self._diary = diary

    def on_failure(self, *_: Any) -> None:
        self._diary.come_to("on_failure")

    def on_receive(self, message: Any) -> Any:
        self._diary.handled.append(message)
        if isinstance(message, Gate):
            message.pass_through()
        if isinstance(message, BaseException):
            raise message
        if message == "passivate":
            self.passivate()
        return message


@pytest.mark.parametrize("end", ["fail", "stop", "passivate"])
def test_left_overs_in_a_registry_without_a_class_are_reported(end: str) -> None:
    diary = Diary()
    gate = Gate()
    with AggregateRegistry.start(backoff=(0, 0)) as registry:
        live = Loner.start(registry, "a", diary)
        ref = registry.ref("a")
        ref.tell(gate)
        gate.wait_until_reached()
        if end == "stop":
            ref.stop(block=False)
        else:
            ref.tell(ValueError("no") if end == "fail" else "passivate")
        ref.tell("told")
        asked = ref.ask("asked", block=False)
        gate.open()
        if end == "passivate":  # it stays for as long as something waits, so nothing is left over
            assert asked.get() == "asked"
            assert live.actor_stopped.wait(PATIENCE)
            assert registry.dead_letters == []
        else:
            with pytest.raises(Undeliverable, match="registry has no class for a successor"):
                asked.get()
            assert registry.dead_letters == [DeadLetter("a", "told", DeadLetterReason.ENDED)]
        with pytest.raises(TypeError, match="has no aggregate class"):
            ref.tell("x")
        assert registry.stats().queued == 0
        assert not registry._table._entries


def test_left_overs_that_are_reported_have_the_failure_as_their_cause() -> None:
    diary = Diary()
    gate = Gate()
    with AggregateRegistry.start(backoff=(0, 0)) as registry:
        Loner.start(registry, "a", diary)
        ref = registry.ref("a")
        ref.tell(gate)
        gate.wait_until_reached()
        ref.tell(ValueError("no"))
        ref.tell("told")
        asked = ref.ask("asked", block=False)
        gate.open()
        with pytest.raises(Undeliverable) as raised:
            asked.get()
        assert isinstance(raised.value.__cause__, ValueError)
        assert isinstance(registry.dead_letters[0].cause, ValueError)


def test_whoever_starts_the_next_one_in_a_registry_without_a_class_gets_the_left_overs() -> None:
    diary = Diary()
    failing = diary.gate("on_failure")
    with AggregateRegistry.start(backoff=(0, 0)) as registry:
        Loner.start(registry, "a", diary)
        ref = registry.ref("a")
        gate = Gate()
        ref.tell(gate)
        gate.wait_until_reached()
        ref.tell(error := ValueError("no"))
        asked = ref.ask("left over", block=False)
        gate.open()
        failing.wait_until_reached()
        thread = start_thread(lambda: Loner.start(registry, "a", diary))
        while not registry._table._entries["a"].requests:
            assert thread.is_alive()
        failing.open()
        join(thread)
        assert asked.get() == "left over"
        assert diary.handled == [gate, error, "left over"]


def test_left_overs_are_reported_if_whoever_would_have_started_the_next_one_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that rests in a registry without a class, and has letters only, must not stay so."""
    diary = Diary()
    with AggregateRegistry.start(backoff=(3600, 3600)) as registry:
        Loner.start(registry, "a", diary)
        ref = registry.ref("a")
        ref.tell(ValueError("no"))
        while registry.stats().ends.get(EndReason.FAILED, 0) == 0:
            assert registry.stats().live <= 1
        asked: list[pykka.Future[Any]] = []
        table = registry._table
        start = table.start

        def start_and_send(request: StartRequest) -> None:
            start(request)
            assert registry.stats().backoff == 1
            asked.append(ref.ask("asked", block=False))
            ref.tell("told")
            assert registry.stats().queued == 2

        monkeypatch.setattr(table, "start", start_and_send)
        with pytest.raises(pykka.Timeout):
            Loner.start(registry, "a", diary, timeout=0.01)
        monkeypatch.undo()
        with pytest.raises(Undeliverable):
            asked[0].get(timeout=PATIENCE)
        assert registry.dead_letters == [DeadLetter("a", "told", DeadLetterReason.ENDED)]
        assert registry.stats().backoff == 0
        assert registry.stats().queued == 0
        table._failures.forget("a")  # as if it had rested
        assert Loner.start(registry, "a", diary, timeout=PATIENCE).is_alive()


# The registry's end.


def test_what_was_accepted_before_a_shutdown_is_handled_by_it(setting: Setting) -> None:
    """Also by an incarnation that has not started yet, and by a successor."""
    starting = setting.diary.gate("on_start")
    setting.registry.ref("starting").tell("starting")
    starting.wait_until_reached()
    gate = setting.hold()
    setting.ref.tell(ValueError("no"))
    setting.ref.tell("left over")
    shutdown = setting.registry.stop(block=False)
    setting.registry.ask("by now it is stopping")
    with pytest.raises(RegistryStopped):
        setting.ref.tell("too late")
    gate.open()
    starting.open()
    assert shutdown.get() is True
    setting.registry.stop()
    assert {"starting", "left over"} <= {m for m in setting.diary.handled if isinstance(m, str)}
    assert setting.registry.stats().dead_letters == {}


def test_a_shutdown_does_not_start_over_and_over_what_cannot_start(
    listener: pykka.ActorRef[Listener],
) -> None:
    """What was told to it is reported; the shutdown neither spins nor waits for a miracle."""
    setting = Setting(listener, backoff=(0.05, 0.05), max_failures=3, drain_timeout=2)
    setting.diary.fail_starts = 20  # so that this ends
    gate = setting.diary.gate("on_start")
    setting.ref.tell("told")
    gate.wait_until_reached()
    shutdown = setting.registry.stop(block=False)
    setting.registry.ask("by now it is stopping")
    gate.open()
    assert shutdown.get() is True
    setting.registry.stop()
    assert len(setting.diary.constructed) < 10
    assert [letter.message for letter in setting.registry.dead_letters] == ["told"]
    assert setting.diary.handled == []
    assert EndReason.ABANDONED not in setting.registry.stats().ends


# The process.


IN_A_FORK = """
import os, pykka, sys, threading, warnings
from pykka_registry import *
from tests.support import Runtime
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork with threads

class Account(AggregateMixin, Runtime):
    def deposit(self, amount):
        return amount

registry = AggregateRegistry.start(Account)
live, absent = registry.ref("live"), registry.ref("absent")
live.ask("x")
pid = os.fork()
if pid == 0:
    for ref in (live, absent):
        for name, call in {
            "tell": lambda: ref.tell("x"),
            "ask": lambda: ref.ask("x"),
            "ask in time": lambda: ref.ask("x", timeout=5),
            "ask later": lambda: ref.ask("x", block=False).get(),
            "call": lambda: ref.call(Account.deposit, 1),
            "submit": lambda: ref.submit(Account.deposit, 1).get(),
            "method": lambda: ref.proxy().deposit(1).get(),
            "defer": lambda: ref.proxy().deposit.defer(1),
            "attribute": lambda: ref.proxy().key.get(),
            "stop": lambda: ref.stop(),
            "using": lambda: ref.using(timeout=1).call(Account.deposit, 1),
        }.items():
            try:
                print(name, call())
            except RegistryStopped as error:
                print(name, "refused" if "forked" in str(error) else error)
            except BaseException as error:
                print(name, type(error))
        assert "live" in repr(live) and hash(live) != hash(absent)
    sys.stdout.flush()
    os._exit(0)
print("child", os.waitpid(pid, 0)[1], flush=True)
print("parent", live.call(Account.deposit, 1), absent.call(Account.deposit, 2), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_refs_in_a_forked_child_say_why_nothing_works() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_FORK],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *child, status, parent = done.stdout.splitlines()
    assert status == "child 0"
    assert parent == "parent 1 2"
    assert len(child) == 22
    assert [line for line in child if not line.endswith(" refused")] == []
