"""Who waits for whom: finds the wait that would close a cycle before it blocks.

A thread that runs an aggregate's code may block on something that only another aggregate's code can
bring about: a reply, the end of an activation, the end of a teardown. Those waits are the edges of
a graph; a cycle in it can never resolve itself, so the wait that would close one is refused with
`WaitCycle`.

One kind of target differs: an activation that waits for a place under the ceiling. It goes on as
soon as any one of those who hold a place gives it up, so a wait for it is hopeless only if all of
them wait, directly or not, for something hopeless. That is refused with `Overloaded`.

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

from pykka_registry._exceptions import Overloaded, WaitCycle

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Sequence

__all__ = [
    "NOBODY_YET",
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

    def holders(self) -> Sequence[int] | None:
        """Return the threads any one of which can make way for it, if that is what it waits for.

        `None` if it waits for no place; then `runners` counts.
        """
        ...

    def urge(self, wait: Wait) -> None:
        """Take note that the calling thread is about to block on `wait`, which is for this."""
        ...

    def was_withdrawn(self, wait: Wait) -> None:
        """Take note that `wait` is over because what it was for was withdrawn."""
        ...


NOBODY_YET = 0
"""Stands for a thread that has yet to begin, or is ending, and so waits for nothing."""


class Runs:
    """Something that one thread at a time runs: it knows which."""

    runner: int | None = None

    def holders(self) -> Sequence[int] | None:
        """Return `None`: it waits for no place."""
        return None

    def urge(self, wait: Wait) -> None:
        """Do nothing: it goes as fast as it can."""

    def was_withdrawn(self, wait: Wait) -> None:
        """Do nothing: it goes on all the same."""

    def runners(self) -> Sequence[int]:
        """Return the thread that runs it, if one does."""
        return () if self.runner is None else (self.runner,)


class Wait(Protocol):
    """One wait: over when it is done, and depending on its target until then."""

    target: Waited | None
    urgent: bool
    """A thread that runs an aggregate blocks on it, or has done so."""

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
        Overloaded: if it could never end because all places are held by those who wait.

    """
    if not _mine.running:
        yield
        return
    if wait.target is not None:  # else it may have one later, as who waits for an absent key has
        wait.target.urge(wait)
    me = threading.get_ident()
    try:
        with _lock:
            cycle, places = _cycle(wait, me)
            if cycle is None and places and _is_hopeless(wait, me):
                crowd: Waited | None = places[0]
            else:
                crowd = None
            if cycle is None and crowd is None:
                _blocked[me] = wait
        if cycle is not None:
            raise WaitCycle(cycle)
        if crowd is not None:
            (key,) = crowd.key_of()
            raise Overloaded(key, "all places are held by aggregates that wait for such a place")
        yield
    finally:  # whatever comes between, also from outside: a wait that is over leaves no edge
        with _lock:
            _blocked.pop(me, None)


def _cycle(wait: Wait, me: int) -> tuple[list[Hashable] | None, list[Waited]]:
    """Look where the waits lead from `wait`. Needs the lock.

    Returns the keys on the way if they lead back to `me`, and the targets on the way that wait for
    a place; what those wait for is not looked at.
    """
    todo: list[tuple[Wait, _Way | None]] = [(wait, None)]
    seen: set[int] = set()
    places: list[Waited] = []
    while todo:
        its_wait, before = todo.pop()
        target = its_wait.target
        if target is None or its_wait.done():
            continue
        if target.holders() is not None:
            places.append(target)
            continue
        way = _Way(target, before)
        for runner in target.runners():
            if runner == me:
                return way.keys(), places
            if runner not in seen:
                seen.add(runner)
                if runner in _blocked:
                    todo.append((_blocked[runner], way))
    return None, places


def _is_hopeless(wait: Wait, me: int) -> bool:
    """Tell whether `wait`, by `me`, could never end. Needs the lock.

    Collects who is on the way, begins with those who wait for nothing, and adds, for as long as
    there are any, those whose waits can end because of the ones found so far.
    """
    needs: dict[int, tuple[Sequence[int], bool]] = {}
    todo: list[tuple[int, Wait | None]] = [(me, wait)]
    hopeful: set[int] = set()
    while todo:
        thread, its_wait = todo.pop()
        if thread in needs or thread in hopeful:
            continue
        target = None if its_wait is None or its_wait.done() else its_wait.target
        if target is None:
            hopeful.add(thread)
            continue
        holders = target.holders()
        needs[thread] = (target.runners(), False) if holders is None else (holders, True)
        todo += [
            (other, wait if other == me else _blocked.get(other)) for other in needs[thread][0]
        ]
    found = True
    while found:
        found = False
        for thread, (others, one_will_do) in needs.items():
            can_end = any if one_will_do else all
            if thread not in hopeful and can_end(other in hopeful for other in others):
                hopeful.add(thread)
                found = True
    return me not in hopeful


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
