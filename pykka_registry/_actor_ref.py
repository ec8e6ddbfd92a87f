"""The ref of one incarnation: Pykka's `ActorRef`, which asks a pooled actor without a detour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pykka
from pykka._envelope import Envelope

from pykka_registry._future import Future
from pykka_registry._turns import send_and_help
from pykka_registry._waits import mine

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
        if name.startswith("__") or name == "_life":
            raise AttributeError(name)
        value = self._life.describe(name)
        self.__dict__[name] = value
        return value

    def tell(self, message: Any) -> None:
        """See `pykka.ActorRef.tell`."""
        life = self._life
        if life._is_set or not life.inbox.accept(Envelope(message)):
            super().tell(message)  # which says why not

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """See `pykka.ActorRef.ask`. Without a timeout the calling thread may run the handler."""
        if not block:
            return self._send(message)
        if timeout is not None:
            return self._send(message).get(timeout=timeout)
        life = self._life
        depth = len(mine.running)
        try:
            if life.claim():
                return life.here(life.receive, message)
        except BaseException:
            life.recover(depth)
            raise
        return send_and_help(self._send, message).get()

    def _send(self, message: Any) -> Future[Any]:
        life = self._life
        if not life._is_set:  # else in a forked child a lost thread may hold its inbox's lock
            future: Future[Any] = Future()
            future.sent_to(life.inbox.owner)
            if life.inbox.accept(Envelope(message, future)):
                return future
        return cast("Future[Any]", super().ask(message, block=False))  # which says why not
