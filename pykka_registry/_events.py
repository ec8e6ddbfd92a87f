"""What a registry tells of its aggregates: beginnings, ends, letters that came to nothing, sums."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pykka

__all__ = ["DeadLetter", "DeadLetterReason", "EndReason", "Registered", "Stats", "Terminated"]


class EndReason(enum.Enum):
    """Why an incarnation ended."""

    __hash__ = object.__hash__  # an enum's own hashes its name, in Python

    STOPPED = "stopped"
    """It was asked to stop, by itself or from outside."""

    IDLE = "passivated: idle"
    """It had no message for the registry's `idle` seconds."""

    OWN_WORD = "passivated: own word"
    """It had said `self.passivate()`, and was idle for as long as it had said."""

    EVICTED = "passivated: evicted"
    """It was the coldest idle one when another needed its place under the `max_live` ceiling."""

    FAILED = "failed"
    """A `tell` raised, or any handler raised a `BaseException` that is no `Exception`."""

    START_FAILED = "start failed"
    """Its constructor or its `on_start` raised."""

    DRAINED = "drained"
    """Its registry was stopped."""

    ABANDONED = "abandoned"
    """It did not end in time. Its thread goes on and keeps the key until it ends."""

    UNREGISTERED = "unregistered"
    """A foreign actor's registration was taken back; the actor itself goes on."""

    UNKNOWN = "unknown"
    """A foreign actor was found dead; only its own code knows why."""

    @property
    def is_passivation(self) -> bool:
        """Whether it was passivated: the next message activates its key again."""
        return self in {EndReason.IDLE, EndReason.OWN_WORD, EndReason.EVICTED}


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


class DeadLetterReason(enum.Enum):
    """Why a message that was told, and accepted, was not handled."""

    __hash__ = object.__hash__  # as above

    ENDED = "ended"
    """It was left over when an incarnation ended, and nobody could take it over: it was sent
    through a plain ref, or its registry has no class to build a successor from."""

    STOPPED = "stopped"
    """Its key was resting after a failure when somebody stopped it."""

    QUARANTINED = "quarantined"
    """Its key was quarantined."""

    OVERLOADED = "overloaded"
    """Its key got no place under the ceiling in time."""

    ABANDONED = "abandoned"
    """It waited for an incarnation that did not start or end in time."""

    REGISTRY_STOPPED = "registry stopped"
    """The registry stopped before its key could be activated."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was told, and that nobody will handle."""

    key: Any
    message: Any
    reason: DeadLetterReason
    cause: BaseException | None = field(default=None, compare=False)
    """The failure behind it, if there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a registry has to do at one moment, and what it has done since it was started."""

    active: int
    """Aggregates that look-ups find."""
    live: int
    """Aggregates that hold a place: starting, active, stopping or abandoned."""
    waiting: int
    """Keys that wait for their turn to start."""
    starting: int
    stopping: int
    backoff: int
    """Keys that rest after a failure and are to start again."""
    quarantined: int
    queued: int
    """Messages that wait for their keys to become active."""
    activations: int
    ends: Mapping[EndReason, int]
    declined: int
    """Passivations that did not happen because a message came."""
    redelivered: int
    """Messages that one incarnation left over and another got."""
    expired: int
    """Messages whose askers gave up before a handler had begun."""
    dead_letters: Mapping[DeadLetterReason, int]
