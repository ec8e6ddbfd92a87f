"""The table: one entry per key, one state machine, and the only place with a lock on either.

    absent ──start──▶ STARTING ──activated──▶ ACTIVE ──stopping──▶ STOPPING
    STARTING ──ended──▶ absent (the start failed)
    STOPPING ──ended──▶ absent, or STARTING if somebody waits for the key
    any of the three ──abandon──▶ QUARANTINED ──ended──▶ absent

Who may touch what: every write to a table, an entry, or an incarnation's `begun` and `ending`
happens under the table's lock, but for what is said to be set once. `active` is read without it:
reading a `dict` is atomic, on a free-threaded build too, and a ref leaves `active` before its
actor's stop flag is set, so a ref that is found there was alive when it was found.

Under the lock only table fields change, events are put into the courier's inbox (whose lock is a
leaf), and keys are hashed and compared. No constructor, hook, handler, listener or `__repr__` runs
under it: decisions are made under the lock, threads are started and errors are worded after it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._courier import Courier
from pykka_registry._entry import (
    AFTER,
    Blueprint,
    Entry,
    Foreign,
    Incarnation,
    Ref,
    StartRequest,
    State,
)
from pykka_registry._events import EndReason, Registered, Terminated
from pykka_registry._exceptions import (
    KeyAlreadyRegistered,
    Quarantined,
    RegistryStopped,
    Undeliverable,
)
from pykka_registry._future import Future
from pykka_registry._log import name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykka_registry._inbox import Inbox

__all__ = ["Table"]


class Table:
    """The keys of one registry."""

    def __init__(self, blueprint: Blueprint | None, name: str) -> None:
        self.blueprint = blueprint
        self.name = name
        self.active: dict[Hashable, Ref] = {}
        self.courier = Courier(name, self.unsubscribe)
        self.registry_ref: Ref | None = None
        """The registry. Set once, before anybody else has the table, together with the next one."""
        self.on_drained: Callable[[], None] = _nothing
        """Called with the lock held, when nothing is left in a closed table."""
        self._lock = threading.Lock()
        self._entries: dict[Hashable, Entry] = {}
        self._foreign: dict[Hashable, Foreign] = {}
        self._listeners: tuple[Ref, ...] = ()
        self._last_number = 0
        self._quarantined = 0
        self.finished: Future[list[Hashable]] = Future()
        """The keys that were abandoned, once the registry has ended."""
        self.thread: threading.Thread | None = None
        """The registry's thread. Written by itself, at its beginning."""
        self.refusal: str | None = None
        """Why nothing new is taken, once that is so."""
        self._leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Threads that have nothing left to do but to end."""
        _tables.add(self)

    # Reading: no lock, no message, no waiting.

    def get(self, key: Hashable) -> Ref | None:
        """Return the ref of the live actor under `key`, an aggregate's or a foreign one's."""
        ref = self.active.get(key)
        if ref is None:
            row = self._foreign.get(key)
            if row is not None and row.is_alive():
                ref = row.ref
        return ref

    def snapshot(self) -> dict[Hashable, Ref]:
        """Return the live actors by key; foreign ones that are dead are left out."""
        refs = self.active.copy()
        for key, row in self._foreign.copy().items():
            if row.is_alive():
                refs[key] = row.ref
        return refs

    def count(self) -> int:
        """Return how many live actors there are."""
        foreign = self._foreign.copy().values() if self._foreign else ()
        return len(self.active) + sum(row.is_alive() for row in foreign)

    # Starting.

    def start(self, request: StartRequest) -> None:
        """Claim the key and launch an incarnation, or join one that starts, or wait in line.

        Neither blocks nor runs user code but the key's: the incarnation is constructed in its own
        thread. The request's future gets the ref, or what made the start fail.

        Raises:
            KeyAlreadyRegistered: If only a new actor will do and the key has one that is starting
                or active.
            Quarantined: If an abandoned incarnation holds the key.
            RegistryStopped: If the registry takes nothing new.

        """
        key = request.key
        claimed: Incarnation | None = None
        state: State | None = None
        owner: Ref | None = None
        # From before the claim until the incarnation's thread has taken over there is no moment at
        # which a KeyboardInterrupt would leave the key claimed with nobody to start it.
        try:
            with self._lock:
                self._check_open()
                entry = self._entries.get(key)
                if entry is not None:
                    state, owner = entry.state, entry.ref
                    if state is State.STOPPING or (
                        state is State.STARTING and not request.exclusive
                    ):
                        self._wait_for(request, entry)
                elif (owner := self._live_foreign(key)) is None:
                    entry = Entry(key, self)
                    claimed = entry.incarnation = Incarnation(
                        entry, self._next_number(), request.blueprint
                    )
                    self._wait_for(request, entry)
                    self._entries[key] = entry
            if claimed is not None:
                self._launch(claimed)
        except BaseException as error:
            if claimed is not None:
                self._abort(claimed, error)
            raise
        if request.entry is None:
            if state is State.QUARANTINED:
                raise Quarantined(key)
            if request.exclusive:
                raise KeyAlreadyRegistered(key, owner)
            request.future.set(owner)

    def obtain(self, request: StartRequest, timeout: float | None) -> Ref:
        """Start what is requested and wait for the outcome; whoever gives up leaves the line.

        Raises:
            pykka.Timeout: After `timeout` seconds. An activation that has begun goes on.
            WaitCycle: If the calling thread runs an aggregate that the outcome depends on.
            Exception: What `start` raises, or what made the start fail.

        """
        try:
            self.start(request)
            ref: Ref = request.future.get(timeout=timeout)
        except BaseException as error:
            self._withdraw(request)
            if isinstance(error, pykka.Timeout) and not request.future.done():
                msg = f"key {name(request.key)} had no active aggregate within {timeout} seconds"
                raise pykka.Timeout(msg) from None
            raise
        finally:
            del request  # it holds the exception, whose traceback holds this frame
        return ref

    # An incarnation's life, told by the thread that runs it.

    def begin(self, incarnation: Incarnation) -> bool:
        """Take over from whoever launched it; false if that one has given up."""
        with self._lock:
            incarnation.begun = incarnation.entry.incarnation is incarnation
            return incarnation.begun

    def activated(self, incarnation: Incarnation, ref: Ref) -> bool:
        """Let everybody find the actor, and answer who waited; false if it is ending already."""
        entry = incarnation.entry
        with self._lock:
            if incarnation.ending:
                return False
            entry.ref = ref
            if entry.state is State.STARTING:
                self._move(entry, State.ACTIVE)
                self._publish(Registered(entry.key, incarnation.number, ref))
            requests, entry.requests = entry.requests, []
        for request in requests:
            request.future.set(ref)
        return True

    def stopping(self, incarnation: Incarnation) -> None:
        """Let nobody find the actor any longer; comes before its stop flag is set."""
        entry = incarnation.entry
        with self._lock:
            incarnation.ending = True
            if entry.incarnation is incarnation and entry.state is State.ACTIVE:
                self._move(entry, State.STOPPING)

    def ended(
        self, incarnation: Incarnation, reason: EndReason, cause: BaseException | None
    ) -> None:
        """Free the key, or hand it to who waits for it; no user code of it runs any more."""
        entry = incarnation.entry
        successor: Incarnation | None = None
        served: list[StartRequest] = []
        with self._lock:
            refusal = self.refusal
            state = entry.state
            requests, entry.requests = entry.requests, []
            if state is not State.QUARANTINED:  # its end was published when it was abandoned
                if reason is EndReason.STOPPED and refusal is not None:
                    reason = EndReason.DRAINED
                self._publish(Terminated(entry.key, incarnation.number, reason, cause))
            if state is State.STOPPING and requests and refusal is None:
                # First come, first served. Who insists on a new actor is not served with the one of
                # somebody else.
                first = requests[0]
                served = [first, *(request for request in requests[1:] if not request.exclusive)]
                successor = Incarnation(entry, self._next_number(), first.blueprint)
                entry.incarnation, entry.ref = successor, None
                for request in served:
                    self._wait_for(request, entry)
                self._move(entry, State.STARTING)
            else:
                self._remove(entry)
        if successor is not None:
            for request in requests:
                if request not in served:
                    request.future.fail(KeyAlreadyRegistered(entry.key, None))
            try:
                self._launch(successor)
            except BaseException as error:  # noqa: BLE001  # for whoever waits for it
                self._abort(successor, error)
        elif state is State.STARTING:
            _fail_start(requests, cause)
        else:
            _fail_stopped(requests, refusal)

    # Foreign actors.

    def register(self, key: Hashable, ref: Ref) -> None:
        """Put a foreign actor's row in, in the place of a dead one.

        Raises:
            KeyAlreadyRegistered: If the key has a live owner, other than this very ref.
            RegistryStopped: If the registry takes nothing new.

        """
        with self._lock:
            self._check_open()
            entry = self._entries.get(key)
            owner = self._live_foreign(key)
            free = entry is None and owner is None
            if free:
                row = Foreign(ref, self._next_number())
                self._foreign[key] = row
                self._publish(Registered(key, row.number, ref))
        if entry is not None:
            raise KeyAlreadyRegistered(key, entry.ref)
        if not free and owner is not ref:
            raise KeyAlreadyRegistered(key, owner)

    def unregister(self, key: Hashable, ref: Ref) -> bool:
        """Take a foreign actor's row out if it is this ref's; tells whether it was."""
        with self._lock:
            self.check_process()
            row = self._foreign.get(key)
            if row is None or row.ref is not ref:
                return False
            self._drop_foreign(key, row)
            return True

    def sweep(self) -> None:
        """Take out the rows of foreign actors that have died."""
        if self._foreign:
            with self._lock:
                for key in list(self._foreign):
                    self._live_foreign(key)

    # Watching.

    def subscribe(self, listener: Ref) -> None:
        """Tell `listener` of everything that happens from now on. Atomic: nothing is told half."""
        with self._lock:
            self._check_open()
            if listener not in self._listeners:
                self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Ref) -> None:
        """Tell `listener` no more."""
        with self._lock:
            self.check_process()
            self._listeners = tuple(ref for ref in self._listeners if ref is not listener)

    # Shutting down.

    def close(self, refusal: str) -> list[Ref]:
        """Take nothing new from now on; return the refs of the aggregates to stop.

        Those that are starting look for themselves once they are active. When the last entry has
        gone `on_drained` is called.
        """
        with self._lock:
            self.refusal = refusal
            for key, row in list(self._foreign.items()):
                self._drop_foreign(key, row)
            self._check_drained()
            return list(self.active.values())

    def abandon(self) -> list[Hashable]:
        """Quarantine what has not ended; return the keys."""
        requests: list[StartRequest] = []
        keys: list[Hashable] = []
        with self._lock:
            refusal = self.refusal
            for entry in self._entries.values():
                if entry.state is not State.QUARANTINED:
                    assert entry.incarnation is not None
                    keys.append(entry.key)
                    self._move(entry, State.QUARANTINED)
                    self._publish(
                        Terminated(entry.key, entry.incarnation.number, EndReason.ABANDONED)
                    )
                    requests += entry.requests
                    entry.requests = []
        _fail_stopped(requests, refusal)
        return keys

    def abandoned(self) -> list[Hashable]:
        """Return the keys that are quarantined."""
        with self._lock:
            return [
                entry.key for entry in self._entries.values() if entry.state is State.QUARANTINED
            ]

    def leave(self) -> None:
        """Say that the calling thread will run no more user code and wait for nobody."""
        with self._lock:
            self._leaving.add(threading.current_thread())

    def join(self) -> None:
        """Wait for the threads that are about to end, so that a shutdown leaves none."""
        with self._lock:
            threads = list(self._leaving)
        for thread in threads:
            thread.join()

    def check_process(self) -> None:
        """Raise `RegistryStopped` in a forked child."""
        if self.refusal is _FORKED:
            raise RegistryStopped(_FORKED)

    def runs_here(self) -> bool:
        """Tell whether the calling thread is the registry's or runs one of its aggregates."""
        return threading.current_thread() is self.thread or any(
            isinstance(runs, Incarnation) and runs.entry.table is self
            for runs in _waits.runs_here()
        )

    # Being waited for: a shutdown ends when the last of the incarnations has.

    def key_of(self) -> tuple[Hashable, ...]:
        """Return nothing: a registry has no key."""
        return ()

    def runners(self) -> Sequence[int]:
        """Return the threads that run the table's incarnations."""
        incarnations = [entry.incarnation for entry in list(self._entries.values())]
        return [
            incarnation.runner
            for incarnation in incarnations
            if incarnation is not None and incarnation.runner is not None
        ]

    def forked(self) -> None:
        """Refuse everything: the threads that served this table exist in the parent only."""
        self._lock = threading.Lock()
        self.refusal = _FORKED
        refs = [*self.active.values(), self.registry_ref]
        self.active = _Forked()
        for ref in refs:
            if ref is not None:
                inbox = cast("Inbox", ref.actor_inbox)
                inbox.close_after_fork(lambda: pykka.ActorDeadError(_FORKED))

    # What follows needs the lock.

    def _check_open(self) -> None:
        if self.refusal is not None:
            raise RegistryStopped(self.refusal)

    def _wait_for(self, request: StartRequest, entry: Entry) -> None:
        """Let the request wait for the entry's present incarnation: to start, or to end."""
        request.entry = entry
        request.future.target = entry.incarnation
        entry.requests.append(request)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _move(self, entry: Entry, state: State) -> None:
        """Change the state of an entry: the only place that does."""
        if state not in AFTER[entry.state]:
            msg = f"{entry.state} is never followed by {state}"
            raise AssertionError(msg)
        if state is State.ACTIVE:
            assert entry.ref is not None
            self.active[entry.key] = entry.ref
        elif entry.state is State.ACTIVE:
            self.active.pop(entry.key, None)  # in a forked child it is empty
        entry.state = state
        if state is State.QUARANTINED:
            self._quarantined += 1

    def _remove(self, entry: Entry) -> None:
        """Take an entry out: from now on its key is absent."""
        entry.incarnation = None
        del self._entries[entry.key]
        if entry.state is State.QUARANTINED:
            self._quarantined -= 1
        self._check_drained()

    def _check_drained(self) -> None:
        if self.refusal is not None and len(self._entries) == self._quarantined:
            self.on_drained()

    def _live_foreign(self, key: Hashable) -> Ref | None:
        """Return the ref of the live foreign actor under `key`; a dead one's row is taken out."""
        row = self._foreign.get(key)
        if row is None or row.is_alive():
            return None if row is None else row.ref
        self._drop_foreign(key, row)
        return None

    def _drop_foreign(self, key: Hashable, row: Foreign) -> None:
        del self._foreign[key]
        reason = EndReason.UNREGISTERED if row.is_alive() else EndReason.UNKNOWN
        self._publish(Terminated(key, row.number, reason))

    def _publish(self, event: Registered | Terminated) -> None:
        """Post an event, in the order in which the table changed."""
        if self._listeners:
            self.courier.post(event, self._listeners)

    # What follows must not have the lock.

    def _launch(self, incarnation: Incarnation) -> None:
        incarnation.blueprint.aggregate_class._pykka_registry_launch(incarnation)

    def _abort(self, incarnation: Incarnation, error: BaseException) -> None:
        """Free the key of an incarnation that could not be launched, unless it has begun."""
        entry = incarnation.entry
        requests: list[StartRequest] = []
        with self._lock:
            if entry.incarnation is incarnation and not incarnation.begun:
                if self._entries.get(entry.key) is entry:
                    if entry.state is not State.QUARANTINED:
                        self._publish(
                            Terminated(entry.key, incarnation.number, EndReason.START_FAILED, error)
                        )
                    self._remove(entry)
                entry.incarnation = None
                requests, entry.requests = entry.requests, []
        _fail_start(requests, error)

    def _withdraw(self, request: StartRequest) -> None:
        if request.entry is not None:
            with self._lock:
                if request in request.entry.requests:
                    request.entry.requests.remove(request)


def _fail_start(requests: list[StartRequest], cause: BaseException | None) -> None:
    """Give everybody who waited for a start what made it fail."""
    for request in requests:
        if isinstance(cause, Exception):
            request.future.fail(cause)
        else:
            # A BaseException means "end this thread"; it is not raised in a thread that it was not
            # meant for.
            error = Undeliverable(request.key, "ended before its start was complete")
            error.__cause__ = cause
            request.future.fail(error)


def _fail_stopped(requests: list[StartRequest], refusal: str | None) -> None:
    """Tell everybody who waited that the registry has stopped."""
    for request in requests:
        request.future.fail(RegistryStopped(refusal))


def _nothing() -> None:
    """Stand in for a registry until there is one."""


# Fork: https://docs.python.org/3/library/os.html#os.fork. Only the forking thread exists in the
# child, so no lock that another thread held is ever released there, and no actor answers.

_FORKED = (
    "this process was forked from the one in which the registry runs, and has none of its threads; "
    "fork before the registry is started, or use the 'spawn' start method"
)


class _Forked(dict[Hashable, Ref]):
    """Takes the place of `active` in a forked child, where every look-up says why it fails."""

    def _refuse(self, *_args: object) -> Any:
        raise RegistryStopped(_FORKED)

    get = copy = __len__ = __contains__ = __iter__ = __getitem__ = _refuse


_tables: weakref.WeakSet[Table] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _waits.forget_after_fork()
    for table in _tables:
        table.forked()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
