"""What a fence is: the proof of ownership that a save carries and the store checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from eventsourcing.persistence import ApplicationRecorder

from pykka_registry.eventsourcing._exceptions import Fenced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FENCE", "Fence", "FencedRecorder", "check", "fences_in"]

FENCE = "fence"
"""The keyword argument that carries a fence: `application.save(aggregate, fence=fence)`."""


@dataclass(frozen=True, slots=True)
class Fence:
    """An owner's name and the epoch of its claim; give it to each save as `fence=`.

    Get one from `claim`. It is a plain value: it can be kept, compared, pickled and sent.
    """

    owner: str
    """What is owned, in the owner's words: a shard, a role, an aggregate."""

    epoch: int
    """How often that name had been claimed in its store, this claim included."""


class FencedRecorder(ApplicationRecorder, ABC):
    """A recorder that checks the fences of a save in the transaction that stores its events."""

    @abstractmethod
    def raise_epoch(self, owner: str) -> int:
        """Raise the epoch of a name by one, durably, and return it; `claim` is what you want.

        When it returns, everything that was stored under an earlier epoch can be read, and nothing
        more will be stored under one.
        """


def fences_in(kwargs: Mapping[str, Any]) -> tuple[Fence, ...]:
    """Return the fences among the keyword arguments of a save.

    Raises:
        TypeError: if there is something else in their place.
    """
    given: object = kwargs.get(FENCE)
    if given is None:
        return ()
    several = cast("tuple[object, ...]", given) if isinstance(given, tuple) else (given,)
    fences = tuple(fence for fence in several if isinstance(fence, Fence))
    if len(fences) < len(several):
        message = f"{FENCE}= takes what claim() has returned, or a tuple of these, not {given!r}"
        raise TypeError(message)
    return fences


def check(fences: Iterable[Fence], epochs: Mapping[str, int]) -> None:
    """Raise `Fenced` for the first fence that is not of the current epoch."""
    for fence in fences:
        current = epochs.get(fence.owner)
        if current != fence.epoch:
            raise Fenced(fence.owner, fence.epoch, current)
