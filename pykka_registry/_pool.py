"""The threads that run what is due: the shared pool, executors of users, and spare threads.

A task is handed to an executor, or to the shared pool. What no executor takes, or runs, a few spare
threads do, as soon as there is one to be had.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from pykka_registry._log import log

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "WIDTH",
    "are_threads_wanting",
    "go_on",
    "in_pool",
    "in_spare_thread",
    "rescue",
]

_Task: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"

SPARE = "pykka-registry-spare"
"""The name of a thread for what no executor does in time."""

WIDTH = 32
"""How many threads the shared pool has at most."""


class _Shared:
    """The shared pool: made when it is first wanted, and once more in a forked child.

    What is due waits in a queue of our own, for it may be a million, and is run by *workers*: tasks
    of the executor that go on for as long as there is something due.

    `_executor`, `_coming` and `_running` are written under `_lock` only; the first may be read
    without it. `_due` needs no lock, being a `deque`. A worker leaves if it sees under the lock
    that nothing is due, and who has put something in looks for workers after that, under the lock:
    so the one sees the task, or the other sees that the worker has left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: concurrent.futures.Executor | None = None
        self._due: deque[_Task] = deque()
        self._coming: set[object] = set()
        """Workers that the executor was told of. It may fail to run them, so nobody counts on
        these alone."""
        self._running: set[object] = set()

    def do(self, function: Callable[..., object], *args: Any) -> None:
        """Have it run.

        Raises:
            RuntimeError: If there is no thread to be had for it. If others are at work it may be
                run all the same.

        """
        task, worker = (function, args), object()
        self._due.append(task)
        try:
            with self._lock:
                if self._running and len(self._running) + len(self._coming) >= WIDTH:
                    return
                self._coming.add(worker)
            try:
                self.get().submit(self._work, worker)
            except RuntimeError:
                _spares.do(self._work, worker)
        except BaseException as error:
            with self._lock:
                self._coming.discard(worker)
                # Who runs will come to it, and whoever is told of the failure comes again as well.
                if isinstance(error, RuntimeError) and not self._running:
                    with contextlib.suppress(ValueError):
                        self._due.remove(task)
            raise

    def _work(self, worker: object) -> None:
        with self._lock:
            self._coming.discard(worker)
            self._running.add(worker)
        try:
            while True:
                try:
                    function, args = self._due.popleft()
                except IndexError:
                    with self._lock:
                        if not self._due:
                            self._running.discard(worker)
                            return
                    continue
                _run(function, args, "the pool")
        finally:  # a handler of the log may raise what it likes
            with self._lock:
                self._running.discard(worker)

    def get(self) -> concurrent.futures.Executor:
        if self._executor is None:
            with self._lock:
                if self._executor is None:
                    self._executor = concurrent.futures.ThreadPoolExecutor(
                        WIDTH, thread_name_prefix="pykka-registry-pool"
                    )
        return self._executor


class _Spares:
    """Threads for what an executor does not take: a few, which end when there is nothing left.

    All is touched under `_lock`. While a thread lives it comes to all that there is to do; so there
    is something left only if no thread is to be had.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._todo: deque[_Task] = deque()
        self._threads: set[threading.Thread] = set()

    def do(self, function: Callable[..., object], *args: Any) -> None:
        """Have it run.

        Raises:
            RuntimeError: If there is no thread to run it; it will not be run then.

        """
        task = function, args
        with self._lock:
            self._todo.append(task)
        try:
            self._start()
        except RuntimeError:
            with self._lock:
                # Those of others that have not begun may be about to fail, too.
                if any(thread.is_alive() for thread in self._threads):
                    return
                self._todo = deque(one for one in self._todo if one is not task)
            raise

    def do_some_time(self, function: Callable[..., object], *args: Any) -> None:
        """Have it run as soon as there is a thread: `remember` sees to that."""
        with self._lock:
            self._todo.append((function, args))
        with contextlib.suppress(RuntimeError):
            self._start()

    def go_on(self) -> None:
        """See whether there is a thread to be had by now."""
        if self._todo:
            with contextlib.suppress(RuntimeError):
                self._start()

    def are_none(self) -> bool:
        """Tell whether something waits for a thread, and none is to be had."""
        return bool(self._todo) and not self._threads

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=SPARE)
        try:
            with self._lock:
                if len(self._threads) >= WIDTH:
                    return
                self._threads.add(thread)
            thread.start()
        except BaseException:
            with self._lock:
                self._threads.discard(thread)
            raise

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._threads.discard(threading.current_thread())
                    return
                function, args = self._todo.popleft()
            _run(function, args, "a spare thread")


def _run(function: Callable[..., object], args: tuple[Any, ...], where: str) -> None:
    """Run it, come what may: others wait for this thread."""
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001
        log(logging.ERROR, "%r failed in %s", function, where, error=error)


_shared = _Shared()
_spares = _Spares()


def _forget() -> None:
    """Begin anew in a forked child, where no thread of these exists."""
    _shared.__init__()  # type: ignore[misc]  # as new
    _spares.__init__()  # type: ignore[misc]  # the same


if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_forget)


def in_pool(
    executor: concurrent.futures.Executor | None, function: Callable[..., object], *args: Any
) -> None:
    """Have it run by the executor, or by the shared pool if that is `None`.

    If it was or will be shut down, or has no thread to give, a spare thread does it.

    Raises:
        RuntimeError: If there is no thread at all to be had.

    """
    try:
        if executor is None:
            _shared.do(function, *args)
            return
        task = executor.submit(function, *args)
    except RuntimeError:
        _spares.do(function, *args)
        return

    def look_whether_it_was_run(task: concurrent.futures.Future[object]) -> None:
        if task.cancelled() or task.exception() is not None:  # as of a pool that is broken
            _spares.do_some_time(function, *args)

    task.add_done_callback(look_whether_it_was_run)


def in_spare_thread(function: Callable[..., object], *args: Any) -> None:
    """Have it run by a thread of its own, or by another once one is to be had."""
    try:
        threading.Thread(target=function, args=args, name=SPARE).start()
    except RuntimeError:
        _spares.do_some_time(function, *args)


def rescue(function: Callable[[], object]) -> None:
    """Have something run that the calling thread waits for, in which it runs an actor itself.

    The threads of the pool may all be waiting like this one. If there is no other thread to be had
    it is run here: nobody else ever would.
    """
    try:
        threading.Thread(target=function, name=SPARE).start()
    except RuntimeError:
        function()


def are_threads_wanting() -> bool:
    """Tell whether something waits for a thread, and none is to be had."""
    return _spares.are_none()


def go_on() -> None:
    """See whether there is a thread by now for what has had none."""
    _spares.go_on()
