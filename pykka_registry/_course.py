"""The course of an incarnation's life, as a table has it: begun, active, at rest, ending, ended.

Told by the thread that runs the incarnation. In a child that was forked in a handler, and comes
back from it, that is no longer the table's business.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pykka_registry._decisions import Decisions
from pykka_registry._entry import Blueprint, Entry, Incarnation, State
from pykka_registry._events import DeadLetterReason, EndReason, Registered
from pykka_registry._exceptions import RegistryStopped
from pykka_registry._fork import FORKED
from pykka_registry._inbox import Letter, is_expired, is_stop
from pykka_registry._log import count, log, name
from pykka_registry._rows import abandoned, no_class, quarantined, undeliverable

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._after import After
    from pykka_registry._future import Future
    from pykka_registry._inbox import Mail
    from pykka_registry._life import Life
    from pykka_registry._policy import Policy

__all__ = ["Course", "Joined"]


class Joined(Protocol):
    """A thread, or what is like one in this."""

    def join(self, timeout: float) -> object:
        """Wait until it has ended, for so many seconds at most."""
        ...


class Course(Decisions):
    """What incarnations and their threads have to say."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        super().__init__(blueprint, name, policy)
        self._leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Threads that have nothing left to do but to say what has happened, and to end;"""
        self._tails: set[Joined] = set()
        """and such last lines in threads that go on."""

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
            except RecursionError:
                raise  # the end of this thread's stack: mended, like what an interrupt cuts short
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

    def leave(self) -> None:
        """Note that the calling thread will run no more user code and wait for nobody."""
        with self._lock:
            self._leaving.add(threading.current_thread())

    def has_left(self, tail: Joined) -> None:
        """Say that the last lines of an end have run."""
        with self._lock:
            self._tails.discard(tail)


def _is_idle(incarnation: Incarnation) -> bool:
    """Tell whether one that was asked to go had no message since; its own thread asks."""
    idle = incarnation.idle
    return idle is not None and time.monotonic() - incarnation.inbox.idle_from >= idle


def _log_quarantine(entry: Entry, failures: int) -> None:
    seconds = entry.table.policy.quarantine
    until = "until it is released" if seconds is None else f"for {seconds:g} seconds"
    what = "key %s of registry %r is quarantined after %s, %s"
    log(logging.ERROR, what, name(entry.key), entry.table.name, count(failures, "failure"), until)
