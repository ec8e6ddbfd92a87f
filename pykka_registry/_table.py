"""The table: who may change the rows, and the only lock on them.

Who may touch what: every write to the rows, an entry, or an incarnation happens under the table's
lock, but for what is said to be set once. `active` is read without it: reading a `dict` is atomic,
on a free-threaded build too, and a ref leaves `active` before its actor's stop flag is set, so a
ref that is found there was alive when it was found.

Under the lock only table fields change, inboxes and futures are touched (their locks are leaves),
and keys are hashed and compared. No constructor, hook, handler, listener or `__repr__` runs under
it: decisions are made under the lock, and carried out after it; see `_change`.

How a letter, which is addressed to a key, finds its incarnation: while the key is active letters go
straight into that one's inbox. Else they wait in the entry's queue, which is moved into the next
incarnation's inbox before anybody can find that. What an incarnation leaves over goes back to the
front of the queue, before those who came later and found it closed. So the letters of one sender
stay in order. `formal/` has a model of this, checked in all its states.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections import deque
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import pykka

from pykka_registry import _waits
from pykka_registry._after import After
from pykka_registry._entry import Blueprint, Entry, Incarnation, Ref, StartRequest, State
from pykka_registry._events import DeadLetterReason, EndReason, Registered, Stats
from pykka_registry._exceptions import (
    HeldByForeignActor,
    KeyAlreadyRegistered,
    NoAnswer,
    Overloaded,
    OverloadedTimeout,
    RegistryError,
    RegistryStopped,
    Undeliverable,
)
from pykka_registry._fork import FORKED, Forked, tables
from pykka_registry._future import Future
from pykka_registry._inbox import Letter, is_expired, is_stop
from pykka_registry._log import count, log, name
from pykka_registry._mending import mend
from pykka_registry._rows import (
    LAUNCH_AGAIN,
    Rows,
    abandoned,
    launch,
    no_class,
    quarantined,
    stopped_at_rest,
    undeliverable,
)
from pykka_registry._supervision import Record
from pykka_registry._turns import send_and_help

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Hashable, Sequence

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._inbox import Inbox, Mail
    from pykka_registry._life import Life
    from pykka_registry._policy import Policy

__all__ = ["Table"]

T = TypeVar("T")

_TRIES = 10
"""How often a thread lets others go on before it sleeps on the table's lock."""

_LAST_LINES = 5.0
"""Seconds that a shutdown waits for threads whose aggregates have ended."""


class Joined(Protocol):
    """A thread, or what is like one in this."""

    def join(self, timeout: float) -> object:
        """Wait until it has ended, for so many seconds at most."""
        ...


class Table(Rows):
    """The keys of one registry."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        super().__init__(blueprint, name, policy)
        self.registry_ref: Ref | None = None
        """The registry. Set once, before anybody else has the table."""
        self.thread: threading.Thread | None = None
        """The registry's thread. Written by itself, at its beginning."""
        self.finished: Future[list[Hashable]] = Future()
        """The keys that were abandoned, once the registry has ended."""
        self._lock = threading.Lock()
        self._is_torn = False
        """A decision was begun, and has not come to its end."""
        self._leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Threads that have nothing left to do but to say what has happened, and to end;"""
        self._tails: set[Joined] = set()
        """and such last lines in threads that go on."""
        tables.add(self)

    # Reading: no lock, no message, no waiting.

    def get(self, key: Hashable) -> Ref | None:
        """Return the ref of the active actor under `key`, an aggregate's or a foreign one's."""
        ref = self.active.get(key)
        return self.foreign.get(key) if ref is None else ref

    def snapshot(self) -> dict[Hashable, Ref]:
        """Return the active actors by key; foreign ones that are dead are left out."""
        return self.active.copy() | self.foreign.snapshot()

    def count(self) -> int:
        """Return how many active actors there are."""
        return len(self.active) + len(self.foreign.snapshot())

    # Starting.

    def start(self, request: StartRequest) -> None:
        """Claim the key and launch an incarnation, or join one that starts, or wait in line.

        Neither blocks nor runs user code but the key's: the incarnation is constructed in its own
        thread. The request's future gets the ref, or what made the start fail.

        Raises:
            KeyAlreadyRegistered: If only a new actor will do and the key has one that is starting
                or active.
            Quarantined: If the key is quarantined.
            RegistryStopped: If the registry takes nothing new.

        """
        self._change(partial(self._start, request))

    def _start(self, request: StartRequest, after: After) -> None:
        self._check_open()
        key = request.key
        entry = self._entries.get(key)
        if entry is None:
            owner = self.foreign.claim(key)
            if owner is None:
                entry = Entry(key, self)
                self._wait_for(request, entry)
                self._begin(entry, after)
                return
        elif entry.state is State.QUARANTINED:
            raise quarantined(entry)
        elif entry.state in {State.STOPPING, State.BACKOFF} or (
            entry.state is State.STARTING and not request.exclusive
        ):
            self._wait_for(request, entry)
            return
        else:
            owner = entry.ref
        if request.exclusive:
            raise KeyAlreadyRegistered(key, owner)
        after.do(request.future.give, owner)

    def obtain(self, request: StartRequest, timeout: float | None) -> Ref:
        """Start what is requested and wait for the outcome; whoever gives up leaves the line.

        Raises:
            pykka.Timeout: After `timeout` seconds. An activation that has begun goes on.
            Overloaded: After `timeout` seconds, if the key still waits for a place; or at once, if
                all places are held by aggregates that wait for one.
            WaitCycle: If the calling thread runs an aggregate that the outcome depends on.
            Exception: What `start` raises, or what made the start fail.

        """
        try:
            send_and_help(self._request, request, helps=timeout is None)
            ref: Ref = request.future.get(timeout=timeout)
        except BaseException as error:
            crowd = self._change(partial(self._withdraw, request, timeout))
            if isinstance(error, pykka.Timeout) and not request.future.done():
                if crowd is not None:
                    raise OverloadedTimeout(request.key, crowd) from None
                msg = f"key {name(request.key)} had no active aggregate within {timeout} seconds"
                raise pykka.Timeout(msg) from None
            # If this thread has helped, the exception's traceback holds what it has helped for.
            request.future.forget()
            raise
        finally:
            del request  # it holds the exception, whose traceback holds this frame
        return ref

    def _request(self, request: StartRequest) -> Future[Ref]:
        self.start(request)
        return request.future

    # Letters.

    def life_of(self, key: Hashable) -> Life | None:
        """Return the life of the key's incarnation, if that is active."""
        ref = self.active.get(key)
        return None if ref is None else ref._life

    def deliver(self, key: Hashable, letter: Letter) -> None:
        """Take a letter to the key's incarnation, present or next; start one if there is none.

        Neither blocks nor runs user code but the key's. Letters that one thread sends to one key
        are handed out in the order sent.

        Raises:
            KeyAlreadyRegistered: If the key has a foreign actor.
            Overloaded: If too many letters wait for keys that are not active.
            RegistryStopped: If the registry takes nothing new, unless the calling thread runs one
                of its aggregates.
            TypeError: If the key is absent and the registry has no class to start.
            Undeliverable: If the key is quarantined.

        """
        if self.refusal is None:
            ref = self.active.get(key)
            if ref is not None:
                inbox = ref._life.inbox
                if letter.reply_to is not None:
                    letter.reply_to.sent_to(cast("Incarnation", inbox.owner).entry)
                if inbox.accept(letter):
                    return
        self._change(partial(self._deliver, key, letter))

    def _deliver(self, key: Hashable, letter: Letter, after: After) -> None:
        self.check_process()
        if self.refusal is not None and (self._is_over or not self.runs_here()):
            raise RegistryStopped(self.refusal)
        entry = self._entries.get(key)
        if entry is None:
            owner = self.foreign.claim(key)
            if owner is not None:
                raise HeldByForeignActor(key, owner)
            self.check_class()
            self._check_room(key)
            entry = Entry(key, self)
            self._queue(entry, letter)
            self._begin(entry, after)
        elif entry.state is State.QUARANTINED:
            raise undeliverable(entry)
        elif entry.state is State.ACTIVE:
            self._accept(entry, letter, after)
        else:
            self._check_room(key)
            self._queue(entry, letter)

    def stop(self, key: Hashable, letter: Letter) -> Future[bool]:
        """Have the key's incarnation stop after the letters that were sent before.

        Returns:
            A future of whether there was one. Who stops a key that is not active, when the last
            that was sent to it is a request to stop, shares that one's.

        """
        return self._change(partial(self._stop, key, letter))

    def _stop(self, key: Hashable, letter: Letter, after: After) -> Future[bool]:
        self.check_process()
        assert letter.reply_to is not None
        entry = self._entries.get(key)
        if entry is None or entry.state in {State.BACKOFF, State.QUARANTINED}:
            if entry is not None and entry.state is State.BACKOFF:
                self._give_up(entry, DeadLetterReason.STOPPED, stopped_at_rest(entry), after)
            after.do(letter.reply_to.give, False)
        elif entry.state is State.ACTIVE:
            self._accept(entry, letter, after)
        else:
            last = entry.queue[-1] if entry.queue else None
            # What has begun is not withdrawn by whoever was the first.
            if last and last.reply_to and is_stop(last.message) and last.reply_to.begin():
                return last.reply_to
            self._queue(entry, letter)
        return letter.reply_to

    def hurry(self, entry: Entry) -> None:
        """Let an entry that stands in line wait for a place only: an aggregate waits for it."""
        self._change(partial(self._hurry, entry))

    def check_wanted(self, entry: Entry, future: Future[Any]) -> None:
        """See whether anybody still waits for an entry that has not begun to start.

        Whoever waited for `future` does not.
        """

        def decide(after: After) -> None:
            self._count_expired(entry, future)
            self._drop_if_unwanted(entry, after)

        self._change(decide)

    def expire(self, key: Hashable, future: Future[Any], timeout: float) -> BaseException | None:
        """Let the asker give up, unless a handler has begun. Atomic with `Future.begin`.

        Returns:
            What the asker is told, or `None` if it is too late: there is an answer, or will be.

        """
        return self._change(partial(self._expire, key, future, timeout))

    def _expire(
        self, key: Hashable, future: Future[Any], timeout: float, after: After
    ) -> BaseException | None:
        entry = self._entries.get(key)
        error: BaseException
        if entry is not None and self._is_crowded(entry):
            error = OverloadedTimeout(key, self._crowd(timeout))
            error.__cause__ = self.admission.no_thread
        elif entry is not None and entry.state is State.BACKOFF:
            why = " and will not: the message has expired; it rests after a failure"
            error = NoAnswer(key, timeout, why)
            error.__cause__ = entry.cause
        else:
            error = NoAnswer(key, timeout, " and will not: the message has expired")
        if not future.withdraw(error):
            return None
        self._expired += 1
        if entry is not None:
            self._count_expired(entry, future)
            self._drop_if_unwanted(entry, after)
        return error

    # An incarnation's life, told by the thread that runs it. In a child that was forked in a
    # handler, and comes back from it, that is no longer this table's business.

    def begin(self, incarnation: Incarnation, life: Life) -> bool:
        """Take over from whoever launched it; false if another thread has, or nobody wants it."""
        return self._change(partial(self._begin_life, incarnation, life))

    def _begin_life(self, incarnation: Incarnation, life: Life, after: After) -> bool:
        if incarnation.begun or not incarnation.launched:  # its place was taken back meanwhile
            return False
        if self._is_due(incarnation):
            self.admission.moved_at = time.monotonic()
            incarnation.due_by = time.monotonic() + self.policy.start_timeout
            incarnation.life = life
            incarnation.begun = True  # last: what has not begun is launched again
            return True
        incarnation.begun = True
        self._never_mind(incarnation, after)
        return False

    def activated(self, incarnation: Incarnation, ref: IncarnationRef) -> bool:
        """Let everybody find the actor, and answer who waited; false if it is ending already."""
        if self.refusal is FORKED:
            return False
        return self._change(partial(self._activated, incarnation, ref))

    def _activated(self, incarnation: Incarnation, ref: IncarnationRef, after: After) -> bool:
        entry = incarnation.entry
        if incarnation.ending or entry.state is not State.STARTING:
            return False
        entry.ref = ref
        entry.cause = None
        entry.restarts = False
        incarnation.due_by = 0.0
        self._activations += 1
        if entry.queue:
            left_over = itertools.islice(entry.queue, entry.left_over)
            self._redelivered += sum(not is_stop(letter.message) for letter in left_over)
            # Before anybody can find the actor, so that nobody's next letter overtakes these.
            self._deliver_queue(entry, incarnation.inbox)
        self._move(entry, State.ACTIVE)
        if self.courier.listeners:
            self.courier.announce(Registered(entry.key, incarnation.number, ref))
        requests, entry.requests = entry.requests, ()
        for request in requests:
            after.do(request.future.give, ref)
        self._tell_watchers(entry.key, ref, after)
        looks = self.admission.activate(incarnation)
        self._admit(after)
        self._alarm_idle(incarnation, after)
        if looks or self.refusal is not None or self.admission.wants_place_of(incarnation):
            incarnation.inbox.nudge(after.do)
        return True

    def passivate(self, incarnation: Incarnation, idle: float | None) -> None:
        """Let it be passivated once it has had no message for so many seconds, or never."""

        def decide(after: After) -> None:
            incarnation.idle = idle
            incarnation.own_word = True
            if self._is_active(incarnation):
                self._alarm_idle(incarnation, after)

        self._change(decide)

    def rest(self, incarnation: Incarnation) -> EndReason | None:
        """Passivate it, if that is wanted and nothing waits for it, or let it go. Atomic.

        Called when it has found nothing to do. If a reason is returned its inbox is closed, and it
        is found no more.
        """
        return self._change(partial(self._rest, incarnation))

    def _rest(self, incarnation: Incarnation, after: After) -> EndReason | None:
        if not self._is_active(incarnation):
            return None
        entry = incarnation.entry
        asked, incarnation.asked = incarnation.asked, None
        if self.admission.wants_place_of(incarnation):
            reason = EndReason.EVICTED
        elif self._retiring or asked is EndReason.DRAINED:
            reason = EndReason.DRAINED
        elif incarnation.idle == 0 or (asked is EndReason.IDLE and _is_idle(incarnation)):
            reason = EndReason.OWN_WORD if incarnation.own_word else EndReason.IDLE
        else:
            self.admission.stay(incarnation, after.do)
            if asked is EndReason.IDLE:  # it has rung, and a message has come since
                self._alarm_idle(incarnation, after)
            if self.refusal is not None:
                self._alarm(entry, self._linger)
                self._set_quiet(incarnation, quiet=True)
            return None
        assert incarnation.life is not None
        if not incarnation.inbox.close_if_empty(incarnation.life.undeliverable):
            self._declined += 1
            self._alarm_idle(incarnation, after)
            incarnation.inbox.nudge(after.do)  # so that it looks again when that is done
            self.admission.stay(incarnation, after.do)
            return None
        self._stopping(incarnation)
        return reason

    def decline(self, incarnation: Incarnation) -> None:
        """Take note that it was asked to go, and has something to do."""

        def decide(after: After) -> None:
            incarnation.asked = None
            self._declined += 1
            if self._is_active(incarnation):
                self._alarm_idle(incarnation, after)
                self.admission.stay(incarnation, after.do)

        self._change(decide)

    def stopping(self, incarnation: Incarnation, life: Life) -> list[Mail]:
        """Let nobody find the actor any longer, and close its inbox; before its stop flag is set.

        What was sent to the key and is left over is kept for its successor, before all that comes
        later. What was told to this incarnation is a dead letter.

        Returns:
            What else was left over: requests to stop, and what somebody waits for an answer to.

        """
        if self.refusal is FORKED:
            return []
        return self._change(partial(self._close_inbox, incarnation, life))

    def _close_inbox(self, incarnation: Incarnation, life: Life, after: After) -> list[Mail]:
        self._stopping(incarnation)
        entry = incarnation.entry
        letters: list[Letter] = []
        told: list[Any] = []
        asked: list[Mail] = []
        ending = life.begin_to_end()
        left = ending.left = ending.left or []
        for envelope in life.inbox.close(life.undeliverable, after.do, left):
            if isinstance(envelope, Letter):
                if not is_expired(envelope):
                    letters.append(envelope)
            elif envelope.reply_to is None and not is_stop(envelope.message):
                told.append(envelope.message)
            else:
                asked.append(envelope)
        if told:
            self.dead_letters.add(entry.key, told, DeadLetterReason.ENDED, ending.cause, after.do)
        if not letters:
            return asked
        if entry.state is State.STOPPING and entry.incarnation is incarnation:
            # In one: an interrupt finds each letter here or there.
            entry.queue, ending.left = deque([*letters, *entry.queue]), asked
            entry.left_over += len(letters)
            for letter in letters:
                self._count_in(letter)
        else:
            self._report(entry, letters, DeadLetterReason.ABANDONED, abandoned(entry), after)
            ending.left = asked
        return asked

    def bury(self, key: Hashable, message: Any, cause: BaseException) -> None:
        """Report a message that was in hand when the turn was broken off."""

        def decide(after: After) -> None:
            self.dead_letters.add(key, [message], DeadLetterReason.ENDED, cause, after.do)

        self._change(decide)

    def _stopping(self, incarnation: Incarnation) -> None:
        entry = incarnation.entry
        incarnation.ending = True
        if self._is_active(incarnation):
            self._move(entry, State.STOPPING)
            self.admission.leave(incarnation)

    def ended(
        self,
        incarnation: Incarnation,
        reason: EndReason,
        cause: BaseException | None,
        leaving: Joined | None,
    ) -> None:
        """Free the key, or hand it to a successor; no user code of it runs any more.

        What is `leaving` has a few lines left to run, and a shutdown waits for that. It is noted in
        the same step, for the key may be all that the shutdown waits for.
        """

        def decide(after: After) -> None:
            if isinstance(leaving, threading.Thread):
                self._leaving.add(leaving)
            elif leaving is not None:
                self._tails.add(leaving)
            self._ended(incarnation, reason, cause, after)

        if self.refusal is not FORKED:
            self._change(decide)
            return
        futures: list[Future[Any] | None] = [r.future for r in incarnation.entry.requests]
        futures += [letter.reply_to for letter in incarnation.entry.queue]
        for future in filter(None, futures):  # one may be what this thread has forked for
            future.fail(RegistryStopped(FORKED))

    def _ended(
        self,
        incarnation: Incarnation,
        reason: EndReason,
        cause: BaseException | None,
        after: After,
    ) -> None:
        entry = incarnation.entry
        if incarnation.life is None:  # an interrupt has come right after this
            return
        stopped = bool(incarnation.life.begin_to_end().stops)
        self.admission.end(incarnation)
        # A life holds its incarnation in turn. What has begun and has no life has ended: an
        # interrupt before that has all this done once more, and what comes after it is mended.
        if entry.state is State.QUARANTINED:  # its end was published when it was abandoned
            incarnation.life = None
            self._remove(entry)
        else:
            if reason is EndReason.STOPPED and self.refusal is not None:
                reason = EndReason.DRAINED
            self._end(incarnation, reason, cause)
            incarnation.life = None
            if entry.state is State.STARTING:
                self._fail_start(entry, cause, after)
            elif self.refusal is not None:
                self._fail_requests(entry, RegistryStopped(self.refusal), after)
            try:
                self._hand_over(entry, reason, cause, after, stopped=stopped)
            except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
                self._cut_off(entry, error, after)
        self._admit(after)

    def _hand_over(
        self,
        entry: Entry,
        reason: EndReason,
        cause: BaseException | None,
        after: After,
        *,
        stopped: bool,
    ) -> None:
        """Decide what follows an incarnation that has ended; somebody may have `stopped` it."""
        entry.incarnation = entry.ref = None
        if reason in {EndReason.FAILED, EndReason.START_FAILED}:
            record = self._failures.add(entry.key, time.monotonic())
            entry.cause = cause
            if self._failures.exceed(record):
                self._quarantine(entry, record.count, after)
                return
            entry.restarts = (
                self.policy.restart == "at once"
                and self.refusal is None
                and self.blueprint is not None
            )
        # Who wanted it to stop has what they wanted, unless letters came before.
        if self._skip(entry, after, stopped=True) or stopped:
            entry.restarts = False
        if entry.queue and self.blueprint is None and not entry.requests:
            self._give_up(entry, DeadLetterReason.ENDED, no_class(entry, cause), after)
        elif entry.queue or entry.requests or entry.restarts:
            self._begin(entry, after)
        else:
            self._remove(entry)

    def _quarantine(self, entry: Entry, failures: int, after: After) -> None:
        """Close a key that has failed too often, for a time, and report to all who waited."""
        if self.refusal is not None:
            self._give_up(entry, DeadLetterReason.QUARANTINED, undeliverable(entry), after)
            return
        self._move(entry, State.QUARANTINED)
        self._fail_requests(entry, quarantined(entry), after)
        after.do(_log_quarantine, entry, failures)
        self._report_queue(entry, DeadLetterReason.QUARANTINED, undeliverable(entry), after)

    # Foreign actors.

    def register(self, key: Hashable, ref: Ref) -> None:
        """Put a foreign actor's row in, in the place of a dead one.

        Raises:
            KeyAlreadyRegistered: If the key has a live owner, other than this very ref.
            RegistryStopped: If the registry takes nothing new.

        """

        def decide(after: After) -> None:
            self._check_open()
            entry = self._entries.get(key)
            if entry is not None:
                if entry.state is State.QUARANTINED:
                    raise quarantined(entry)
                raise KeyAlreadyRegistered(key, entry.ref)
            owner = self.foreign.claim(key)
            if owner is None:
                self.foreign.add(key, ref, self._next_number())
                self._tell_watchers(key, ref, after)
            elif owner is not ref:
                raise KeyAlreadyRegistered(key, owner)

        self._change(decide)

    def unregister(self, key: Hashable, ref: Ref) -> bool:
        """Take a foreign actor's row out if it is this ref's; tells whether it was."""
        with self._lock:
            self.check_process()
            return self.foreign.remove(key, ref)

    def sweep(self) -> None:
        """Take out the rows of foreign actors that have died."""
        with self._lock:
            self.foreign.sweep()

    # Watching and operating.

    def subscribe(self, listener: Ref) -> None:
        """Tell `listener` of everything that happens from now on."""
        self._check_open()
        self.courier.start()
        self.courier.subscribe(listener)

    def unsubscribe(self, listener: Ref) -> None:
        """Tell `listener` no more."""
        self.check_process()
        self.courier.unsubscribe(listener)

    def watch(self, key: Hashable) -> Future[Ref]:
        """Return a future of the key's next ref, or of the one that is active now."""
        future: Future[Ref] = Future()
        with self._lock:
            self._check_open()
            ref = self.get(key)
            if ref is None:
                future.target = self._entries.get(key)
                self._add_watcher(key, future)
        if ref is not None:
            future.set(ref)
        return future

    def unwatch(self, key: Hashable, future: Future[Ref]) -> None:
        """Wait no longer."""
        with self._lock:
            watchers = self._watchers.get(key)
            if watchers is not None:
                watchers[:] = [watcher for watcher in watchers if watcher() is not future]
                if not watchers:
                    del self._watchers[key]

    def stats(self) -> Stats:
        """Return what there is to do and what was done. Costs the same however many are live."""
        with self._lock:
            self.check_process()
            waiting = self.admission.waiting
            return Stats(
                active=len(self.active),
                live=self.admission.live,
                waiting=waiting,
                starting=self._states[State.STARTING] - waiting,
                stopping=self._states[State.STOPPING],
                backoff=self._states[State.BACKOFF],
                quarantined=self._states[State.QUARANTINED],
                queued=self._queued,
                activations=self._activations,
                ends=MappingProxyType(dict(self._ends + self.foreign.ends)),
                declined=self._declined,
                redelivered=self._redelivered,
                expired=self._expired,
                dead_letters=MappingProxyType(dict(self.dead_letters.counts)),
            )

    def release(self, key: Hashable) -> bool:
        """Open a key that was quarantined for its failures; tells whether it was.

        Raises:
            Quarantined: If an abandoned incarnation holds it.

        """

        def decide(_after: After) -> bool:
            self.check_process()
            entry = self._entries.get(key)
            if entry is None or entry.state is not State.QUARANTINED:
                return False
            if entry.incarnation is not None:
                raise quarantined(entry)
            self._release(entry)
            return True

        return self._change(decide)

    # Time.

    def tick(self) -> None:
        """Do what is due now and then, whatever has happened."""

        def decide(after: After) -> None:
            self.admission.tick()
            self._admit(after)

        self._change(decide)

    def ring(self, latest: float) -> float:
        """Do what is due by now; return when to call again, `latest` at the latest."""

        def decide(after: After) -> float:
            now = time.monotonic()
            for owner in self._alarms.ring(now):
                try:
                    if isinstance(owner, Record):
                        self._failures.forget(owner.key)
                    else:
                        self._rung(owner, now, after)
                except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
                    after.do(_log_alarm, owner.key, error)
                    if isinstance(owner, Entry) and owner.state is State.BACKOFF:
                        self._cut_off(owner, error, after)
            self._rings_at = min(self._alarms.next(), latest)
            return self._rings_at

        return self._change(decide)

    def _rung(self, entry: Entry, now: float, after: After) -> None:
        """Do what an entry's alarm was set for, which depends on its state."""
        incarnation = entry.incarnation
        if entry.state is State.BACKOFF:
            self._begin(entry, after)
        elif incarnation is None:
            self._release(entry)
        elif entry.state is State.ACTIVE:
            self._check_idle(incarnation, now, after)
        elif self._is_crowded(entry):
            left = self.admission.moved_at + self.policy.start_timeout - now
            if left > 0:  # places come free, and its turn will come
                self._alarm(entry, left)
                return
            error = Overloaded(entry.key, self._crowd(self.policy.start_timeout))
            error.__cause__ = self.admission.no_thread
            self._give_up(entry, DeadLetterReason.OVERLOADED, error, after)
        elif not incarnation.launched:
            self._alarm(entry, self.policy.start_timeout)
        elif not incarnation.begun:
            self._alarm(entry, LAUNCH_AGAIN)
            after.do(launch, incarnation)
        elif entry.state is State.STARTING and incarnation.due_by > now:
            self._alarm(entry, incarnation.due_by - now)
        else:
            self._abandon(entry, after)
            self._admit(after)

    def _check_idle(self, incarnation: Incarnation, now: float, after: After) -> None:
        """Ask it to go if it has been idle for long enough, else look again then."""
        since = incarnation.inbox.idle_since()
        idle, reason = incarnation.idle, EndReason.IDLE
        if self.refusal is not None:
            idle, reason = self._linger, EndReason.DRAINED
        assert idle is not None
        left = idle if since is None else since + idle - now
        if left > 0:
            self._alarm(incarnation.entry, left)
        else:  # even if it was asked to make way for another: that one may need it no more
            incarnation.asked = reason
            incarnation.inbox.nudge(after.do)

    # Shutting down.

    def close(self, refusal: str, linger: float) -> None:
        """Take nothing new from outside from now on, and let what there is come to its end.

        Who has nothing to do goes. The others finish what they have accepted, and may send each
        other letters, and activate each other by them; when they have nothing to do they stay for
        so many seconds more, for others may need them. Once none of them has anything to do
        `on_settled` is called, and `retire` lets them go; once none is left it is called again.
        """

        def decide(after: After) -> None:
            self.refusal = refusal
            self._linger = linger
            self.foreign.clear()
            stopped = RegistryStopped(refusal)
            for watchers in self._watchers.values():
                for future in filter(None, (watcher() for watcher in watchers)):
                    after.do(future.fail, stopped)
            self._watchers.clear()
            for entry in self._all_entries():
                try:
                    self._close(entry, stopped, after)
                except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
                    self._cut_off(entry, error, after)
            self._check_settled()

        self._change(decide)

    def _close(self, entry: Entry, stopped: RegistryStopped, after: After) -> None:
        incarnation = entry.incarnation
        entry.restarts = False
        if entry.state is State.ACTIVE:
            assert incarnation is not None
            if incarnation.inbox.idle_since() is not None:
                incarnation.asked = EndReason.DRAINED
            incarnation.inbox.nudge(after.do)
        elif incarnation is None and entry.state is State.QUARANTINED:
            self._release(entry)
        elif incarnation is None or not incarnation.launched:
            self._fail_requests(entry, stopped, after)
            self._drop_if_unwanted(entry, after)

    def retire(self) -> bool:
        """Let those go that have nothing to do; true if there are none left."""

        def decide(after: After) -> bool:
            entries = self._all_entries()
            for entry in entries:
                if entry.state is State.ACTIVE and entry.incarnation is not None:
                    entry.incarnation.inbox.nudge(after.do)
            return len(entries) == self._states[State.QUARANTINED]

        return self._change(decide)

    def abandon(self) -> list[Hashable]:
        """Quarantine what has not ended; return its keys, and of those that were before."""

        def decide(after: After) -> list[Hashable]:
            keys: list[Hashable] = []
            self._is_over = True
            for entry in self._all_entries():
                if entry.incarnation is not None and entry.incarnation.launched:
                    if entry.state is not State.QUARANTINED:
                        self._abandon(entry, after)
                    keys.append(entry.key)
                else:
                    error = Undeliverable(
                        entry.key, "was not activated before its registry stopped"
                    )
                    self._give_up(entry, DeadLetterReason.REGISTRY_STOPPED, error, after)
            for record in self._failures.clear():
                self._alarm(record, None)
            return keys

        return self._change(decide)

    def abandoned(self) -> list[Hashable]:
        """Return the keys that abandoned incarnations hold."""
        with self._lock:
            return [
                entry.key
                for entry in self._all_entries()
                if entry.state is State.QUARANTINED and entry.incarnation is not None
            ]

    def has_left(self, tail: Joined) -> None:
        """Say that the last lines of an end have run."""
        with self._lock:
            self._tails.discard(tail)

    def leave(self) -> None:
        """Note that the calling thread will run no more user code and wait for nobody."""
        with self._lock:
            self._leaving.add(threading.current_thread())

    def join(self) -> None:
        """Wait for the threads that are about to end, so that a shutdown leaves none.

        Not for ever: they write to the log, and what is behind that may block.
        """
        with self._lock:
            leaving: list[Joined] = [*self._leaving - {threading.current_thread()}, *self._tails]
        deadline = time.monotonic() + _LAST_LINES
        for one in leaving:
            one.join(max(deadline - time.monotonic(), 0))

    def check_process(self) -> None:
        """Raise `RegistryStopped` in a forked child."""
        if self.refusal is FORKED:
            raise RegistryStopped(FORKED)

    def runs_here(self) -> bool:
        """Tell whether the calling thread is the registry's or runs one of its aggregates."""
        return threading.current_thread() is self.thread or any(
            isinstance(runs, Incarnation) and runs.entry.table is self
            for runs in _waits.runs_here()
        )

    def place_holders(self) -> Sequence[int]:
        """Return the threads any one of which can make way for who waits for a place.

        If there is a place, for whom an aggregate waits gets it at once. Takes no lock. There may
        be a million entries: this is called only for a handler that waits for a place.
        """
        threads = [
            incarnation.runner or _waits.NOBODY_YET
            for entry in (self._all_entries() if self.admission.is_full else ())
            if (incarnation := entry.incarnation) is not None and incarnation.has_place
        ]
        return threads or [_waits.NOBODY_YET]

    def is_waited_for_here(self) -> bool:
        """Tell whether a shutdown waits for the calling thread, which so must not wait for it."""
        return self.runs_here() or self.courier.runs_here()

    # Being waited for: a shutdown ends when the last of the incarnations has.

    @property
    def yields_to_timeouts(self) -> bool:
        """False: a cycle is refused whatever the timeout."""
        return False

    def key_of(self) -> tuple[Hashable, ...]:
        """Return nothing: a registry has no key."""
        return ()

    def runners(self) -> Sequence[int]:
        """Return the threads that run the table's incarnations."""
        incarnations = [entry.incarnation for entry in self._all_entries()]
        return [
            incarnation.runner
            for incarnation in incarnations
            if incarnation is not None and incarnation.runner is not None
        ]

    def holders(self) -> Sequence[int] | None:
        """Return `None`: a shutdown waits for no place."""
        return None

    def urge(self, wait: _waits.Wait) -> None:
        """Do nothing: a shutdown goes as fast as it can."""

    def was_withdrawn(self, wait: _waits.Wait) -> None:
        """Do nothing: a shutdown goes on all the same."""

    def help(self, _until: Future[Any]) -> bool:
        """Return false: a shutdown has a thread of its own."""
        return False

    def rescue(self) -> None:
        """Do nothing: a shutdown has a thread of its own."""

    def _publish(self, active: dict[Hashable, IncarnationRef]) -> None:
        self.active = active
        if self.registry_ref is not None:
            self.registry_ref._active = active  # type: ignore[attr-defined]  # a RegistryRef

    def forked(self) -> None:
        """Refuse everything: the threads that served this table exist in the parent only."""
        self._lock = threading.Lock()
        self.refusal = FORKED
        self._is_torn = False
        incarnations = [entry.incarnation for entry in self._all_entries()]
        lives = [incarnation.life for incarnation in incarnations if incarnation is not None]
        inboxes = [life.inbox for life in lives if life is not None]
        self._publish(cast("dict[Hashable, IncarnationRef]", Forked()))
        if self.registry_ref is not None:
            inboxes.append(cast("Inbox", self.registry_ref.actor_inbox))
        for inbox in inboxes:
            inbox.close_after_fork(lambda: pykka.ActorDeadError(FORKED))

    # What follows must not have the lock.

    def _change(self, decide: Callable[[After], T]) -> T:
        """Decide under the lock, then carry out what was decided, interrupted or not.

        A decision that is cut short is mended at once; see `_mending`. If that is cut short, too,
        the next decision begins with it.
        """
        after = After()
        try:
            if self._lock.locked():
                _let_go_on(self._lock)
            with self._lock:
                if self._is_torn:
                    self._mend(after)
                self._is_torn = True
                try:
                    result = decide(after)
                except Exception as error:
                    # These are raised on purpose, before anything is changed.
                    no_class = self.blueprint is None and isinstance(error, TypeError)
                    self._is_torn = not (no_class or isinstance(error, RegistryError))
                    raise
                self._is_torn = False
            after.run()
        except BaseException:
            try:
                if self._is_torn:
                    with self._lock:
                        self._mend(after)
            finally:
                after.run()
            raise
        if self._unsaid:
            self._name_the_lost()
        return result

    def _mend(self, after: After) -> None:
        if self._is_torn:  # pragma: no branch  # another thread may have come first
            mend(self, after)
            self._is_torn = False

    def _name_the_lost(self) -> None:
        """Log whose keys were lost; `__repr__` and log handlers are user code."""
        while True:
            try:
                key, error = self._unsaid.pop()
            except IndexError:  # another thread may name some, too
                return
            log(
                logging.ERROR,
                "key %s is no good any more, so nobody finds it",
                name(key),
                error=error,
            )

    def launch(self, incarnation: Incarnation) -> None:
        """Have it begun by its runtime."""
        try:
            incarnation.blueprint.aggregate_class._pykka_registry_launch(incarnation)
        except (RuntimeError, MemoryError) as error:  # there are too many threads
            self._change(partial(self._refuse, incarnation, error))

    def _refuse(self, incarnation: Incarnation, error: Exception, after: After) -> None:
        if incarnation.begun or not incarnation.launched:
            return
        if self._is_due(incarnation):
            self.admission.refuse(incarnation, error, after.do)
            now = time.monotonic()
            incarnation.due_by = incarnation.due_by or now + self.policy.start_timeout
            self._alarm(incarnation.entry, max(incarnation.due_by - now, 0))
            self._hurry_if_urgent(incarnation.entry, after)
            self._drop_if_unwanted(incarnation.entry, after)
        else:
            incarnation.begun = True
            self._never_mind(incarnation, after)


def _let_go_on(lock: LockType) -> None:
    """Let the thread that holds the lock go on; it had to pause just there.

    Who sleeps on a lock gets it while another thread runs, and that one sleeps on it next: with
    some threads at work each decision would cost two switches between them.
    """
    for _ in range(_TRIES):
        time.sleep(0)
        if not lock.locked():
            return


def _is_idle(incarnation: Incarnation) -> bool:
    """Tell whether one that was asked to go had no message since; its own thread asks."""
    idle = incarnation.idle
    return idle is not None and time.monotonic() - incarnation.inbox.idle_from >= idle


def _log_quarantine(entry: Entry, failures: int) -> None:
    seconds = entry.table.policy.quarantine
    until = "until it is released" if seconds is None else f"for {seconds:g} seconds"
    what = "key %s of registry %r is quarantined after %s, %s"
    log(logging.ERROR, what, name(entry.key), entry.table.name, count(failures, "failure"), until)


def _log_alarm(key: Hashable, error: Exception) -> None:
    log(logging.ERROR, "the alarm of key %s failed", name(key), error=error)
