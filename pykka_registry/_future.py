"""A light Pykka future: it knows whom it waits for, can be awaited, and withdrawn until it begins.

Nothing is made for those who wait until somebody does. Who waits without a timeout helps: if what
is to bring the result about is run in turns, and nobody runs it, the waiting thread does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pykka

from pykka_registry import _waits
from pykka_registry._checks import check_timeout
from pykka_registry._exceptions import Overloaded, WaitCycle
from pykka_registry._log import log, name

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from pykka._future import GetHookFunc

    ExcInfo: TypeAlias = tuple[
        type[BaseException] | None, BaseException | None, TracebackType | None
    ]

__all__ = ["Future"]

T = TypeVar("T")

_STARVED = 0.05
"""Seconds after which a thread that runs an actor, and waits for one that nobody has begun to run,
has a spare thread run that: the pool's threads may all be waiting like this one. It looks again and
again. So does any thread while the interpreter ends, and no pool takes anything."""

_FORGOTTEN = 1.0
"""Seconds after which any other thread sees that the pool was told: an interrupt may have come
before that."""


class Future(pykka.Future[T]):
    """All of Pykka's future, plus a target, so that a wait that could never end is refused.

    `_lock` guards every field but `target`, `patience` and `_sender`, which are set before anybody
    waits. `_done` turns true last and stays so, `_hook` is set once; both may be read without the
    lock. No hook and no callback runs under it.
    """

    __slots__ = (
        "_begun",
        "_done",
        "_exc_info",
        "_hook",
        "_lock",
        "_sender",
        "_value",
        "_waiters",
        "patience",
        "queued",
        "target",
        "urgent",
    )

    def __init__(self) -> None:
        # Pykka's own constructor is left out: its two fields are for its `get`.
        self.target: _waits.Waited | None = None
        """What has to run for there to be a result."""
        self.patience: float | None = None
        """Seconds that `get` waits at most if it is not told."""
        self.urgent = False
        """A thread that runs an aggregate blocks on it, or has done so."""
        self.queued = False
        """Its message counts as one that waits for a key; written under the lock of the key's
        table."""
        self._sender: object = None
        """The thread that sent the message that this is the reply to."""
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], object]] | None = None
        """What is called once there is a result or a hook."""
        self._begun = False
        self._done = False
        self._value: Any = None
        self._exc_info: ExcInfo | None = None
        self._hook: _Hook | None = None

    def sent_to(self, target: _waits.Waited | None) -> None:
        """Note that the calling thread sends a message to `target`, whose reply this is."""
        self.target = target
        self._sender = _waits.this_thread()

    def done(self) -> bool:
        """Tell whether there is a value, an exception or a get hook, so that nobody need wait."""
        return self._done or self._hook is not None

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the value, or raise the exception, waiting for it if need be.

        Without a timeout the calling thread may run the pooled actor that it waits for.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Raises:
            pykka.Timeout: After `timeout` seconds.
            WaitCycle: If the calling thread runs an aggregate that the answer depends on. If the
                thread is the one that sent the message, the message will not be handled.
            Overloaded: If the answer needs one more aggregate live than may be, and all that are
                wait for such a place. As for the message, the same holds.

        """
        if timeout is not None:
            check_timeout(timeout)
        if not self._done:
            if timeout is None:
                timeout = self.patience
            deadline = None if timeout is None else time.monotonic() + timeout
            if self._hook is None:
                self._obtain(deadline, timeout)
            if self._hook is not None:
                return self._hook.get(deadline, timeout)
        if self._exc_info is None:
            return self._value
        exc_type, exc_value, traceback = self._exc_info
        try:
            if exc_value is None:
                assert exc_type is not None
                exc_value = exc_type()
            raise exc_value.with_traceback(traceback)
        finally:
            # The exception's traceback will hold this frame; the frame must not hold the exception.
            del self, exc_value, traceback

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in an asyncio event loop, which goes on meanwhile.

        A future that has a get hook, as `map` and its like return it, runs that in one of the
        loop's own worker threads, for it may block.

        Raises:
            WaitCycle: If the loop runs in an actor's handler, and the answer depends on that actor.

        """
        if not self._done:
            loop = asyncio.get_running_loop()
            if self._hook is None:
                try:
                    with _waits.awaiting(self):
                        yield from self._arrival(loop)
                except WaitCycle as error:
                    self._take_back(error)
                    raise
            if self._hook is not None:
                get = cast("Callable[[], T]", self.get)
                there: Future[T] = Future()
                there.target = self._hook
                with _waits.awaiting(there):
                    return (yield from loop.run_in_executor(None, get))
        return cast("T", self.get())

    def _arrival(self, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
        """Wait in the loop until there is a result or a hook."""
        arrived = loop.create_future()
        timer: asyncio.TimerHandle | None = None

        def wake(_future: object = None) -> None:
            if not arrived.done():
                arrived.set_result(None)

        def call_loop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(wake)

        def look_after(target: _waits.Waited) -> None:
            nonlocal timer
            timer = loop.call_later(_patience(), look_after, target)
            target.rescue()

        self._when_done(call_loop)
        try:
            if self.target is not None:
                timer = loop.call_later(_patience(), look_after, self.target)
            yield from arrived
        finally:
            self._forget(call_loop)
            if timer is not None:
                timer.cancel()

    def add_done_callback(self, function: Callable[[Future[T]], object]) -> None:
        """Have a function called with this future as soon as `get` need not wait for a result.

        At once, if that is so; else in the thread that brings the result about. What it raises is
        logged.
        """
        self._when_done(partial(function, self))

    def set(self, value: T | None = None) -> None:
        """Set the value and wake all who wait for it.

        Raises:
            queue.Full: If there is a result already, as in Pykka.

        """
        if not self._resolve(value, None):
            raise queue.Full

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        """Set an exception, by default the one being handled, and wake all who wait for it.

        Raises:
            queue.Full: If there is a result already, as in Pykka.

        """
        if not self._resolve(None, exc_info or sys.exc_info()):
            raise queue.Full

    def set_get_hook(self, func: GetHookFunc[T]) -> None:
        """Let `func(timeout)` produce the value when somebody asks for it.

        Raises:
            queue.Full: If there is a result already, as in Pykka.

        """
        waiters: list[Callable[[], object]] | None = None
        hook = _Hook(func)
        try:
            with self._lock:
                is_done = self._done
                if not is_done:  # in one, as in `_resolve`
                    self._hook, waiters, self._waiters = hook, self._waiters, None
            _call(waiters or [])
        except BaseException:
            _call(waiters or [])
            raise
        if is_done:
            raise queue.Full

    def begin(self) -> bool:
        """Claim the message for its handler; false if it was withdrawn. Atomic with `withdraw`."""
        with self._lock:
            self._begun = True
            return not self._done

    def withdraw(self, error: BaseException) -> bool:
        """Fail the future unless its message's handler has begun, which then never will.

        Atomic with `begin`.
        """
        return self._resolve(None, (type(error), error, None), unless_begun=True)

    def give(self, value: T) -> bool:
        """Set the value; false if there is a result already."""
        return self._resolve(value, None)

    def fail(self, error: BaseException) -> bool:
        """Set the exception `error` as it stands; false if there is a result already."""
        return self._resolve(None, (type(error), error, error.__traceback__))

    def forget(self) -> None:
        """Let go of the result, for which nobody will ask again."""
        with self._lock:
            self._value = self._exc_info = None

    def _resolve(self, value: Any, exc_info: ExcInfo | None, *, unless_begun: bool = False) -> bool:
        waiters: list[Callable[[], object]] | None = None
        try:
            with self._lock:
                if self._done or self._hook is not None or (unless_begun and self._begun):
                    return False
                self._value = value
                self._exc_info = exc_info
                # In one: whoever is interrupted after this has somebody to wake, and before it not.
                self._done, waiters, self._waiters = True, self._waiters, None
            if waiters is not None:
                _call(waiters)
        except BaseException:
            _call(waiters or [])
            raise
        return True

    def _when_done(self, waiter: Callable[[], object]) -> None:
        with self._lock:
            is_done = self.done()
            if not is_done:
                if self._waiters is None:
                    self._waiters = []
                self._waiters.append(waiter)
        if is_done:
            _call([waiter])

    def _forget(self, waiter: Callable[[], object]) -> None:
        with self._lock:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    def _obtain(self, deadline: float | None, timeout: float | None) -> None:
        """Wait until there is a result or a hook."""
        target = self.target
        if target is not None:
            if timeout is None:
                while target.help(self):
                    if self.done():
                        return
            elif target.yields_to_timeouts:
                self._wait(deadline, timeout)
                return
        try:
            with _waits.blocked_on(self):
                self._wait(deadline, timeout)
        except (WaitCycle, Overloaded) as error:
            self._take_back(error)
            raise

    def _take_back(self, error: Exception) -> None:
        """Take the message back, for the wait was refused, if it was sent by the calling thread."""
        if self._sender is _waits.this_thread() and self.withdraw(error):
            assert self.target is not None
            self.target.was_withdrawn(self)

    def _wait(self, deadline: float | None, timeout: float | None) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        wake = partial(_release, waiter)
        with self._lock:
            if self.done():
                return
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(wake)
        try:
            woken = False
            if self.target is not None:
                rescue_at = time.monotonic() + (_patience() if _waits.may_go_deeper() else 0)
                while not woken and (deadline is None or rescue_at < deadline):
                    woken = waiter.acquire(timeout=_seconds_left(rescue_at))
                    if not woken:
                        self.target.rescue()
                        rescue_at = time.monotonic() + _patience()
            woken = woken or waiter.acquire(timeout=_seconds_left(deadline))
        finally:
            self._forget(wake)
        if not woken and not self.done():
            keys = () if self.target is None else self.target.key_of()
            is_plain = self.target is not None and self.target.yields_to_timeouts
            what = "actor" if is_plain else "aggregate"
            who = "".join(f"{what} {name(key)} did not answer within " for key in keys)
            raise pykka.Timeout(f"{who}{timeout} seconds")


class _Hook(_waits.Runs):
    """A function that produces a future's value, run by the first who asks, once it succeeds."""

    def __init__(self, function: GetHookFunc[Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        """Guards `_run`. `_result` is set by the one run that succeeds."""
        self._run: _HookRun | None = None
        self._result: tuple[Any] | None = None

    def runners(self) -> Sequence[int]:
        """Return the thread that runs it, if one does."""
        run = self._run
        return () if run is None else run.runners()

    def get(self, deadline: float | None, timeout: float | None) -> Any:
        """Run it, or wait for the run of whoever came first and take its result."""
        seconds = timeout
        timed_out = False
        while self._result is None:
            if timed_out:
                raise pykka.Timeout(f"{timeout} seconds")
            mine = _HookRun()
            try:
                with self._lock:
                    first = self._run
                    if first is None:
                        self._run = mine
                if first is None:
                    with _waits.running(mine):
                        self._result = (self._function(seconds),)
                    break
            finally:
                with self._lock:
                    if self._run is mine:
                        self._run = None
                mine.over.set()
                mine.over.target = None
            try:
                first.over.get(timeout=seconds)
            except pykka.Timeout:
                timed_out = True
            seconds = None if deadline is None else _seconds_left(deadline)
        return self._result[0]


class _HookRun(_waits.Runs):
    """One run of a get hook, which others who want its result wait for."""

    def __init__(self) -> None:
        self.runner: int | None = None
        self.over: Future[None] = Future()
        self.over.target = self


def _call(waiters: list[Callable[[], object]]) -> None:
    """Call and take out those who wait, in the order in which they came.

    After an interrupt this is to be called again with what is left; one may be called twice then.
    """
    held, _waits.mine.held = _waits.mine.held, None  # a callback may wait for what it sends
    try:
        while waiters:
            waiter = waiters[0]
            try:
                waiter()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  # a callback's own trouble
                log(logging.ERROR, "callback %r of a future failed", waiter, error=error)
            del waiters[0]
    finally:
        _waits.mine.held = held


def _release(asleep: LockType) -> None:
    """Wake the thread that sleeps on the lock, unless that was done before."""
    try:
        asleep.release()
    except RuntimeError:  # an interrupt came right after this, and it is done once more
        return


def _patience() -> float:
    """Return after how many seconds a thread that waits looks after what it waits for."""
    is_starved = _waits.runs_here() or not threading.main_thread().is_alive()
    return _STARVED if is_starved else _FORGOTTEN


def _seconds_left(deadline: float | None) -> float:
    """Return what `Lock.acquire` takes as its timeout, where -1 is for ever."""
    if deadline is None:
        return -1
    return min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
