"""The life of an incarnation that has no thread of its own; see `_turns`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry import _waits
from pykka_registry._events import EndReason
from pykka_registry._inbox import fail
from pykka_registry._life import Life, Tail
from pykka_registry._turns import Turns, in_pool, in_spare_thread

if TYPE_CHECKING:
    import concurrent.futures
    import contextvars

    from pykka_registry._entry import Incarnation
    from pykka_registry._exceptions import Undeliverable
    from pykka_registry._future import Future
    from pykka_registry._inbox import Mail
    from pykka_registry._pooled import PooledActor

__all__ = ["PooledLife", "begin", "submit"]


class PooledLife(Life, Turns):
    """A life that is lived in turns.

    Pykka's registry does not know it: to have it there would cost time for each of them.
    `pykka.ActorRegistry.stop_all` ends it through its own registry.
    """

    __slots__ = ("_reason", "_started", "context", "interrupt", "is_helped")

    def __init__(self, incarnation: Incarnation | None) -> None:
        super().__init__(incarnation)
        self.context: contextvars.Context | None = None
        self.interrupt: BaseException | None = None
        self.is_helped = False
        self._started = False
        self._reason: EndReason | None = None

    # Being run: by those who wait for it, too, as a life with a thread of its own is not.

    here = Turns.here
    help = Turns.help
    rescue = Turns.rescue

    @property
    def runs(self) -> Incarnation:
        """What is marked as run by the thread that runs it."""
        assert self.incarnation is not None
        return self.incarnation

    @property
    def executor(self) -> concurrent.futures.Executor | None:
        """Who runs its turns."""
        return executor_of(self.runs)

    @property
    def helping(self) -> bool:
        """Whether a thread that waits for it may run it."""
        return class_of(self.runs).helping

    def start_up(self) -> bool:
        """Construct the actor and start it, in its first turn; true if it ends."""
        if not self._started:
            self._started = True
            self._reason = self.start()
        return self._reason is not None

    def handle(self, envelope: Mail | None) -> bool:
        """Handle a message, or look up because of a nudge; true if it ends."""
        self._reason = self.step(envelope)
        return self._reason is not None

    def crash(self, error: BaseException, envelope: Mail | None) -> None:
        """End it because its thread was interrupted outside of its code, with this in hand."""
        self.interrupt = error
        if envelope is not None:
            fail(envelope, self.undeliverable("was interrupted"))
        if self._reason is None:
            self._reason = EndReason.FAILED
            self.fail(error)

    def close_down(self) -> None:
        """Free the key, and let go of the actor."""
        self.finish(self._reason or EndReason.FAILED)
        self.context = None

    def claim(self) -> bool:
        """Begin a turn in this thread, if nobody runs it, nothing waits for it, and it may be."""
        incarnation = self.incarnation
        assert incarnation is not None
        return (
            incarnation.asked is None
            and incarnation.entry.table.refusal is None
            and self.helping
            and _waits.may_help()
            and self.inbox.claim_idle()
        )

    def give_up(self, *, is_over: bool) -> None:
        """Let others have it: it is parked, or due, or at its end."""
        incarnation = self.incarnation
        assert incarnation is not None
        if incarnation.asked is not None and not is_over:
            incarnation.entry.table.decline(incarnation)
        super().give_up(is_over=is_over)

    def end_with(self, error: BaseException, envelope: Mail | None) -> Undeliverable:
        """End it because a handler raised SystemExit or its like; returns what its asker gets."""
        self._reason = EndReason.FAILED
        return super().end_with(error, envelope)

    # What the runtime decides.

    def leaving(self) -> Tail:
        """Return what a shutdown joins: the thread goes on."""
        return Tail()

    def show(self) -> None:
        """Do nothing."""

    def hide(self) -> None:
        """Do nothing."""

    def stop_all(self) -> None:
        """Stop all actors, in a thread that none of them waits for."""
        in_spare_thread(pykka.ActorRegistry.stop_all)

    def note_interrupt(self, error: BaseException) -> bool:
        """Tell whether this is a Ctrl-C that has landed in a thread that helps."""
        if self.is_helped and isinstance(error, KeyboardInterrupt):
            self.interrupt = error
            return True
        return False


def class_of(incarnation: Incarnation) -> type[PooledActor]:
    """Return the incarnation's class, which is a pooled actor's."""
    cls: Any = incarnation.blueprint.aggregate_class
    return cls  # type: ignore[no-any-return]


def executor_of(incarnation: Incarnation) -> concurrent.futures.Executor | None:
    """Return who runs the incarnation's turns: the registry decides, else its class."""
    return incarnation.entry.table.policy.executor or class_of(incarnation).executor


def begin(incarnation: Incarnation, until: Future[Any] | None = None) -> bool:
    """Take the first turn of an incarnation, unless another thread has; tells whether so."""
    life = PooledLife(incarnation)
    if not incarnation.entry.table.begin(incarnation, life):
        return False
    life.turn(until)
    return True


def submit(incarnation: Incarnation) -> None:
    """Have the pool take the first turn of an incarnation."""
    in_pool(executor_of(incarnation), begin, incarnation)
