"""Try to make a registry lose, double or reorder messages, and count.

    python -m tests.conservation [--messages 1000000] [--senders 8] [--keys 200] [--seed 1] ...

Threads send numbered messages to keys whose aggregates are retired, evicted, stopped and crashed
all the time, and may send to each other. What became of each message is written down outside of the
library: by the handler, by whoever asked, and by the hook for dead letters. Afterwards each message
must have exactly one fate, and the registry's own figures must say the same. The exit status is 0
if all is right and if all that was meant to happen has happened: a run in which nobody was evicted
proves nothing about evictions. A run that is stuck ends with the stacks of all threads. With
TEST_RUNTIME=pooled in the environment the aggregates are pooled ones, and whoever asks helps.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import faulthandler
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import pykka
from pykka.messages import ProxyCall

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    Overloaded,
    Registered,
    RegistryError,
    RegistryStopped,
    Terminated,
)
from tests.support import (
    PATIENCE,
    Referee,
    Runtime,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from pykka_registry import AggregateRef, DeadLetter, RegistryRef, Stats

__all__ = ["End", "Report", "run"]

End: TypeAlias = Literal["settle", "drain", "stop_all"]
"""How a run ends: once all is handled and each aggregate has retired by itself; or when half of the
messages are sent, and the others still come, the registry is drained or all actors are stopped."""

BLOCK = 64
BLOCKS = 16
"""A sender has some `BLOCK * BLOCKS` told messages under way at most, so memory is bounded,"""
FUTURES = 64
"""and this many answers that it has not collected."""
REFUSALS = 1_000
"""How often a sender is told that the registry has stopped before it gives up."""
FRAGILE = 20
"""One in so many keys fails so often that it is quarantined now and then."""
IDLE = 0.02
"""After how many seconds an aggregate retires, unless a run says otherwise."""
EXAMPLES = 5
"""How many examples of each thing that is wrong are shown."""

MUST_HAPPEN = (
    EndReason.IDLE,
    EndReason.OWN_WORD,
    EndReason.EVICTED,
    EndReason.FAILED,
    EndReason.START_FAILED,
    EndReason.STOPPED,
)


class Sabotage(Exception):
    """What was made to fail."""


class Deed(enum.IntEnum):
    """What a message has its aggregate do."""

    NOTHING = 0
    CRASH = 1
    PASSIVATE = 2
    PASSIVATE_LATER = 3
    DAWDLE = 4
    RELAY = 5


class Fate(enum.IntEnum):
    """What the sender of a message knows of it."""

    UNSENT = 0
    TOLD = 1
    """Accepted, and nobody waits for an answer. It is handled, or a dead letter."""
    ASKED = 2
    """Accepted, and its answer was not collected yet. In the end there is no such message."""
    ANSWERED = 3
    TIMED_OUT = 4
    """A blocking ask of it has timed out. If no handler had begun then, none ever does, and it has
    expired; else it is handled, and only its answer goes nowhere. Which of the two it was is not
    taken from the error but from the handler's mark: each is right by itself, and how many have no
    mark is what the registry must have counted as expired, no more and no fewer."""
    REPORTED = 5
    """Who asked got an error of the library's in place of an answer. It is not handled."""
    REFUSED = 6
    """To tell it has raised. It is not handled, and no dead letter."""


class Note(NamedTuple):
    """A message."""

    sender: int
    number: int
    deed: Deed
    told: bool = False


class Window:
    """How many told messages of one sender may be under way; counted in blocks, to be cheap."""

    def __init__(self) -> None:
        self._blocks = threading.Semaphore(BLOCKS)
        self._taken = 0
        self._lock = threading.Lock()
        self._given_back = 0

    def take(self) -> None:
        """Wait until one more may be sent; for the one sender."""
        self._taken += 1
        if self._taken % BLOCK == 0 and not self._blocks.acquire(timeout=PATIENCE):
            raise AssertionError("messages that were accepted come to nothing")

    def give_back(self) -> None:
        """Note that one has come to its end; in any thread."""
        with self._lock:
            self._given_back += 1
            is_full = self._given_back % BLOCK == 0
        if is_full:
            self._blocks.release()


class Ledger:
    """What became of each message, by sender and number, and what else is seen from outside.

    No cell is written by two threads at a time: a message has one sender, and one key, which has
    one live incarnation at most, or else `referee` says so.
    """

    def __init__(self, sizes: Sequence[int], keys: int) -> None:
        self.fates = [bytearray(size) for size in sizes]
        """Written by the sender."""
        self.handled = [bytearray(size) for size in sizes]
        """How often; written by the handler."""
        self.dead = [bytearray(size) for size in sizes]
        """How often; written by the hook for dead letters."""
        self.windows = [Window() for _ in sizes]
        self.last = [[-1] * len(sizes) for _ in range(keys)]
        """The last number that a key has handled of each sender, in whichever incarnation."""
        self.disorder: list[str] = []
        self.unexpected: list[str] = []
        """Errors that nobody had asked for."""
        self.referee = Referee()

    def handle(self, key: int, note: Note) -> None:
        """Take note that a handler has begun."""
        sender, number, _deed, told = note
        self.handled[sender][number] += 1
        last = self.last[key]
        if number <= last[sender]:
            what = f"key {key} has handled #{number} of sender {sender} after #{last[sender]}"
            self.disorder.append(what)
        last[sender] = number
        if told:
            self.windows[sender].give_back()

    def bury(self, letter: DeadLetter) -> None:
        """Take note of a dead letter; the registry's hook."""
        message: Any = letter.message
        note: Note = message.args[0] if isinstance(message, ProxyCall) else message
        self.dead[note.sender][note.number] += 1
        self.windows[note.sender].give_back()

    def progress(self) -> int:
        """Return how many messages have been handled, or are dead letters."""
        return sum(len(cells) - cells.count(0) for cells in (*self.handled, *self.dead))

    def count(self) -> Counter[tuple[Fate, int, int]]:
        """Return how many messages there are by fate, how often handled, and how often dead."""
        counts: Counter[tuple[int, int, int]] = Counter()
        for columns in zip(self.fates, self.handled, self.dead, strict=True):
            counts.update(zip(*columns, strict=True))
        return Counter(
            {(Fate(fate), handled, dead): n for (fate, handled, dead), n in counts.items()}
        )

    def examples(self, fate: Fate, handled: int, dead: int) -> list[str]:
        """Name a few messages with these marks."""
        found: list[str] = []
        for sender, columns in enumerate(zip(self.fates, self.handled, self.dead, strict=True)):
            for number, marks in enumerate(zip(*columns, strict=True)):
                if marks == (fate, handled, dead):
                    found.append(f"#{number} of sender {sender}")
                    if len(found) == EXAMPLES:
                        return found
        return found


class Restless(AggregateMixin, Runtime):
    """Keeps the ledger, and fails now and then wherever it can."""

    def __init__(self, ledger: Ledger, relays: Sequence[Sender]) -> None:
        ledger.referee.enter(self.key)
        self._number: int = self.key
        self._ledger = ledger
        self._relay = relays[self._number]
        self._chance = self._relay.chance
        self._maybe_fail(0.01)
        super().__init__()

    def on_start(self) -> None:
        is_fragile = self._number % FRAGILE == 0
        self._maybe_dawdle()
        self._maybe_fail(0.5 if is_fragile else 0.01)

    def on_stop(self) -> None:
        try:
            self._maybe_dawdle()
            if self._chance.random() < 0.01:
                raise Sabotage("in the last hook")
        finally:
            self._ledger.referee.leave(self._number)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.on_stop()

    def on_receive(self, message: Note) -> int:
        return self.note(message)

    def note(self, note: Note) -> int:
        self._ledger.handle(self._number, note)
        match note.deed:
            case Deed.NOTHING:
                pass
            case Deed.CRASH:
                raise Sabotage("in a handler")
            case Deed.PASSIVATE:
                self.passivate()
            case Deed.PASSIVATE_LATER:
                self.passivate(after=0.002)
            case Deed.DAWDLE:
                self._dawdle()
            case Deed.RELAY:
                self._relay.relay(cast("Registry", self.registry))
        return note.number

    def _dawdle(self) -> None:
        """Take some time, so that others come in between."""
        threading.Event().wait(self._chance.random() * 0.002)

    def _maybe_dawdle(self) -> None:
        if self._chance.random() < 0.1:
            self._dawdle()

    def _maybe_fail(self, probability: float) -> None:
        if self._chance.random() < probability:
            self._ledger.referee.leave(self._number)
            raise Sabotage("at the start")


Registry: TypeAlias = "RegistryRef[Restless]"
Ref: TypeAlias = "AggregateRef[Restless]"
Way: TypeAlias = "Callable[[Ref, Note], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a run is like."""

    senders: int
    keys: int
    relays: bool
    plain: bool


class Sender:
    """Sends messages of its own numbering: from a thread, or for the incarnations of a key.

    Used by one thread at a time.
    """

    def __init__(self, index: int, ledger: Ledger, seed: int, setting: Setting) -> None:
        self.chance = random.Random(f"{seed}/{index}")
        self.sent = 0
        self._index = index
        self._ledger = ledger
        self._fates = ledger.fates[index]
        self._window = ledger.windows[index]
        self._setting = setting
        self._is_relay = index >= setting.senders
        self._refusals = 0
        self._favourites: list[int] = []
        self._futures: deque[tuple[int, pykka.Future[Any]]] = deque()
        self._stops: deque[pykka.Future[bool]] = deque()
        ways: list[tuple[Way, int]]
        if self._is_relay:
            ways = [
                (self._tell, 60),
                (self._ask_later, 20),
                (self._ask, 10),
                (self._ask_briefly, 10),
            ]
        else:
            ways = [
                (self._tell, 55),
                (self._defer, 30),
                (self._submit, 5),
                (self._ask_later, 6),
                (self._ask, 1),
                (self._call, 1),
                (self._ask_briefly, 2),
            ]
        self._ways = [way for way, share in ways for _ in range(share)]

    # When.

    def run(self, registry: Registry, half: threading.Event) -> None:
        """Send all messages, and collect all answers; the body of a thread."""
        size = len(self._fates)
        try:
            while self.sent < size and self._refusals < REFUSALS:
                if self.sent == size // 2:
                    half.set()
                self._send(registry)
            self._collect(leave=0)
        except BaseException:  # noqa: BLE001
            self._ledger.unexpected.append(traceback.format_exc())
        finally:
            half.set()

    def _send(self, registry: Registry) -> None:
        if self.sent % 500 == 0:
            self._favourites = self.chance.choices(range(self._setting.keys), k=8)
        key = self.chance.choice(self._favourites) if self.chance.random() < 0.5 else self._any()
        note = self._next()
        plain = None
        if self._setting.plain and self.chance.random() < 0.2:
            plain = registry.get(key)
        if plain is None:
            self.chance.choice(self._ways)(registry.ref(key), note)
        elif note.number % 3 == 0:
            self._keep(note, plain.ask(note, block=False))
        else:
            self._have_told(note, plain.tell)
        if self.chance.random() < 0.005:
            self._meddle(registry, key)

    def relay(self, registry: Registry) -> None:
        """Send one message, on behalf of an aggregate."""
        if self.sent < len(self._fates):
            note = self._next()
            self.chance.choice(self._ways)(registry.ref(self._any()), note)
        while self._futures and _is_done(self._futures[0][1]):
            self._collect_one()

    def _next(self) -> Note:
        chance = self.chance.random()
        deed = Deed.NOTHING
        if chance < 0.004:
            deed = Deed.CRASH
        elif chance < 0.008:
            deed = Deed.PASSIVATE
        elif chance < 0.012:
            deed = Deed.PASSIVATE_LATER
        elif chance < 0.025:
            deed = Deed.DAWDLE
        elif chance > 0.9 and self._setting.relays:
            deed = Deed.RELAY
        self.sent += 1
        return Note(self._index, self.sent - 1, deed)

    def _any(self) -> int:
        return self.chance.randrange(self._setting.keys)

    # How.

    def _tell(self, ref: Ref, note: Note) -> None:
        self._have_told(note, ref.tell)

    def _defer(self, ref: Ref, note: Note) -> None:
        self._have_told(note, ref.proxy().note.defer)

    def _have_told(self, note: Note, tell: Callable[[Note], None]) -> None:
        if not self._is_relay:
            self._window.take()
        try:
            tell(note._replace(told=True))
        except (RegistryError, pykka.ActorDeadError) as error:
            self._see(error)
            self._fates[note.number] = Fate.REFUSED
            self._window.give_back()
        else:
            self._fates[note.number] = Fate.TOLD

    def _submit(self, ref: Ref, note: Note) -> None:
        self._keep(note, ref.submit(Restless.note, note))

    def _ask_later(self, ref: Ref, note: Note) -> None:
        self._keep(note, ref.ask(note, block=False))

    def _ask(self, ref: Ref, note: Note) -> None:
        self._fates[note.number] = self._fate(note, lambda: ref.ask(note))

    def _call(self, ref: Ref, note: Note) -> None:
        self._fates[note.number] = self._fate(note, lambda: ref.call(Restless.note, note))

    def _ask_briefly(self, ref: Ref, note: Note) -> None:
        timeout = self.chance.choice((0, 0.0002, 0.002, 0.01))
        try:
            self._fates[note.number] = self._fate(note, lambda: ref.ask(note, timeout=timeout))
        except pykka.Timeout:
            self._fates[note.number] = Fate.TIMED_OUT

    def _meddle(self, registry: Registry, key: int) -> None:
        """Do what somebody who operates the registry may do at any moment."""
        with contextlib.suppress(Sabotage, RegistryError, pykka.Timeout):
            match self.chance.randrange(8):
                case 0:
                    registry.get_or_start(key, timeout=0.01)
                case 1:
                    registry.start_new(key)
                case 2:
                    registry.release(key)
                case _:
                    self._stops.append(registry.ref(key).stop(block=False))

    # What became of it.

    def _keep(self, note: Note, future: pykka.Future[Any]) -> None:
        self._fates[note.number] = Fate.ASKED
        self._futures.append((note.number, future))
        if not self._is_relay:
            self._collect(leave=FUTURES)

    def _collect(self, *, leave: int) -> None:
        """Wait for answers until there are so few to wait for."""
        while len(self._futures) > leave:
            self._collect_one()
        while len(self._stops) > leave:
            self._stops.popleft().get()

    def collect_done(self) -> None:
        """Take the answers that are there; there will be no more."""
        while self._futures:
            if _is_done(self._futures[0][1]):
                self._collect_one()
            else:
                self._futures.popleft()

    def _collect_one(self) -> None:
        number, future = self._futures.popleft()
        note = Note(self._index, number, Deed.NOTHING)
        self._fates[number] = self._fate(note, future.get)

    def _fate(self, note: Note, get: Callable[[], Any]) -> Fate:
        """Wait for an answer; raise `pykka.Timeout` if it does not come in time."""
        try:
            answer = get()
        except Sabotage:
            return Fate.ANSWERED
        except (RegistryError, pykka.ActorDeadError) as error:
            if isinstance(error, Overloaded) and not error.why.startswith("all places"):
                raise  # a Timeout: the key got no place in time
            self._see(error)
            return Fate.REPORTED
        if answer != note.number:
            raise AssertionError(f"asked #{note.number} and got the answer to #{answer}")
        return Fate.ANSWERED

    def _see(self, error: Exception) -> None:
        self._refusals += isinstance(error, RegistryStopped)


def _is_done(future: pykka.Future[Any]) -> bool:
    done: bool = cast("Any", future).done()
    return done


class Testimony:
    """What a listener was told."""

    def __init__(self) -> None:
        self.registry: Registry | None = None
        """Set once all messages are sent."""
        self.at_rest = threading.Event()
        """Set when there is nothing left to do in that one, and nobody live."""
        self.live: dict[int, int] = {}
        self.begun = 0
        self.ends: Counter[EndReason] = Counter()
        self.wrong: list[str] = []


class Witness(pykka.ThreadingActor):
    """Checks that each incarnation that begins ends, before the next one of its key begins."""

    def __init__(self, testimony: Testimony) -> None:
        super().__init__()
        self._testimony = testimony

    def on_receive(self, message: Registered | Terminated | Literal["look"]) -> None:
        told = self._testimony
        match message:
            case Registered(key, number):
                told.begun += 1
                if key in told.live:
                    told.wrong.append(f"{message} comes before the end of #{told.live[key]}")
                told.live[key] = number
            case Terminated(key, number, reason):
                told.ends[reason] += 1
                before = told.live.pop(key, None)
                if before != (None if reason is EndReason.START_FAILED else number):
                    told.wrong.append(f"{message} comes after the beginning of #{before}")
            case _:
                pass
        if told.registry is not None and _is_at_rest(told.registry.stats()):
            told.at_rest.set()


def _is_at_rest(stats: Stats) -> bool:
    return not (stats.live or stats.waiting or stats.backoff or stats.queued)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the messages of one run."""

    seconds: float
    sent: int
    handled: int
    expired: int
    reported: int
    dead: int
    refused: int
    lost: int
    doubled: int
    disorder: int
    double_lives: int
    stats: Stats
    problems: tuple[str, ...]
    """All that is wrong, in words."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and all has happened that must for that to prove anything."""
        return not self.problems

    def __str__(self) -> str:
        stats = self.stats
        rows: list[tuple[str, float]] = [
            ("sent", self.sent),
            ("handled", self.handled),
            ("expired", self.expired),
            ("reported to who asked", self.reported),
            ("dead letters", self.dead),
            ("refused", self.refused),
            ("sum", self.handled + self.expired + self.reported + self.dead + self.refused),
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("out of order", self.disorder),
            ("double lives", self.double_lives),
            ("activations", stats.activations),
            *((f"ended: {reason.value}", stats.ends.get(reason, 0)) for reason in EndReason),
            *((f"dead: {reason.value}", count) for reason, count in stats.dead_letters.items()),
            ("redelivered", stats.redelivered),
            ("passivations declined", stats.declined),
            ("messages per second", self.sent / self.seconds),
            ("seconds", self.seconds),
        ]
        lines = [f"{what:<28}{figure:>12,.0f}" for what, figure in rows]
        return "\n".join([*lines, *(f"WRONG: {problem}" for problem in self.problems)])


class Run:
    """One run, from its beginning to its report."""

    def __init__(self, *, messages: int, seed: int, setting: Setting) -> None:
        relayed = messages // 4 // setting.keys if setting.relays else 0
        sizes = [messages // setting.senders] * setting.senders + [relayed] * setting.keys
        self._ledger = Ledger(sizes, setting.keys)
        everybody = [Sender(i, self._ledger, seed, setting) for i in range(len(sizes))]
        self._senders = everybody[: setting.senders]
        self._relays = everybody[setting.senders :]
        self._testimony = Testimony()
        self._seconds = 0.0
        self._left: list[str] = []

    def go(self, *, max_live: int, end: End, idle: float = IDLE) -> Report:
        """Run it, and report."""
        began = time.perf_counter()
        witness = Witness.start(self._testimony)
        registry = AggregateRegistry.start(
            Restless,
            args=(self._ledger, self._relays),
            name="conservation",
            idle=idle,
            max_live=max_live,
            max_starting=4,
            max_queued=10_000_000,
            start_timeout=300,
            stop_timeout=300,
            drain_timeout=300,
            backoff=(0.0005, 0.005),
            max_failures=3,
            failure_window=0.25,
            quarantine=0.02,
            on_dead_letter=self._ledger.bury,
        )
        registry.subscribe(witness)
        half = threading.Event()
        threads = [
            threading.Thread(target=sender.run, args=(registry, half)) for sender in self._senders
        ]
        with self._expecting_sabotage():
            for thread in threads:
                thread.start()
            if end == "settle":
                for thread in threads:
                    thread.join()
                self._settle(registry, witness)
                self._left += [f"key {key} was abandoned" for key in registry.drain()]
            else:
                half.wait()
                if end == "drain":
                    self._left += [f"key {key} was abandoned" for key in registry.drain()]
                else:
                    pykka.ActorRegistry.stop_all()
                for thread in threads:
                    thread.join()
            registry.drain()
            witness.stop()
        self._seconds = time.perf_counter() - began
        for relay in self._relays:
            relay.collect_done()
        return self._report(registry.stats(), end)

    def progress(self) -> int:
        """Return a figure that grows as long as the run is not stuck."""
        return self._ledger.progress() + sum(sender.sent for sender in self._senders)

    def _settle(self, registry: Registry, witness: pykka.ActorRef[Witness]) -> None:
        """Let all be handled, and every aggregate retire by itself."""
        self._testimony.registry = registry
        witness.tell("look")
        if not self._testimony.at_rest.wait(PATIENCE):
            self._left.append(f"nothing happens, and yet something is left: {registry.stats()}")

    @contextlib.contextmanager
    def _expecting_sabotage(self) -> Generator[None]:
        """Take what is logged as an error, unless it is sabotage, as something wrong."""
        unexpected = self._ledger.unexpected

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "is quarantined after" in record.getMessage():
                    return  # the fragile ones are meant to be
                if record.exc_info is None or not isinstance(record.exc_info[1], Sabotage):
                    unexpected.append(self.format(record))

        def threads_excepthook(args: threading.ExceptHookArgs) -> None:
            unexpected.append("".join(traceback.format_exception(args.exc_value)))

        logger = logging.getLogger("pykka_registry")
        handler = Handler(logging.ERROR)
        before = logger.level, logger.propagate, threading.excepthook
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        threading.excepthook = threads_excepthook
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]
            threading.excepthook = before[2]

    # What is to be said of it.

    def _report(self, stats: Stats, end: End = "settle") -> Report:
        fates: Counter[str] = Counter()
        problems = list(self._left)
        for (fate, handled, dead), count in self._ledger.count().items():
            what = _judge(fate, handled, dead)
            fates[what] += count
            if what in {"lost", "doubled"}:
                examples = ", ".join(self._ledger.examples(fate, handled, dead))
                problems.append(
                    f"{count} messages are {what}: {fate.name} by their senders, handled {handled} "
                    f"times, {dead} times a dead letter: {examples} ..."
                )
        problems += self._ledger.unexpected[:EXAMPLES]
        problems += self._ledger.disorder[:EXAMPLES]
        problems += [f"key {key} lived twice" for key in self._ledger.referee.fouls[:EXAMPLES]]
        problems += self._testimony.wrong[:EXAMPLES]
        problems += self._contradictions(fates, stats)
        happened = {reason.value: stats.ends.get(reason, 0) for reason in MUST_HAPPEN}
        if end != "settle":
            del happened[EndReason.IDLE.value]  # nobody may have been left alone for so long
        happened |= {what: fates[what] for what in ("handled", "expired", "reported", "dead")}
        happened |= {"redelivery": stats.redelivered, "a declined passivation": stats.declined}
        problems += [f"never happened: {what}" for what, count in happened.items() if not count]
        return Report(
            seconds=self._seconds,
            sent=sum(fates.values()) - fates["unsent"],
            handled=fates["handled"],
            expired=fates["expired"],
            reported=fates["reported"],
            dead=fates["dead"],
            refused=fates["refused"],
            lost=fates["lost"],
            doubled=fates["doubled"],
            disorder=len(self._ledger.disorder),
            double_lives=len(self._ledger.referee.fouls),
            stats=stats,
            problems=tuple(problems),
        )

    def _contradictions(self, fates: Counter[str], stats: Stats) -> list[str]:
        """Compare what was seen with what the registry says."""
        told, referee = self._testimony, self._ledger.referee
        pairs: list[tuple[str, object, object]] = [
            ("expired", fates["expired"], stats.expired),
            ("dead letters", fates["dead"], sum(stats.dead_letters.values())),
            ("activations", told.begun, stats.activations),
            ("ends", told.ends, Counter(stats.ends)),
            ("incarnations", sum(referee.entered.values()), sum(stats.ends.values())),
            ("abandoned", 0, stats.ends.get(EndReason.ABANDONED, 0)),
            ("live in the end", referee.live(), stats.live),
            ("live in the end", len(told.live), stats.active),
            ("left in the end", 0, stats.live + stats.queued + stats.waiting + stats.backoff),
        ]
        return [
            f"{what}: {seen} were seen, and the registry says {said}"
            for what, seen, said in pairs
            if seen != said
        ]


def _judge(fate: Fate, handled: int, dead: int) -> str:
    """Say what became of a message, from its sender's, its handler's and the hook's marks."""
    match fate, handled, dead:
        case ((Fate.TOLD | Fate.ANSWERED | Fate.TIMED_OUT), 1, 0):
            what = "handled"
        case Fate.TOLD, 0, 1:
            what = "dead"
        case Fate.TIMED_OUT, 0, 0:
            what = "expired"
        case ((Fate.UNSENT | Fate.REPORTED | Fate.REFUSED), 0, 0):
            what = fate.name.lower()
        case ((Fate.TOLD | Fate.ANSWERED), 0, 0) | (Fate.ASKED, _, 0):  # that was never answered
            what = "lost"
        case _:
            what = "doubled"
    return what


def run(
    *,
    messages: int,
    senders: int,
    keys: int,
    max_live: int,
    seed: int,
    relays: bool = False,
    plain: bool = False,
    end: End = "settle",
    idle: float = IDLE,
    switch_interval: float = 1e-6,
    patience: float | None = None,
) -> Report:
    """Send messages to a registry under hostile policies, and report what became of each.

    Args:
        messages: How many, by all senders together.
        senders: How many threads send.
        keys: To how many keys.
        max_live: How many of them are live at most.
        seed: What chance begins with. What the threads make of it differs from run to run.
        relays: Whether aggregates send to each other, too; those messages are not among the above.
        plain: Whether some messages go through plain refs.
        end: How the run ends.
        idle: After how many seconds without a message an aggregate retires. If that is less than
            the time between two messages of a key, all retire before anybody has to be evicted.
        switch_interval: After how many seconds a thread may be interrupted by another.
        patience: After how many seconds in which nothing happens the process is ended, with the
            stacks of all threads; `None` waits for as long as it takes.

    """
    setting = Setting(senders=senders, keys=keys, relays=relays, plain=plain)
    one = Run(messages=messages, seed=seed, setting=setting)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(switch_interval)
    try:
        with _watchdog(one, patience):
            return one.go(max_live=max_live, end=end, idle=idle)
    finally:
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def _watchdog(one: Run, patience: float | None) -> Generator[None]:
    """End the process if the run is stuck."""
    over = threading.Event()

    def watch() -> None:
        before = -1
        while not over.wait(patience):
            now = one.progress()
            if now == before:
                sys.stderr.write(f"stuck: nothing has happened for {patience:g} seconds\n")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(2)
            before = now

    if patience is None:
        yield
        return
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main() -> int:
    """Run it as the arguments say; print the report, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conservation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--max-live", type=int, help="by default a quarter of the keys")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--switch-interval", type=float, default=1e-6, help="seconds")
    parser.add_argument("--relays", action="store_true", help="aggregates send to each other")
    parser.add_argument("--plain", action="store_true", help="some go through plain refs")
    parser.add_argument("--end", choices=get_args(End), default="settle", help="how it ends")
    options = parser.parse_args()
    report = run(
        messages=options.messages,
        senders=options.senders,
        keys=options.keys,
        max_live=options.max_live or max(options.keys // 4, 1),
        seed=options.seed,
        relays=options.relays,
        plain=options.plain,
        end=options.end,
        switch_interval=options.switch_interval,
        patience=PATIENCE,
    )
    sys.stdout.write(f"{report}\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
