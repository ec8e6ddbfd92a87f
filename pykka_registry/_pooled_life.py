"""The life of an incarnation that has no thread of its own; see `_turns`."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._events import EndReason
from pykka_registry._inbox import fail, is_stop
from pykka_registry._life import Life, Tail
from pykka_registry._pool import are_threads_wanting, in_pool, in_spare_thread, rescue
from pykka_registry._turns import Turns

if TYPE_CHECKING:
    import concurrent.futures
    import contextvars
    from _thread import LockType

    from pykka_registry._entry import Incarnation
    from pykka_registry._future import Future
    from pykka_registry._inbox import Mail
    from pykka_registry._pooled import PooledActor

__all__ = ["PooledLife", "begin", "come_to_the_rescue", "submit"]

_LOCKS: list[LockType] = []


def _make_locks() -> None:
    """Make the locks, and others in a forked child, where a lost thread may hold one."""
    _LOCKS[:] = [threading.Lock() for _ in range(64)]


_make_locks()
if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_make_locks)


class PooledLife(Life, Turns):
    """A life that is lived in turns.

    Pykka's registry does not know it: to have it there would cost time for each of them.
    `pykka.ActorRegistry.stop_all` ends it through its own registry.
    """

    __slots__ = ("broken", "context", "has_started", "interrupt", "is_helped")

    def __init__(self, incarnation: Incarnation | None) -> None:
        super().__init__(incarnation)
        self.context: contextvars.Context | None = None
        self.interrupt: BaseException | None = None
        self.is_helped = False
        self.has_started = False
        self.broken: tuple[BaseException | None, Mail | None] | None = None

    # Being run: by those who wait for it, too, as a life with a thread of its own is not.

    here = cast("Any", Turns.here)
    help = cast("Any", Turns.help)
    rescue = cast("Any", Turns.rescue)
    recover = cast("Any", Turns.recover)

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

    def start_up(self) -> EndReason | None:
        """Construct the actor and start it; the result is why it ends, if it does."""
        return self.start()

    def crash(self, error: BaseException, envelope: Mail | None) -> None:
        """End it because its thread was interrupted outside of its code, with this in hand."""
        incarnation = self.incarnation
        assert incarnation is not None
        ending = self.begin_to_end()
        if ending.cause is None:
            ending.cause = error
        if envelope is not None and is_stop(envelope.message):
            self._note_stop(envelope)
        elif envelope is not None:
            if envelope.reply_to is None and not _had_begun(error):
                incarnation.entry.table.bury(incarnation.entry.key, envelope.message, error)
            fail(envelope, self.undeliverable("was interrupted"))
        if self.actor is not None and not self.is_set():
            self.fail(error)

    def has_ended(self) -> bool:
        """Tell whether nothing is left to run, but for `finish`, which was cut short."""
        return self.is_over

    def finish(self, reason: EndReason) -> None:
        """Free the key, and let go of the actor."""
        if reason is EndReason.STOPPED and self.cause is not None:
            reason = EndReason.FAILED  # the turn in which it failed was cut short
        self.set()
        if not self.inbox.empty():
            # An interrupt has put back what was being taken when another thread had closed it.
            self.end()
        super().finish(reason)
        self.context = None

    def claim(self) -> bool:
        """Begin a turn in this thread, if nobody runs it, nothing waits for it, and it may be."""
        incarnation = self.incarnation
        assert incarnation is not None
        return (
            incarnation.asked is None
            and incarnation.entry.table.refusal is None
            and class_of(incarnation).helping
            and _waits.may_help()
            and self.inbox.claim_idle()
        )

    def give_up(self, reason: EndReason | None) -> None:
        """Let others have it: it is parked, or due, or at its end."""
        incarnation = self.incarnation
        assert incarnation is not None
        if incarnation.asked is not None and reason is None:
            incarnation.entry.table.decline(incarnation)
        super().give_up(reason)

    # What the runtime decides.

    def inbox_lock(self) -> LockType:
        """Return the lock of its inbox, which is held for moments, and shared with others."""
        return _LOCKS[self.runs.number % len(_LOCKS)]

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


def _had_begun(error: BaseException) -> bool:
    """Tell whether a handler had begun when this broke a turn off: by where `step` was then."""
    traceback = error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if frame.f_code is Life.step.__code__:
            # The exception that a handler raised is no variable any more.
            callee = None if traceback is None else traceback.tb_frame.f_code
            return "reply" in frame.f_locals or callee is Life._handle_exception.__code__
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
    depth = len(_waits.mine.running)
    try:
        life.inbox.begin()
        if not incarnation.entry.table.begin(incarnation, life):
            return False
        life.turn(until)
    except BaseException:
        if incarnation.life is life and incarnation.begun:
            life.recover(depth)
        raise
    return True


def submit(incarnation: Incarnation) -> None:
    """Have the pool take the first turn of an incarnation, unless it was told already."""
    if incarnation.submitted:
        return
    try:
        incarnation.submitted = True
        in_pool(executor_of(incarnation), _begin_in_pool, incarnation)
    except BaseException:
        incarnation.submitted = False
        raise


def _begin_in_pool(incarnation: Incarnation) -> None:
    incarnation.submitted = False
    begin(incarnation)


def come_to_the_rescue(incarnation: Incarnation) -> None:
    """Have an incarnation begun for a thread that waits; see `Turns.rescue`."""
    if _waits.runs_here():
        rescue(partial(begin, incarnation))
    elif are_threads_wanting():
        begin(incarnation)
