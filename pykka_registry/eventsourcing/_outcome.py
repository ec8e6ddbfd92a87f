"""What the store knows about a save that did not end as it should."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventsourcing.domain import DomainEventProtocol
    from eventsourcing.persistence import EventStore, StoredEvent

__all__ = ["Outcome", "look_up"]


class Outcome(Enum):
    """Whose events are stored at the versions of a save."""

    OURS = auto()
    """The very events of the save."""

    ANOTHERS = auto()
    """Other events; so those of the save are not stored, and never will be."""

    NOBODYS = auto()
    """None."""


def look_up(store: EventStore[Any], events: Iterable[DomainEventProtocol[Any]]) -> Outcome:
    """Find out what became of a save.

    What is compared is what is stored, its timestamps with it. An encrypted state is decrypted
    first, for it is another one each time.
    """
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
            return Outcome.ANOTHERS
    # All of a save are stored, or none: some of them are what others have stored like it.
    return outcomes.pop() if len(outcomes) == 1 else Outcome.ANOTHERS


def _is_same(store: EventStore[Any], ours: StoredEvent, theirs: StoredEvent) -> bool:
    if ours.topic != theirs.topic:
        return False
    cipher = store.mapper.cipher
    if cipher is None:
        return ours.state == theirs.state
    return cipher.decrypt(ours.state) == cipher.decrypt(theirs.state)
