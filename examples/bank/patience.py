"""Patience with a store that another process keeps busy, which ends when the bank is closing.

The library waits for a lock for so many seconds, and nobody can stop it meanwhile. So these are
few, and here they are spent again and again.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from eventsourcing.persistence import (
    ApplicationRecorder,
    ConnectionUnavailableError,
    PersistenceError,
    ProgrammingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Event
    from uuid import UUID

    from eventsourcing.persistence import Notification, StoredEvent, Subscription

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to wait for another process to let go of the store."""

_PAUSE = 0.05  # seconds between two attempts


# A `ProgrammingError`, as a closed connection raises: whoever gets it knows that nothing is stored.
class BankIsClosing(ProgrammingError):  # noqa: N818 - a state, not a malfunction
    """Nothing more is read or stored: the program is about to end."""


def is_busy(error: BaseException) -> bool:
    """Tell if the store only asks to try again: somebody else is writing to it."""
    return isinstance(error, ConnectionUnavailableError) or "is locked" in str(error)


def patiently(
    attempt: Callable[[], T],
    errors: tuple[type[Exception], ...],
    *,
    is_passing: Callable[[Exception], bool] = is_busy,
    check: Callable[[], None],
) -> T:
    """Attempt something until it succeeds, fails for good, or patience is at its end.

    Args:
        attempt: what to attempt.
        errors: classes of what it may fail with.
        is_passing: whether one of these may be gone the next time.
        check: called before each attempt; it raises if there is to be no more.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        check()
        try:
            return attempt()
        except errors as error:
            if not is_passing(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


class PatientRecorder(ApplicationRecorder):
    """A recorder that waits for a busy store, and does nothing more once the bank is closing."""

    def __init__(self, recorder: ApplicationRecorder, closing: Event) -> None:
        """Wrap a recorder of the library."""
        self._recorder = recorder
        self._closing = closing

    def _check(self) -> None:
        if self._closing.is_set():
            raise BankIsClosing

    def _patiently(self, attempt: Callable[[], T]) -> T:
        return patiently(attempt, (PersistenceError,), check=self._check)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Store events, all or none."""
        return self._patiently(partial(self._recorder.insert_events, stored_events, **kwargs))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Read the events of an aggregate."""
        select = self._recorder.select_events
        return self._patiently(
            partial(select, originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        )

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Read the events of all aggregates, in the order stored."""
        select = self._recorder.select_notifications
        return self._patiently(
            partial(select, start, limit, stop, topics, inclusive_of_start=inclusive_of_start)
        )

    def max_notification_id(self) -> int | None:
        """Return the number of the last event."""
        return self._patiently(self._recorder.max_notification_id)

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Subscribe to the events that come."""
        return self._recorder.subscribe(gt, topics)
