"""Who may start now: so many activations at once, so many live, and who has to go for them.

Every incarnation holds a place from its launch to the last line of its teardown. One that is due
when there is no place for it, or when enough others are starting, waits in line. For each in line
that could start but for the ceiling, the coldest idle aggregate is asked to retire. One that is at
work is never asked: it is nudged, and looks for itself when it has nothing to do.

A thread that cannot be started is a ceiling, too: until the next tick no more are live than were
then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pykka_registry._events import EndReason
from pykka_registry._sieve import Sieve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykka_registry._entry import Incarnation
    from pykka_registry._inbox import Later
    from pykka_registry._policy import Policy

__all__ = ["Admission"]


class Admission:
    """The places of one table, touched under its lock only, but for `makes_way`.

    In each method that may change how many places are wanted, `_relieve` comes last.
    """

    def __init__(self, policy: Policy) -> None:
        self._max_live = math.inf if policy.max_live is None else policy.max_live
        self._max_starting = policy.max_starting
        self._ceiling = self._max_live
        self.no_thread: Exception | None = None
        """Why no thread could be started, since the last tick."""
        self._waiting: dict[Incarnation, None] = {}
        """In line, the first to start first."""
        self._live = 0
        self._starting: set[Incarnation] = set()
        self._leaving: set[Incarnation] = set()
        """Who was asked to go, or is going by itself, and will make room soon."""
        self._sieve: Sieve[Incarnation] = Sieve()
        """Who is active, and may be asked to go."""

    @property
    def live(self) -> int:
        """How many places are taken."""
        return self._live

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no place is free."""
        return self._live >= self._ceiling

    def enqueue(self, incarnation: Incarnation) -> None:
        """Put one that is due at the end of the line."""
        if not self._live:  # nobody's end would tell that threads can be started again
            self._lift()
        self._waiting[incarnation] = None

    def withdraw(self, incarnation: Incarnation) -> None:
        """Take one out of the line, or its place, that is not due any longer and has not begun."""
        self._waiting.pop(incarnation, None)
        self.end(incarnation)

    def admit(self, later: Later) -> Sequence[Incarnation]:
        """Give those in line the places that there are; return who may be launched now."""
        if not self._waiting:
            return ()
        admitted: list[Incarnation] = []
        while self._waiting and not self.is_full and len(self._starting) < self._max_starting:
            incarnation = next(iter(self._waiting))
            incarnation.launched = True
            incarnation.has_place = True
            self._live += 1
            self._starting.add(incarnation)
            del self._waiting[incarnation]
            admitted.append(incarnation)
        self._relieve(later)
        return admitted

    def refuse(self, incarnation: Incarnation, error: Exception, later: Later) -> None:
        """Take the place back from one whose thread could not be started: it is the next in line.

        Until the next tick that is taken for a ceiling.
        """
        self.end(incarnation)
        incarnation.launched = False
        self._waiting = {incarnation: None, **self._waiting}
        self._ceiling = self._live
        self.no_thread = error
        self._relieve(later)

    def activate(self, incarnation: Incarnation) -> None:
        """Note that one has started, and may be asked to go from now on."""
        self._starting.discard(incarnation)
        self._sieve.insert(incarnation)

    def wants_place_of(self, incarnation: Incarnation) -> bool:
        """Tell whether one that is idle should go because others wait."""
        return self._wanted() + (incarnation in self._leaving) > 0

    def leave(self, incarnation: Incarnation) -> None:
        """Note that one has begun to end."""
        self._sieve.remove(incarnation)
        if incarnation.has_place and incarnation not in self._starting:
            self._leaving.add(incarnation)

    def stay(self, incarnation: Incarnation, later: Later) -> None:
        """Note that one that was asked to go does not."""
        self._leaving.discard(incarnation)
        self._relieve(later)

    def give_up(self, incarnation: Incarnation) -> None:
        """Note that one was abandoned: it keeps its place, and nobody counts on its going."""
        self._sieve.remove(incarnation)
        self._starting.discard(incarnation)
        self._leaving.discard(incarnation)

    def end(self, incarnation: Incarnation) -> None:
        """Take the place of one that has ended."""
        self.give_up(incarnation)
        if incarnation.has_place:
            incarnation.has_place = False
            self._live -= 1

    def tick(self) -> None:
        """Count no longer on those who have not gone by now, and try again to start threads."""
        self._leaving.clear()
        self._lift()

    def makes_way(self, incarnation: Incarnation) -> bool:
        """Tell whether its going lets the first in line start; no lock needed.

        That of one who is starting, if there is a place but too many start already.
        """
        return incarnation.has_place if self.is_full else incarnation in self._starting

    def _lift(self) -> None:
        """Try again to start threads."""
        self._ceiling = self._max_live
        self.no_thread = None

    def _wanted(self) -> int:
        """Return how many more places are needed than are about to come free."""
        startable = min(len(self._waiting), self._max_starting - len(self._starting))
        return startable - len(self._leaving) if self.is_full else 0

    def _relieve(self, later: Later) -> None:
        """Ask as many to go as places are wanted, the coldest idle ones first."""
        while self._wanted() > 0:
            incarnation = self._sieve.choose(self._pardon)
            if incarnation is None:
                return
            incarnation.asked = EndReason.EVICTED
            self._leaving.add(incarnation)
            incarnation.inbox.nudge(later)

    def _pardon(self, incarnation: Incarnation) -> bool:
        return incarnation.asked is not None or not incarnation.inbox.is_cold()
