"""What a registry tells its listeners: who was registered, and how and why it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pykka

__all__ = ["EndReason", "Registered", "Terminated"]


class EndReason(enum.Enum):
    """Why an incarnation ended."""

    STOPPED = "stopped"
    """It was asked to stop, by itself or from outside."""

    FAILED = "failed"
    """A `tell` raised, or any handler raised a `BaseException` that is no `Exception`."""

    START_FAILED = "start failed"
    """Its constructor or its `on_start` raised, or its thread could not be started."""

    DRAINED = "drained"
    """Its registry was stopped."""

    ABANDONED = "abandoned"
    """It did not end in time. Its thread goes on and keeps the key until it ends."""

    UNREGISTERED = "unregistered"
    """A foreign actor's registration was taken back; the actor itself goes on."""

    UNKNOWN = "unknown"
    """A foreign actor was found dead; only its own code knows why."""


@dataclass(frozen=True, slots=True)
class Registered:
    """An actor has become active: `get(key)` finds it."""

    key: Any
    incarnation: int
    """The incarnation's number, from one counter of the registry."""
    ref: pykka.ActorRef[Any]


@dataclass(frozen=True, slots=True)
class Terminated:
    """An incarnation has ended, as each does exactly once.

    One that failed to start has no `Registered` before its `Terminated`.
    """

    key: Any
    incarnation: int
    reason: EndReason
    cause: BaseException | None = field(default=None, compare=False)
    """The exception that ended it, if one did."""
