"""A stop flag that is an event to whoever looks, and costs little while nobody waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StopFlag"]

_lock = threading.Lock()
"""Guards the making of events: a leaf, and rarely wanted."""


class StopFlag(threading.Event):
    """The event by which Pykka tells whether an actor is alive; to set it ends the actor.

    `_is_set` turns true once. `_event` is there once somebody has waited; it is made under `_lock`,
    and looked at under it after `_is_set` has turned true, so each waiter is seen.
    """

    # threading.Event has no slots, so that each instance may still have a dict: it never gets one.
    __slots__ = ("_before", "_event", "_is_set")

    def __init__(self, before: Callable[[], None] | None = None) -> None:
        # The event's own constructor is left out: it makes a condition and a lock.
        self._before = before
        self._event: threading.Event | None = None
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Do what comes before an actor is seen as dead, then set the flag."""
        if self._is_set:
            return
        if self._before is not None:
            self._before()
        self._is_set = True
        with _lock:
            event = self._event
        if event is not None:
            event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for so many seconds at most; tells whether it is."""
        with _lock:
            if not self._is_set and self._event is None:
                self._event = threading.Event()
        return self._is_set or (self._event is not None and self._event.wait(timeout))
