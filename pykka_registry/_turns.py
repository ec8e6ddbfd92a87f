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
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from pykka_registry import _waits
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

    def help(self, until: Future[Any]) -> bool:
        """Run it here until there is a result, if nobody does and that may be."""
        ...

    def submit(self) -> None:
        """Hand it to its pool."""
        ...


class Held:
    """Keeps what the calling thread makes due, for as long as it has not said what it waits for.

    It is used for a few lines that run no user code.
    """

    __slots__ = ("_due",)

    def __enter__(self) -> Self:
        self._due: list[Due] = []
        _waits.mine.held = self._due
        return self

    def __exit__(self, exc_type: object, *_exc_info: object) -> None:
        _waits.mine.held = None
        if exc_type is not None:
            self.help(None)

    def help(self, until: Future[Any] | None) -> None:
        """Run what brings this result about, if that may be; the pool gets what is left."""
        while self._due:
            due = self._due.pop()
            if until is None or self._due or not due.help(until):
                due.submit()


class Turns:
    """Something that is run in turns. What it does in one, and how it ends, its subclass knows.

    Its fields are its runner's: touched only by the thread that has claimed the turn.
    """

    __slots__ = ()

    inbox: Inbox
    context: contextvars.Context | None
    """The context variables of all its turns, once there has been one."""
    interrupt: BaseException | None
    """What has interrupted a thread that helped; it is raised there when the turn is over."""
    is_helped: bool
    """Whether the present turn is run by a thread that waits for it."""

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

    def start_up(self) -> bool:
        """Do what comes before the first message, if that has not been done; true if it ends."""
        raise NotImplementedError

    def handle(self, envelope: Mail | None) -> bool:
        """Handle a message, or see why there is none though it was woken; true if it ends."""
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

    def close_down(self) -> None:
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

    def run(self) -> None:
        """Take a turn, unless another thread has; in the pool."""
        if self.inbox.claim_due():
            self.turn(None)

    def help(self, until: Future[Any]) -> bool:
        """Take a turn until there is a result, if it is due and that may be; tells whether so."""
        if not (self.helping and _waits.may_help() and self.inbox.claim_due()):
            return False
        self.turn(until)
        return True

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
        if self.context is None:
            self.context = contextvars.Context()
        running = _waits.mine.running
        runs = self.runs
        runs.runner = threading.get_ident()
        running.append(runs)
        is_over = True  # an exception has crashed it
        try:
            is_over = self.context.run(self._work, until)
        finally:
            # Before it is given up: the next who claims it writes the same.
            running.pop()
            runs.runner = None
            self.give_up(is_over=is_over)

    def here(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Have a function handle a message for which the calling thread waits.

        Returns its answer, or raises its exception.
        """
        self.is_helped = True
        if self.context is None:
            self.context = contextvars.Context()
        running = _waits.mine.running
        runs = self.runs
        runs.runner = threading.get_ident()
        running.append(runs)
        is_over = False
        try:
            return self.context.run(function, *args)
        except Exception as error:
            self.note_answer(error)
            raise
        except BaseException as error:
            is_over = True
            raise self.context.run(self.end_with, error, None) from error
        finally:
            running.pop()
            runs.runner = None
            self.give_up(is_over=is_over)

    def give_up(self, *, is_over: bool) -> None:
        """Let others have it: it is parked, or due, or at its end."""
        if is_over:
            interrupt = self.interrupt
            self.close_down()
            if interrupt is not None:
                raise interrupt
        elif self.inbox.leave(self.wake):
            self.wake()

    def _work(self, until: Future[Any] | None) -> bool:
        envelope: Mail | Nothing | None = None
        take = self.inbox.take
        try:
            if self.start_up():
                return True
            for _ in range(BATCH):
                if until is not None and until.done():
                    break
                envelope = take()
                if envelope is NOTHING:
                    break
                if self.handle(envelope):
                    return True
                envelope = None
        except BaseException as error:
            self.crash(error, None if envelope is NOTHING else envelope)
            raise
        return False
