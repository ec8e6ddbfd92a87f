"""The errors of this package: each says what the store holds, or that nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsourcing.domain import EventSourcingError
from eventsourcing.persistence import IntegrityError, OperationalError, PersistenceError

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["AggregateExists", "CommandIdReused", "ConcurrencyError", "Fenced", "OutcomeUnknown"]


# No IntegrityError, after which people load again and retry, and no OperationalError, after which
# the library's PostgreSQL recorder does: there is nothing that trying again would change.
class Fenced(PersistenceError):  # noqa: N818  # named by the state, as `Timeout` is
    """The owner has been replaced, so the store has refused the save; nothing of it was stored."""

    owner: str
    """The name that was claimed."""

    epoch: int
    """The epoch that the save carried."""

    current: int | None
    """The epoch in the store, or `None` if nobody has ever claimed that name there."""

    def __init__(self, owner: str, epoch: int, current: int | None) -> None:
        super().__init__(owner, epoch, current)
        self.owner = owner
        self.epoch = epoch
        self.current = current

    def __str__(self) -> str:
        if self.current is None:
            return (
                f"nobody has claimed {self.owner!r} in this store; "
                "a fence is good only for the store that it was claimed from"
            )
        return (
            f"{self.owner!r} at epoch {self.epoch} has been replaced: the store is at epoch "
            f"{self.current}; drop what you hold of it, it may have changed since"
        )


class OutcomeUnknown(OperationalError):  # noqa: N818
    """Nobody can say whether the events were stored; read the store to find out.

    With group commit: the first attempt to store them, together with those of other callers, ended
    in a way that tells nothing, and the second, alone, was refused because there are events at
    these versions: they are these very events, or those of a rival who came between.

    From a live aggregate: the store has failed while it stored, and again when it was asked what it
    has. A command that had a command id can be sent again: it is done once, whatever has happened.
    """

    def __str__(self) -> str:
        return (
            "whether the events were stored is unknown: an attempt broke off; read what the store "
            "has at their versions, or send the command again, if it had a command id"
        )


class AggregateExists(EventSourcingError):  # noqa: N818
    """There is an aggregate of this id, so it cannot be created; nothing was stored."""

    aggregate_id: UUID | str
    """The id."""

    def __init__(self, aggregate_id: UUID | str) -> None:
        super().__init__(aggregate_id)
        self.aggregate_id = aggregate_id

    def __str__(self) -> str:
        return (
            f"aggregate {self.aggregate_id!r} exists already; to create it only if it does not, "
            "use get_or_create() or a ref's or_create()"
        )


class ConcurrencyError(IntegrityError):
    """The aggregate has changed in a way that the command cannot follow; nothing was stored.

    Either it is not of the version that the caller expects, or other processes were faster as often
    as the command may be decided again.
    """

    aggregate_id: UUID | str
    """The aggregate's id."""

    expected: int | None
    """The version that the caller expected, if that is what was wrong."""

    found: int | None
    """The version that it has instead."""

    attempts: int
    """How often the command was decided."""

    def __init__(
        self,
        aggregate_id: UUID | str,
        *,
        expected: int | None = None,
        found: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(aggregate_id, expected, found, attempts)
        self.aggregate_id = aggregate_id
        self.expected = expected
        self.found = found
        self.attempts = attempts

    def __str__(self) -> str:
        if self.expected is not None:
            return (
                f"aggregate {self.aggregate_id!r} is at version {self.found}, and the caller "
                f"expects {self.expected}; look at it again"
            )
        return (
            f"aggregate {self.aggregate_id!r} was changed by other processes each time that the "
            f"command was decided, {self.attempts} times; try again later"
        )


class CommandIdReused(EventSourcingError):  # noqa: N818
    """The command id belongs to another command, which has its receipt; nothing was stored."""

    command_id: str
    """The id."""

    command: str
    """The name of the command that it belongs to."""

    def __init__(self, command_id: str, command: str) -> None:
        super().__init__(command_id, command)
        self.command_id = command_id
        self.command = command

    def __str__(self) -> str:
        return (
            f"command id {self.command_id!r} was used before, for {self.command} or with other "
            "arguments; each command needs an id of its own"
        )
