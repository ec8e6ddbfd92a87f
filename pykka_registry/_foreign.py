"""The rows of foreign actors: those that are no aggregates, and whose life is their own.

All that can be known of one is whether it is alive. Who looks it up never gets a dead one; its row
is taken out when its key is wanted, or by the registry's sweep.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pykka_registry._events import EndReason, Registered, Terminated

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka_registry._courier import Courier
    from pykka_registry._entry import Ref

__all__ = ["ForeignRows"]


@dataclass(slots=True, eq=False)
class _Row:
    ref: Ref
    number: int
    is_over: bool = False
    """Its end was announced; the row is about to go, or cannot, for its key is no good."""

    def is_alive(self) -> bool:
        """Tell what `ActorRef.is_alive` tells, without calling a user's override of it."""
        return not (self.is_over or self.ref.actor_stopped.is_set())


class ForeignRows:
    """One registry's foreign actors, by key. Written under the table's lock, read without it."""

    def __init__(self, courier: Courier) -> None:
        self.ends: Counter[EndReason] = Counter()
        self._courier = courier
        self._rows: dict[Hashable, _Row] = {}

    # Reading.

    def get(self, key: Hashable) -> Ref | None:
        """Return the ref of the live one under `key`."""
        row = self._rows.get(key)
        return row.ref if row is not None and row.is_alive() else None

    def snapshot(self) -> dict[Hashable, Ref]:
        """Return the live ones by key."""
        if not self._rows:
            return {}
        return {key: row.ref for key, row in self._rows.copy().items() if row.is_alive()}

    # What follows needs the lock.

    def claim(self, key: Hashable) -> Ref | None:
        """Return the ref of the live one under `key`; a dead one's row is taken out."""
        row = self._rows.get(key)
        if row is None or row.is_alive():
            return None if row is None else row.ref
        self._drop(key, row)
        return None

    def add(self, key: Hashable, ref: Ref, number: int) -> None:
        """Put a row in, under a key that is free."""
        self._rows[key] = _Row(ref, number)
        self._courier.announce(Registered(key, number, ref))

    def remove(self, key: Hashable, ref: Ref) -> bool:
        """Take a row out if it is this ref's; tells whether it was."""
        row = self._rows.get(key)
        if row is None or row.is_over or row.ref is not ref:
            return False
        self._drop(key, row)
        return True

    def sweep(self) -> None:
        """Take out the rows of the dead; what a key has raised is raised when that is done."""
        failure: Exception | None = None
        for key, row in list(self._rows.items()):
            try:
                if not (row.is_over or row.is_alive()):
                    self._drop(key, row)
            except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
                failure = error
        if failure is not None:
            raise failure

    def clear(self) -> None:
        """Take out all rows."""
        rows, self._rows = self._rows, {}
        for key, row in rows.items():
            self._announce_end(key, row)

    def _drop(self, key: Hashable, row: _Row) -> None:
        # In this order, so that an interrupt loses no end; and a key that has changed its hash has
        # one, too.
        self._announce_end(key, row)
        if self._rows.get(key) is row:
            del self._rows[key]

    def _announce_end(self, key: Hashable, row: _Row) -> None:
        if row.is_over:
            return
        reason = EndReason.UNREGISTERED if row.is_alive() else EndReason.UNKNOWN
        self.ends[reason] += 1
        self._courier.announce(Terminated(key, row.number, reason))
        row.is_over = True
