"""A Pykka future that knows whom it waits for, and can be withdrawn until a handler begins."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pykka

from pykka_registry import _waits
from pykka_registry._exceptions import WaitCycle

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from pykka._future import GetHookFunc

    ExcInfo: TypeAlias = tuple[
        type[BaseException] | None, BaseException | None, TracebackType | None
    ]

__all__ = ["Future"]

T = TypeVar("T")


class Future(pykka.Future[T]):
    """All of Pykka's future, plus a target, so that a wait that could never end is refused.

    `_lock` guards every field but `target`, which is set once, by the inbox that accepts the
    message, before the message can be seen by its reader. `_done` turns true last and stays so; it
    may be read without the lock. No callback and no get hook runs under `_lock`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.target: _waits.Waited | None = None
        self._lock = threading.Lock()
        self._hook_once = threading.RLock()
        self._waiters: list[threading.Lock] = []
        self._begun = False
        self._done = False
        self._value: Any = None
        self._exc_info: ExcInfo | None = None

    def done(self) -> bool:
        """Tell whether there is a value, an exception or a get hook, so that nobody need wait."""
        return self._done or self._get_hook is not None

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the value, or raise the exception, waiting for it if need be.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Raises:
            pykka.Timeout: After `timeout` seconds.
            WaitCycle: If the calling thread runs an aggregate that the answer depends on. Unless
                somebody else waits for the answer, the message will not be handled.

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.done():
            try:
                with _waits.blocked_on(self):
                    self._wait(deadline, timeout)
            except WaitCycle as error:
                self.withdraw(error)
                raise
        if self._get_hook is not None:
            # Pykka runs a hook once: whoever comes second waits for the first one's result.
            if not self._hook_once.acquire(timeout=_seconds_left(deadline)):
                raise pykka.Timeout(f"{timeout} seconds")
            try:
                return super().get(timeout=timeout)
            finally:
                self._hook_once.release()
        if self._exc_info is not None:
            exc_type, exc_value, traceback = self._exc_info
            if exc_value is None:
                assert exc_type is not None
                exc_value = exc_type()
            raise exc_value.with_traceback(traceback)
        return self._value

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
        """Fail the future, unless its message's handler has begun or somebody else waits for it.

        Atomic with `begin`: a message that was withdrawn is never handled.
        """
        return self._resolve(None, (type(error), error, None), only_if_unwanted=True)

    def fail(self, error: BaseException) -> bool:
        """Set the exception `error` as it stands; false if there is a result already."""
        return self._resolve(None, (type(error), error, error.__traceback__))

    def _resolve(
        self, value: Any, exc_info: ExcInfo | None, *, only_if_unwanted: bool = False
    ) -> bool:
        with self._lock:
            if self._done or self._get_hook is not None:
                return False
            if only_if_unwanted and (self._begun or self._waiters):
                return False
            self._value = value
            self._exc_info = exc_info
            self._done = True
            self._wake()
            return True

    def _wake(self) -> None:
        """Let everybody go on who waits. Needs the lock."""
        for waiter in self._waiters:
            waiter.release()
        self._waiters.clear()

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
            raise pykka.Timeout(f"{timeout} seconds")


def _seconds_left(deadline: float | None) -> float:
    """Return what `Lock.acquire` takes as its timeout, where -1 is for ever."""
    if deadline is None:
        return -1
    return min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
