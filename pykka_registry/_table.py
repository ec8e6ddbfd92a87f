"""The table: the keys of one registry, and what anybody may ask of them.

How a letter, which is addressed to a key, finds its incarnation: while the key is active letters go
straight into that one's inbox. Else they wait in the entry's queue, which is moved into the next
incarnation's inbox before anybody can find that. What an incarnation leaves over goes back to the
front of the queue, before those who came later and found it closed. So the letters of one sender
stay in order. `formal/` has a model of this, checked in all its states.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._closing import Closing
from pykka_registry._entry import Blueprint, Entry, Incarnation, Ref, StartRequest, State
from pykka_registry._events import DeadLetterReason, EndReason, Stats
from pykka_registry._exceptions import (
    HeldByForeignActor,
    KeyAlreadyRegistered,
    NoAnswer,
    Overloaded,
    OverloadedTimeout,
    RegistryStopped,
)
from pykka_registry._fork import tables
from pykka_registry._future import Future
from pykka_registry._inbox import Letter, is_stop
from pykka_registry._log import log, name
from pykka_registry._rows import (
    LAUNCH_AGAIN,
    launch,
    quarantined,
    stopped_at_rest,
    undeliverable,
)
from pykka_registry._supervision import Record
from pykka_registry._turns import send_and_help

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._after import After
    from pykka_registry._life import Life
    from pykka_registry._policy import Policy

__all__ = ["Table"]


class Table(Closing):
    """The keys of one registry."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        super().__init__(blueprint, name, policy)
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

    def _publish(self, active: dict[Hashable, IncarnationRef]) -> None:
        self.active = active
        if self.registry_ref is not None:
            self.registry_ref._active = active  # type: ignore[attr-defined]  # a RegistryRef


def _log_alarm(key: Hashable, error: Exception) -> None:
    log(logging.ERROR, "the alarm of key %s failed", name(key), error=error)
