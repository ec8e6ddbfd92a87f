"""The library's store in SQLite, with group commit and fences.

    PERSISTENCE_MODULE=pykka_registry.eventsourcing.sqlite

in place of `eventsourcing.sqlite`; all its settings mean what they mean there. The tables are the
library's, and beside that of an application's events a small one for its fences.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from eventsourcing import sqlite
from eventsourcing.persistence import IntegrityError

from pykka_registry.eventsourcing import _fence
from pykka_registry.eventsourcing._settings import with_group_commit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventsourcing.persistence import ApplicationRecorder, ProcessRecorder, StoredEvent

__all__ = ["Factory", "FencedSQLiteApplicationRecorder", "FencedSQLiteProcessRecorder"]


class FencedSQLiteApplicationRecorder(sqlite.SQLiteApplicationRecorder, _fence.FencedRecorder):
    """The library's recorder for SQLite, which checks `fence=` in the transaction of the save.

    SQLite has one writer at a time, and the check comes when the save has become that writer: no
    claim can come between check and commit. A subclass that overrides `_insert_events` must call
    this one's with the keyword arguments; `claim` refuses one that does not.
    """

    def __init__(
        self, datastore: sqlite.SQLiteDatastore, events_table_name: str = "stored_events"
    ) -> None:
        self._fence_table_name = f"{events_table_name}_fence"
        # By keyword: in a process recorder the next class takes it so only.
        super().__init__(datastore, events_table_name=events_table_name)

    def construct_create_table_statements(self) -> list[str]:
        """Add the table of the epochs to the library's."""
        fence_table = (
            f"CREATE TABLE IF NOT EXISTS {self._fence_table_name} "
            "(owner TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID"
        )
        return [*super().construct_create_table_statements(), fence_table]

    # The one private extension point of the library: what process recorders override to store
    # their tracking in the same transaction.
    def _insert_events(
        self, c: sqlite.SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        fences = _fence.fences_in(kwargs)
        # To read first would begin a transaction that reads, and one that then wants to write fails
        # at once if anybody else has written since. So the check comes after the insert.
        try:
            ids = super()._insert_events(c, stored_events, **kwargs)
        except (sqlite3.IntegrityError, IntegrityError):
            self._check(c, fences)  # whoever has been replaced is to know, not to try again
            raise
        self._check(c, fences)
        return ids

    def _check(self, c: sqlite.SQLiteCursor, fences: Iterable[_fence.Fence]) -> None:
        for fence in fences:
            c.execute(
                f"SELECT owner, epoch FROM {self._fence_table_name} WHERE owner = ?",  # noqa: S608
                (fence.owner,),
            )
            _fence.check((fence,), dict(c.fetchall()))

    def raise_epoch(self, owner: str) -> int:
        """Raise the epoch of a name by one and return it; `claim` is what you want."""
        with self.datastore.transaction(commit=True) as c:
            c.execute(
                f"INSERT INTO {self._fence_table_name} VALUES (?, 1) "  # noqa: S608
                "ON CONFLICT (owner) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (owner,),
            )
            [(epoch,)] = c.fetchall()
            return int(epoch)


class FencedSQLiteProcessRecorder(FencedSQLiteApplicationRecorder, sqlite.SQLiteProcessRecorder):
    """The same for process applications; tracking is stored with the events or not at all."""


class Factory(sqlite.SQLiteFactory):
    """Makes the recorders that this module is about; the library finds it by its setting."""

    application_recorder_class = FencedSQLiteApplicationRecorder
    process_recorder_class = FencedSQLiteProcessRecorder

    def application_recorder(self) -> ApplicationRecorder:
        """Return the recorder of an application, with group commit as the settings say."""
        return with_group_commit(super().application_recorder(), self.env)

    def process_recorder(self) -> ProcessRecorder:
        """Return the recorder of a process application, with group commit as the settings say."""
        return with_group_commit(super().process_recorder(), self.env)
