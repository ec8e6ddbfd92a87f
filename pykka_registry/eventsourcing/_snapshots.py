"""Snapshots, which are there to save a replay, and may neither delay a command nor fail one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from eventsourcing.application import AggregateNotFoundError, Repository
from eventsourcing.persistence import IntegrityError

from pykka_registry._log import log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from eventsourcing.application import Application
    from eventsourcing.domain import BaseAggregate, DomainEventProtocol

__all__ = ["Snapshots"]


class Snapshots:
    """Loads the aggregates of an application, and takes snapshots as its settings say."""

    def __init__(self, app: Application[Any], aggregate_class: type[Any]) -> None:
        self._store = app.snapshots
        self._class = aggregate_class
        # With a cache it is the application's business who shares an object with whom.
        self._repository: Repository[Any] = (
            app.repository
            if app.repository.cache is None
            else Repository(app.events, snapshot_store=app.snapshots)
        )
        self._replay: Repository[Any] = Repository(app.events)
        self._intervals = app.snapshotting_intervals
        self._snapshot_class: Any = getattr(aggregate_class, "Snapshot", app.snapshot_class)

    def load(self, aggregate_id: UUID | str) -> Any:
        """Return the aggregate as it is stored.

        Raises:
            AggregateNotFoundError: if there is none.
            TypeError: if it is one of another class.
        """
        try:
            aggregate: Any = self._repository.get(aggregate_id)
        except AggregateNotFoundError:
            raise
        except Exception as error:
            if self._store is None:
                raise
            what = "aggregate %r is replayed: with its snapshot it cannot be loaded"
            log(logging.WARNING, what, aggregate_id, error=error)
            aggregate = self._replay.get(aggregate_id)
        if not isinstance(aggregate, self._class):
            message = (
                f"aggregate {aggregate_id!r} is a {type(aggregate).__name__}, "
                f"not a {self._class.__name__}"
            )
            raise TypeError(message)
        return aggregate

    def are_due(
        self, aggregate: BaseAggregate[Any], events: Iterable[DomainEventProtocol[Any]]
    ) -> bool:
        """Tell whether the settings ask for a snapshot after these events."""
        if self._store is None or self._snapshot_class is None:
            return False
        interval = self._intervals.get(type(aggregate))
        return interval is not None and any(
            event.originator_version % interval == 0 for event in events
        )

    def take(self, aggregate: Any) -> None:
        """Store a snapshot of the aggregate as it is; what goes wrong is logged."""
        assert self._store is not None
        try:
            self._store.put([self._snapshot_class.take(aggregate)])
        except IntegrityError:
            pass  # another process has taken it
        except Exception as error:  # noqa: BLE001  # the next one may be luckier
            what = "aggregate %r goes without a snapshot at version %r"
            log(logging.WARNING, what, aggregate.id, aggregate.version, error=error)
