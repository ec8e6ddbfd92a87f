"""What a table is made of: rows, the incarnations in them, and who waits for them.

Everything here is written under the lock of the table that it belongs to, but for `runner`; see
`_waits`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._alarms import Owner
from pykka_registry._checks import check_method
from pykka_registry._future import Future
from pykka_registry._sieve import Node

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Hashable, Mapping, Sequence

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._aggregate import AggregateMixin
    from pykka_registry._events import DeadLetterReason, EndReason
    from pykka_registry._inbox import Inbox, Letter
    from pykka_registry._life import Life
    from pykka_registry._table import Table

__all__ = ["AFTER", "Blueprint", "Entry", "Incarnation", "Ref", "StartRequest", "State"]

Ref = pykka.ActorRef[Any]

_MOST_NAMES = 1_000
"""A bound for those who make functions to call methods with."""


class State(enum.Enum):
    """What a key is doing."""

    __hash__ = object.__hash__  # an enum's own hashes its name, in Python

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
    _names: dict[Any, str] = field(default_factory=dict[Any, str], compare=False, repr=False)
    """The methods that have been asked for, and the names to send. Only added to."""

    def name_of(self, method: Any) -> str:
        """Return the name of a method of the class; raise `TypeError` if it has no such method."""
        try:
            return self._names[method]
        except (KeyError, TypeError):
            name = check_method(method, self.aggregate_class)
        if isinstance(method, FunctionType) and len(self._names) < _MOST_NAMES:
            self._names[method] = name
        return name


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
    """Until when it waits for a place, or may take to start, in seconds of `time.monotonic`."""
    launched: bool = False
    """It has a place, and a thread or the promise of one."""
    begun: bool = False
    """Its thread has taken over."""
    submitted: bool = False
    """A pool was told to begin it, and has not come to it. Written by who launches it, and by the
    pool, without the lock: if two meet, the pool has one task too many."""
    ending: bool = False
    """Its stop flag is about to be set, so it becomes active no more."""
    life: Life | None = None
    """There once it has begun."""
    asked: EndReason | None = None
    """It was found idle and asked to go for this reason, and has not answered yet."""
    quiet: bool = False
    """It has nothing to do in a registry that drains; see `Table.close`."""
    has_place: bool = False
    """It counts as live; see `Admission`."""
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

    def is_part_of(self, target: object) -> bool:
        """Tell whether who waits for the target waits for this: for it, its key or its registry."""
        return target is self or target is self.entry or target is self.entry.table

    def help(self, until: Future[Any]) -> bool:
        """Run it in this thread until there is a result, if nobody does and that may be."""
        life = self.life
        if life is not None:
            return life.help(until)
        return (
            self.launched
            and not self.begun
            and self.blueprint.aggregate_class._pykka_registry_help(self, until)
        )

    def rescue(self) -> None:
        """Have a spare thread run it, if nobody does."""
        life = self.life
        if life is not None:
            life.rescue()
        elif self.launched and not self.begun:
            self.blueprint.aggregate_class._pykka_registry_rescue(self)

    def submit(self) -> None:
        """Hand it to its runtime, to be begun."""
        self.entry.table.launch(self)

    wake = submit

    def wake_if_due(self) -> None:
        """Do so if it is to begin, and has not."""
        if self.launched and not self.begun:
            self.submit()


@dataclass(slots=True, eq=False)
class Entry(Owner):
    """One key's row. Compared by identity, so that a late end never removes a successor's."""

    key: Hashable
    table: Table
    incarnation: Incarnation | None = None
    """None while BACKOFF, and while QUARANTINED for its failures."""
    state: State = State.ABSENT
    ref: IncarnationRef | None = None
    """The ref of the present incarnation, from the end of its `on_start` on."""
    requests: list[StartRequest] | tuple[()] = ()
    """Who waits for an actor: this one while STARTING, the next one while STOPPING or BACKOFF."""
    queue: deque[Letter] | tuple[()] = ()
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

    @property
    def yields_to_timeouts(self) -> bool:
        """False: a cycle of aggregates is refused whatever the timeout."""
        return False

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
        return self.table.place_holders() if waits else None

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

    def help(self, until: Future[Any]) -> bool:
        """Run the key's incarnation in this thread, if nobody does and that may be."""
        incarnation = self.incarnation
        return incarnation is not None and incarnation.help(until)

    def rescue(self) -> None:
        """Have a spare thread run the key's incarnation, if nobody does."""
        incarnation = self.incarnation
        if incarnation is not None:
            incarnation.rescue()


@dataclass(slots=True, eq=False)
class StartRequest:
    """Somebody's wish for a live actor under a key, and the future of its outcome."""

    key: Hashable
    blueprint: Blueprint
    exclusive: bool
    """Only a new actor will do (`start_new`), not one that is there (`get_or_start`)."""
    future: Future[Ref] = field(default_factory=lambda: Future())  # noqa: PLW0108  # typed so
    entry: Entry | None = None
    """Where it waits."""
