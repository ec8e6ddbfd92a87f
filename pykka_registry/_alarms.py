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
        # In an order that an interrupt does no harm to: what is in a bucket rings only if it knows.
        if owner.alarm is not None:
            self._buckets.get(owner.alarm, {}).pop(owner, None)
            owner.alarm = None
        if delay is None or math.isinf(delay):
            return
        width = _FINEST
        if delay > _FINEST * _PARTS:
            width = math.ldexp(1, math.frexp(delay / _PARTS)[1] - 1)
        at = math.ceil((now + delay) / width) * width
        bucket = self._buckets.get(at)
        if bucket is None:
            heapq.heappush(self._times, at)
            bucket = self._buckets[at] = {}
        bucket[owner] = None
        owner.alarm = at

    def mend(self) -> None:
        """Take out of the buckets whose alarms are not set for their time."""
        for at, bucket in self._buckets.items():
            for owner in [owner for owner in bucket if owner.alarm != at]:
                del bucket[owner]

    def has(self, owner: O) -> bool:
        """Tell whether the owner's alarm will ring."""
        return owner.alarm is not None and owner in self._buckets.get(owner.alarm, ())

    def ring(self, now: float) -> list[O]:
        """Take off the alarms whose time has come, and return their owners."""
        owners: list[O] = []
        while self._times and self._times[0] <= now:
            at = heapq.heappop(self._times)
            for owner in self._buckets.pop(at, ()):
                if owner.alarm == at:
                    owner.alarm = None
                    owners.append(owner)
        return owners

    def next(self) -> float:
        """Return when to look again; it may be that nothing rings then."""
        return self._times[0] if self._times else math.inf
