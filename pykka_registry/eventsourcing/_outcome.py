"""What the store knows about a save that did not end as it should."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from eventsourcing.application import Application
from eventsourcing.persistence import EventStore

from pykka_registry.eventsourcing._group_commit import GroupCommitRecorder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventsourcing.domain import DomainEventProtocol
    from eventsourcing.persistence import StoredEvent

__all__ = ["Outcome", "comes_from", "inserts_once", "look_up", "may_store_later", "saves_plainly"]

_INSERT_ONCE = frozenset(
    {
        "eventsourcing.popo",
        "eventsourcing.sqlite",
        "pykka_registry.eventsourcing.popo",
        "pykka_registry.eventsourcing.sqlite",
        GroupCommitRecorder.__module__,
    }
)
"""Modules whose recorders hand a save to their store once."""
_MAY_STORE_LATER = "eventsourcing.postgres"
"""The module of the factory whose store may commit what its recorder has given up."""


class Outcome(Enum):
    """Whose events are stored at the versions of a save."""

    OURS = auto()
    """The very events of the save."""

    ANOTHERS = auto()
    """Other events; so those of the save are not stored, and never will be."""

    NOBODYS = auto()
    """None."""


def saves_plainly(app: Application[Any]) -> bool:
    """Tell whether nobody but the library looks at what is saved."""
    return type(app).save is Application[Any].save and "save" not in vars(app)


def inserts_once(app: Application[Any]) -> bool:
    """Tell whether a save is handed to the store once, so that it never meets its own events.

    Nobody knows that of a class that others have written: it may try again, as the library's
    recorder for PostgreSQL does.
    """
    return saves_plainly(app) and all(
        type(recorder).__module__ in _INSERT_ONCE for recorder in _recorders(app)
    )


def comes_from(error: Exception, store: EventStore[Any]) -> bool:
    """Tell whether a store has raised an error, and not what an application does after a save."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is EventStore[Any].put.__code__ and frame.f_locals["self"] is store:
            return True
        traceback = traceback.tb_next
    return False


def may_store_later(app: Application[Any]) -> bool:
    """Tell whether events that are not there may be, soon after a save has failed.

    The commit may have come to a server that the connection to was lost; and the library's recorder
    tries again, so that its last error does not say what became of the first try.
    """
    # By the factory: whatever wraps its recorder, and however, the store is the same.
    return any(cls.__module__ == _MAY_STORE_LATER for cls in type(app.factory).__mro__)


def _recorders(app: Application[Any]) -> list[object]:
    """Return the recorder of an application, and what it wraps."""
    recorders: list[object] = [app.events.recorder]
    while isinstance(recorders[-1], GroupCommitRecorder):
        recorders.append(recorders[-1].wrapped)
    return recorders


def look_up(store: EventStore[Any], events: Iterable[DomainEventProtocol[Any]]) -> Outcome:
    """Find out what became of a save.

    What is compared is what is stored, its timestamps with it. An encrypted state is decrypted
    first, for it is another one each time.
    """
    outcomes = _look(store, events)
    if outcomes == {Outcome.OURS, Outcome.NOBODYS}:
        # They may have been stored between two of the looks, by a commit that was on its way.
        outcomes = _look(store, events)
    # All of a save are stored, or none: some of them are what others have stored like it.
    return outcomes.pop() if len(outcomes) == 1 else Outcome.ANOTHERS


def _look(store: EventStore[Any], events: Iterable[DomainEventProtocol[Any]]) -> set[Outcome]:
    outcomes: set[Outcome] = set()
    for event in events:
        ours = store.mapper.to_stored_event(event)
        version = ours.originator_version
        stored = store.recorder.select_events(ours.originator_id, gt=version - 1, lte=version)
        if not stored:
            outcomes.add(Outcome.NOBODYS)
        elif all(_is_same(store, ours, theirs) for theirs in stored):
            outcomes.add(Outcome.OURS)
        else:
            return {Outcome.ANOTHERS}
    return outcomes


def _is_same(store: EventStore[Any], ours: StoredEvent, theirs: StoredEvent) -> bool:
    if ours.topic != theirs.topic:
        return False
    cipher = store.mapper.cipher
    if cipher is None:
        return ours.state == theirs.state
    return cipher.decrypt(ours.state) == cipher.decrypt(theirs.state)
