"""The rows of a table: one entry per key, one state machine.

    absent ──claimed──▶ STARTING ──activated──▶ ACTIVE ──stopping──▶ STOPPING
    STARTING, STOPPING ──ended──▶ absent, STARTING (a successor), BACKOFF or QUARANTINED
    absent ──claimed while it rests──▶ BACKOFF ──its time──▶ STARTING
    STARTING, ACTIVE, STOPPING ──abandoned──▶ QUARANTINED ──ended, or released──▶ absent

This is how rows change. `_decisions.py` has the lock that everything here needs; when they change
say `_course.py`, `_closing.py` and `_table.py`, each on top of the one before. What would run user
code, or take long, is put off until the lock is released; see `After`.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import time
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from pykka_registry import _waits
from pykka_registry._admission import Admission
from pykka_registry._alarms import Alarms
from pykka_registry._courier import Courier
from pykka_registry._dead_letters import DeadLetters
from pykka_registry._entry import AFTER, Blueprint, Entry, Incarnation, Ref, StartRequest, State
from pykka_registry._events import DeadLetterReason, EndReason, Terminated
from pykka_registry._exceptions import (
    KeyAlreadyRegistered,
    Overloaded,
    Quarantined,
    RegistryStopped,
    Undeliverable,
)
from pykka_registry._foreign import ForeignRows
from pykka_registry._inbox import answer, is_expired, is_stop
from pykka_registry._log import count, log
from pykka_registry._supervision import Failures, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._after import After
    from pykka_registry._future import Future
    from pykka_registry._inbox import Inbox, Letter
    from pykka_registry._life import Life
    from pykka_registry._policy import Policy

__all__ = ["Rows", "abandoned", "no_class", "quarantined", "stopped_at_rest", "undeliverable"]

LAUNCH_AGAIN = 1.0
"""Seconds after which a thread that has not begun is started again: an interrupt may have come
between the claim of a key and the start of its thread. If both begin, one ends at once."""


WATCHERS = 64
"""How many watchers there are at least before those who have gone are looked for."""


class Rows(abc.ABC):
    """The rows of one registry, by key. Every method needs the table's lock."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        self.blueprint = blueprint
        self.name = name
        self.policy = policy
        self.active: dict[Hashable, IncarnationRef] = {}
        self.courier = Courier(name)
        self.dead_letters = DeadLetters(name, policy, self.courier)
        self.foreign = ForeignRows(self.courier)
        self.admission = Admission(policy)
        self.refusal: str | None = None
        """Why nothing new is taken, once that is so."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when a closed table has nothing to do, or nothing left. Set once, by the registry
        before anybody else has the table, as is the next one."""
        self.on_alarm: Callable[[], None] = _nothing
        """Called when `Table.ring` must be called sooner than it has said."""
        self._entries: dict[Hashable, Entry] = {}
        self._lost: dict[Entry, Exception] = {}
        """Entries whose keys do not lead to them any more, and why."""
        self._unsaid: list[tuple[Hashable, Exception]] = []
        """Keys that were lost, and have yet to be named in the log."""
        self._states: Counter[State] = Counter()
        self._failures = Failures(policy)
        self._alarms: Alarms[Entry | Record] = Alarms()
        self._rings_at = 0.0
        """When `Table.ring` will be called at the latest."""
        self._watchers: dict[Hashable, list[weakref.ref[Future[Ref]]]] = {}
        """Who waits for a key to become active: who has let go of the future does not."""
        self._watchers_purge_in = WATCHERS
        """After how many more watchers those who have gone are forgotten."""
        self._queued: int = 0
        """Letters in the queues of all entries, but for requests to stop and what has expired."""
        self._last_number: int = 0
        self._quiet: int = 0
        """Active incarnations that have nothing to do, once the table is closed."""
        self._retiring = False
        """All of them have had nothing to do, so each may go."""
        self._linger = 0.0
        """Seconds for which an idle one stays all the same, since others may still need it."""
        self._is_over = False
        """Nothing is taken any more, not even from its own aggregates."""
        self._activations: int = 0
        self._ends: Counter[EndReason] = Counter()
        self._declined: int = 0
        self._redelivered: int = 0
        self._expired: int = 0

    def _check_open(self) -> None:
        if self.refusal is not None:
            raise RegistryStopped(self.refusal)

    def _check_room(self, key: Hashable) -> None:
        if self._queued >= self.policy.max_queued:
            why = f"max_queued={self.policy.max_queued} messages wait for keys that are not active"
            raise Overloaded(key, why)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _move(self, entry: Entry, state: State, delay: float | None = None) -> None:
        """Change the state of an entry, and set its alarm: the only place that does the former.

        Args:
            entry: The entry.
            state: Its next state.
            delay: Seconds until its alarm rings, if the state does not say.

        """
        before = entry.state
        if state not in AFTER[before]:
            msg = f"{before} is never followed by {state}"
            raise AssertionError(msg)
        # An entry that is not in the table is absent, whenever an interrupt comes.
        if before is State.ABSENT:
            self._entries[entry.key] = entry
            if self._watchers:
                self._aim_watchers(entry)
        if state is State.ACTIVE:
            assert entry.ref is not None
            self.active[entry.key] = entry.ref
        elif before is State.ACTIVE:
            assert entry.incarnation is not None
            self._hide(entry)
            self._set_quiet(entry.incarnation, quiet=False)
        entry.state = state
        self._alarm(entry, self._seconds_in_state(entry) if delay is None else delay)
        if self._failures:
            self._date_failures(entry)
        # After the others: the sums tell whether an interrupt has left an entry between two states.
        self._states[before] -= 1
        self._states[state] += 1
        if state is State.ABSENT:
            self._delete(entry)

    def _seconds_in_state(self, entry: Entry) -> float | None:
        """Return after how many seconds an entry's alarm rings, if its state says so."""
        if entry.state is State.STOPPING:
            return self.policy.stop_timeout
        if entry.state is State.QUARANTINED and entry.incarnation is None:
            return None if self.policy.restart == "never" else self.policy.quarantine
        return None

    def _hide(self, entry: Entry) -> None:
        """Let nobody find the entry's actor any longer."""
        error = _take_out(self.active, entry.key, entry.ref)
        if error is not None and self.active:  # in a forked child it is empty
            self._lose(entry, error)

    def _delete(self, entry: Entry) -> None:
        """Take an entry out of the table."""
        if self._lost.pop(entry, None) is not None:
            return
        error = _take_out(self._entries, entry.key, entry)
        if error is not None:
            self._lose(entry, error)
            self._lost.pop(entry, None)

    def _lose(self, entry: Entry, error: Exception) -> None:
        """Go on with an entry by itself: its key does not lead to it any more.

        Nobody can address it; it comes to its end like the others. Neither dict can drop a key
        without finding it, so both are made anew; what else is not found is lost as well.
        """
        self._unsaid.append((entry.key, error))
        self._make_anew({**self._lost, entry: error})

    def _make_anew(self, lost: dict[Entry, Exception]) -> None:
        """Put all entries but the lost ones into new dicts.

        Who reads without the lock finds them in the old ones until then.
        """
        entries: dict[Hashable, Entry] = {}
        active: dict[Hashable, IncarnationRef] = {}
        for entry in self._entries.values():
            if entry not in lost:
                error = _put_in(entries, entry.key, entry)
                if error is not None:
                    self._unsaid.append((entry.key, error))
                    lost[entry] = error
                elif entry.state is State.ACTIVE:
                    _put_in(active, entry.key, entry.ref)
        self._lost = lost
        self._entries = entries
        self._publish(active)

    @abc.abstractmethod
    def _publish(self, active: dict[Hashable, IncarnationRef]) -> None:
        """Have look-ups find these from now on."""

    def _all_entries(self) -> list[Entry]:
        """Return the entries, with those whose keys do not lead to them any more."""
        return [*self._entries.values(), *self._lost]

    def _cut_off(self, entry: Entry, error: Exception, after: After) -> None:
        """Take out an entry that has no live incarnation, for its key raised this, and tell why."""
        refused = Undeliverable(entry.key, "has a key that cannot be hashed or compared any more")
        refused.__cause__ = error
        entry.restarts = False
        self._fail_requests(entry, refused, after)
        self._report_queue(entry, DeadLetterReason.ENDED, refused, after)
        if entry.state is not State.ABSENT:
            self._remove(entry)

    def _date_failures(self, entry: Entry) -> None:
        """Have the key's failures forgotten a while after it first does well, or is left alone.

        How often it comes and goes meanwhile makes no difference. But nothing is forgotten while it
        rests or starts, however long that takes: an aggregate whose every start fails after a
        minute fails for ever, too.
        """
        record = None
        with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
            record = self._failures.get(entry.key)
        if record is None:
            return
        if entry.state in {State.ACTIVE, State.ABSENT}:
            now = time.monotonic()
            if record.due is None:
                record.due = now + record.rest(now) + self.policy.failure_window
            self._alarm(record, record.due - now if record.due > now else None)
            if record.due <= now:
                self._failures.forget(entry.key)
        elif entry.state is not State.STOPPING:
            self._alarm(record, None)

    def _alarm(self, owner: Entry | Record, delay: float | None) -> None:
        if delay is None and owner.alarm is None:
            return
        self._alarms.set(owner, time.monotonic(), delay)
        if owner.alarm is not None and owner.alarm < self._rings_at:
            self._rings_at = owner.alarm
            self.on_alarm()

    def _alarm_idle(self, incarnation: Incarnation, after: After) -> None:
        """Have it looked at when it may have been idle for long enough."""
        self._alarm(incarnation.entry, incarnation.idle or None)
        if incarnation.idle == 0:  # as soon as nothing waits, which it sees for itself
            incarnation.inbox.nudge(after.do)

    def _begin(self, entry: Entry, after: After) -> None:
        """Let the key rest for as long as it must, or make its next incarnation due.

        Who waits first decides what it is built from. Who insists on a new actor is not served with
        the one of somebody else.
        """
        record = self._failures.get(entry.key)
        rest = 0.0 if record is None else record.rest(time.monotonic())
        if rest and entry.state is not State.BACKOFF:
            self._move(entry, State.BACKOFF, rest)
            return
        if entry.requests:
            blueprint = entry.requests[0].blueprint
            for request in entry.requests[1:]:
                if request.exclusive:
                    entry.requests.remove(request)
                    after.do(request.future.fail, KeyAlreadyRegistered(entry.key, None))
        else:
            blueprint = self.check_class()
        incarnation = entry.incarnation = Incarnation(entry, blueprint, self.policy.idle)
        self.admission.enqueue(incarnation)
        self._move(entry, State.STARTING)
        self._admit(after)
        if not incarnation.launched:
            incarnation.due_by = time.monotonic() + self.policy.start_timeout
            self._alarm(entry, self.policy.start_timeout)
        self._hurry_if_urgent(entry, after)

    def _hurry(self, entry: Entry, after: After) -> None:
        """Let an entry that stands in line wait for a place only, and not for others to start."""
        incarnation = entry.incarnation
        if entry.state is State.STARTING and incarnation is not None and not incarnation.launched:
            self.admission.urge(incarnation)
            self._admit(after)

    def _hurry_if_urgent(self, entry: Entry, after: After) -> None:
        """Do so if a thread that runs an aggregate waits for the entry."""
        incarnation = entry.incarnation
        if incarnation is not None and not incarnation.launched:
            futures = [letter.reply_to for letter in entry.queue if letter.reply_to is not None]
            futures += [request.future for request in entry.requests]
            with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
                watchers = self._watchers.get(entry.key, ())
                futures += filter(None, (watcher() for watcher in watchers))
            if any(future.urgent and not future.done() for future in futures):
                self._hurry(entry, after)

    def _admit(self, after: After) -> None:
        """Launch those for whom there is a place now."""
        for incarnation in self.admission.admit(after.do):
            if not incarnation.number:
                incarnation.number = self._next_number()
            self._alarm(incarnation.entry, LAUNCH_AGAIN)
            after.do(launch, incarnation)

    def _is_active(self, incarnation: Incarnation) -> bool:
        """Tell whether this incarnation is the one that look-ups find."""
        entry = incarnation.entry
        return entry.state is State.ACTIVE and entry.incarnation is incarnation

    def _is_due(self, incarnation: Incarnation) -> bool:
        """Tell whether it is still this incarnation that its key waits for."""
        entry = incarnation.entry
        return entry.incarnation is incarnation and entry.state is State.STARTING

    def _never_mind(self, incarnation: Incarnation, after: After) -> None:
        """Give back the place of one that was launched, has not begun, and is not wanted now."""
        entry = incarnation.entry
        self.admission.end(incarnation)
        if entry.incarnation is incarnation and entry.state is State.QUARANTINED:
            self._remove(entry)
        self._admit(after)

    def _remove(self, entry: Entry) -> None:
        """Take an entry out: from now on its key is absent."""
        entry.incarnation = entry.cause = None
        self._move(entry, State.ABSENT)
        self._check_settled()

    def _release(self, entry: Entry) -> None:
        """Open a key that was quarantined for its failures."""
        self._failures.forget(entry.key)  # they have no alarm while it is quarantined
        self._remove(entry)

    def _abandon(self, entry: Entry, after: After) -> None:
        """Wait no longer for an incarnation; it keeps the key until its thread ends."""
        incarnation = entry.incarnation
        assert incarnation is not None
        self.admission.give_up(incarnation)
        self._end(incarnation, EndReason.ABANDONED, None)
        entry.cause = None  # that it takes too long is no consequence of an earlier failure
        if not self._is_over:  # at a shutdown's end there is one line for all of them
            what = "start" if entry.state is State.STARTING else "end"
            after.do(_log_abandoned, incarnation.life, what)
        self._move(entry, State.QUARANTINED)
        if self.refusal is None:
            self._fail_requests(entry, quarantined(entry), after)
        else:
            self._fail_requests(entry, RegistryStopped(self.refusal), after)
        self._report_queue(entry, DeadLetterReason.ABANDONED, abandoned(entry), after)
        if incarnation.life is not None:
            after.do(incarnation.life.abandon)
        self._check_settled()

    def _give_up(
        self, entry: Entry, reason: DeadLetterReason, error: Exception, after: After
    ) -> None:
        """Take out an entry that has no incarnation, and report to all who waited."""
        if entry.incarnation is not None:
            self.admission.withdraw(entry.incarnation)
        entry.given_up = reason, error  # if an interrupt comes now, mending goes on with it
        self._fail_requests(entry, error, after)
        self._report_queue(entry, reason, error, after)
        self._remove(entry)

    def _drop_if_unwanted(self, entry: Entry, after: After) -> None:
        """Take out an entry that has not begun to start if nobody waits for it any longer."""
        begun = entry.incarnation is not None and entry.incarnation.begun
        waits = entry.state in {State.STARTING, State.BACKOFF} and not begun
        if waits and not entry.requests and not entry.restarts:
            self._skip(entry, after, stopped=False)
            if entry.queue and entry.incarnation is None and self.blueprint is None:
                self._give_up(entry, DeadLetterReason.ENDED, no_class(entry, entry.cause), after)
            elif not entry.queue:
                if entry.incarnation is not None:
                    self.admission.withdraw(entry.incarnation)
                self._remove(entry)
                self._admit(after)

    def _is_crowded(self, entry: Entry) -> bool:
        """Tell whether the entry waits for a place under the ceiling."""
        incarnation = entry.incarnation
        return (
            entry.state is State.STARTING
            and incarnation is not None
            and not incarnation.launched
            and self.admission.is_full
        )

    def _crowd(self, seconds: float | None) -> str:
        live, most = self.admission.live, f"of max_live={self.policy.max_live}"
        if self.admission.no_thread is not None:
            most = "and the system grants no thread for another"
        are = "is" if live == 1 else "are"
        return (
            f"{count(live, 'aggregate')} {are} live, {most}, "
            f"and none became idle within {seconds} seconds"
        )

    def _wait_for(self, request: StartRequest, entry: Entry) -> None:
        request.entry = request.future.target = entry
        if not entry.requests:
            entry.requests = []
        entry.requests.append(request)

    def _withdraw(self, request: StartRequest, seconds: float | None, after: After) -> str | None:
        """Take a request back; tells why there was no place for it, if it has waited for one."""
        entry = request.entry
        if entry is None or not entry.requests or request not in entry.requests:
            return None
        crowd = self._crowd(seconds) if self._is_crowded(entry) else None
        entry.requests.remove(request)
        self._drop_if_unwanted(entry, after)
        return crowd

    def _queue(self, entry: Entry, letter: Letter) -> None:
        if letter.reply_to is not None:
            letter.reply_to.sent_to(entry)
        if not entry.queue:
            entry.queue = deque()
        entry.queue.append(letter)
        self._count_in(letter)

    def _count_in(self, letter: Letter) -> None:
        """Count a letter that has come into a queue. A request to stop is no message."""
        if not is_stop(letter.message):
            self._queued += 1
            if letter.reply_to is not None:
                letter.reply_to.queued = True

    def _count_out(self, entry: Entry, letter: Letter) -> None:
        """Count a letter no longer that is taken from its entry's queue."""
        future = letter.reply_to
        if is_stop(letter.message):
            return
        if future is None or future.queued:
            self._queued -= 1
        else:
            entry.expired -= 1
        if future is not None:
            future.queued = False

    def _count_expired(self, entry: Entry, future: Future[Any]) -> None:
        """Count a letter no longer that nobody waits for now, if it is in the entry's queue.

        It stays there until most letters in the queue are such.
        """
        if future.queued:
            future.queued = False
            self._queued -= 1
            entry.expired += 1
            if 2 * entry.expired > len(entry.queue):
                self._purge(entry)

    def _purge(self, entry: Entry) -> None:
        """Take the letters from a queue that nobody waits for."""
        self._sort_out(entry, is_expired)

    def _sort_out(self, entry: Entry, is_dropped: Callable[[Letter], bool]) -> None:
        """Take the letters from a queue of which this is true."""
        kept: deque[Letter] = deque()
        dropped: list[Letter] = []
        left_over = 0
        for i, letter in enumerate(entry.queue):
            if is_dropped(letter):
                dropped.append(letter)
            else:
                kept.append(letter)
                left_over += i < entry.left_over
        # An interrupt finds either queue whole.
        entry.queue = kept
        entry.left_over = left_over
        for letter in dropped:
            self._count_out(entry, letter)

    def _accept(self, entry: Entry, letter: Letter, after: After) -> None:
        """Put a letter into the inbox of an active incarnation, which is open."""
        assert entry.incarnation is not None
        if letter.reply_to is not None:
            letter.reply_to.sent_to(entry)
        accepted = entry.incarnation.inbox.accept(letter, after.do)
        assert accepted, "the inbox of an active incarnation is open"
        if self.refusal is not None:
            self._set_quiet(entry.incarnation, quiet=False)
            entry.incarnation.inbox.nudge(after.do)

    def _deliver_queue(self, entry: Entry, inbox: Inbox) -> None:
        """Move a queue to the inbox of its incarnation."""
        for letter in entry.queue:
            self._count_out(entry, letter)
        inbox.take_queue_of(entry)
        entry.left_over = 0

    def _skip(self, entry: Entry, after: After, *, stopped: bool) -> bool:
        """Take letters from the front that nobody waits for, and requests to stop.

        Args:
            entry: Whose.
            after: What is to be done.
            stopped: What the latter are answered: whether there was something to stop.

        Returns:
            Whether there was a request to stop among them.

        """
        skipped = False
        while entry.queue:
            letter = entry.queue[0]
            if is_stop(letter.message):
                skipped = True
                after.do(answer, letter, stopped)
            elif not is_expired(letter):
                break
            entry.queue.popleft()
            entry.left_over = max(entry.left_over - 1, 0)
            self._count_out(entry, letter)
        return skipped

    def _report(
        self,
        entry: Entry,
        letters: Sequence[Letter],
        reason: DeadLetterReason,
        error: Exception,
        after: After,
    ) -> None:
        """Tell the askers of letters that nobody will handle; those that were told are dead."""
        told = [x.message for x in letters if not self._answer(x, error, after)]
        self.dead_letters.add(entry.key, told, reason, error.__cause__, after.do)

    def _report_queue(
        self, entry: Entry, reason: DeadLetterReason, error: Exception, after: After
    ) -> None:
        """Do so with those in the entry's queue, and empty it.

        Each is taken out right after it was reported, so that an interrupt loses none, and has one
        of them reported twice at most.
        """

        def told() -> Iterator[Any]:
            while entry.queue:
                letter = entry.queue[0]
                if not self._answer(letter, error, after):
                    yield letter.message
                entry.queue.popleft()
                self._count_out(entry, letter)
            entry.left_over = 0

        self.dead_letters.add(entry.key, told(), reason, error.__cause__, after.do)

    def _answer(self, letter: Letter, error: Exception, after: After) -> bool:
        """Tell who waits for a letter that nobody will handle; false if nobody does."""
        if is_stop(letter.message):
            after.do(answer, letter, False)
        elif letter.reply_to is None:
            return False
        else:
            after.do(letter.reply_to.fail, error)
        return True

    def _fail_requests(self, entry: Entry, error: Exception, after: After) -> None:
        for request in entry.requests:
            after.do(request.future.fail, error)
        entry.requests = []

    def _fail_start(self, entry: Entry, cause: BaseException | None, after: After) -> None:
        """Give everybody who waits for a start what made it fail.

        Nobody waits for what was told, so that stays for the next incarnation.
        """
        error = Undeliverable(entry.key, "failed to start")
        error.__cause__ = cause
        # A BaseException means "end this thread"; it is not raised in a thread that it was not
        # meant for.
        self._fail_requests(entry, cause if isinstance(cause, Exception) else error, after)

        def fail(letter: Letter) -> bool:
            if letter.reply_to is None or is_stop(letter.message):
                return False
            after.do(letter.reply_to.fail, error)
            return True

        self._sort_out(entry, fail)

    @abc.abstractmethod
    def launch(self, incarnation: Incarnation) -> None:
        """Have it begun; without the lock."""

    def check_class(self) -> Blueprint:
        """Return what to build from; raise `TypeError` if there is nothing."""
        if self.blueprint is None:
            msg = (
                f"registry {self.name!r} has no aggregate class, so it can start nothing: "
                "give it one with AggregateRegistry.start(Account), "
                "or use Account.start(registry, key)"
            )
            raise TypeError(msg)
        return self.blueprint

    def _end(
        self, incarnation: Incarnation, reason: EndReason, cause: BaseException | None
    ) -> None:
        self._ends[reason] += 1
        if self.courier.listeners:
            key, number = incarnation.entry.key, incarnation.number
            self.courier.announce(Terminated(key, number, reason, cause))

    def _set_quiet(self, incarnation: Incarnation, *, quiet: bool) -> None:
        if incarnation.quiet is not quiet:
            incarnation.quiet = quiet
            self._quiet += 1 if quiet else -1
            self._check_settled()

    def _check_settled(self) -> None:
        """See whether a closed table has nothing to do, or nothing left."""
        if self.refusal is None:
            return
        busy = len(self._entries) + len(self._lost) - self._states[State.QUARANTINED] - self._quiet
        if not busy and (not self._retiring or not self._quiet):
            self._retiring = True
            self.on_settled()

    def _tell_watchers(self, key: Hashable, ref: Ref, after: After) -> None:
        for watcher in self._watchers.pop(key, ()):
            future = watcher()
            if future is not None:
                after.do(future.give, ref)

    def _add_watcher(self, key: Hashable, future: Future[Ref]) -> None:
        self._watchers.setdefault(key, []).append(weakref.ref(future))
        self._watchers_purge_in -= 1
        if self._watchers_purge_in <= 0:
            self._purge_watchers()

    def _aim_watchers(self, entry: Entry) -> None:
        """Let those who watch the key wait for its new entry, for a cycle of waits may close."""
        for watcher in self._watchers.get(entry.key, ()):
            future = watcher()
            if future is not None:
                future.target = entry

    def _purge_watchers(self) -> None:
        """Forget those who have gone; look again when there may be twice as many."""
        left = 0
        for key, watchers in list(self._watchers.items()):
            watchers[:] = [watcher for watcher in watchers if _waits_still(watcher())]
            left += len(watchers)
            if not watchers:
                with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
                    del self._watchers[key]
        self._watchers_purge_in = max(left, WATCHERS)


_CHANGED = "its hash has changed, or what it is equal to"


def _take_out(rows: dict[Hashable, Any], key: Hashable, value: object) -> Exception | None:
    """Delete a row; or return why its key does not lead to it any more."""
    try:
        if rows.get(key) is value:
            del rows[key]
            return None
    except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
        return error
    return LookupError(_CHANGED)


def _put_in(rows: dict[Hashable, Any], key: Hashable, value: object) -> Exception | None:
    """Insert a row; or return why its key would not lead to it."""
    try:
        if rows.setdefault(key, value) is value:
            return None
    except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
        return error
    return LookupError(_CHANGED)


def quarantined(entry: Entry) -> Quarantined:
    if entry.incarnation is not None:
        why = f"an incarnation that did not start or end in time still runs; {_FREE_AGAIN}"
        error = Quarantined(entry.key, why, is_abandoned=True)
    else:
        error = Quarantined(entry.key, f"it {_failure(entry)}")
    error.__cause__ = entry.cause
    return error


def undeliverable(entry: Entry) -> Undeliverable:
    if entry.incarnation is not None:
        return abandoned(entry)
    error = Undeliverable(entry.key, f"is quarantined, for it {_failure(entry)}")
    error.__cause__ = entry.cause
    return error


def abandoned(entry: Entry) -> Undeliverable:
    why = f"has an incarnation that did not start or end in time; {_FREE_AGAIN}"
    return Undeliverable(entry.key, why)


_FREE_AGAIN = "the key is free again when that incarnation's thread ends"


def _failure(entry: Entry) -> str:
    """Say why a key is quarantined that no incarnation holds, and what opens it."""
    failed = "failed too often"
    if entry.table.policy.restart == "never":
        failed = "failed, and restart='never'"
    return f"{failed}; once the cause is mended, registry.release(key) opens it"


def _log_abandoned(life: Life | None, what: str) -> None:
    text = "%s did not %s in time; its key is quarantined until its thread ends"
    log(logging.ERROR, text, life, what)


def stopped_at_rest(entry: Entry) -> Undeliverable:
    error = Undeliverable(entry.key, "was stopped while it rested after a failure")
    error.__cause__ = entry.cause
    return error


def no_class(entry: Entry, cause: BaseException | None) -> Undeliverable:
    error = Undeliverable(entry.key, "has ended, and its registry has no class for a successor")
    error.__cause__ = cause
    return error


def launch(incarnation: Incarnation) -> None:
    """Have an incarnation begun, by the calling thread if that is about to wait for it."""
    held = _waits.mine.held
    if held is None:
        incarnation.submit()
    else:
        held.append(incarnation)


def _waits_still(future: Future[Ref] | None) -> bool:
    return future is not None and not future.done()


def _nothing() -> None:
    """Stand in for a registry until there is one."""
