"""What several tests use: actors that can be held up, a referee, ways to wait without sleeping."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import pykka

from pykka_registry import AggregateMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable

    import pytest

    from pykka_registry import RegistryRef
T = TypeVar("T")

ON_POOL: bool = {"threads": False, "pooled": True}[os.environ.get("TEST_RUNTIME", "threads")]
"""Whether the aggregates run on the pool. In the environment, which what tests start inherits."""

if TYPE_CHECKING:
    Runtime = pykka.ThreadingActor
else:
    from pykka_registry import PooledActor

    Runtime = PooledActor if ON_POOL else pykka.ThreadingActor

PATIENCE = 60.0
"""Seconds after which something that must happen has not happened."""


def wait_for(event: threading.Event) -> None:
    """Wait for what must happen."""
    assert event.wait(PATIENCE), "it has not happened"


def poll(condition: Callable[[], object]) -> None:
    """Wait until something is so that nobody tells of."""
    deadline = time.perf_counter() + PATIENCE
    while not condition():
        assert time.perf_counter() < deadline, "it has not happened"
        time.sleep(0.0005)  # those who bring it about need the processor


@contextlib.contextmanager
def untraced() -> Generator[None]:
    """Have nobody trace the calling thread, because a signal may interrupt it anywhere.

    Coverage's own code would be interrupted, too, and keep its lock for ever.
    """
    before = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(before)


class Gate:
    """A point that a thread reaches and passes only when it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        wait_for(self.opened)

    def wait_until_reached(self) -> None:
        wait_for(self.reached)

    def open(self) -> None:
        self.opened.set()


class Counting(AggregateMixin, Runtime):
    """An aggregate that counts, and does what tests ask of it."""

    def on_start(self) -> None:
        self.count = 0

    def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count

    def whoami(self) -> tuple[Hashable, str]:
        return self.key, self.actor_urn

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in this aggregate's handler."""
        return function(*args)

    def wait_at(self, gate: Gate) -> None:
        gate.pass_through()

    def fail(self, error: BaseException) -> None:
        raise error


class Listener(pykka.ThreadingActor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self._waiting: list[tuple[Callable[[list[Any]], bool], threading.Event]] = []

    def on_receive(self, message: Any) -> None:
        self.told.append(message)
        for condition, event in self._waiting:
            if condition(self.told):
                event.set()

    def notify_when(self, condition: Callable[[list[Any]], bool], event: threading.Event) -> None:
        self._waiting.append((condition, event))
        if condition(self.told):
            event.set()


def told_when(
    listener: pykka.ActorRef[Listener], condition: Callable[[list[Any]], bool]
) -> list[Any]:
    """Wait until what the listener was told fulfils the condition, and return it."""
    event = threading.Event()
    proxy = listener.proxy()
    proxy.notify_when(condition, event).get()
    wait_for(event)
    told: list[Any] = proxy.told.get()
    return list(told)


def told_count(listener: pykka.ActorRef[Listener], count: int) -> list[Any]:
    """Wait until the listener was told so many things, and return them."""
    return told_when(listener, lambda told: len(told) >= count)


class Referee:
    """Counts the live incarnations of each key from outside, and remembers every foul."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Counter[Hashable] = Counter()
        self.entered: Counter[Hashable] = Counter()
        self.fouls: list[Hashable] = []

    def enter(self, key: Hashable) -> None:
        with self._lock:
            self._live[key] += 1
            self.entered[key] += 1
            if self._live[key] > 1:
                self.fouls.append(key)

    def leave(self, key: Hashable) -> None:
        with self._lock:
            self._live[key] -= 1

    def live(self) -> int:
        with self._lock:
            return sum(self._live.values())


def nothing_remains(registry: RegistryRef[Any]) -> bool:
    """Tell whether the registry's tables are as empty as when it was started."""
    table = registry._table
    left = (
        table.active,
        table._entries,
        table.foreign._rows,
        table._watchers,
        table.admission._live,
        table.admission._waiting,
        table.admission._urgent,
        table.admission._starting,
        table.admission._leaving,
        [entry for bucket in table._alarms._buckets.values() for entry in bucket],
    )
    return not any(left) and not table._queued and not table._quiet


@contextlib.contextmanager
def start_timeout(registry: RegistryRef[Any], seconds: float) -> Generator[None]:
    """Let waits for a place end soon, while nothing starts that may be slow on a busy machine."""
    table = registry._table
    policy = table.policy
    table.policy = dataclasses.replace(policy, start_timeout=seconds)
    try:
        yield
    finally:
        table.policy = policy


def actors_of(cls: type[pykka.Actor], registry: RegistryRef[Any]) -> list[pykka.ActorRef[Any]]:
    """Return the refs of the actors of a class that there are, starting or live.

    Pykka knows those that have threads. Of pooled aggregates only their registry does.
    """
    known: list[pykka.ActorRef[Any]] = pykka.ActorRegistry.get_by_class(cls)
    if not ON_POOL:
        return known
    assert known == []
    lives = [
        entry.incarnation.life
        for entry in registry._table._entries.values()
        if entry.incarnation is not None and entry.incarnation.life is not None
    ]
    return [life.ref for life in lives if isinstance(life.actor, cls)]


def threads_but_the_pools() -> set[threading.Thread]:
    """Return the threads that there are, but for the shared pool's: they live like the process."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith("pykka-registry-pool")
    }


def in_threads(functions: Iterable[Callable[[], T]]) -> list[T | BaseException]:
    """Run the functions at the same moment, a thread each; return what they return or raise."""
    todo = list(functions)
    barrier = threading.Barrier(len(todo))
    results: list[T | BaseException | None] = [None] * len(todo)

    def run(i: int, function: Callable[[], T]) -> None:
        barrier.wait(PATIENCE)
        try:
            results[i] = function()
        except BaseException as error:  # noqa: BLE001
            results[i] = error

    threads = [threading.Thread(target=run, args=(i, f)) for i, f in enumerate(todo)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        if thread.is_alive():
            frame = sys._current_frames()[thread.ident or 0]
            raise AssertionError("a thread hangs:\n" + "".join(traceback.format_stack(frame)))
    return results  # type: ignore[return-value]  # a T may be None


@contextlib.contextmanager
def tiny_switch_interval() -> Generator[None]:
    """Let threads interrupt each other after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class NoThreads:
    """While it lasts no thread can be started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __enter__(self) -> None:
        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self._monkeypatch.setattr(threading.Thread, "start", refuse)

    def __exit__(self, *_exc_info: object) -> None:
        self._monkeypatch.undo()


def start_thread(function: Callable[[], object]) -> threading.Thread:
    """Run the function in a thread of its own, which a test joins."""
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    """Wait for a thread that must end."""
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the thread hangs"
