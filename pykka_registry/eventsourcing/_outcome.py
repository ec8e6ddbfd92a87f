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
    found: list[bool | None] = []
    for event in events:
        ours = store.mapper.to_stored_event(event)
        version = ours.originator_version
        stored = store.recorder.select_events(ours.originator_id, gt=version - 1, lte=version)
        found.extend(_is_same(store, ours, theirs) for theirs in stored)
        if not stored:
            found.append(None)
    if all(found):
        return Outcome.OURS
    if any(same is not None for same in found):
        return Outcome.ANOTHERS
    return Outcome.NOBODYS


def _is_same(store: EventStore[Any], ours: StoredEvent, theirs: StoredEvent) -> bool:
    if ours.topic != theirs.topic:
        return False
    cipher = store.mapper.cipher
    if cipher is None:
        return ours.state == theirs.state
    return cipher.decrypt(ours.state) == cipher.decrypt(theirs.state)
