"""When a key that has failed may start again: backoff, budget and quarantine, for each key alone.

A failure doubles the time for which its key rests, with some jitter, so that keys that failed
together do not come back together. A key that fails more often than its budget allows is
quarantined. Its failures are forgotten once it has been active for some time, or has been left alone
for that long.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pykka_registry._alarms import Owner

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka_registry._policy import Policy

__all__ = ["Failures", "Record"]

_JITTER = 0.2


class Record(Owner):
    """A key's failures.

    It has none of the exceptions, for their tracebacks would keep alive what has failed.
    """

    __slots__ = ("alarm", "count", "key", "rests_until")

    def __init__(self, key: Hashable) -> None:
        self.alarm: float | None = None
        self.key = key
        self.count = 0
        self.rests_until = 0.0

    def rest(self, now: float) -> float:
        """Return for how many seconds more the key rests."""
        return max(self.rests_until - now, 0.0)


class Failures:
    """The failures of one table's keys, touched under its lock only."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._records: dict[Hashable, Record] = {}
        self._chance = random.Random()  # noqa: S311  # jitter, not a secret

    def __len__(self) -> int:
        return len(self._records)

    def add(self, key: Hashable, now: float) -> Record:
        """Count one more failure and set for how long the key rests."""
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Record(key)
        record.count += 1
        first, most = self._policy.backoff
        doublings = min(record.count - 1, 64)
        delay = min(first * 2.0**doublings, most)
        record.rests_until = now + delay * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
        return record

    def exceed(self, record: Record) -> bool:
        """Tell whether the key has failed once too often."""
        return self._policy.restart == "never" or record.count > self._policy.max_failures

    def get(self, key: Hashable) -> Record | None:
        """Return the key's failures, if there are any that count."""
        return self._records.get(key)

    def clear(self) -> list[Record]:
        """Forget all, and return what there was."""
        records = list(self._records.values())
        self._records.clear()
        return records

    def forget(self, key: Hashable) -> Record | None:
        """Forget the key's failures, and return what there was."""
        return self._records.pop(key, None)
