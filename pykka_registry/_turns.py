"""Turns: how an actor runs without a thread of its own.

Somebody puts something into its inbox, and it is *due*: it has been handed to a pool. A thread of
the pool claims the turn and handles what there is, up to a bounded number of messages; then the
actor goes to the back, or, if there is nothing left, is parked and occupies no thread. At most one
thread runs a turn of an actor at a time: who has claimed it, from the inbox, under its lock. That
lock is also what makes the memory of one turn visible to the next.

Waiting is helping: a thread that waits, without a timeout, for what an actor is due to do claims
the turn and runs it itself. So there is no switch between threads, and a chain of actors that ask
each other uses up no pool. If it must not help (see `_waits.may_help`) and runs an actor itself,
and nobody has begun the turn for a while, a spare thread does.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from pykka_registry import _waits
from pykka_registry._events import EndReason
from pykka_registry._inbox import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry._future import Future
    from pykka_registry._inbox import Inbox, Mail, Nothing

__all__ = ["WIDTH", "Due", "Held", "Turns", "in_pool", "in_spare_thread"]

WIDTH = 32
"""How many threads the shared pool has at most."""

BATCH = 64
"""How many messages a turn handles at most before others get theirs."""


class _Shared:
    """The shared pool: made when it is first wanted, and once more in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.executor: concurrent.futures.Executor | None = None

    def get(self) -> concurrent.futures.Executor:
        if self.executor is None:
            with self.lock:
                if self.executor is None:
                    self.executor = concurrent.futures.ThreadPoolExecutor(
                        WIDTH, thread_name_prefix="pykka-registry-pool"
                    )
        return self.executor

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]  # as new


_shared = _Shared()

if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_shared.forget)


def in_pool(
    executor: concurrent.futures.Executor | None, function: Callable[..., object], *args: Any
) -> None:
    """Have it run by the executor, or by the shared pool if that is `None`.

    If it was or will be shut down, or has no thread to give, a spare thread does it.
    """
    try:
        if executor is None:
            _shared.get().submit(function, *args)
            return
        task = executor.submit(function, *args)
    except RuntimeError:
        in_spare_thread(function, *args)
        return

    def look_whether_it_was_cancelled(task: concurrent.futures.Future[object]) -> None:
        if task.cancelled():
            in_spare_thread(function, *args)

    task.add_done_callback(look_whether_it_was_cancelled)


def in_spare_thread(function: Callable[..., object], *args: Any) -> None:
    """Have it run by a thread of its own, or here if none is to be had."""
    try:
        threading.Thread(target=function, args=args, name="pykka-registry-spare").start()
    except RuntimeError:
        function(*args)


class Due(Protocol):
    """Something that is to be run soon, by a thread that waits for it or by a pool."""

    def help(self, until: Future[Any], /) -> bool:
        """Run it here until there is a result, if nobody does and that may be."""
        ...

    def is_part_of(self, target: object, /) -> bool:
        """Tell whether who waits for the target waits for this."""
        ...

    def submit(self) -> None:
        """Hand it to its pool."""
        ...


class Held:
    """Keeps what the calling thread makes due, for as long as it has not said what it waits for.

    It is used for a few lines that run no user code.
    """

    __slots__ = ("_before", "_due")

    def __enter__(self) -> Self:
        self._due: list[Due] = []
        self._before, _waits.mine.held = _waits.mine.held, self._due
        return self

    def __exit__(self, exc_type: object, *_exc_info: object) -> None:
        _waits.mine.held = self._before
        if exc_type is not None:
            self.help(None)

    def help(self, until: Future[Any] | None) -> None:
        """Run what brings this result about, if that may be; the pool gets what is left."""
        target = None if until is None else until.target
        mine: Due | None = None
        while self._due:
            due = self._due[-1]
            # Others that were made due, such as one that is to make room, are no business of ours.
            if mine is None and target is not None and due.is_part_of(target):
                mine = due
            else:
                due.submit()
            self._due.pop()
        if mine is not None and until is not None and not mine.help(until):
            mine.submit()


class Turns:
    """Something that is run in turns. What it does in one, and how it ends, its subclass knows.

    Its fields are its runner's: touched only by the thread that has claimed the turn.
    """

    if not TYPE_CHECKING:  # pragma: no branch  # a checker would miss the subclasses' slots
        __slots__ = ()

    inbox: Inbox
    context: contextvars.Context | None
    """The context variables of all its turns, once one has set any."""
    interrupt: BaseException | None
    """What has interrupted a thread that helped; it is raised there when the turn is over."""
    is_helped: bool
    """Whether the present turn is run by a thread that waits for it."""
    handled: BaseException | None
    """What that thread is handling: it is none of the actor's business."""

    @property
    def runs(self) -> _waits.Runs:
        """What is marked as run by the thread that runs it."""
        raise NotImplementedError

    @property
    def executor(self) -> concurrent.futures.Executor | None:
        """Who runs its turns; `None` for the shared pool."""
        raise NotImplementedError

    @property
    def helping(self) -> bool:
        """Whether a thread that waits for it may run it."""
        raise NotImplementedError

    def start_up(self) -> EndReason | None:
        """Do what comes before the first message, if that has not been done; why it ends, if so."""
        raise NotImplementedError

    def step(self, envelope: Mail | None) -> EndReason | None:
        """Handle a message, or see why there is none though it was woken; why it ends, if so."""
        raise NotImplementedError

    def crash(self, error: BaseException, envelope: Mail | None) -> None:
        """End it because its thread was interrupted outside of its code, with this in hand."""
        raise NotImplementedError

    def note_answer(self, error: Exception) -> None:
        """Take note that an asker gets this exception."""
        raise NotImplementedError

    def end_with(self, error: BaseException, envelope: Mail | None) -> Exception:
        """End it because a handler raised SystemExit or its like; returns what its asker gets."""
        raise NotImplementedError

    def has_died(self) -> bool:
        """Tell whether it has begun to end, in a turn."""
        raise NotImplementedError

    def finish(self, reason: EndReason) -> None:
        """Do what comes after its last turn; nobody runs it any more."""
        raise NotImplementedError

    # Who calls what follows has not claimed it.

    def wake(self) -> None:
        """Hand it to the pool, for it is due, or to the calling thread if that is about to wait."""
        held = _waits.mine.held
        if held is None:
            self.submit()
        else:
            held.append(self)

    def submit(self) -> None:
        """Hand it to the pool."""
        in_pool(self.executor, self.run)

    def is_part_of(self, target: object) -> bool:
        """Tell whether who waits for the target waits for this."""
        return self.runs.is_part_of(target)

    def run(self) -> None:
        """Take a turn, unless another thread has; in the pool."""
        if self.inbox.claim_due():
            self.turn(None)

    def help(self, until: Future[Any]) -> bool:
        """Take a turn until there is a result, if it is due and that may be; tells whether so."""
        depth = len(_waits.mine.running)
        try:
            if not (self.helping and _waits.may_help() and self.inbox.claim_due()):
                return False
            self.turn(until)
        except BaseException:
            self.recover(depth)
            raise
        return True

    def recover(self, depth: int) -> None:
        """Give up a claim that an interrupt, or the end of the stack, has left behind.

        Args:
            depth: How many actors the thread was running before it claimed this one.

        """
        running = _waits.mine.running
        del running[depth:]
        runs = self.runs
        if self.inbox.is_claimed_here() and runs not in running:
            runs.runner = None
            self.give_up(EndReason.FAILED if self.has_died() else None)

    def rescue(self) -> None:
        """Have a spare thread take the turn that it is due."""
        if self.inbox.claim_due():
            in_spare_thread(self.turn, None)

    # Who calls what follows has claimed it.

    def turn(self, until: Future[Any] | None) -> None:
        """Handle what there is, up to a bounded number of messages or until there is a result.

        Raises:
            KeyboardInterrupt: If one has landed in a thread that helps.

        """
        self.is_helped = until is not None
        self.handled = sys.exception() if self.is_helped else None
        mine = _waits.mine
        context = self._enter_context(mine)
        runs = self.runs
        runs.runner = threading.get_ident()
        mine.running.append(runs)
        reason: EndReason | None = EndReason.FAILED  # an exception has crashed it
        try:
            reason = context.run(self._work, until)
        finally:
            # Before it is given up: the next who claims it writes the same.
            mine.running.pop()
            runs.runner = None
            self._leave_context(context, mine)
            self.give_up(reason)

    def _enter_context(self, mine: _waits.Mine) -> contextvars.Context:
        context = self.context or mine.spare_context or contextvars.Context()
        mine.spare_context = None
        return context

    def _leave_context(self, context: contextvars.Context, mine: _waits.Mine) -> None:
        """Keep what has something in it. Most never have: the thread's next turn takes those."""
        if context:
            self.context = context
        else:
            self.context = None
            mine.spare_context = context

    def here(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Have a function handle a message for which the calling thread waits.

        Returns its answer, or raises its exception.
        """
        self.is_helped = True
        self.handled = sys.exception()
        mine = _waits.mine
        context = self._enter_context(mine)
        runs = self.runs
        runs.runner = threading.get_ident()
        mine.running.append(runs)
        reason: EndReason | None = None
        try:
            return context.run(function, *args)
        except Exception as error:
            self.note_answer(error)
            raise
        except BaseException as error:
            reason = EndReason.FAILED
            raise context.run(self.end_with, error, None) from error
        finally:
            mine.running.pop()
            runs.runner = None
            self._leave_context(context, mine)
            self.give_up(reason)

    def give_up(self, reason: EndReason | None) -> None:
        """Let others have it: it is parked, or due, or at its end."""
        self.handled = None
        if reason is not None:
            interrupt = self.interrupt
            self.finish(reason)
            if interrupt is not None:
                raise interrupt
        elif self.inbox.leave(self):
            self.wake()

    def _work(self, until: Future[Any] | None) -> EndReason | None:
        envelope: Mail | Nothing | None = None
        take, step = self.inbox.take, self.step
        try:
            reason = self.start_up()
            if reason is not None:
                return reason
            for _ in range(BATCH):
                if until is not None and until.done():
                    break
                envelope = take()
                if envelope is NOTHING:
                    break
                reason = step(envelope)
                if reason is not None:
                    return reason
                envelope = None
        except BaseException as error:
            self.crash(error, None if envelope is NOTHING else envelope)
            raise
        return None
