"""The library's store in memory, with group commit and fences.

    PERSISTENCE_MODULE=pykka_registry.eventsourcing.popo

in place of `eventsourcing.popo`. There is no transaction to share in memory, so this is for tests
of programs that have another store in production.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from eventsourcing import popo

from pykka_registry.eventsourcing import _fence
from pykka_registry.eventsourcing._settings import with_group_commit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsourcing.persistence import ApplicationRecorder, ProcessRecorder, StoredEvent

__all__ = ["Factory", "FencedPOPOApplicationRecorder", "FencedPOPOProcessRecorder"]


class FencedPOPOApplicationRecorder(popo.POPOApplicationRecorder, _fence.FencedRecorder):
    """The library's recorder in memory, which checks `fence=`.

    A fence holds among the users of this very object: nobody else can reach what it stores.
    """

    # `_epochs` is used under `_fence_lock` alone, and a save with a fence holds that to its end: so
    # it is stored before a claim or checked after it. Saves without one never take it.

    def __init__(self) -> None:
        super().__init__()
        self._fence_lock = threading.Lock()
        self._epochs: dict[str, int] = {}

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Store events, all or none, unless a `fence=` among the arguments is stale.

        Raises:
            Fenced: if one is.
            eventsourcing.persistence.IntegrityError: if there are events at these versions already.
        """
        fences = _fence.fences_in(kwargs)
        if not fences:
            return super().insert_events(stored_events, **kwargs)
        with self._fence_lock:
            _fence.check(fences, self._epochs)
            return super().insert_events(stored_events, **kwargs)

    def raise_epoch(self, owner: str) -> int:
        """Raise the epoch of a name by one and return it; `claim` is what you want."""
        with self._fence_lock:
            epoch = self._epochs[owner] = self._epochs.get(owner, 0) + 1
            return epoch


class FencedPOPOProcessRecorder(FencedPOPOApplicationRecorder, popo.POPOProcessRecorder):
    """The same for process applications; tracking is stored with the events or not at all."""


class Factory(popo.POPOFactory):
    """Makes the recorders that this module is about; the library finds it by its setting."""

    def application_recorder(self) -> ApplicationRecorder:
        """Return the recorder of an application, with group commit as the settings say."""
        return with_group_commit(FencedPOPOApplicationRecorder(), self.env)

    def process_recorder(self) -> ProcessRecorder:
        """Return the recorder of a process application, with group commit as the settings say."""
        return with_group_commit(FencedPOPOProcessRecorder(), self.env)
