"""Who waits for whom: finds the wait that would close a cycle before it blocks.

A thread that runs an aggregate's code may block on something that only another aggregate's code can
bring about: a reply, the end of an activation, the end of a teardown. Those waits are the edges of
a graph; a cycle in it can never resolve itself, so the wait that would close one is refused with
`WaitCycle`.

What waits for a pooled actor that nobody runs just now waits for no thread: either somebody runs it
later, or the waiting thread does so itself; see `_turns`. A thread that runs one actor's code may
so run another's on top of it, and then all of these wait for the innermost.

One kind of target differs: an activation that waits for a place under the ceiling. It goes on as
soon as any one of those who hold a place gives it up, so a wait for it is hopeless only if all of
them wait, directly or not, for something hopeless. That is refused with `Overloaded`.

Who may touch what:

* `_blocked` and `_awaits` are read and written only under `_lock`. Publishing an edge and looking
  for a cycle is one step under it, so of two waits that would close a cycle together exactly one is
  refused, and no cycle is reported that is not there: as long as the lock is held nobody else can
  begin to wait, so a thread that was found blocked on a thread that was found blocked stays so.
* `Runs.runner` is written by the thread that runs it, before it begins and after it ends.
* `mine` is the calling thread's own.

The lock is a leaf: nothing else is acquired and no user code runs under it. A thread that runs no
aggregate cannot be waited for and skips all this.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from asyncio import _get_running_loop  # what asyncio.get_running_loop asks, without the exception
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pykka_registry._exceptions import Overloaded, WaitCycle

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Generator, Hashable, Sequence

    from pykka_registry._future import Future
    from pykka_registry._turns import Due

__all__ = [
    "NOBODY_YET",
    "Mine",
    "Runs",
    "Wait",
    "Waited",
    "awaiting",
    "blocked_on",
    "forget_after_fork",
    "has_room",
    "may_go_deeper",
    "may_help",
    "mine",
    "running",
    "runs_here",
    "this_thread",
]


class Waited(Protocol):
    """Something that is waited for, which some threads may be bringing about."""

    @property
    def yields_to_timeouts(self) -> bool:
        """Whether a wait for it with a timeout is left to that, even in a cycle, as in Pykka."""
        ...

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

    def help(self, until: Future[Any], /) -> bool:
        """Run it in this thread until there is a result, if nobody does; tell whether it ran."""
        ...

    def rescue(self) -> None:
        """Have a spare thread run it, if nobody does."""
        ...


NOBODY_YET = 0
"""Stands for a thread that has yet to begin, or is ending, and so waits for nothing."""


class Runs:
    """Something that one thread at a time runs: it knows which."""

    if not TYPE_CHECKING:  # pragma: no branch  # a checker would miss the subclasses' slots
        __slots__ = ()

    runner: int | None = None
    yields_to_timeouts = False

    def key_of(self) -> tuple[Hashable, ...]:
        """Return nothing: it has no key."""
        return ()

    def holders(self) -> Sequence[int] | None:
        """Return `None`: it waits for no place."""
        return None

    def urge(self, wait: Wait) -> None:
        """Do nothing: it goes as fast as it can."""

    def was_withdrawn(self, wait: Wait) -> None:
        """Do nothing: it goes on all the same."""

    def help(self, _until: Future[Any]) -> bool:
        """Return false: it has a thread of its own."""
        return False

    def rescue(self) -> None:
        """Do nothing: it has a thread of its own."""

    def runners(self) -> Sequence[int]:
        """Return the thread that runs it, if one does."""
        return () if self.runner is None else (self.runner,)

    def is_part_of(self, target: object) -> bool:
        """Tell whether who waits for the target waits for this."""
        return self is target


class Wait(Protocol):
    """One wait: over when it is done, and depending on its target until then."""

    target: Waited | None
    urgent: bool
    """A thread that runs an aggregate blocks on it, or has done so."""

    def done(self) -> bool:
        """Tell whether nobody needs to wait any longer."""
        ...


DEPTH = 16
"""How many actors a thread runs on top of each other at most: its stack must not overflow."""


class _Blocked(NamedTuple):
    """What a thread waits for, and what it runs, the innermost last."""

    wait: Wait
    running: tuple[Runs, ...]


class Mine(threading.local):
    """What a thread has of its own."""

    def __init__(self) -> None:
        self.running: list[Runs] = []
        """What the thread is running, the innermost last. Another list in a forked child."""
        self.held: list[Due] | None = None
        """What it has made due and holds back, since it is about to wait for it; see `_turns`."""
        self.spare_context: contextvars.Context | None = None
        """An empty one, for the next turn."""
        self.token = object()


mine = Mine()
_lock = threading.Lock()
_blocked: dict[int, _Blocked] = {}
_awaits: dict[int, list[_Blocked]] = {}
"""What a thread that runs an actor awaits in an event loop. All of it counts as needed: the handler
that runs the loop most likely goes on only with that."""


@contextlib.contextmanager
def running(runs: Runs) -> Generator[None]:
    """Mark the calling thread as the one that runs `runs`."""
    runs.runner = threading.get_ident()
    running = mine.running
    running.append(runs)
    try:
        yield
    finally:
        running.pop()
        runs.runner = None


def runs_here() -> list[Runs]:
    """Return what the calling thread is running, the innermost last."""
    return mine.running


def may_go_deeper() -> bool:
    """Tell whether the calling thread may run one more on top of what it is running."""
    return len(mine.running) < DEPTH


def may_help() -> bool:
    """Tell whether the calling thread may run an actor while it waits for it.

    An event loop must not be held up, and while the interpreter ends nothing is begun. While the
    thread is handling an exception, the actor would see that.
    """
    return (
        len(mine.running) < DEPTH
        and _get_running_loop() is None
        and sys.exception() is None
        and not sys.is_finalizing()
    )


def has_room() -> bool:
    """Tell whether the calling thread's stack has room for what others have sent.

    Their messages would fail for a stack that is not theirs.
    """
    try:
        sys._getframe(sys.getrecursionlimit() // 2)
    except ValueError:  # there are fewer frames
        return True
    return False


def this_thread() -> object:
    """Return what stands for the calling thread: idents are used again, this is not."""
    return mine.token


@contextlib.contextmanager
def blocked_on(wait: Wait) -> Generator[None]:
    """Publish that the calling thread is about to block on `wait`, for as long as the body runs.

    Raises:
        WaitCycle: if the wait could never end; the body has not run then.
        Overloaded: if it could never end because all places are held by those who wait.

    """
    if not mine.running:
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
                _blocked[me] = _Blocked(wait, tuple(mine.running))
        if cycle is not None:
            raise WaitCycle(cycle)
        if crowd is not None:
            (key,) = crowd.key_of()
            raise Overloaded(key, "all places are held by aggregates that wait for such a place")
        yield
    finally:  # whatever comes between, also from outside: a wait that is over leaves no edge
        with _lock:
            _blocked.pop(me, None)


@contextlib.contextmanager
def awaiting(wait: Wait) -> Generator[None]:
    """Publish that the calling thread awaits `wait` in an event loop, which goes on meanwhile.

    Raises:
        WaitCycle: if that could never end; the body has not run then.

    """
    if not mine.running or wait.target is None:
        yield
        return
    wait.target.urge(wait)
    me = threading.get_ident()
    blocked = _Blocked(wait, tuple(mine.running))
    try:
        with _lock:
            cycle, _ = _cycle(wait, me)
            if cycle is None:
                _awaits.setdefault(me, []).append(blocked)
        if cycle is not None:
            raise WaitCycle(cycle)
        yield
    finally:
        with _lock:
            awaits = [other for other in _awaits.pop(me, ()) if other is not blocked]
            if awaits:
                _awaits[me] = awaits


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
                return way.upwards(mine.running).keys(), places
            if runner not in seen:
                seen.add(runner)
                waits = [*_awaits.get(runner, ())]
                if runner in _blocked:
                    waits.append(_blocked[runner])
                todo += [(blocked.wait, way.upwards(blocked.running)) for blocked in waits]
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
            (other, wait if other == me else _blocked[other].wait if other in _blocked else None)
            for other in needs[thread][0]
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

    def upwards(self, running: Sequence[Runs]) -> _Way:
        """Return the way on: the last step waits for what its thread runs on top of it."""
        ran = [i for i, runs in enumerate(running) if runs.is_part_of(self.target)]
        way = self
        for runs in running[ran[-1] + 1 :] if ran else ():
            way = _Way(runs, way)
        return way

    def keys(self) -> list[Hashable]:
        """Return the keys along the way, from its beginning."""
        way: _Way | None = self
        keys: list[Hashable] = []
        while way is not None:
            keys[:0] = way.target.key_of()
            way = way.before
        return keys


def forget_after_fork() -> None:
    """Begin anew in a forked child, where none of the waiting threads exists.

    What the forking thread was running is run in the parent. If the child comes back to those who
    ran it, they take it from the list that they had put it in.
    """
    global _lock  # noqa: PLW0603  # the old lock may be held by a thread that does not exist here
    _lock = threading.Lock()
    _blocked.clear()
    _awaits.clear()
    mine.running = []
