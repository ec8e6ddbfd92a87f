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

import contextvars
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pykka_registry import _waits
from pykka_registry._events import EndReason
from pykka_registry._inbox import NOTHING, Wakeable, forgotten
from pykka_registry._pool import are_threads_wanting, go_on, in_pool, rescue

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from pykka_registry._future import Future
    from pykka_registry._inbox import Inbox, Mail, Nothing

__all__ = ["Due", "Turns", "remember", "send_and_help"]

T = TypeVar("T")

BATCH = 64
"""How many messages a turn handles at most before others get theirs."""

MANY = 256
"""If more messages than that wait, a thread that would help first lets one of the pool come, which
handles them in fewer turns. That gives way to all other threads, too, so it must be worth it."""


if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=forgotten.clear)


def remember() -> None:
    """See that those are run who may have been forgotten, and what had no thread; now and then.

    By threads of the pool and registries' own. They run none of it themselves, with one exception:
    if the main thread has ended and no thread is to be had, which some versions of Python (3.12.0
    to 3.12.2) refuse by then. Nobody else ever would run it.
    """
    go_on()
    for one in list(forgotten):
        forgotten.pop(one, None)
        one.wake_if_due()
    if forgotten and not threading.main_thread().is_alive():
        for turns in [one for one in forgotten if isinstance(one, Turns)]:
            forgotten.pop(turns, None)
            turns.take_turn()


class Due(Wakeable, Protocol):
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


def send_and_help(send: Callable[..., Future[T]], /, *args: Any, helps: bool = True) -> Future[T]:
    """Send something whose outcome the calling thread is about to wait for; help, if that may be.

    What is made due meanwhile is kept back from the pool for these few lines, which run no user
    code. What brings the outcome about is run here. Others, such as one that is to make room, are
    no business of ours: the pool gets them.
    """
    mine = _waits.mine
    before, due = mine.held, list[Due]()
    try:
        mine.held = due
        future = send(*args)
        mine.held = before
        target = future.target if helps else None
        ours: Due | None = None
        while due:
            one = due[-1]
            if ours is None and target is not None and one.is_part_of(target):
                ours = one
            else:
                one.submit()
            due.pop()
        if ours is not None:
            due.append(ours)
            if ours.help(future):
                due.clear()
            else:
                ours.submit()
    except BaseException:
        mine.held = before
        for one in due:
            forgotten[one] = None
        for one in due:
            one.wake_if_due()
        raise
    return future


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
    has_started: bool
    """Its first turn has begun."""
    broken: tuple[BaseException | None, Mail | None] | None
    """That its last turn was cut short: by what, if that was in the actor's hands, and the message
    that it had in hand then."""

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
        """Do what comes before the first message; why it ends, if so."""
        raise NotImplementedError

    def step(self, envelope: Mail | None) -> EndReason | None:
        """Handle a message, or see why there is none though it was woken; why it ends, if so."""
        raise NotImplementedError

    def crash(self, error: BaseException, envelope: Mail | None) -> None:
        """End it because its thread was interrupted outside of its code, with this in hand.

        It may be done once more, if it was cut short itself.
        """
        raise NotImplementedError

    def note_answer(self, error: Exception) -> None:
        """Take note that an asker gets this exception."""
        raise NotImplementedError

    def end_with(self, error: BaseException, envelope: Mail | None) -> Exception:
        """End it because a handler raised SystemExit or its like; returns what its asker gets."""
        raise NotImplementedError

    def has_ended(self) -> bool:
        """Tell whether nothing is left to run, but for `finish`, which was cut short."""
        raise NotImplementedError

    def finish(self, reason: EndReason) -> None:
        """Do what comes after its last turn; nobody runs it any more.

        It may be done once more, if it was cut short itself.
        """
        raise NotImplementedError

    # Who calls what follows has not claimed it.

    def wake(self) -> None:
        """Hand it to the pool, for it is due, or to the calling thread if that is about to wait."""
        held = _waits.mine.held
        if held is None:
            self.submit()
        else:
            held.append(self)

    def wake_if_due(self) -> None:
        """Hand it to the pool if it is due and nobody was told."""
        if self.inbox.is_forgotten():
            self.submit()

    def submit(self) -> None:
        """Hand it to the pool, unless it is there already."""
        try:
            if self.inbox.submit():
                in_pool(self.executor, self.run)
        except BaseException as error:
            forgotten[self] = None
            self.inbox.arrive()
            if not isinstance(error, RuntimeError) or isinstance(error, RecursionError):
                raise

    def is_part_of(self, target: object) -> bool:
        """Tell whether who waits for the target waits for this."""
        return self.runs.is_part_of(target)

    def run(self) -> None:
        """Take a turn, unless another thread has; in the pool."""
        self.inbox.arrive()
        self.take_turn()
        if forgotten:
            remember()

    def take_turn(self, until: Future[Any] | None = None) -> bool:
        """Take a turn, if it is due; tells whether it was."""
        depth = len(_waits.mine.running)
        try:
            if not self.inbox.claim_due():
                return False
            self.turn(until)
        except BaseException:
            self.recover(depth)
            raise
        return True

    def help(self, until: Future[Any]) -> bool:
        """Take a turn until there is a result, if it is due and that may be; tells whether so."""
        if not (self.helping and _waits.may_help() and _waits.has_room()):
            return False
        if self.inbox.count() > MANY:
            time.sleep(0)  # for the pool's thread, if it has come: it has them done in fewer turns
        return self.take_turn(until)

    def recover(self, depth: int) -> None:
        """Let others take a turn that an interrupt, or the end of the stack, has cut short.

        What it was about to do when it was over, the next turn does.

        Args:
            depth: How many actors the thread was running before it claimed this one.

        """
        forgotten[self] = None
        running = _waits.mine.running
        del running[depth:]
        runs = self.runs
        if runs not in running and self.inbox.is_claimed_here():
            runs.runner = self.interrupt = None
            self.broken = self.broken or (None, None)
            self.inbox.take_back(self)
        self.wake_if_due()
        forgotten.pop(self, None)

    def rescue(self) -> None:
        """Have it run for a thread that waits, and may be all that keeps it from being run."""
        if not self.inbox.is_due():
            return
        if _waits.runs_here():
            rescue(self.take_turn)
        else:
            self.wake_if_due()
            if are_threads_wanting():
                self.take_turn()

    # Who calls what follows has claimed it, and recovers it after an exception.

    def turn(self, until: Future[Any] | None) -> None:
        """Handle what there is, up to a bounded number of messages or until there is a result.

        Raises:
            KeyboardInterrupt: If one has landed in a thread that helps.

        """
        self.is_helped = until is not None
        mine = _waits.mine
        context = self._enter_context(mine)
        runs = self.runs
        runs.runner = threading.get_ident()
        running = mine.running
        running.append(runs)
        try:
            reason = context.run(self._work, until)
        except RecursionError:
            raise  # what is left to do is done where there is more room
        except BaseException:
            if self.broken is not None and self.broken[0] is not None:
                self._end_turn(context, running, EndReason.FAILED)
            raise
        self._end_turn(context, running, reason)

    def _end_turn(
        self, context: contextvars.Context, running: list[_waits.Runs], reason: EndReason | None
    ) -> None:
        # Before it is given up: the next who claims it writes the same.
        running.pop()
        self.runs.runner = None
        self._leave_context(context, _waits.mine)
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
        mine = _waits.mine
        context = self._enter_context(mine)
        runs = self.runs
        runs.runner = threading.get_ident()
        running = mine.running
        running.append(runs)
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
            running.pop()
            runs.runner = None
            self._leave_context(context, mine)
            self.give_up(reason)

    def give_up(self, reason: EndReason | None) -> None:
        """Let others have it: it is parked, or due, or at its end."""
        if reason is not None:
            self.finish(reason)
            interrupt, self.broken = self.interrupt, None
            self.inbox.let_go()
            if interrupt is not None:
                raise interrupt
        elif self.inbox.leave(self):
            self.wake()

    def _work(self, until: Future[Any] | None) -> EndReason | None:  # noqa: C901  # a call costs time
        envelope: Mail | Nothing | None = None
        take, step = self.inbox.take, self.step
        try:
            if self.broken is not None:
                error, envelope = self.broken
                if error is not None:
                    self.crash(error, envelope)
                    return EndReason.FAILED
                self.broken = None
                if self.has_ended():
                    return EndReason.STOPPED
            if not self.has_started:
                self.has_started = True
                reason = self.start_up()
                if reason is not None:
                    return reason
            for _ in range(BATCH):
                if until is not None and until.done():
                    break
                envelope = take()
                if envelope is NOTHING:
                    break
                reason, envelope = step(envelope), None  # in one: it is not in hand any longer
                if reason is not None:
                    return reason
        except BaseException as error:
            in_hand = None if envelope is NOTHING else envelope
            self.broken = error, in_hand
            if not isinstance(error, RecursionError):
                self.crash(error, in_hand)
            raise
        return None
