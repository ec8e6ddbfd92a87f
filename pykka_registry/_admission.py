"""Who may start now: so many activations at once, so many live, and who has to go for them.

Every incarnation holds a place from its launch to the last line of its teardown. One that is due
when there is no place for it, or when enough others are starting, waits in line. One that an
aggregate waits for does not wait for others to start: they may be the ones that wait for it. For
each in line that could start but for the ceiling, the coldest idle aggregate is asked to go. One
that is at work is never asked: it is nudged, and looks for itself when it has nothing to do.

A thread that cannot be started is a ceiling, too: until the next tick no more are live than were
then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pykka_registry._entry import State
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
        self.moved_at = -math.inf
        """When the line has last moved: when somebody has begun to start."""
        self._waiting: dict[Incarnation, None] = {}
        """In line, the first to start first."""
        self._urgent: dict[Incarnation, None] = {}
        """Who of them waits for a place only, and not for others to start: one of those may wait
        for it."""
        self._live = 0
        self._starting: set[Incarnation] = set()
        self._leaving: set[Incarnation] = set()
        """Who was asked to go, or is going by itself, and will make room soon."""
        self._sieve: Sieve[Incarnation] = Sieve()
        """Who is active, and may be asked to go."""
        self._all_are_busy = False
        """A look at all of them has found nobody to ask; each will say so when it is idle."""

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
        self._urgent.pop(incarnation, None)
        self.end(incarnation)

    def urge(self, incarnation: Incarnation) -> None:
        """Let one in line wait for a place only: an aggregate waits for it, so that one is at rest.

        It begins beyond the width, which is for how many are at work.
        """
        self._urgent[incarnation] = None

    def admit(self, later: Later) -> Sequence[Incarnation]:
        """Give those in line the places that there are; return who may be launched now."""
        if not self._waiting:
            return ()
        admitted: list[Incarnation] = []
        while self._waiting and not self.is_full:
            if len(self._starting) < self._max_starting:
                incarnation = next(iter(self._waiting))
            elif self._urgent:
                incarnation = next(iter(self._urgent))
            else:
                break
            self._urgent.pop(incarnation, None)
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

    def activate(self, incarnation: Incarnation) -> bool:
        """Note that one has started, and may be asked to go from now on.

        Returns:
            Whether it is to look for itself when it has nothing to do, because all others are.

        """
        self._starting.discard(incarnation)
        self._sieve.insert(incarnation)
        return self._all_are_busy

    def wants_place_of(self, incarnation: Incarnation) -> bool:
        """Tell whether one that is idle should go because others wait."""
        return self._wanted() + (incarnation in self._leaving) > 0

    def leave(self, incarnation: Incarnation) -> None:
        """Note that one that was active has begun to end."""
        self._sieve.remove(incarnation)
        self._leaving.add(incarnation)

    def stay(self, incarnation: Incarnation, later: Later) -> None:
        """Note that one that was asked to go does not."""
        self._leaving.discard(incarnation)
        self._all_are_busy = False
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
        """Count no longer on those who were asked and do not go; try again to start threads.

        One that is on its way out will make room, however long its `on_stop` takes: until it is
        abandoned nobody else has to go in its place.
        """
        self._leaving = {incarnation for incarnation in self._leaving if incarnation.ending}
        self._all_are_busy = False
        self._lift()

    def all(self) -> list[Incarnation]:
        """Return those in line and those that start or go, some of them more than once."""
        return [*self._waiting, *self._starting, *self._leaving]

    def mend(self, incarnations: Sequence[Incarnation]) -> None:
        """Make all anew from what the incarnations of the table's entries are doing."""
        live = [incarnation for incarnation in incarnations if incarnation.launched]
        due = {i for i in incarnations if i.entry.state is State.STARTING and not i.launched}
        self._waiting = {i: None for i in [*self._waiting, *incarnations] if i in due}
        self._urgent = {i: None for i in self._urgent if i in due}
        for incarnation in incarnations:
            incarnation.has_place = incarnation.launched
        self._live = len(live)
        self._starting = {i for i in live if i.entry.state is State.STARTING}
        active = [i for i in live if i.entry.state is State.ACTIVE]
        self._leaving = {i for i in active if i.asked is EndReason.EVICTED}
        self._leaving |= {i for i in live if i.entry.state is State.STOPPING}
        self._sieve = Sieve()
        self._sieve.refill(sorted(active, key=lambda i: i.number))
        self._all_are_busy = False

    def _lift(self) -> None:
        """Try again to start threads."""
        self._ceiling = self._max_live
        self.no_thread = None

    def _wanted(self) -> int:
        """Return how many more places are needed than are about to come free."""
        if not self.is_full:
            return 0
        width = max(self._max_starting - len(self._starting), len(self._urgent))
        return min(len(self._waiting), width) - len(self._leaving)

    def _relieve(self, later: Later) -> None:
        """Ask as many to go as places are wanted, the coldest idle ones first.

        If nobody is idle all have been nudged. So there is no need to look at all of them again for
        each that comes into line.
        """
        while self._wanted() > 0 and not self._all_are_busy:
            incarnation = self._sieve.choose(self._pardon)
            if incarnation is None:
                self._all_are_busy = True
                return
            incarnation.asked = EndReason.EVICTED
            self._leaving.add(incarnation)
            incarnation.inbox.nudge(later)

    def _pardon(self, incarnation: Incarnation) -> bool:
        return incarnation.asked is not None or not incarnation.inbox.is_cold()
