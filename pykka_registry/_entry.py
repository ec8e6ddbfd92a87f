"""What a table is made of: rows, the incarnations in them, and who waits for them.

Everything here is written under the lock of the table that it belongs to, but for `runner`; see
`_waits`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry import _waits
from pykka_registry._future import Future

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from pykka_registry._aggregate import AggregateMixin
    from pykka_registry._table import Table

__all__ = ["AFTER", "Blueprint", "Entry", "Foreign", "Incarnation", "Ref", "StartRequest", "State"]

Ref = pykka.ActorRef[Any]


class State(enum.Enum):
    """What a key that has an entry is doing. A key without an entry is absent."""

    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    QUARANTINED = "quarantined"


# Which state may follow which. An entry is made STARTING; it is removed from STARTING, STOPPING or
# QUARANTINED.
AFTER: Mapping[State, frozenset[State]] = {
    State.STARTING: frozenset({State.ACTIVE, State.QUARANTINED}),
    State.ACTIVE: frozenset({State.STOPPING, State.QUARANTINED}),
    State.STOPPING: frozenset({State.STARTING, State.QUARANTINED}),
    State.QUARANTINED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an incarnation is built from."""

    aggregate_class: type[AggregateMixin]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Incarnation(_waits.Runs):
    """One actor instance of a key, from the claim of the key to the last line of teardown."""

    entry: Entry
    number: int
    blueprint: Blueprint
    begun: bool = False
    """Its thread has taken over; until then whoever launches it may abort it."""
    ending: bool = False
    """Its stop flag is about to be set, so it becomes active no more."""
    runner: int | None = None
    """The thread that runs its code; see `_waits`."""

    def key_of(self) -> tuple[Hashable, ...]:
        """Return the key."""
        return (self.entry.key,)


@dataclass(slots=True, eq=False)
class Entry:
    """One key's row. Compared by identity, so that a late end never removes a successor's."""

    key: Hashable
    table: Table
    incarnation: Incarnation | None = None
    state: State = State.STARTING
    ref: Ref | None = None
    """The ref of the present incarnation, from the end of its `on_start` on."""
    requests: list[StartRequest] = field(default_factory=list["StartRequest"])
    """Who waits: for this activation while STARTING, to be the successor while STOPPING."""


@dataclass(slots=True, eq=False)
class Foreign:
    """The row of a foreign actor, whose life is its own: it counts for as long as it is alive."""

    ref: Ref
    number: int

    def is_alive(self) -> bool:
        """Tell what `ActorRef.is_alive` tells, without calling a user's override of it."""
        return not self.ref.actor_stopped.is_set()


@dataclass(slots=True, eq=False)
class StartRequest:
    """Somebody's wish for a live actor under a key, and the future of its outcome."""

    key: Hashable
    blueprint: Blueprint
    exclusive: bool
    """Only a new actor will do (`start_new`), not one that is there (`get_or_start`)."""
    future: Future[Ref] = field(default_factory=Future[Ref])
    entry: Entry | None = None
    """Where it waits."""
