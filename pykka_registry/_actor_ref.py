"""The ref of one incarnation: Pykka's `ActorRef`, which asks a pooled actor without a detour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry._turns import Held

if TYPE_CHECKING:
    from pykka_registry._life import Life

__all__ = ["IncarnationRef"]


class IncarnationRef(pykka.ActorRef[Any]):
    """What `get` and `start` return. Dies with its incarnation.

    It has nothing of its own but the life that it belongs to: there may be a million of them.
    """

    __slots__ = ("_life",)

    def __init__(self, life: Life) -> None:
        # Pykka's own constructor is left out: what it sets is read from the life.
        self._life = life

    def __getattr__(self, name: str) -> Any:
        """Return what Pykka's own ref of this actor has by this name, and remember it."""
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._life.describe(name)
        self.__dict__[name] = value
        return value

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """See `pykka.ActorRef.ask`. Without a timeout the calling thread may run the handler."""
        if not block or timeout is not None:
            return super().ask(message, block=block, timeout=timeout)
        life = self._life
        if life.claim():
            return life.here(life.receive, message)
        with Held() as held:
            future = super().ask(message, block=False)
        held.help(future)
        return future.get()
