"""Group commit: what many callers want to store at the same time is stored in one transaction.

Callers gather in a batch. The first to come leads it: it waits until the batch before is done,
closes its own, and writes it; whoever comes meanwhile gathers in the next. So a lone caller waits
for nobody, a leader writes one bounded batch, its own, and a batch grows by itself while the store
is busy.

No thread depends on another's good behaviour: the leader holds its batch's lock in a `with` block
from before anybody can see the batch, so that followers wake up however it ends. What they find is
the outcome, and the outcome says at each moment what is known.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from eventsourcing.persistence import (
    ApplicationRecorder,
    DataError,
    IntegrityError,
    NotSupportedError,
    PersistenceError,
    ProcessRecorder,
    ProgrammingError,
)

from pykka_registry.eventsourcing._exceptions import Fenced, OutcomeUnknown
from pykka_registry.eventsourcing._fence import FENCE, Fence, FencedRecorder, fences_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsourcing.persistence import Notification, StoredEvent, Subscription, Tracking

__all__ = ["MAX_CALLERS", "MAX_EVENTS", "GroupCommitProcessRecorder", "GroupCommitRecorder", "own"]

MAX_EVENTS = 1_000
MAX_CALLERS = 100

_TRACKING = "tracking"

_REFUSALS = (IntegrityError, DataError, ProgrammingError, NotSupportedError, Fenced)
"""Errors that mean: the store has looked at it, and nothing of it was stored."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """All is stored. A caller's ids are a slice of these."""

    ids: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class _Failed:
    """The store has failed, and there is no use in asking it again for each caller."""

    error: PersistenceError


@dataclass(frozen=True, slots=True)
class _Apart:
    """Each caller has to go again, alone."""

    in_doubt: bool = False
    """Whether the batch may have been stored all the same."""

    cause: Exception | None = None


_Outcome: TypeAlias = _Stored | _Failed | _Apart


class _Batch:
    """What is stored in one transaction.

    Until it is closed, all but the locks is written under the recorder's lock; then by its leader
    alone. Followers read the outcome, once `done` is free.
    """

    __slots__ = ("before", "callers", "done", "events", "fences", "is_open", "outcome")

    def __init__(
        self, events: Sequence[StoredEvent] = (), fences: Sequence[Fence] = (), *, is_open: bool
    ) -> None:
        self.events = list(events)
        self.fences = list(fences)
        self.callers = 1
        self.is_open = is_open  # may others join?
        self.before: _Batch | None = None
        self.done = threading.Lock()  # held by the leader until the outcome is known
        self.outcome: _Outcome = _Apart()

    def wait_for_turn(self) -> None:
        before, self.before = self.before, None  # else each would keep all before it in memory
        if before is not None:
            before.wait()

    def wait(self) -> None:
        # Each wakes the next. In a loop of the leader's an interrupt could skip somebody.
        with self.done:
            pass


class GroupCommitRecorder(ApplicationRecorder):
    """A recorder that stores what many threads save at the same time in one transaction.

    It wraps any application recorder of the library and behaves like it; only faster, when several
    threads save at once. A save is stored when `insert_events` returns, as ever. Each save is
    atomic, its events are next to each other in the notification log, and its caller gets their
    notification ids.

    A save that carries keyword arguments (`tracking=` and any of your own) is written alone, in its
    turn; only `fence=` goes with the others. When the store refuses a batch, for a version
    conflict for example, each of its saves goes again alone, and has its own result. When the store
    fails, everybody in the batch gets the error, which means to them what it means without a
    batch: the library's `OperationalError` does not say whether anything was stored.

    Thread-safe. Not to be called from signal handlers, from `__del__`, or by the recorder that it
    wraps. As for the library's recorders, a `fork` is no way to share it.
    """

    # `_lock` guards `_last` and, of the batch that it is, what joins it. It is held for a few
    # instructions, and neither the store nor any other code of others is called under it.

    def __init__(
        self,
        recorder: ApplicationRecorder,
        *,
        max_events: int = MAX_EVENTS,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        """Wrap a recorder.

        Args:
            recorder: the one that stores.
            max_events: how many events a batch has at most; a single save may have more, and is
                then written alone.
            max_callers: how many saves a batch has at most.

        Raises:
            ValueError: if a batch could have nothing in it.
        """
        if min(max_events, max_callers) < 1:
            message = f"a batch needs room: {max_events=} and {max_callers=} must be at least 1"
            raise ValueError(message)
        self._recorder = recorder
        self._max_events = max_events
        self._max_callers = max_callers
        self._lock = threading.Lock()
        self._last: _Batch | None = None

    @property
    def wrapped(self) -> ApplicationRecorder:
        """The recorder that stores."""
        return self._recorder

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Store events, all or none, together with what other threads store now.

        Args:
            stored_events: the events of one save, of one or several aggregates.
            kwargs: what the wrapped recorder takes; see above for what they change.

        Returns:
            Their notification ids, in order, or what the wrapped recorder returns instead.

        Raises:
            eventsourcing.persistence.IntegrityError: if there are events at these versions already;
                nothing of this save was stored, what others save is not touched.
            OutcomeUnknown: if an interrupt or an unexpected error has struck the thread that was
                writing this save among others, and it cannot be found out if it was stored.
            eventsourcing.persistence.PersistenceError: what the store has failed with. The same
                failure reaches others; each gets an exception of its own.
            TypeError: if there is a `fence=` and the wrapped recorder would not check it.
        """
        fences = fences_in(kwargs)
        if fences and not isinstance(self._recorder, FencedRecorder):
            message = (
                f"{type(self._recorder).__qualname__} would ignore {FENCE}=; a fence is good only "
                "for the store that it was claimed from, and claim() says how to have one"
            )
            raise TypeError(message)
        # The library's applications always give `tracking=`, mostly `None`.
        if any(
            name != FENCE and not (name == _TRACKING and value is None)
            for name, value in kwargs.items()
        ):
            return self._insert_alone(stored_events, kwargs, _Apart())
        if not stored_events:
            # Nothing is written, and nobody's turn is needed for that.
            return self._recorder.insert_events(stored_events, **kwargs)
        return self._insert_with_others(stored_events, kwargs, fences)

    def _insert_with_others(
        self, stored_events: Sequence[StoredEvent], kwargs: dict[str, Any], fences: Sequence[Fence]
    ) -> Sequence[int] | None:
        mine = _Batch(stored_events, fences, is_open=True)
        # Nothing may come between taking the lock and being bound to release it.
        with mine.done:
            batch, start = self._join(mine)
            if batch is mine:
                mine.wait_for_turn()
                with self._lock:
                    mine.is_open = False
                try:
                    if mine.callers == 1:
                        return self._recorder.insert_events(stored_events, **kwargs)
                    self._write(mine)
                finally:
                    self._forget(mine)
        if batch is not mine:
            batch.wait()
        outcome = batch.outcome
        if isinstance(outcome, _Stored):
            ids = outcome.ids
            return None if ids is None else ids[start : start + len(stored_events)]
        if isinstance(outcome, _Failed):
            raise own(outcome.error) from outcome.error
        return self._insert_alone(stored_events, kwargs, outcome)

    def _join(self, mine: _Batch) -> tuple[_Batch, int]:
        """Return the batch that a caller is in now, and where its events begin there."""
        with self._lock:
            last = self._last
            if (
                mine.is_open
                and last is not None
                and last.is_open
                and last.callers < self._max_callers
                and len(last.events) + len(mine.events) <= self._max_events
            ):
                start = len(last.events)
                last.events += mine.events
                last.fences += mine.fences
                last.callers += 1
                return last, start
            mine.before = last
            self._last = mine
            return mine, 0

    def _forget(self, mine: _Batch) -> None:
        """Keep nothing of a batch that is over, when no other has come after it."""
        with self._lock:
            if self._last is mine:
                self._last = None

    def _write(self, batch: _Batch) -> None:
        fences = {FENCE: tuple(dict.fromkeys(batch.fences))} if batch.fences else {}
        # This stands if an interrupt ends the leader: whoever follows it tries for himself.
        batch.outcome = _Apart(in_doubt=True)
        try:
            ids = self._recorder.insert_events(batch.events, **fences)
        except _REFUSALS:
            batch.outcome = _Apart()
        except PersistenceError as error:
            batch.outcome = _Failed(error)
        except Exception as error:  # noqa: BLE001  # one caller's bad event, or a bad recorder
            batch.outcome = _Apart(in_doubt=True, cause=error)
        else:
            batch.outcome = _Stored(ids)

    def _insert_alone(
        self, stored_events: Sequence[StoredEvent], kwargs: dict[str, Any], apart: _Apart
    ) -> Sequence[int] | None:
        mine = _Batch(is_open=False)
        with mine.done:
            self._join(mine)
            mine.wait_for_turn()
            try:
                return self._recorder.insert_events(stored_events, **kwargs)
            except (IntegrityError, Fenced) as error:
                if apart.in_doubt:
                    raise OutcomeUnknown from apart.cause or error
                raise
            finally:
                self._forget(mine)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Read an aggregate's events from the wrapped recorder."""
        return self._recorder.select_events(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Read the notification log of the wrapped recorder."""
        return self._recorder.select_notifications(
            start, limit, stop, topics, inclusive_of_start=inclusive_of_start
        )

    def max_notification_id(self) -> int | None:
        """Return the largest notification id of the wrapped recorder."""
        return self._recorder.max_notification_id()

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Subscribe to the wrapped recorder."""
        return self._recorder.subscribe(gt, topics)

    if not TYPE_CHECKING:  # pragma: no branch  # a checker is to know what a recorder has

        def __getattr__(self, name: str) -> Any:
            """Find what else the wrapped recorder has: its datastore, a user's own queries."""
            if name == "_recorder":  # as in a copy, whose `__init__` has not run
                raise AttributeError(name)
            return getattr(self._recorder, name)


class GroupCommitProcessRecorder(GroupCommitRecorder, ProcessRecorder):
    """A `GroupCommitRecorder` for process applications; what carries tracking is written alone."""

    _recorder: ProcessRecorder

    def __init__(
        self,
        recorder: ProcessRecorder,
        *,
        max_events: int = MAX_EVENTS,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        """Wrap a process recorder; the arguments are those of `GroupCommitRecorder`."""
        super().__init__(recorder, max_events=max_events, max_callers=max_callers)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record tracking in the wrapped recorder."""
        self._recorder.insert_tracking(tracking)

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the largest tracking id of an application in the wrapped recorder."""
        return self._recorder.max_tracking_id(application_name)

    def has_tracking_id(self, application_name: str, notification_id: int | None) -> bool:
        """Tell whether the wrapped recorder has tracked so far."""
        return self._recorder.has_tracking_id(application_name, notification_id)

    def wait(
        self,
        application_name: str,
        notification_id: int | None,
        timeout: float = 1.0,
        interrupt: threading.Event | None = None,
    ) -> None:
        """Wait, at most so many seconds, until the wrapped recorder has tracked so far."""
        self._recorder.wait(application_name, notification_id, timeout, interrupt)


def own(error: PersistenceError) -> PersistenceError:
    """Return an exception like another: two threads must not raise the same one."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001  # its class takes other arguments than it was made from
        return PersistenceError(*error.args)
