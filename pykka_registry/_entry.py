"""What a table is made of: rows, the incarnations in them, and who waits for them.

Everything here is written under the lock of the table that it belongs to, but for `runner`; see
`_waits`.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._alarms import Owner
from pykka_registry._future import Future
from pykka_registry._inbox import Letter
from pykka_registry._sieve import Node

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from pykka_registry._aggregate import AggregateMixin
    from pykka_registry._events import DeadLetterReason, EndReason
    from pykka_registry._inbox import Inbox
    from pykka_registry._life import Life
    from pykka_registry._table import Table

__all__ = ["AFTER", "Blueprint", "Entry", "Incarnation", "Ref", "StartRequest", "State"]

Ref = pykka.ActorRef[Any]


class State(enum.Enum):
    """What a key is doing."""

    ABSENT = "absent"
    """It has no entry in the table: nothing is left of it there."""

    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"


# Which state may follow which.
AFTER: Mapping[State, frozenset[State]] = {
    State.ABSENT: frozenset({State.STARTING, State.BACKOFF}),
    State.STARTING: frozenset(
        {State.ACTIVE, State.STARTING, State.BACKOFF, State.QUARANTINED, State.ABSENT}
    ),
    State.ACTIVE: frozenset({State.STOPPING, State.QUARANTINED}),
    State.STOPPING: frozenset({State.STARTING, State.BACKOFF, State.QUARANTINED, State.ABSENT}),
    State.BACKOFF: frozenset({State.STARTING, State.ABSENT}),
    State.QUARANTINED: frozenset({State.ABSENT}),
}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an incarnation is built from."""

    aggregate_class: type[AggregateMixin]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Incarnation(_waits.Runs, Node):
    """One actor instance of a key, from the moment that it is due to the last line of teardown."""

    entry: Entry
    blueprint: Blueprint
    idle: float | None
    """After how many seconds without a message it is to be passivated."""
    own_word: bool = False
    """It has said so itself."""
    number: int = 0
    """Given when it is launched."""
    due_by: float = 0.0
    """Until when it waits for a place, in seconds of `time.monotonic`."""
    launched: bool = False
    """It has a place, and a thread or the promise of one."""
    begun: bool = False
    """Its thread has taken over."""
    ending: bool = False
    """Its stop flag is about to be set, so it becomes active no more."""
    life: Life | None = None
    """There once it has begun."""
    asked: EndReason | None = None
    """It was found idle and asked to go for this reason, and has not answered yet."""
    quiet: bool = False
    """It has nothing to do in a registry that drains; see `Table.close`."""
    runner: int | None = None
    """The thread that runs its code; see `_waits`."""

    @property
    def inbox(self) -> Inbox:
        """Its inbox, once it has begun."""
        assert self.life is not None
        return self.life.inbox

    def key_of(self) -> tuple[Hashable, ...]:
        """Return the key."""
        return (self.entry.key,)


@dataclass(slots=True, eq=False)
class Entry(Owner):
    """One key's row. Compared by identity, so that a late end never removes a successor's."""

    key: Hashable
    table: Table
    incarnation: Incarnation | None = None
    """None while BACKOFF, and while QUARANTINED for its failures."""
    state: State = State.ABSENT
    ref: Ref | None = None
    """The ref of the present incarnation, from the end of its `on_start` on."""
    requests: list[StartRequest] = field(default_factory=list["StartRequest"])
    """Who waits for an actor: this one while STARTING, the next one while STOPPING or BACKOFF."""
    queue: deque[Letter] = field(default_factory=deque[Letter])
    """Letters for the same actor, in the order in which it shall get them."""
    left_over: int = 0
    """How many letters, at the front, a former incarnation has left over."""
    expired: int = 0
    """How many of them nobody waits for any longer; they do not count."""
    given_up: tuple[DeadLetterReason, Exception] | None = None
    """It is being taken out, and this is what becomes of its letters."""
    restarts: bool = False
    """It is activated again even if nobody waits for it."""
    cause: BaseException | None = None
    """Why it rests or is quarantined."""
    alarm: float | None = None

    # Being waited for, by letters and requests: for whoever runs the key now.

    def key_of(self) -> tuple[Hashable, ...]:
        """Return the key."""
        return (self.key,)

    def runners(self) -> Sequence[int]:
        """Return the thread that runs the key's incarnation, if one does."""
        incarnation = self.incarnation
        return () if incarnation is None else incarnation.runners()

    def holders(self) -> Sequence[int] | None:
        """Return the threads of those who hold the places that the key waits for, if it does."""
        incarnation = self.incarnation
        admission = self.table.admission
        if incarnation is None:  # it rests, and will then wait for a place if there is none
            waits = self.state is State.BACKOFF and admission.is_full
        else:
            waits = not incarnation.launched
        return admission.holders() if waits else None

    def urge(self, wait: _waits.Wait) -> None:
        """Let the key not stand in line for the width if an aggregate waits for it.

        It may hold the width itself. A key that is active may come to its end before it answers,
        and is looked at again then.
        """
        if any(isinstance(runs, Incarnation) for runs in _waits.runs_here()):
            wait.urgent = True
            if self.state is not State.ACTIVE:
                self.table.hurry(self)

    def was_withdrawn(self, wait: _waits.Wait) -> None:
        """See whether anybody still waits."""
        self.table.check_wanted(self, cast("Future[Any]", wait))


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
