"""How an owner gets its fence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsourcing.persistence import ProgrammingError

from pykka_registry.eventsourcing._exceptions import Fenced
from pykka_registry.eventsourcing._fence import Fence, FencedRecorder
from pykka_registry.eventsourcing._group_commit import GroupCommitRecorder

if TYPE_CHECKING:
    from eventsourcing.persistence import ApplicationRecorder

__all__ = ["claim"]

_NO_EPOCH = 0  # the first claim of a name gives it epoch 1


def claim(recorder: ApplicationRecorder, owner: str) -> Fence:
    """Become the owner of a name, and replace whoever has been.

    When it returns, no save that carries an earlier fence of that name can be stored any more, and
    all those that were can be read: load now, and you have seen the last of your predecessor. A
    save of the predecessor that is under way is waited for, or it is refused. The claim is durable
    and atomic; of two at the same time one is the later. If it fails with an error of the store,
    claim again: an epoch that nobody has is no harm.

    The fence guards what carries it: give it to each save. Saves without one, snapshots, and
    programs that write to the store by other ways are not held up by it.

    Args:
        recorder: `application.recorder`, of the application whose saves are to carry the fence.
        owner: the name; one name has one owner in one store, that is, in one table of events.

    Returns:
        The fence: `application.save(aggregate, fence=fence)`.

    Raises:
        TypeError: if the recorder cannot check a fence.
        eventsourcing.persistence.ProgrammingError: if it does not, as its settings or its class
            are.
    """
    store = recorder.wrapped if isinstance(recorder, GroupCommitRecorder) else recorder
    if not isinstance(store, FencedRecorder):
        message = (
            f"{type(store).__qualname__} cannot check a fence: set PERSISTENCE_MODULE to "
            "pykka_registry.eventsourcing.sqlite, .postgres or .popo, and derive a recorder class "
            "of your own from one there"
        )
        raise TypeError(message)
    fence = Fence(owner, store.raise_epoch(owner))
    # A fence that nobody checks looks like one that holds. So this way to the store is tried with
    # a stale one, and whatever keeps it from being checked shows now and not after the damage.
    try:
        recorder.insert_events([], fence=Fence(owner, _NO_EPOCH))
    except Fenced:
        return fence
    message = (
        f"{type(store).__qualname__} has let a stale fence pass: a class of yours overrides "
        "insert_events() or _insert_events() without calling super()'s with the keyword arguments"
    )
    raise ProgrammingError(message)
