"""The library's store in PostgreSQL, with group commit and fences.

    PERSISTENCE_MODULE=pykka_registry.eventsourcing.postgres

in place of `eventsourcing.postgres`; all its settings mean what they mean there. The tables are the
library's, and beside that of an application's events a small one for its fences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsourcing import postgres
from eventsourcing.persistence import NotSupportedError
from psycopg.sql import SQL, Identifier

from pykka_registry.eventsourcing import _fence
from pykka_registry.eventsourcing._settings import with_group_commit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsourcing.persistence import ApplicationRecorder, ProcessRecorder, StoredEvent
    from psycopg import Cursor
    from psycopg.rows import DictRow

__all__ = ["Factory", "FencedPostgresApplicationRecorder", "FencedPostgresProcessRecorder"]


class FencedPostgresApplicationRecorder(
    postgres.PostgresApplicationRecorder, _fence.FencedRecorder
):
    """The library's recorder for PostgreSQL, which checks `fence=` in the transaction of the save.

    The check locks the row of the epoch until the save has been committed (`FOR SHARE`), and a
    claim waits for that; a check that has waited for a claim sees the new epoch. This holds at each
    isolation level. It does not hold across a failover to a replica that has not got the claim: use
    a synchronous one. A subclass that overrides `_insert_events` must call this one's with the
    keyword arguments; `claim` refuses one that does not.
    """

    def __init__(
        self,
        datastore: postgres.PostgresDatastore,
        *,
        events_table_name: str = "stored_events",
        **kwargs: Any,
    ) -> None:
        # A process recorder has another table, of which the next class knows.
        super().__init__(datastore, events_table_name=events_table_name, **kwargs)
        name = f"{events_table_name}_fence"
        self.check_identifier_length(name)
        table = SQL(".").join([Identifier(datastore.schema), Identifier(name)])
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS {} (owner text PRIMARY KEY, epoch bigint NOT NULL)"
            ).format(table)
        )
        # In the order of the names, as any two that lock several rows should.
        self._check_statement = SQL(
            "SELECT owner, epoch FROM {} WHERE owner = ANY(%s) ORDER BY owner FOR SHARE"
        ).format(table)
        self._lock_statement = SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(table)
        self._claim_statement = SQL(
            "INSERT INTO {} AS t VALUES (%s, 1) "
            "ON CONFLICT (owner) DO UPDATE SET epoch = t.epoch + 1 RETURNING epoch"
        ).format(table)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Store events, all or none, unless a `fence=` among the arguments is stale.

        Raises:
            Fenced: if one is.
            eventsourcing.persistence.IntegrityError: if there are events at these versions already.
            eventsourcing.persistence.NotSupportedError: if there is a fence, and the library's
                settings make it go a way on which it would not be checked.
        """
        # On that way the library calls no method in which anything could be checked, and it does
        # not store what else is in the keyword arguments either.
        if _fence.fences_in(kwargs) and self.datastore.enable_db_functions:
            message = (
                f"{_fence.FENCE}= would not be checked with POSTGRES_ENABLE_DB_FUNCTIONS; "
                "switch that off, or save without a fence"
            )
            raise NotSupportedError(message)
        # The library's decorator hides the type.
        ids: Sequence[int] | None = super().insert_events(stored_events, **kwargs)
        return ids

    # The one private extension point of the library: what process recorders override to store
    # their tracking in the same transaction. It comes before the insert, so a stale save does not
    # wait for the lock on the table of events.
    def _insert_events(
        self, curs: Cursor[DictRow], stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> None:
        if fences := _fence.fences_in(kwargs):
            curs.execute(
                self._check_statement, (list({fence.owner for fence in fences}),), prepare=True
            )
            epochs = {row["owner"]: row["epoch"] for row in curs.fetchall()}
            _fence.check(fences, epochs)
        super()._insert_events(curs, stored_events, **kwargs)

    def raise_epoch(self, owner: str) -> int:
        """Raise the epoch of a name by one and return it; `claim` is what you want."""
        with self.datastore.transaction(commit=True) as curs:
            # A claim that a crash of the server undoes would be made again, by somebody else and
            # with the same epoch.
            curs.execute(
                "SELECT set_config('synchronous_commit', 'on', true) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
            # Row locks are not fair: while one save after another shares that of the epoch, whoever
            # wants to change it waits for ever. Table locks are queued for, and each of those saves
            # has a weak one, which this one conflicts with.
            curs.execute(self._lock_statement)
            curs.execute(self._claim_statement, (owner,))
            [row] = curs.fetchall()
            return int(row["epoch"])


class FencedPostgresProcessRecorder(
    FencedPostgresApplicationRecorder, postgres.PostgresProcessRecorder
):
    """The same for process applications; tracking is stored with the events or not at all."""


class Factory(postgres.PostgresFactory):
    """Makes the recorders that this module is about; the library finds it by its setting."""

    application_recorder_class = FencedPostgresApplicationRecorder
    process_recorder_class = FencedPostgresProcessRecorder

    def application_recorder(self) -> ApplicationRecorder:
        """Return the recorder of an application, with group commit as the settings say."""
        return with_group_commit(super().application_recorder(), self.env)

    def process_recorder(self) -> ProcessRecorder:
        """Return the recorder of a process application, with group commit as the settings say."""
        return with_group_commit(super().process_recorder(), self.env)
