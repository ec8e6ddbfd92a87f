"""A stop flag: an event in all that counts, which costs little while nobody waits for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["StopFlag"]

_LOCK: list[LockType] = []
"""Guards the making of events: a leaf, and rarely wanted."""


def _make_lock() -> None:
    """Make it, and another in a forked child, where a thread that is not there may hold it."""
    _LOCK[:] = [threading.Lock()]


_make_lock()
if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_make_lock)


class StopFlag:
    """What stands for the event by which Pykka tells whether an actor is alive.

    To set it ends the actor: a subclass does what comes before, in `end`.

    `_is_set` turns true once. `_event` is there once somebody has waited; it is made under `_LOCK`,
    and looked at under it after `_is_set` has turned true, so each waiter is seen.
    """

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._event: threading.Event | None = None
        self._is_set = False

    def end(self) -> None:
        """Do what comes before an actor is seen as dead."""

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Do what comes before an actor is seen as dead, then set the flag."""
        if self._is_set:
            return
        self.end()
        self._is_set = True
        with _LOCK[0]:
            event = self._event
        if event is not None:
            event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for so many seconds at most; tells whether it is."""
        with _LOCK[0]:
            if not self._is_set and self._event is None:
                self._event = threading.Event()
        return self._is_set or (self._event is not None and self._event.wait(timeout))
