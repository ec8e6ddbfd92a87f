"""Who waits for whom: finds the wait that would close a cycle before it blocks.

A thread that runs an aggregate's code may block on something that only another aggregate's code can
bring about: a reply, the end of an activation, the end of a teardown. Those waits are the edges of
a graph; a cycle in it can never resolve itself, so the wait that would close one is refused with
`WaitCycle`.

Who may touch what:

* `_blocked` is read and written only under `_lock`. Publishing an edge and looking for a cycle is
  one step under it, so of two waits that would close a cycle together exactly one is refused, and
  no cycle is reported that is not there: as long as the lock is held nobody else can begin to wait,
  so a thread that was found blocked on a thread that was found blocked stays so.
* `Runs.runner` is written by the thread that runs it, before it begins and after it ends.
* `_mine` is the calling thread's own.

The lock is a leaf: nothing else is acquired and no user code runs under it. A thread that runs no
aggregate cannot be waited for and skips all this.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pykka_registry._exceptions import WaitCycle

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Sequence

__all__ = [
    "Runs",
    "Wait",
    "Waited",
    "blocked_on",
    "forget_after_fork",
    "running",
    "runs_here",
    "this_thread",
]


class Waited(Protocol):
    """Something that is waited for, which some threads may be bringing about."""

    def key_of(self) -> tuple[Hashable, ...]:
        """Return the key to name it by, or nothing if it has none."""
        ...

    def runners(self) -> Sequence[int]:
        """Return the threads that bring it about; it waits for all of them."""
        ...


class Runs:
    """Something that one thread at a time runs: it knows which."""

    runner: int | None = None

    def runners(self) -> Sequence[int]:
        """Return the thread that runs it, if one does."""
        return () if self.runner is None else (self.runner,)


class Wait(Protocol):
    """One wait: over when it is done, and depending on its target until then."""

    target: Waited | None

    def done(self) -> bool:
        """Tell whether nobody needs to wait any longer."""
        ...


class _Mine(threading.local):
    def __init__(self) -> None:
        self.running: list[Runs] = []
        self.token = object()


_mine = _Mine()
_lock = threading.Lock()
_blocked: dict[int, Wait] = {}


@contextlib.contextmanager
def running(runs: Runs) -> Generator[None]:
    """Mark the calling thread as the one that runs `runs`."""
    runs.runner = threading.get_ident()
    _mine.running.append(runs)
    try:
        yield
    finally:
        _mine.running.pop()
        runs.runner = None


def runs_here() -> list[Runs]:
    """Return what the calling thread is running, the innermost last."""
    return _mine.running


def this_thread() -> object:
    """Return what stands for the calling thread: idents are used again, this is not."""
    return _mine.token


@contextlib.contextmanager
def blocked_on(wait: Wait) -> Generator[None]:
    """Publish that the calling thread is about to block on `wait`, for as long as the body runs.

    Raises:
        WaitCycle: if the wait could never end; the body has not run then.

    """
    if not _mine.running or wait.target is None:
        yield
        return
    me = threading.get_ident()
    with _lock:
        cycle = _cycle(wait, me)
        if cycle is None:
            _blocked[me] = wait
    if cycle is not None:
        raise WaitCycle(cycle)
    try:
        yield
    finally:
        with _lock:
            _blocked.pop(me, None)


def _cycle(wait: Wait, me: int) -> list[Hashable] | None:
    """Return the keys on the way if the waits lead from `wait` back to `me`. Needs the lock."""
    todo: list[tuple[Wait, _Way | None]] = [(wait, None)]
    seen: set[int] = set()
    while todo:
        wait, way = todo.pop()
        target = wait.target
        if target is None or wait.done():
            continue
        way = _Way(target, way)
        for runner in target.runners():
            if runner == me:
                return way.keys()
            if runner not in seen:
                seen.add(runner)
                if runner in _blocked:
                    todo.append((_blocked[runner], way))
    return None


class _Way(NamedTuple):
    """The last step of a way along the waits, and the way that leads to it."""

    target: Waited
    before: _Way | None

    def keys(self) -> list[Hashable]:
        """Return the keys along the way, from its beginning."""
        way: _Way | None = self
        keys: list[Hashable] = []
        while way is not None:
            keys[:0] = way.target.key_of()
            way = way.before
        return keys


def forget_after_fork() -> None:
    """Begin anew in a forked child, where none of the waiting threads exists."""
    global _lock  # noqa: PLW0603  # the old lock may be held by a thread that does not exist here
    _lock = threading.Lock()
    _blocked.clear()
