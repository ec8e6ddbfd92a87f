"""Alarms for many owners, one each: set, moved and taken off in constant time, and no thread.

An alarm goes into the bucket of its time. Buckets are about a thirtieth of the delay wide, and at
least a sixty-fourth of a second, so there are few of them, however many owners; an alarm rings at
the end of its bucket: never early, and late by no more than that width. After Orleans' collection
of idle activations.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

__all__ = ["Alarms", "Owner"]

_FINEST = 2.0**-6
_PARTS = 32


class Owner:
    """What can have an alarm."""

    __slots__ = ()

    alarm: float | None
    """The bucket that it is in."""


O = TypeVar("O", bound=Owner)  # noqa: E741


class Alarms(Generic[O]):
    """The alarms of one table, touched under its lock only."""

    def __init__(self) -> None:
        self._buckets: dict[float, dict[O, None]] = {}
        self._times: list[float] = []
        """A heap of the buckets' times."""

    def set(self, owner: O, now: float, delay: float | None) -> None:
        """Let the owner's alarm ring in `delay` seconds, in place of any other; `None`: not."""
        if owner.alarm is not None:
            del self._buckets[owner.alarm][owner]
            owner.alarm = None
        if delay is None or math.isinf(delay):
            return
        width = _FINEST
        if delay > _FINEST * _PARTS:
            width = math.ldexp(1, math.frexp(delay / _PARTS)[1] - 1)
        owner.alarm = math.ceil((now + delay) / width) * width
        bucket = self._buckets.get(owner.alarm)
        if bucket is None:
            bucket = self._buckets[owner.alarm] = {}
            heapq.heappush(self._times, owner.alarm)
        bucket[owner] = None

    def ring(self, now: float) -> list[O]:
        """Take off the alarms whose time has come, and return their owners."""
        owners: list[O] = []
        while self._times and self._times[0] <= now:
            bucket = self._buckets.pop(heapq.heappop(self._times))
            for owner in bucket:
                owner.alarm = None
            owners += bucket
        return owners

    def next(self) -> float:
        """Return when to look again; it may be that nothing rings then."""
        return self._times[0] if self._times else math.inf
