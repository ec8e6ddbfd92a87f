"""What a registry does, as the design says it: one call at a time, no threads, and a clock.

`tests/test_model.py` makes the same calls to this model and to a registry, and compares. Each call
runs the model until nothing moves any more: until every incarnation is idle, or held at a gate.
"""

from __future__ import annotations

import enum
import functools
import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka_registry import DeadLetterReason, EndReason, Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

# The policies of the registry that is modelled, in seconds of a clock that only the test moves.
START = 150.0
STOP = 160.0
REST = 100.0
WINDOW = 1_000.0
QUARANTINE = 300.0
IDLE = 250.0
LINGER = 1.0
"""For how long an idle one stays while others drain, if they have more than ten seconds."""
MAX_FAILURES = 2

SPACING = 8.0
"""Passes after each failure, so that no two keys come back at the same moment."""


class State(enum.Enum):
    """What a key is doing; the columns of the design's matrix."""

    ABSENT = "absent"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    ABANDONED = "abandoned"


class Kind(enum.Enum):
    """What a message makes its handler do."""

    NOTE = "answer"
    HOLD = "wait at a gate, then answer"
    FAIL = "raise"
    WORD = "say when to retire"
    STOP = "stop"


class Then(enum.Enum):
    """What comes after a gate."""

    GO_ON = "go on"
    RAISE = "raise"


class Outcome(NamedTuple):
    """What a call came to."""

    how: str
    what: Any = None


PENDING = Outcome("pending")


class Call:
    """A call, and what became of it."""

    def __init__(self, name: str, key: Hashable) -> None:
        self.name = name
        self.key = key
        self.outcome = PENDING

    def __repr__(self) -> str:
        return f"{self.name}({self.key!r})"

    @property
    def is_done(self) -> bool:
        return self.outcome is not PENDING

    def returns(self, value: Any) -> None:
        if not self.is_done:
            self.outcome = Outcome("returns", value)

    def raises(self, error: str, detail: Any = None) -> None:
        if not self.is_done:
            self.outcome = Outcome("raises", (error, detail))


@dataclass(eq=False)
class Message:
    """What is sent: `plain` through an incarnation's ref, else through its key's."""

    number: int
    kind: Kind
    call: Call | None = None
    """Whose answer is awaited."""
    plain: bool = False
    after: float | None = None
    """The word that is to be said."""

    @property
    def is_expired(self) -> bool:
        return self.call is not None and self.call.is_done

    @property
    def counts(self) -> bool:
        """Whether it takes up room while it waits."""
        return self.kind is not Kind.STOP and not self.is_expired


@dataclass(eq=False)
class Knobs:
    """How the aggregates behave, by key; for the model and for what is modelled."""

    slow_start: set[Hashable] = field(default_factory=set["Hashable"])
    """`on_start` waits at a gate."""
    slow_stop: set[Hashable] = field(default_factory=set["Hashable"])
    """`on_stop` and `on_failure` wait at a gate."""
    bad_start: set[Hashable] = field(default_factory=set["Hashable"])
    """`on_start` raises, if it does not wait."""


@dataclass(eq=False)
class Start:
    call: Call
    exclusive: bool
    label: str


@dataclass(eq=False)
class Incarnation:
    label: str
    number: int = 0
    """Given when it is launched."""
    inbox: deque[Message] = field(default_factory=deque[Message])
    current: Message | None = None
    """What its handler is held with."""
    held: bool = False
    """It waits at a gate, in whatever its state is."""
    idle: float | None = IDLE
    own_word: bool = False
    idle_since: float = 0.0
    quiet: bool = False
    in_last_hook: bool = False
    stops: list[Call] = field(default_factory=list[Call])
    """Who asked it to stop, and is answered at its end."""
    reason: EndReason = EndReason.STOPPED
    cause: Any = None


@dataclass(eq=False)
class Row:
    key: Hashable
    state: State = State.ABSENT
    since: float = 0.0
    turn: int = 0
    """Its state has changed after those that have a lesser turn."""
    incarnation: Incarnation | None = None
    ref: int | None = None
    """The number of the incarnation whose ref is known."""
    starts: list[Start] = field(default_factory=list[Start])
    queue: deque[Message] = field(default_factory=deque[Message])
    left_over: int = 0
    restarts: bool = False
    cause: Any = None


@dataclass(eq=False)
class Record:
    """A key's failures."""

    count: int = 0
    rests_until: float = 0.0
    due: float | None = None
    """When they are to be forgotten, since their key has done well or was left alone."""
    forgotten_at: float | None = None
    """When they are: not while the key rests or starts."""


@dataclass(eq=False)
class Foreign:
    token: int
    number: int
    alive: bool = True


class Event(NamedTuple):
    """`Registered` without a reason, `Terminated` with one."""

    key: Hashable
    number: int
    reason: EndReason | None = None
    cause: Any = None


class Handled(NamedTuple):
    key: Hashable
    number: int
    label: str
    message: int


class Dead(NamedTuple):
    key: Hashable
    message: int
    reason: DeadLetterReason
    cause: Any


class Reply(NamedTuple):
    message: int
    number: int


REGISTRYS = "the registry's"
OWN = "its own"


class Model:
    """The registry. Every public method is a call, or something that happens."""

    def __init__(self, knobs: Knobs, now: float, restart: str, max_live: int | None) -> None:
        assert max_live in {None, 1}, "which one of several is evicted is not modelled"
        self._knobs = knobs
        self.now = now
        self._restart = restart
        self._max_live = math.inf if max_live is None else max_live
        self.rows: dict[Hashable, Row] = {}
        self.foreign: dict[Hashable, Foreign] = {}
        self.records: dict[Hashable, Record] = {}
        self.watchers: dict[Hashable, list[Call]] = {}
        self.events: list[Event] = []
        self.handled: list[Handled] = []
        self.dead: list[Dead] = []
        self.last_number = 0
        self.failures = 0
        self.closed = False
        self.over = False
        self._retiring = False
        self._enders: list[Call] = []
        """Who waits for the registry's end."""
        self._waiting: list[Row] = []
        self._live: list[Row] = []
        self._turns = 0
        self._activations = 0
        self._ends: Counter[EndReason] = Counter()
        self._redelivered = 0
        self._expired = 0

    # What look-ups see.

    def state(self, key: Hashable) -> State:
        row = self.rows.get(key)
        return State.ABSENT if row is None else row.state

    def is_busy(self, key: Hashable) -> bool:
        row = self.rows.get(key)
        return row is not None and row.incarnation is not None and bool(row.incarnation.current)

    def is_held(self, key: Hashable) -> bool:
        row = self.rows.get(key)
        return row is not None and row.incarnation is not None and row.incarnation.held

    def has_begun_to_start(self, key: Hashable) -> bool:
        return self.state(key) is State.STARTING and self.is_held(key)

    def active(self) -> dict[Hashable, int]:
        """Return the number of each key that a look-up finds."""
        rows = {key: row.ref for key, row in self.rows.items() if row.state is State.ACTIVE}
        found = {key: number for key, number in rows.items() if number is not None}
        found.update({key: row.number for key, row in self.foreign.items() if row.alive})
        return found

    def live(self) -> int:
        return len(self._live)

    def stats(self) -> Stats:
        states = Counter(row.state for row in self.rows.values())
        waiting = len(self._waiting)
        return Stats(
            active=states[State.ACTIVE],
            live=len(self._live),
            waiting=waiting,
            starting=states[State.STARTING] - waiting,
            stopping=states[State.STOPPING],
            backoff=states[State.BACKOFF],
            quarantined=states[State.QUARANTINED] + states[State.ABANDONED],
            queued=sum(message.counts for row in self.rows.values() for message in row.queue),
            activations=self._activations,
            ends=dict(self._ends),
            declined=0,  # a message never comes just when an aggregate retires
            redelivered=self._redelivered,
            expired=self._expired,
            dead_letters=dict(Counter(letter.reason for letter in self.dead)),
        )

    # Calls.

    def start(self, call: Call, *, exclusive: bool, label: str = REGISTRYS) -> None:
        key = call.key
        if self.closed:
            call.raises("RegistryStopped")
            return
        row = self.rows.get(key)
        start = Start(call, exclusive, label)
        if row is None:
            owner = self._claim(key)
            if owner is None:
                row = Row(key)
                row.starts.append(start)
                self._begin(row)
            elif exclusive:
                call.raises("KeyAlreadyRegistered", owner)
            else:
                call.returns(("ref", owner))
        elif row.state in {State.QUARANTINED, State.ABANDONED}:
            call.raises("Quarantined", row.cause)
        elif row.state is State.ACTIVE and not exclusive:
            call.returns(("ref", row.ref))
        elif exclusive and row.state in {State.STARTING, State.ACTIVE}:
            call.raises("KeyAlreadyRegistered", row.ref)
        else:
            row.starts.append(start)

    def give_up_start(self, call: Call) -> None:
        """Let the caller's timeout end the wait for a start."""
        row = self.rows[call.key]
        (start,) = [start for start in row.starts if start.call is call]
        call.raises("OverloadedTimeout" if self._is_crowded(row) else "Timeout")
        row.starts.remove(start)
        self._drop_if_unwanted(row)
        self._run_on()

    def send(self, call: Call, message: Message, *, by_its_own: bool = False) -> None:
        """Send through the key's ref. The call is the `tell` or the `ask`."""
        key = call.key
        told = message.call is None
        row = self.rows.get(key)
        if self.closed and (self.over or not by_its_own):
            call.raises("RegistryStopped")
        elif row is None:
            owner = self._claim(key)
            if owner is not None:
                call.raises("HeldByForeignActor", owner)
                return
            row = Row(key)
            row.queue.append(message)
            self._begin(row)
            self._run_on()
        elif row.state in {State.QUARANTINED, State.ABANDONED}:
            # That an incarnation does not end in time has no exception for its cause.
            cause = None if row.state is State.ABANDONED else row.cause
            call.raises("Undeliverable", cause)
        else:
            self._take_in(row, message)
        if told:
            call.returns(None)

    def give_up(self, call: Call) -> None:
        """Let an asker's timeout end the wait for an answer, which nobody has begun to give."""
        row = self.rows[call.key]
        if self._is_crowded(row):
            call.raises("OverloadedTimeout")
        else:
            call.raises("NoAnswer", row.cause if row.state is State.BACKOFF else None)
        self._expired += 1
        self._drop_if_unwanted(row)
        self._run_on()

    def stop(self, call: Call) -> None:
        """Stop through the key's ref."""
        row = self.rows.get(call.key)
        if row is None or row.state in {State.QUARANTINED, State.ABANDONED}:
            call.returns(False)
        elif row.state is State.BACKOFF:
            self._call_off(row, DeadLetterReason.STOPPED, "Undeliverable", row.cause)
            call.returns(False)
            self._run_on()
        else:
            self._take_in(row, Message(0, Kind.STOP, call))

    def send_plain(self, call: Call, message: Message, number: int) -> None:
        """Send through the ref of an incarnation."""
        row = self.rows.get(call.key)
        if row is not None and row.state is State.ACTIVE and row.ref == number:
            message.plain = True
            self._take_in(row, message)
            if message.call is None:
                call.returns(None)
        elif message.kind is Kind.STOP:
            call.returns(False)
        else:
            call.raises("ActorDeadError")

    def register(self, call: Call, token: int) -> None:
        key = call.key
        row = self.rows.get(key)
        if self.closed:
            call.raises("RegistryStopped")
        elif row is not None and row.state in {State.QUARANTINED, State.ABANDONED}:
            call.raises("Quarantined", row.cause)
        elif row is not None:
            call.raises("KeyAlreadyRegistered", row.ref)
        else:
            owner = self._claim(key)
            if owner is None:
                self.foreign[key] = Foreign(token, self._next_number())
                self.events.append(Event(key, self.last_number))
                self._tell_watchers(key, self.last_number)
            elif self.foreign[key].token != token:
                call.raises("KeyAlreadyRegistered", owner)
            call.returns(None)

    def unregister(self, call: Call, token: int) -> None:
        row = self.foreign.get(call.key)
        mine = row is not None and row.token == token
        if mine:
            self._drop_foreign(call.key)
        call.returns(mine)

    def release(self, call: Call) -> None:
        row = self.rows.get(call.key)
        if row is None or row.state not in {State.QUARANTINED, State.ABANDONED}:
            call.returns(False)
        elif row.state is State.ABANDONED:
            call.raises("Quarantined", row.cause)
        else:
            self._release(row)
            call.returns(True)

    def wait_for(self, call: Call) -> None:
        number = self.active().get(call.key)
        if self.closed:
            call.raises("RegistryStopped")
        elif number is not None:
            call.returns(("ref", number))
        else:
            self.watchers.setdefault(call.key, []).append(call)

    def give_up_waiting(self, call: Call) -> None:
        self.watchers[call.key].remove(call)
        call.raises("Timeout")

    def close(self, call: Call) -> None:
        """Stop or drain the registry."""
        if self.over:
            drains = call.name == "drain"
            call.returns(self._abandoned_keys() if drains else False)
            return
        self._enders.append(call)
        if self.closed:
            return
        self.closed = True
        for key in list(self.foreign):
            self._drop_foreign(key)
        for calls in self.watchers.values():
            for watcher in calls:
                watcher.raises("RegistryStopped")
        self.watchers.clear()
        for row in list(self.rows.values()):
            self._close(row)
        self._run_on()

    def cut_short(self, call: Call) -> None:
        """Drain with no time left."""
        self._enders.append(call)
        for row in list(self.rows.values()):
            if row.incarnation is not None and row.incarnation.number:
                if row.state is not State.ABANDONED:
                    self._abandon(row)
            else:
                self._call_off(row, DeadLetterReason.REGISTRY_STOPPED, "Undeliverable", None)
        keys = self._abandoned_keys()
        # Those that have nothing to do have been abandoned, too, and end now.
        for row in list(self.rows.values()):
            incarnation = row.incarnation
            assert incarnation is not None
            if not incarnation.held:
                self._last_hook(row)
        self._finish(keys)

    # What happens.

    def open(self, key: Hashable, then: Then = Then.GO_ON) -> None:
        """Open the gate at which the key's incarnation is held."""
        row = self.rows[key]
        incarnation = row.incarnation
        assert incarnation is not None
        incarnation.held = False
        message = incarnation.current
        if message is not None:
            incarnation.current = None
            self._end_handler(row, message, failed=then is Then.RAISE)
        elif incarnation.in_last_hook:
            self._ended(row)
        else:
            self._end_start(row, failed=then is Then.RAISE)
        self._run_on()

    def relay(self, call: Call, message: Message) -> None:
        """Let a handler that is held, of whichever key, send a message through a key's ref."""
        self.send(call, message, by_its_own=True)

    def kill_foreign(self, key: Hashable) -> None:
        """Let a foreign actor die."""
        self.foreign[key].alive = False

    def next_landing(self) -> float | None:
        """Return a time by which the next alarm has rung, and no other is just about to."""
        alarms = [(at, delay) for at, delay, _ in self._alarms()]
        if not alarms:
            return None
        landing = max(min(at for at, _ in alarms), self.now + 1)
        found = True
        while found:
            # An alarm rings late by less than a thirty-second part of its delay.
            due = [at + max(delay / 32, 1 / 64) for at, delay in alarms if at <= landing]
            found = max(due, default=0) > landing
            landing = max([*due, landing])
        return landing

    def rings_by(self, time: float) -> bool:
        """Tell whether an alarm is due by then."""
        return any(at <= time for at, _, _ in self._alarms())

    def land(self, time: float) -> None:
        """Let it be so late, and ring the alarms that are due."""
        self.now = time
        if self.over:
            return
        for key, row in list(self.foreign.items()):
            if not row.alive:
                self._drop_foreign(key)
        while True:
            due = [alarm for alarm in self._alarms() if alarm[0] <= time]
            if not due:
                break
            # Those that are due at the same moment ring in the order in which they were set.
            _, _, ring = min(due, key=lambda alarm: alarm[0])
            ring()
            self._run_on()

    def _alarms(self) -> Iterator[tuple[float, float, Callable[[], None]]]:
        """Yield when each rings, after which delay, and what it does then."""
        if self.over:
            return
        for key, record in self.records.items():
            if record.forgotten_at is not None:
                forget = functools.partial(self._forget, key)
                yield record.forgotten_at, REST + WINDOW, forget
        for row in sorted(self.rows.values(), key=lambda row: row.turn):
            alarm = self._alarm_of(row)
            if alarm is not None:
                delay, at, ring = alarm
                yield at, delay, functools.partial(ring, row)

    def _alarm_of(self, row: Row) -> tuple[float, float, Callable[[Row], None]] | None:
        """Return an alarm's delay, when it rings, and what it does then."""
        if row.state is State.BACKOFF:
            return REST, self.records[row.key].rests_until, self._begin
        if row.state is State.ACTIVE:
            incarnation = row.incarnation
            assert incarnation is not None
            idle = LINGER if self.closed else incarnation.idle
            if idle is None or incarnation.current is not None:
                return None
            return idle, incarnation.idle_since + idle, self._retire
        delay, ring = {
            State.STARTING: (START, self._overload if row in self._waiting else self._abandon),
            State.STOPPING: (STOP, self._abandon),
            State.QUARANTINED: (QUARANTINE, self._release),
        }.get(row.state, (None, self._release))
        return None if delay is None else (delay, row.since + delay, ring)

    # The life of an incarnation.

    def _begin(self, row: Row) -> None:
        """Let the key rest, or make its next incarnation due."""
        self.rows[row.key] = row
        record = self.records.get(row.key)
        if row.state is not State.BACKOFF and record is not None and record.rests_until > self.now:
            self._move(row, State.BACKOFF)
            return
        label = REGISTRYS
        if row.starts:
            label = row.starts[0].label
            for start in row.starts[1:]:
                if start.exclusive:
                    row.starts.remove(start)
                    start.call.raises("KeyAlreadyRegistered", None)
        row.incarnation = Incarnation(label)
        self._move(row, State.STARTING)
        self._waiting.append(row)
        self._admit()

    def _admit(self) -> None:
        """Launch those for whom there is a place."""
        while self._waiting and len(self._live) < self._max_live:
            row = self._waiting.pop(0)
            self._live.append(row)
            assert row.incarnation is not None
            row.incarnation.number = self._next_number()
            row.since = self.now
            if row.key in self._knobs.slow_start:
                row.incarnation.held = True
            else:
                self._end_start(row, failed=row.key in self._knobs.bad_start)
        for row in list(self._live) if self._waiting else []:
            if row.state is State.ACTIVE and not self.is_busy(row.key):
                self._end(row, EndReason.EVICTED)

    def _end_start(self, row: Row, *, failed: bool) -> None:
        incarnation = row.incarnation
        assert incarnation is not None
        if failed:
            incarnation.reason = EndReason.START_FAILED
            incarnation.cause = "start"
            self._ended(row)
        elif row.state is State.ABANDONED:
            self._last_hook(row)
        else:
            row.ref = incarnation.number
            row.cause = None
            row.restarts = False
            self._activations += 1
            left_over = list(row.queue)[: row.left_over]
            self._redelivered += sum(message.kind is not Kind.STOP for message in left_over)
            row.left_over = 0
            incarnation.inbox.extend(row.queue)
            row.queue.clear()
            self._move(row, State.ACTIVE)
            self.events.append(Event(row.key, incarnation.number))
            for start in row.starts:
                start.call.returns(("ref", incarnation.number))
            row.starts.clear()
            self._tell_watchers(row.key, incarnation.number)
            self._work(row)

    def _take_in(self, row: Row, message: Message) -> None:
        """Take a message in for a row whose incarnation, present or next, will see it."""
        incarnation = row.incarnation
        if row.state is State.ACTIVE:
            assert incarnation is not None
            incarnation.quiet = False
            incarnation.inbox.append(message)
            if not incarnation.held:
                self._work(row)
        else:
            row.queue.append(message)
        self._run_on()

    def _work(self, row: Row) -> None:
        """Handle messages until there are none, or a gate is reached, or it ends."""
        incarnation = row.incarnation
        assert incarnation is not None
        while incarnation.inbox:
            message = incarnation.inbox.popleft()
            if message.is_expired:
                continue
            if message.kind is Kind.STOP:
                assert message.call is not None
                incarnation.stops.append(message.call)
                self._end(row, EndReason.STOPPED)
                return
            self.handled.append(
                Handled(row.key, incarnation.number, incarnation.label, message.number)
            )
            if message.kind is Kind.HOLD:
                incarnation.current = message
                incarnation.held = True
                return
            if message.kind is Kind.WORD:
                incarnation.idle = message.after
                incarnation.own_word = True
            if not self._answer(row, message, failed=message.kind is Kind.FAIL):
                return
        incarnation.idle_since = self.now
        if self._waiting and len(self._live) >= self._max_live:
            self._end(row, EndReason.EVICTED)
        elif self.closed and self._retiring:
            self._end(row, EndReason.DRAINED)
        elif incarnation.idle == 0:
            self._end(row, EndReason.OWN_WORD)
        else:
            incarnation.quiet = self.closed

    def _answer(self, row: Row, message: Message, *, failed: bool) -> bool:
        """Answer, or fail if nobody asked; tells whether it goes on."""
        incarnation = row.incarnation
        assert incarnation is not None
        if message.call is not None:
            if failed:
                message.call.raises("Trouble", message.number)
            else:
                message.call.returns(Reply(message.number, incarnation.number))
        elif failed:
            self._end(row, EndReason.FAILED, message.number)
            return False
        return True

    def _end_handler(self, row: Row, message: Message, *, failed: bool) -> None:
        if row.state is State.ABANDONED:
            if self._answer(row, message, failed=failed):
                self._last_hook(row)
        elif self._answer(row, message, failed=failed):
            self._work(row)

    def _retire(self, row: Row) -> None:
        incarnation = row.incarnation
        assert incarnation is not None
        if self.closed:
            self._end(row, EndReason.DRAINED)
        else:
            self._end(row, EndReason.OWN_WORD if incarnation.own_word else EndReason.IDLE)

    def _end(self, row: Row, reason: EndReason, cause: Any = None) -> None:
        """Begin to end: what is left over goes to the successor, what is plain is reported."""
        incarnation = row.incarnation
        assert incarnation is not None
        incarnation.reason = reason
        incarnation.cause = cause
        incarnation.quiet = False
        if row.state is not State.ABANDONED:
            self._move(row, State.STOPPING)
            letters = self._close_inbox(row)
            row.queue.extendleft(reversed(letters))
            row.left_over += len(letters)
        self._last_hook(row)

    def _close_inbox(self, row: Row) -> list[Message]:
        """Report what is plain; return the rest."""
        incarnation = row.incarnation
        assert incarnation is not None
        letters: list[Message] = []
        for message in incarnation.inbox:
            if not message.plain:
                if not message.is_expired:
                    letters.append(message)
            elif message.call is None:
                self._bury(row, message, DeadLetterReason.ENDED, incarnation.cause)
            elif message.kind is Kind.STOP:
                incarnation.stops.append(message.call)
            else:
                message.call.raises("Undeliverable", incarnation.cause)
        incarnation.inbox.clear()
        return letters

    def _last_hook(self, row: Row) -> None:
        incarnation = row.incarnation
        assert incarnation is not None
        incarnation.in_last_hook = True
        if row.key in self._knobs.slow_stop:
            incarnation.held = True
        else:
            self._ended(row)

    def _ended(self, row: Row) -> None:
        """Free the key, or hand it to a successor."""
        incarnation = row.incarnation
        assert incarnation is not None
        self._live.remove(row)
        if row.state is State.ABANDONED:
            self._remove(row)
        else:
            reason = incarnation.reason
            if reason is EndReason.STOPPED and self.closed:
                reason = EndReason.DRAINED
            self._terminate(row, reason, incarnation.cause)
            if row.state is State.STARTING:
                self._fail_start(row, incarnation.cause)
            elif self.closed:
                self._fail_starts(row, "RegistryStopped")
            self._hand_over(row, reason, incarnation.cause)
        for call in incarnation.stops:
            call.returns(True)
        self._admit()

    def _fail_start(self, row: Row, cause: Any) -> None:
        """Give who waits the cause; what was told stays for the next one."""
        self._fail_starts(row, "Trouble", cause)
        kept: deque[Message] = deque()
        left_over = 0
        for i, message in enumerate(row.queue):
            if message.call is None or message.kind is Kind.STOP:
                kept.append(message)
                left_over += i < row.left_over
            else:
                message.call.raises("Undeliverable", cause)
        row.queue = kept
        row.left_over = left_over

    def _hand_over(self, row: Row, reason: EndReason, cause: Any) -> None:
        row.incarnation = row.ref = None
        if reason in {EndReason.FAILED, EndReason.START_FAILED}:
            self.failures += 1
            record = self.records.setdefault(row.key, Record())
            record.count += 1
            record.due = None
            record.rests_until = self.now + REST
            row.cause = cause
            if record.count > MAX_FAILURES:
                self._quarantine(row)
                return
            row.restarts = self._restart == "at once" and not self.closed
        if self._skip(row, stopped=True):
            row.restarts = False
        if row.queue or row.starts or row.restarts:
            self._begin(row)
        else:
            self._remove(row)

    def _quarantine(self, row: Row) -> None:
        if self.closed:
            self._call_off(row, DeadLetterReason.QUARANTINED, "Undeliverable", row.cause)
            return
        self._move(row, State.QUARANTINED)
        self._fail_starts(row, "Quarantined", row.cause)
        self._report(row, row.queue, DeadLetterReason.QUARANTINED, "Undeliverable", row.cause)

    def _abandon(self, row: Row) -> None:
        """Wait no longer for an incarnation."""
        incarnation = row.incarnation
        assert incarnation is not None
        self._terminate(row, EndReason.ABANDONED, None)
        row.cause = None
        self._move(row, State.ABANDONED)
        if self.closed:
            self._fail_starts(row, "RegistryStopped")
        else:
            self._fail_starts(row, "Quarantined", row.cause)
        self._report(row, row.queue, DeadLetterReason.ABANDONED, "Undeliverable", None)
        letters = deque(self._close_inbox(row))
        self._report(row, letters, DeadLetterReason.ABANDONED, "Undeliverable", None)

    def _overload(self, row: Row) -> None:
        self._call_off(row, DeadLetterReason.OVERLOADED, "Overloaded", None)

    def _release(self, row: Row) -> None:
        self.records.pop(row.key, None)
        self._remove(row)

    # Rows.

    def _move(self, row: Row, state: State) -> None:
        row.state = state
        row.since = self.now
        self._turns += 1
        row.turn = self._turns
        self._date_failures(row)

    def _remove(self, row: Row) -> None:
        assert self.rows.pop(row.key) is row
        row.state = State.ABSENT
        self._date_failures(row)

    def _date_failures(self, row: Row) -> None:
        record = self.records.get(row.key)
        if record is None:
            return
        if row.state in {State.ACTIVE, State.ABSENT}:
            if record.due is None:
                record.due = max(record.rests_until, self.now) + WINDOW
            record.forgotten_at = record.due
            if record.due <= self.now:
                self._forget(row.key)
        elif row.state is not State.STOPPING:
            record.forgotten_at = None

    def _forget(self, key: Hashable) -> None:
        del self.records[key]

    def _call_off(self, row: Row, reason: DeadLetterReason, error: str, cause: Any) -> None:
        """Take out a row that has no incarnation, and report to all who waited."""
        if row in self._waiting:
            self._waiting.remove(row)
        self._fail_starts(row, error, cause)
        self._report(row, row.queue, reason, error, cause)
        self._remove(row)

    def _drop_if_unwanted(self, row: Row) -> None:
        """Take out a row that has not begun to start, if nobody waits for it any longer."""
        begun = row.state is not State.BACKOFF and row not in self._waiting
        if begun or row.starts or row.restarts:
            return
        self._skip(row, stopped=False)
        if not row.queue:
            if row in self._waiting:
                self._waiting.remove(row)
            self._remove(row)

    def _skip(self, row: Row, *, stopped: bool) -> bool:
        """Take out what is at the front and nobody waits for; tell whether a stop was among it."""
        skipped = False
        while row.queue:
            message = row.queue[0]
            if message.kind is Kind.STOP:
                assert message.call is not None
                message.call.returns(stopped)
                skipped = True
            elif not message.is_expired:
                break
            row.queue.popleft()
            row.left_over = max(row.left_over - 1, 0)
        return skipped

    def _is_crowded(self, row: Row) -> bool:
        return row in self._waiting

    def _fail_starts(self, row: Row, error: str, cause: Any = None) -> None:
        for start in row.starts:
            start.call.raises(error, cause)
        row.starts.clear()

    def _report(
        self,
        row: Row,
        messages: deque[Message],
        reason: DeadLetterReason,
        error: str,
        cause: Any,
    ) -> None:
        row.left_over = 0
        for message in messages:
            if message.call is None:
                self._bury(row, message, reason, cause)
            elif message.kind is Kind.STOP:
                message.call.returns(False)
            else:
                message.call.raises(error, cause)
        messages.clear()

    def _bury(self, row: Row, message: Message, reason: DeadLetterReason, cause: Any) -> None:
        self.dead.append(Dead(row.key, message.number, reason, cause))

    def _terminate(self, row: Row, reason: EndReason, cause: Any) -> None:
        assert row.incarnation is not None
        self._ends[reason] += 1
        self.events.append(Event(row.key, row.incarnation.number, reason, cause))

    def _next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def _tell_watchers(self, key: Hashable, number: int) -> None:
        for call in self.watchers.pop(key, ()):
            call.returns(("ref", number))

    def _claim(self, key: Hashable) -> int | None:
        """Return the number of the live foreign actor; a dead one is taken out."""
        row = self.foreign.get(key)
        if row is None or row.alive:
            return None if row is None else row.number
        self._drop_foreign(key)
        return None

    def _drop_foreign(self, key: Hashable) -> None:
        row = self.foreign.pop(key)
        reason = EndReason.UNREGISTERED if row.alive else EndReason.UNKNOWN
        self._ends[reason] += 1
        self.events.append(Event(key, row.number, reason))

    # The registry's end.

    def _close(self, row: Row) -> None:
        row.restarts = False
        if row.state is State.ACTIVE:
            if not self.is_busy(row.key):
                self._end(row, EndReason.DRAINED)
        elif row.state is State.QUARANTINED:
            self._release(row)
        elif row.state is State.BACKOFF or row in self._waiting:
            self._fail_starts(row, "RegistryStopped")
            self._drop_if_unwanted(row)

    def _run_on(self) -> None:
        """Let those who wait have the places that have come free; end, if all is quiet."""
        self._admit()
        while self.closed and not self.over:
            rows = [row for row in self.rows.values() if row.state is not State.ABANDONED]
            if not all(row.incarnation is not None and row.incarnation.quiet for row in rows):
                return
            self._retiring = True
            if not rows:
                self._finish(self._abandoned_keys())
            for row in rows:
                self._end(row, EndReason.DRAINED)

    def _finish(self, keys: frozenset[Hashable]) -> None:
        self.over = True
        self.records.clear()
        for call in self._enders:
            call.returns(keys if call.name == "drain" else True)

    def _abandoned_keys(self) -> frozenset[Hashable]:
        return frozenset(key for key, row in self.rows.items() if row.state is State.ABANDONED)
