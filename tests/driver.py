"""Makes each call to a registry and to its model, and compares what came of it.

The driver moves the clock and opens the gates at which hooks and handlers wait. After each step it
waits until every thread rests, and then the registry and the model must agree on all that can be
seen: look-ups, statistics, events, dead letters, what was handled by whom, and what became of each
call.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    DeadLetterReason,
    EndReason,
    KeyAlreadyRegistered,
    Registered,
    Terminated,
    _pooled_life,
)
from pykka_registry._future import Future
from pykka_registry._pooled_life import PooledLife
from tests import model
from tests.model import (
    OWN,
    PENDING,
    REGISTRYS,
    Call,
    Dead,
    Event,
    Handled,
    Kind,
    Knobs,
    Message,
    Model,
    Outcome,
    Reply,
    State,
    Then,
)
from tests.support import ON_POOL, PATIENCE, Gate, Referee, Runtime, nothing_remains

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from pykka_registry import RegistryRef
    from pykka_registry._inbox import Inbox
    from pykka_registry._policy import Restart

KEYS: tuple[Any, ...] = ("a", ("b", 2))

CALLS = (
    "get_or_start",
    "get_or_start as a message",
    "get_or_start that gives up",
    "start_new",
    "start_new as a message",
    "Account.start",
    "ref.tell",
    "ref.tell that fails",
    "ref.tell that takes long",
    "ref.tell to passivate",
    "ref.ask",
    "ref.ask that fails",
    "ref.ask that takes long",
    "ref.call",
    "ref.call that gives up",
    "ref.stop",
    "ref.tell by another aggregate",
    "ref.ask by another aggregate",
    "plain tell",
    "plain ask",
    "plain stop",
    "register",
    "unregister",
    "release",
    "wait_for",
    "wait_for as a message",
    "wait_for that gives up",
)
SEEN_EACH_TIME = ("get, in, len, iter", "stats")
SHUTDOWNS = ("drain", "registry.stop")

BUSY, FOREIGN = "active, at work", "foreign"
OPEN, STOPPING, STOPPED = "registry open", "registry stopping", "registry stopped"
COLUMNS = (*(state.value for state in State), BUSY, FOREIGN)

NEEDS_A_BUSY_ONE = {"ref.tell by another aggregate", "ref.ask by another aggregate"}

CELLS = {
    (call, column)
    for call in (*CALLS, *SEEN_EACH_TIME, *SHUTDOWNS)
    for column in (*COLUMNS, STOPPING, STOPPED)
} - {(call, STOPPED) for call in NEEDS_A_BUSY_ONE}


class Trouble(Exception):
    """What the aggregates raise: it says of what."""


class Order:
    """A message as it is sent: what its number is in the model, and what to do."""

    def __init__(self, message: Message) -> None:
        self.number = message.number
        self.kind = message.kind
        self.after = message.after


class Answer(NamedTuple):
    """What a handler replies: the model says `Reply`, with the incarnation's number."""

    message: int
    urn: str


class Held:
    """A thread that waits at a gate, and what it does when that is opened."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.gate = Gate()
        self.then = Then.GO_ON
        self.errand: Callable[[], None] | None = None


class Stage:
    """What the aggregates and the test share."""

    def __init__(self) -> None:
        self.knobs = Knobs()
        self.referee = Referee()
        self.handled: list[tuple[Hashable, str, str, int]] = []
        self.held: dict[Hashable, Held] = {}

    def wait(self, key: Hashable) -> Then:
        """Wait at a gate; return what comes then."""
        held = self.held[key] = Held()
        held.gate.pass_through()
        if held.errand is not None:
            held.errand()
        return held.then


class Modelled(AggregateMixin, Runtime):
    """Does what it is told, and what the knobs say."""

    def __init__(self, stage: Stage, label: str = REGISTRYS) -> None:
        stage.referee.enter(self.key)
        super().__init__()
        self._stage = stage
        self._label = label

    def on_start(self) -> None:
        stage = self._stage
        if self.key in stage.knobs.slow_start:
            fails = stage.wait(self.key) is Then.RAISE
        else:
            fails = self.key in stage.knobs.bad_start
        if fails:
            stage.referee.leave(self.key)
            raise Trouble("start")

    def on_stop(self) -> None:
        if self.key in self._stage.knobs.slow_stop:
            self._stage.wait(self.key)
        self._stage.referee.leave(self.key)

    def on_failure(self, *_exc_info: Any) -> None:
        self.on_stop()

    def on_receive(self, message: Any) -> Any:
        return self.take(message)

    def take(self, order: Order) -> Answer:
        self._stage.handled.append((self.key, self.actor_urn, self._label, order.number))
        fails = order.kind is Kind.FAIL
        if order.kind is Kind.HOLD:
            fails = self._stage.wait(self.key) is Then.RAISE
        elif order.kind is Kind.WORD:
            self.passivate(order.after)
        if fails:
            raise Trouble(order.number)
        return Answer(order.number, self.actor_urn)


class Foreign(pykka.ThreadingActor):
    pass


class Noting(pykka.ThreadingActor):
    """Notes what it is told, where the test can read it."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__()
        self._told = told

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Registered | Terminated):
            self._told.append(message)


class Surroundings:
    """A clock that stands still until the test moves it; who waits for which future, or works."""

    def __init__(self) -> None:
        self.now = 1_000.3
        self.turns = 0
        """How many turns pooled aggregates have been given."""
        self._awaited: dict[threading.Thread, Future[Any]] = {}
        self._at_work: Counter[threading.Thread] = Counter()
        """How many turns of pooled aggregates each thread is in."""
        self._lock = threading.Lock()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(time, "monotonic", lambda: self.now)
        # What goes wrong is meant to, and a thousand tracebacks take time.
        self._patch.setattr(logging.getLogger("pykka_registry"), "disabled", True)
        wait: Any = vars(Future)["_wait"]

        def watched_wait(future: Future[Any], *args: Any) -> None:
            self._awaited[threading.current_thread()] = future
            try:
                wait(future, *args)
            finally:
                del self._awaited[threading.current_thread()]

        self._patch.setattr(Future, "_wait", watched_wait)
        self._watch(_pooled_life, "begin")
        self._watch(PooledLife, "turn")
        self._watch(PooledLife, "here")

    def _watch(self, where: Any, name: str) -> None:
        """Note who is in this function, which gives a pooled aggregate a turn."""
        function: Any = getattr(where, name)

        def watched(*args: Any) -> Any:
            me = threading.current_thread()
            with self._lock:
                self._at_work[me] += 1
                self.turns += 1
            try:
                return function(*args)
            finally:
                with self._lock:
                    self._at_work[me] -= 1

        self._patch.setattr(where, name, watched)

    def at_work(self) -> set[threading.Thread]:
        """Return who is in a turn."""
        with self._lock:
            return {thread for thread, turns in self._at_work.items() if turns}

    def undo(self) -> None:
        self._patch.undo()

    def rests(self, caller: Caller) -> bool:
        """Tell whether a call has come to its end, or waits for somebody."""
        awaited = self._awaited.get(caller.thread)
        return caller.is_done or (awaited is not None and not awaited.done())


class Caller:
    """Makes one call, in a thread of its own if it may have to wait."""

    def __init__(self, function: Callable[[], Any], *, may_wait: bool = True) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = False
        self._function = function
        self.thread = threading.Thread(target=self._run, daemon=True)
        if may_wait:
            self.thread.start()
        else:
            self._run()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:  # noqa: BLE001  # it is compared
            self.error = error
        self.is_done = True


def in_this_thread(function: Callable[[], Any]) -> Caller:
    """Make a call that does not wait."""
    return Caller(function, may_wait=False)


def by_key(things: Iterable[Any]) -> dict[Hashable, list[Any]]:
    """Return them by key: what happens to two keys at once may come in either order."""
    result: defaultdict[Hashable, list[Any]] = defaultdict(list)
    for thing in things:
        result[thing.key].append(thing)
    return dict(result)


@dataclass
class Seen:
    """What several drivers have come across."""

    cells: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """How often each call was made in each column of the matrix."""
    ends: Counter[EndReason] = field(default_factory=Counter[EndReason])
    deaths: Counter[DeadLetterReason] = field(default_factory=Counter[DeadLetterReason])


@dataclass(frozen=True)
class Made:
    """A call that was made to the model."""

    real: Callable[[float | None], Any]
    """How to make it to the registry, with a timeout if it takes one."""
    give_up: Callable[[Call], None] | None = None
    """How the model lets the caller's timeout end the wait, if there can be one."""


class Driver:
    """Makes each call to a registry and to its model, and compares."""

    def __init__(
        self, seen: Seen, restart: Restart = "on message", max_live: int | None = None
    ) -> None:
        self.seen = seen
        self.surroundings = Surroundings()
        self.stage = Stage()
        self.knobs = self.stage.knobs
        self.calls: list[tuple[Call, Caller | pykka.Future[Any]]] = []
        self.messages: list[tuple[Message, Call]] = []
        """With the call that has sent it."""
        self.foreign: dict[Hashable, tuple[int, pykka.ActorRef[Any]]] = {}
        self.tokens = 0
        self.steps = 0
        self.log: list[str] = []
        self.failures = 0
        self.is_broken = True
        self.numbers: dict[str, int] = {}
        self.refs: dict[Hashable, tuple[int, pykka.ActorRef[Any]]] = {}
        self.told: list[Any] = []
        self.listener = Noting.start(self.told)
        self.registry: RegistryRef[Modelled] = AggregateRegistry.start(
            Modelled,
            args=(self.stage,),
            name="the bank",
            idle=model.IDLE,
            max_live=max_live,
            restart=restart,
            start_timeout=model.START,
            stop_timeout=model.STOP,
            drain_timeout=1e9,
            backoff=(model.REST, model.REST),
            max_failures=model.MAX_FAILURES,
            failure_window=model.WINDOW,
            quarantine=model.QUARANTINE,
        )
        self.table = self.registry._table
        # Without jitter, so that the model knows when keys come back.
        cast("Any", self.table._failures)._chance = _NoChance()
        self.registry.subscribe(self.listener)
        self.proxy = self.registry.proxy()
        self.model = Model(self.knobs, self.surroundings.now, restart, max_live)
        self.settle()

    # The calls.

    def call(self, name: str, key: Any) -> None:
        """Make a call to the model and to the registry."""
        self.steps += 1
        if name in NEEDS_A_BUSY_ONE and not self.make_busy_other_than(key):
            return
        if name.startswith("plain") and key not in self.refs:
            return
        for concerned in KEYS if name in SHUTDOWNS else (key,):
            self.seen.cells[name, self.column(concerned)] += 1
        call = Call(name, key)
        self.log.append(f"{call!r} in {self.column(key)}; {self._knobs()}")
        before = self.model.last_number
        made = self._make(name, call, key)
        # One that has just been launched may or may not have begun, so who gives up has to wait.
        waits = call.outcome is PENDING and self.model.last_number == before
        if made.give_up is not None and waits:
            made.give_up(call)
            self.calls.append((call, in_this_thread(lambda: made.real(0))))
        elif name.startswith("ref.ask") or name.endswith("another aggregate"):
            self.calls.append((call, made.real(None)))
        elif name.startswith(("ref.tell", "register", "unregister", "release", "plain tell")):
            self.calls.append((call, in_this_thread(lambda: made.real(None))))
        else:
            self.calls.append((call, Caller(lambda: made.real(None))))
        self.settle()

    def _knobs(self) -> str:
        return ", ".join(f"{name}: {keys}" for name, keys in vars(self.knobs).items() if keys)

    def kill_a_foreign_actor(self, key: Hashable) -> None:
        row = self.model.foreign.get(key)
        if row is not None and row.alive:
            self.log.append(f"the foreign actor of {key!r} dies")
            self.model.kill_foreign(key)
            _, ref = self.foreign.pop(key)
            ref.stop()
            self.settle()

    def cut_the_shutdown_short(self) -> None:
        call = Call("drain", None)
        self.log.append("drain(timeout=0)")
        self.model.cut_short(call)
        self.calls.append((call, Caller(lambda: self.registry.drain(timeout=0))))
        self.settle()

    def _make(self, name: str, call: Call, key: Any) -> Made:
        """Make a call to the model, and return how to make it to the registry."""
        what, _, how = name.partition(" ")
        make = {
            "get_or_start": self._get_or_start,
            "start_new": self._start_new,
            "Account.start": self._account_start,
            "ref.stop": self._stop,
            "register": self._register,
            "unregister": self._unregister,
            "release": self._release,
            "wait_for": self._wait_for,
            "drain": self._drain,
            "registry.stop": self._stop_registry,
            "plain": self._plain,
        }.get(what)
        return self._send(what, how, call, key) if make is None else make(how, call, key)

    def _get_or_start(self, how: str, call: Call, key: Any) -> Made:
        self.model.start(call, exclusive=False)
        if how == "as a message" and not self.model.over:
            return Made(lambda _: self.proxy.get_or_start(key).get().get())
        gives_up = self.model.give_up_start if how == "that gives up" else None
        return Made(lambda timeout: self.registry.get_or_start(key, timeout=timeout), gives_up)

    def _start_new(self, how: str, call: Call, key: Any) -> Made:
        self.model.start(call, exclusive=True)
        if how == "as a message" and not self.model.over:
            return Made(lambda _: self.proxy.start_new(key).get().get())
        return Made(lambda _: self.registry.start_new(key))

    def _account_start(self, _how: str, call: Call, key: Any) -> Made:
        self.model.start(call, exclusive=True, label=OWN)
        return Made(lambda _: Modelled.start(self.registry, key, self.stage, OWN))

    def _stop(self, _how: str, call: Call, key: Any) -> Made:
        self.model.stop(call)
        return Made(lambda _: self.registry.ref(key).stop())

    def _register(self, _how: str, call: Call, key: Any) -> Made:
        token, ref = self._foreign_actor(key)
        self.model.register(call, token)
        return Made(lambda _: self.registry.register(key, ref))

    def _unregister(self, _how: str, call: Call, key: Any) -> Made:
        token, ref = self._foreign_actor(key)
        self.model.unregister(call, token)
        return Made(lambda _: self.registry.unregister(key, ref))

    def _release(self, _how: str, call: Call, key: Any) -> Made:
        self.model.release(call)
        return Made(lambda _: self.registry.release(key))

    def _wait_for(self, how: str, call: Call, key: Any) -> Made:
        self.model.wait_for(call)
        if how == "as a message" and not self.model.over:
            return Made(lambda _: self.proxy.wait_for(key).get().get())
        gives_up = self.model.give_up_waiting if how == "that gives up" else None
        return Made(lambda timeout: self.registry.wait_for(key, timeout=timeout), gives_up)

    def _drain(self, _how: str, call: Call, _key: Any) -> Made:
        self.model.close(call)
        return Made(lambda _: self.registry.drain())

    def _stop_registry(self, _how: str, call: Call, _key: Any) -> Made:
        self.model.close(call)
        return Made(lambda _: self.registry.stop())

    def _plain(self, how: str, call: Call, key: Any) -> Made:
        """Call through the ref of the key's last incarnation that is known."""
        number, ref = self.refs[key]
        if how == "stop":
            self.model.send_plain(call, Message(0, Kind.STOP, call), number)
            return Made(lambda _: ref.stop())
        message = self._message(Kind.NOTE, call, asked=how == "ask")
        self.model.send_plain(call, message, number)
        order = Order(message)
        return Made(lambda _: ref.ask(order) if how == "ask" else ref.tell(order))

    def _send(self, what: str, how: str, call: Call, key: Any) -> Made:
        """Send a message through the key's ref."""
        kind = {
            "that fails": Kind.FAIL,
            "that takes long": Kind.HOLD,
            "to passivate": Kind.WORD,
        }.get(how, Kind.NOTE)
        asked = what != "ref.tell"
        message = self._message(kind, call, asked=asked)
        message.after = (0.0, None, 50.0)[message.number % 3]
        order = Order(message)
        address = self.registry.ref(key)
        if how == "by another aggregate":
            other = self._other(key)
            self.model.relay(call, message)
            self.model.open(other)
            return Made(lambda _: self._by(other, lambda: _send_to(address, order, asked=asked)))
        self.model.send(call, message)
        if what == "ref.call":
            gives_up = self.model.give_up if how == "that gives up" else None
            return Made(
                lambda timeout: address.using(timeout=timeout).call(Modelled.take, order), gives_up
            )
        return Made(lambda _: _send_to(address, order, asked=asked))

    def _by(self, other: Hashable, send: Callable[[], Any]) -> Any:
        """Let an aggregate that is held send something, and go on."""
        result: list[Caller] = []
        sent = threading.Event()

        def errand() -> None:
            result.append(in_this_thread(send))
            sent.set()

        held = self.stage.held.pop(other)
        held.errand = errand
        held.gate.open()
        assert sent.wait(PATIENCE)
        (caller,) = result
        is_future = isinstance(caller.result, pykka.Future)
        return cast("pykka.Future[Any]", caller.result) if is_future else caller

    def _message(self, kind: Kind, call: Call, *, asked: bool) -> Message:
        message = Message(len(self.messages) + 1, kind, call if asked else None)
        self.messages.append((message, call))
        return message

    def _foreign_actor(self, key: Hashable) -> tuple[int, pykka.ActorRef[Any]]:
        if key not in self.foreign:
            self.tokens += 1
            self.foreign[key] = self.tokens, Foreign.start()
        return self.foreign[key]

    # Ways into each state.

    def column(self, key: Hashable) -> str:
        """Return which column of the matrix the key is in."""
        if self.model.closed:
            return STOPPED if self.model.over else STOPPING
        if key in self.model.foreign and self.model.foreign[key].alive:
            return FOREIGN
        return BUSY if self.is_busy(key) else self.model.state(key).value

    def is_busy(self, key: Hashable) -> bool:
        return self.model.state(key) is State.ACTIVE and self.model.is_busy(key)

    def bring(self, key: Hashable, column: str) -> None:
        """Bring a key into a state, if that can be, by the calls and events that lead to it."""
        for _ in range(25):
            if self.model.closed or self.column(key) == column:
                return
            self._go_towards(key, column)

    def _go_towards(self, key: Hashable, column: str) -> None:
        """Make one step."""
        knobs = self.knobs
        (knobs.slow_start.add if column in _BY_START else knobs.slow_start.discard)(key)
        knobs.bad_start.discard(key)
        (knobs.slow_stop.add if column == "stopping" else knobs.slow_stop.discard)(key)
        now = self.column(key)
        call = self._next_call(key, now, column)
        if call is not None:
            self.call(call, key)
        elif (
            key not in self.stage.held and self._other(key) in self.stage.held and now != "backoff"
        ):
            self.open(self._other(key))  # it has the only place
        elif key not in self.stage.held or column == "abandoned" != now:
            self.wait_for_an_alarm()
        else:
            self.open(key)

    def _next_call(self, key: Hashable, now: str, column: str) -> str | None:
        """Return the call that leads from one state towards another, if one does."""
        if now == "absent" and column == "backoff":
            record = self.model.records.get(key)
            is_resting = record is not None and record.rests_until > self.model.now
            return "ref.tell" if is_resting else "ref.tell that fails"
        ways: dict[str, dict[str, str]] = {
            FOREIGN: {"": "unregister"},
            "quarantined": {"": "release"},
            "absent": {FOREIGN: "register", "": "ref.tell"},
            "backoff": {FOREIGN: "ref.stop", "absent": "ref.stop"},
            "active": {
                "backoff": "ref.tell that fails",
                "quarantined": "ref.tell that fails",
                BUSY: "ref.tell that takes long",
                "": "ref.stop",
            },
        }
        way = ways.get(now, {})
        return way.get(column, way.get(""))

    def _other(self, key: Hashable) -> Any:
        return KEYS[1] if key == KEYS[0] else KEYS[0]

    def make_busy_other_than(self, key: Hashable) -> bool:
        """Have the other key's handler wait, with nothing behind it; tells whether it does."""
        other = self._other(key)
        for _ in range(2):
            row = self.model.rows.get(other)
            incarnation = None if row is None else row.incarnation
            if self.is_busy(other) and incarnation is not None and not incarnation.inbox:
                return True
            if self.is_busy(other):
                self.open(other)
            self.bring(other, BUSY)
        return False

    def open(self, key: Hashable, then: Then = Then.GO_ON) -> None:
        """Open the gate at which a key's thread waits."""
        self.log.append(f"the gate of {key!r} opens: {then.value}")
        self.model.open(key, then)
        held = self.stage.held.pop(key)
        held.then = then
        held.gate.open()
        self.settle()

    def wait_for_an_alarm(self) -> None:
        """Let time pass until one rings."""
        landing = self.model.next_landing()
        if landing is not None:
            self._be_at(landing)

    def _be_at(self, moment: float) -> None:
        self.log.append(f"it becomes {moment}")
        self.surroundings.now = moment
        self.model.land(moment)
        with contextlib.suppress(pykka.ActorDeadError):  # its time may have come, too
            for _ in range(2):  # a registry rings what is due before it takes its next message
                self.proxy.keys().get()
        self.settle()

    # What must be so after each step.

    def settle(self) -> None:
        """Wait until every thread rests, and compare."""
        self.is_broken = True
        deadline = time.perf_counter() + PATIENCE
        before: list[object] | None = None
        while True:
            rest = self._rest()
            if rest is not None and rest == before:
                break
            before = rest
            assert time.perf_counter() < deadline, "it does not come to rest"
            time.sleep(0)  # the others need the interpreter
        self.compare()
        self.look_up()
        self.is_broken = False
        if self.failures < self.model.failures:
            self.failures = self.model.failures
            self._let_pass(model.SPACING)

    def _let_pass(self, seconds: float) -> None:
        until = self.surroundings.now + seconds
        while self.model.rings_by(until):
            landing = self.model.next_landing()
            assert landing is not None
            self._be_at(landing)
        if self.surroundings.now < until:
            self._be_at(until)

    def _rest(self) -> list[object] | None:
        """Return what each thread rests on, or `None` if one is at work.

        If it is the same twice, there was a moment at which all rested.
        """
        rest: list[object] = []
        inboxes: list[Any] = []
        if self.table.thread is None:
            return None
        if self.table.thread.is_alive():
            inboxes.append(self.registry.actor_inbox)
        courier = self.table.courier
        if courier._thread is not None and courier._thread.is_alive():
            inboxes.append(courier._inbox)
        threads = sum(thread.name.startswith("Modelled-") for thread in threading.enumerate())
        for entry in list(self.table._entries.values()):
            incarnation = entry.incarnation
            if incarnation is None or not incarnation.launched:
                continue
            threads -= not ON_POOL
            held = self.stage.held.get(entry.key)
            if held is not None and held.gate.reached.is_set():
                rest.append(held)
            elif incarnation.life is not None:
                inboxes.append(incarnation.life.inbox)
            else:
                return None
        rest += [_parked(inbox) for inbox in inboxes]
        rest.append(self.surroundings.turns)
        if threads or None in rest or not all(self._callers_rest()):
            return None
        if not self.surroundings.at_work() <= self._held_up():
            return None
        return rest

    def _callers_rest(self) -> Iterator[bool]:
        return (
            self.surroundings.rests(caller) or caller.thread in self._held_up()
            for _, caller in self.calls
            if isinstance(caller, Caller)
        )

    def _held_up(self) -> set[threading.Thread]:
        """Return the threads that wait at a gate."""
        held = list(self.stage.held.values())
        return {one.thread for one in held if one.gate.reached.is_set()}

    def _helps(self, real: Caller | pykka.Future[Any]) -> bool:
        """Tell whether it is a caller that is held up in an aggregate which it has helped."""
        return isinstance(real, Caller) and real.thread in self._held_up() and not real.is_done

    def compare(self) -> None:
        """See whether the registry has done what the model has."""
        self._agree("events", by_key(self._real_events()), by_key(self.model.events))
        handled = [
            Handled(key, self.numbers[urn], label, number)
            for key, urn, label, number in list(self.stage.handled)
        ]
        self._agree("handled", by_key(handled), by_key(self.model.handled))
        dead = [
            Dead(letter.key, letter.message.number, letter.reason, _cause(letter))
            for letter in self.registry.dead_letters
        ]
        self._agree("dead letters", by_key(dead), by_key(self.model.dead))
        for call, real in self.calls:
            if not self._helps(real):  # it is told what came of its call when it is free again
                self._agree(repr(call), self._outcome(real), call.outcome)
        self.calls = [
            (call, real) for call, real in self.calls if not call.is_done or self._helps(real)
        ]
        self._agree("statistics", self.registry.stats(), self.model.stats())
        self._agree("incarnations live at once", self.stage.referee.fouls, [])
        self._agree("incarnations live", self.stage.referee.live(), self.model.live())

    def _agree(self, what: str, real: object, expected: object) -> None:
        if real != expected:
            steps = "\n".join(self.log)
            msg = f"{what}:\n  the registry: {real}\n  the model:    {expected}\nafter\n{steps}"
            raise AssertionError(msg)

    def _real_events(self) -> list[Event]:
        events: list[Event] = []
        if len(self.told) < len(self.model.events):
            self.listener.ask("all that was told before")
        for event in list(self.told):
            if isinstance(event, Registered):
                self.numbers[event.ref.actor_urn] = event.incarnation
                if event.ref.actor_class is Modelled:
                    self.refs[event.key] = event.incarnation, event.ref
                events.append(Event(event.key, event.incarnation))
            else:
                events.append(Event(event.key, event.incarnation, event.reason, _cause(event)))
        return events

    def _outcome(self, real: Caller | pykka.Future[Any]) -> Outcome:
        """Return what a call came to, in the model's words."""
        caller = real
        if isinstance(caller, Future):
            if not caller.done():
                return PENDING
            caller = in_this_thread(caller.get)
        assert isinstance(caller, Caller)
        if not caller.is_done:
            return PENDING
        error, result = caller.error, caller.result
        if isinstance(error, KeyAlreadyRegistered):
            owner = None if error.ref is None else self.numbers[error.ref.actor_urn]
            return Outcome("raises", (type(error).__name__, owner))
        if error is not None:
            return Outcome("raises", (type(error).__name__, _cause(error)))
        if isinstance(result, Answer):
            result = Reply(result.message, self.numbers[result.urn])
        elif isinstance(result, pykka.ActorRef):
            result = "ref", self.numbers[result.actor_urn]
        elif isinstance(result, list):
            result = frozenset(cast("list[Hashable]", result))
        return Outcome("returns", result)

    def look_up(self) -> None:
        """See whether look-ups find whom the model finds."""
        registry, active = self.registry, self.model.active()
        numbers = {key: self.numbers[ref.actor_urn] for key, ref in registry.items()}
        self._agree("items", numbers, active)
        self._agree("len", len(registry), len(active))
        self._agree("iter", set(registry), set(active))
        for key in KEYS:
            ref = registry.get(key)
            number = None if ref is None else self.numbers[ref.actor_urn]
            self._agree(f"get({key!r})", number, active.get(key))
            self._agree(f"{key!r} in", key in registry, key in active)
            for call in SEEN_EACH_TIME:
                self.seen.cells[call, self.column(key)] += 1

    # The end.

    def end(self) -> None:
        """Let everything come to its end, and see that nobody waits and nothing is left."""
        try:
            if not self.is_broken:
                self._end_well()
        finally:
            self._end_anyway()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.end()

    def _end_well(self) -> None:
        for knobs in (self.knobs.slow_start, self.knobs.slow_stop, self.knobs.bad_start):
            knobs.clear()
        if not self.model.closed:
            self.call("drain", KEYS[0])
        for _ in range(100):
            if self.stage.held:
                self.open(next(key for key in KEYS if key in self.stage.held))
            elif not self.model.over:
                self.wait_for_an_alarm()
        assert self.model.over
        assert self.calls == [], "somebody still waits"
        self._count_fates()
        assert nothing_remains(self.registry)
        self.seen.ends.update(self.registry.stats().ends)
        self.seen.deaths.update(self.registry.stats().dead_letters)

    def _count_fates(self) -> None:
        """See that each message was handled once, or reported once, and not both."""
        handled = Counter(number for _, _, _, number in self.stage.handled)
        dead = Counter(letter.message.number for letter in self.registry.dead_letters)
        for message, call in self.messages:
            fates = handled[message.number] + dead[message.number]
            if call.outcome.how == "raises":
                error, _ = call.outcome.what
                fates += error != "Trouble"  # refused, or the asker was told
            assert fates == 1, (message, call, fates)

    def _end_anyway(self) -> None:
        """Leave no thread, whatever has gone wrong."""
        try:
            for knobs in (self.knobs.slow_start, self.knobs.slow_stop, self.knobs.bad_start):
                knobs.clear()
            deadline = time.perf_counter() + PATIENCE
            end = Caller(lambda: self.registry.drain(timeout=0))
            while not end.is_done or self.stage.held:
                for key in list(self.stage.held):
                    self.stage.held.pop(key).gate.open()
                assert time.perf_counter() < deadline
                end.thread.join(0.001)
        finally:
            self.surroundings.undo()
            pykka.ActorRegistry.stop_all()


class _NoChance:
    def uniform(self, _least: float, _most: float) -> float:
        return 1.0


_BY_START = {"starting", "abandoned"}


def _send_to(address: Any, order: Order, *, asked: bool) -> Any:
    return address.ask(order, block=False) if asked else address.tell(order)


def _parked(inbox: Inbox) -> object:
    """Return what an inbox's reader sleeps on, if it does and nothing is in it."""
    return None if inbox._envelopes or inbox._nudged else inbox._parked


def _cause(thing: Any) -> Any:
    """Return of what an event, a letter or an error says that the trouble was."""
    trouble = thing if isinstance(thing, Trouble) else None
    if trouble is None:
        cause = thing.__cause__ if isinstance(thing, BaseException) else thing.cause
        trouble = cause if isinstance(cause, Trouble) else None
    return None if trouble is None else trouble.args[0]
