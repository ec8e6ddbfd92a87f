"""A stop flag: an event in all that counts, which costs little while nobody waits for it."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["StopFlag"]

_lock = threading.Lock()
"""Guards the making of events: a leaf, and rarely wanted."""


class Ends(Protocol):
    """Something that can be ended."""

    def end(self) -> None:
        """Do what comes before it is seen as dead."""
        ...


class StopFlag:
    """What stands for the event by which Pykka tells whether an actor is alive.

    To set it ends the actor: whose flag it is does what comes before.

    `_is_set` turns true once. `_event` is there once somebody has waited; it is made under `_lock`,
    and looked at under it after `_is_set` has turned true, so each waiter is seen.
    """

    __slots__ = ("_event", "_is_set", "_whose")

    def __init__(self, whose: Ends | None = None) -> None:
        self._whose = whose
        self._event: threading.Event | None = None
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Do what comes before an actor is seen as dead, then set the flag."""
        if self._is_set:
            return
        if self._whose is not None:
            self._whose.end()
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
