"""The errors of this package: each says what the store holds, or that nobody knows."""

from __future__ import annotations

from eventsourcing.persistence import OperationalError, PersistenceError

__all__ = ["Fenced", "OutcomeUnknown"]


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

    The first attempt to store them, together with those of other callers, ended in a way that tells
    nothing. The second, alone, was refused because there are events at these versions: they are
    these very events, or those of a rival who came between.
    """

    def __str__(self) -> str:
        return (
            "whether the events were stored is unknown: an attempt broke off, and now there are "
            "events at their versions; read those to see whose they are"
        )
