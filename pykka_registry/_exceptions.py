"""The errors of the registry: each is named by the state it found and carries the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry._log import name

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

__all__ = [
    "KeyAlreadyRegistered",
    "Overloaded",
    "OverloadedTimeout",
    "Quarantined",
    "RegistryError",
    "RegistryStopped",
    "Undeliverable",
    "WaitCycle",
]

# The texts are worded in `__str__`, not in `__init__`: an error may be created while a lock is
# held, and a key's `__repr__` is user code.


class RegistryError(Exception):
    """Base class of every error that the registry itself raises."""


class KeyAlreadyRegistered(RegistryError):  # noqa: N818  # named by the state, as `Timeout` is
    """The key has a live owner, so nothing was constructed and nothing was registered."""

    key: Any
    """The key that was asked for."""

    ref: pykka.ActorRef[Any] | None
    """The owner's ref, or `None` while the owner is still being constructed."""

    def __init__(self, key: Hashable, ref: pykka.ActorRef[Any] | None) -> None:
        super().__init__(key, ref)
        self.key = key
        self.ref = ref

    def __str__(self) -> str:
        owner = "an actor that is starting" if self.ref is None else str(self.ref)
        return (
            f"key {name(self.key)} is taken by {owner}; "
            "stop that one first, or have it with get_or_start(), which takes whoever is there"
        )


class Overloaded(RegistryError):  # noqa: N818
    """The registry has more to do than it may; what was asked for was not begun, so try later.

    If it was the caller's own timeout that ended the wait, it is a `pykka.Timeout`, too.
    """

    key: Any
    """The key that was asked for."""

    why: str
    """What there is too much of, in words."""

    def __init__(self, key: Hashable, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"key {name(self.key)} cannot be activated now: {self.why}{_because(self)}"


class OverloadedTimeout(Overloaded, pykka.Timeout):
    """What `Overloaded` is when the caller's own timeout has ended the wait."""


class Quarantined(RegistryError):  # noqa: N818
    """The key is closed: its incarnations failed too often, or one did not end in time.

    `__cause__` is the last failure.
    """

    key: Any
    """The key that was asked for."""

    is_abandoned: bool
    """An incarnation that was abandoned holds the key: its thread still runs."""

    def __init__(self, key: Hashable, *, is_abandoned: bool) -> None:
        super().__init__(key, is_abandoned)
        self.key = key
        self.is_abandoned = is_abandoned

    def __str__(self) -> str:
        if self.is_abandoned:
            why = (
                "an incarnation that did not end in time still runs; "
                "the key is free again when that incarnation's thread ends"
            )
        else:
            why = (
                "its incarnations failed too often; once the cause is mended, "
                "registry.release(key) opens it"
            )
        return f"key {name(self.key)} is quarantined: {why}{_because(self)}"


class RegistryStopped(RegistryError):  # noqa: N818
    """The registry is stopping or has stopped, or this process is a fork of the one it lives in."""


class WaitCycle(RegistryError):  # noqa: N818
    """Waiting here would never end: what is waited for already waits for the one that asks."""

    keys: tuple[Any, ...]
    """The keys along the cycle, beginning with the one that was to be waited for."""

    def __init__(self, keys: Sequence[Hashable]) -> None:
        super().__init__(tuple(keys))
        self.keys = tuple(keys)

    def __str__(self) -> str:
        chain = ", which waits for ".join(name(key) for key in self.keys)
        return (
            f"waiting for {chain}, would never end: the one that waits is waited for in turn; "
            "do not wait: tell() instead of ask(), self.stop() or stop(block=False) instead of "
            "stop(), and nothing that waits for one's own key"
        )


class Undeliverable(RegistryError, pykka.ActorDeadError):  # noqa: N818
    """The message was not handled, or its handler ended without an answer; `__cause__` says why."""

    key: Any
    """The key of the aggregate that the message was for."""

    why: str
    """What became of the aggregate, in words."""

    def __init__(self, key: Hashable, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"aggregate {name(self.key)} {self.why}{_because(self)}"


def _because(error: RegistryError) -> str:
    """Return the cause in words, for who prints the error and not its chain."""
    return "" if error.__cause__ is None else f"; the cause: {name(error.__cause__)}"
