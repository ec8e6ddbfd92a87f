"""A Pykka future that knows whom it waits for, and can be withdrawn until a handler begins."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pykka

from pykka_registry import _waits
from pykka_registry._checks import check_timeout
from pykka_registry._exceptions import Overloaded, WaitCycle
from pykka_registry._log import name

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType
    from typing import TypeAlias

    from pykka._future import GetHookFunc

    ExcInfo: TypeAlias = tuple[
        type[BaseException] | None, BaseException | None, TracebackType | None
    ]

__all__ = ["Future"]

T = TypeVar("T")


class _HookRun(_waits.Runs):
    """One run of a get hook, which others who want its result wait for."""

    def __init__(self) -> None:
        self.over: Future[None] = Future()
        self.over.target = self

    def key_of(self) -> tuple[Hashable, ...]:
        return ()


class Future(pykka.Future[T]):
    """All of Pykka's future, plus a target, so that a wait that could never end is refused.

    `_lock` guards every field but the first three. Those are set before anybody waits. `_done`
    turns true last and stays so, and `_hook_result` is set by the one run that succeeds; they may
    be read without the lock. No hook runs under `_lock`.
    """

    urgent = False
    """A thread that runs an aggregate blocks on it, or has done so."""
    queued = False
    """Its message counts as one that waits for a key; written under the lock of the key's table."""

    def __init__(self) -> None:
        super().__init__()
        self.target: _waits.Waited | None = None
        """What has to run for there to be a result."""
        self.patience: float | None = None
        """Seconds that `get` waits at most if it is not told."""
        self._sender: object = None
        """The thread that sent the message that this is the reply to."""
        self._lock = threading.Lock()
        self._hook_run: _HookRun | None = None
        self._hook_result: tuple[Any] | None = None
        self._waiters: list[threading.Lock] = []
        self._begun = False
        self._done = False
        self._value: Any = None
        self._exc_info: ExcInfo | None = None

    def sent_to(self, target: _waits.Waited | None) -> None:
        """Note that the calling thread sends a message to `target`, whose reply this is."""
        self.target = target
        self._sender = _waits.this_thread()

    def done(self) -> bool:
        """Tell whether there is a value, an exception or a get hook, so that nobody need wait."""
        return self._done or self._get_hook is not None

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the value, or raise the exception, waiting for it if need be.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Raises:
            pykka.Timeout: After `timeout` seconds.
            WaitCycle: If the calling thread runs an aggregate that the answer depends on. If the
                thread is the one that sent the message, the message will not be handled.
            Overloaded: If the answer needs one more aggregate live than may be, and all that are
                wait for such a place. As for the message, the same holds.

        """
        if timeout is None:
            timeout = self.patience
        else:
            check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.done():
            try:
                with _waits.blocked_on(self):
                    self._wait(deadline, timeout)
            except (WaitCycle, Overloaded) as error:
                if self._sender is _waits.this_thread() and self.withdraw(error):
                    assert self.target is not None
                    self.target.was_withdrawn(self)
                raise
        if self._get_hook is not None:
            return self._run_hook(deadline, timeout)
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

    def _run_hook(self, deadline: float | None, timeout: float | None) -> Any:
        """Run the get hook, or wait for the run of whoever came first and take its result."""
        seconds = timeout
        timed_out = False
        while self._hook_result is None:
            if timed_out:
                raise pykka.Timeout(f"{timeout} seconds")
            mine = _HookRun()
            try:
                with self._lock:
                    first = self._hook_run
                    if first is None:
                        self._hook_run = mine
                if first is None:
                    with _waits.running(mine):
                        self._hook_result = (super().get(timeout=seconds),)
                    break
            finally:
                with self._lock:
                    if self._hook_run is mine:
                        self._hook_run = None
                mine.over.set()
                mine.over.target = None
            try:
                first.over.get(timeout=seconds)
            except pykka.Timeout:
                timed_out = True
            seconds = None if deadline is None else _seconds_left(deadline)
        return self._hook_result[0]

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
        with self._lock:
            if self._done:
                raise queue.Full
            super().set_get_hook(func)
            self._wake()

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

    def _resolve(self, value: Any, exc_info: ExcInfo | None, *, unless_begun: bool = False) -> bool:
        with self._lock:
            if self._done or self._get_hook is not None:
                self._wake()  # an interrupt may have come before all were awake
                return False
            if unless_begun and self._begun:
                return False
            self._value = value
            self._exc_info = exc_info
            self._done = True
            self._wake()
            return True

    def _wake(self) -> None:
        """Let everybody go on who waits. Needs the lock."""
        while self._waiters:
            try:  # noqa: SIM105  # this costs nothing
                self._waiters[-1].release()
            except RuntimeError:  # an interrupt has come right after this the last time
                pass
            self._waiters.pop()

    def _wait(self, deadline: float | None, timeout: float | None) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            if self.done():
                return
            self._waiters.append(waiter)
        try:
            woken = waiter.acquire(timeout=_seconds_left(deadline))
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if not woken and not self.done():
            keys = () if self.target is None else self.target.key_of()
            who = "".join(f"aggregate {name(key)} did not answer within " for key in keys)
            raise pykka.Timeout(f"{who}{timeout} seconds")


def _seconds_left(deadline: float | None) -> float:
    """Return what `Lock.acquire` takes as its timeout, where -1 is for ever."""
    if deadline is None:
        return -1
    return min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
