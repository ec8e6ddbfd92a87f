"""How a table is closed: it takes nothing new, and all that there is comes to its end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry import _waits
from pykka_registry._course import Course, Joined
from pykka_registry._entry import Entry, Incarnation, State
from pykka_registry._events import DeadLetterReason, EndReason
from pykka_registry._exceptions import RegistryStopped, Undeliverable
from pykka_registry._fork import FORKED, Forked
from pykka_registry._future import Future

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._after import After
    from pykka_registry._entry import Blueprint, Ref
    from pykka_registry._inbox import Inbox
    from pykka_registry._policy import Policy

__all__ = ["Closing"]

_LAST_LINES = 5.0
"""Seconds that a shutdown waits for threads whose aggregates have ended."""


class Closing(Course):
    """What a shutdown asks of a table, step by step; `_registry` takes them."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        super().__init__(blueprint, name, policy)
        self.registry_ref: Ref | None = None
        """The registry. Set once, before anybody else has the table."""
        self.thread: threading.Thread | None = None
        """The registry's thread. Written by itself, at its beginning."""
        self.finished: Future[list[Hashable]] = Future()
        """The keys that were abandoned, once the registry has ended."""

    def close(self, refusal: str, linger: float) -> None:
        """Take nothing new from outside from now on, and let what there is come to its end.

        Who has nothing to do goes. The others finish what they have accepted, and may send each
        other letters, and activate each other by them; when they have nothing to do they stay for
        so many seconds more, for others may need them. Once none of them has anything to do
        `on_settled` is called, and `retire` lets them go; once none is left it is called again.
        """

        def decide(after: After) -> None:
            self.refusal = refusal
            self._linger = linger
            self.foreign.clear()
            stopped = RegistryStopped(refusal)
            for watchers in self._watchers.values():
                for future in filter(None, (watcher() for watcher in watchers)):
                    after.do(future.fail, stopped)
            self._watchers.clear()
            for entry in self._all_entries():
                try:
                    self._close(entry, stopped, after)
                except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
                    self._cut_off(entry, error, after)
            self._check_settled()

        self._change(decide)

    def _close(self, entry: Entry, stopped: RegistryStopped, after: After) -> None:
        incarnation = entry.incarnation
        entry.restarts = False
        if entry.state is State.ACTIVE:
            assert incarnation is not None
            if incarnation.inbox.idle_since() is not None:
                incarnation.asked = EndReason.DRAINED
            incarnation.inbox.nudge(after.do)
        elif incarnation is None and entry.state is State.QUARANTINED:
            self._release(entry)
        elif incarnation is None or not incarnation.launched:
            self._fail_requests(entry, stopped, after)
            self._drop_if_unwanted(entry, after)

    def retire(self) -> bool:
        """Let those go that have nothing to do; true if there are none left."""

        def decide(after: After) -> bool:
            entries = self._all_entries()
            for entry in entries:
                if entry.state is State.ACTIVE and entry.incarnation is not None:
                    entry.incarnation.inbox.nudge(after.do)
            return len(entries) == self._states[State.QUARANTINED]

        return self._change(decide)

    def abandon(self) -> list[Hashable]:
        """Quarantine what has not ended; return its keys, and of those that were before."""

        def decide(after: After) -> list[Hashable]:
            keys: list[Hashable] = []
            self._is_over = True
            for entry in self._all_entries():
                if entry.incarnation is not None and entry.incarnation.launched:
                    if entry.state is not State.QUARANTINED:
                        self._abandon(entry, after)
                    keys.append(entry.key)
                else:
                    error = Undeliverable(
                        entry.key, "was not activated before its registry stopped"
                    )
                    self._give_up(entry, DeadLetterReason.REGISTRY_STOPPED, error, after)
            for record in self._failures.clear():
                self._alarm(record, None)
            return keys

        return self._change(decide)

    def abandoned(self) -> list[Hashable]:
        """Return the keys that abandoned incarnations hold."""
        with self._lock:
            return [
                entry.key
                for entry in self._all_entries()
                if entry.state is State.QUARANTINED and entry.incarnation is not None
            ]

    def join(self) -> None:
        """Wait for the threads that are about to end, so that a shutdown leaves none.

        Not for ever: they write to the log, and what is behind that may block.
        """
        with self._lock:
            leaving: list[Joined] = [*self._leaving - {threading.current_thread()}, *self._tails]
        deadline = time.monotonic() + _LAST_LINES
        for one in leaving:
            one.join(max(deadline - time.monotonic(), 0))

    def forked(self) -> None:
        """Refuse everything: the threads that served this table exist in the parent only."""
        self._lock = threading.Lock()
        self.refusal = FORKED
        self._is_torn = False
        incarnations = [entry.incarnation for entry in self._all_entries()]
        lives = [incarnation.life for incarnation in incarnations if incarnation is not None]
        inboxes = [life.inbox for life in lives if life is not None]
        self._publish(cast("dict[Hashable, IncarnationRef]", Forked()))
        if self.registry_ref is not None:
            inboxes.append(cast("Inbox", self.registry_ref.actor_inbox))
        for inbox in inboxes:
            inbox.close_after_fork(lambda: pykka.ActorDeadError(FORKED))

    def runs_here(self) -> bool:
        """Tell whether the calling thread is the registry's or runs one of its aggregates."""
        return threading.current_thread() is self.thread or any(
            isinstance(runs, Incarnation) and runs.entry.table is self
            for runs in _waits.runs_here()
        )

    def is_waited_for_here(self) -> bool:
        """Tell whether a shutdown waits for the calling thread, which so must not wait for it."""
        return self.runs_here() or self.courier.runs_here()

    # Being waited for: a shutdown ends when the last of the incarnations has.

    @property
    def yields_to_timeouts(self) -> bool:
        """False: a cycle is refused whatever the timeout."""
        return False

    def key_of(self) -> tuple[Hashable, ...]:
        """Return nothing: a registry has no key."""
        return ()

    def runners(self) -> Sequence[int]:
        """Return the threads that run the table's incarnations."""
        incarnations = [entry.incarnation for entry in self._all_entries()]
        return [
            incarnation.runner
            for incarnation in incarnations
            if incarnation is not None and incarnation.runner is not None
        ]

    def holders(self) -> Sequence[int] | None:
        """Return `None`: a shutdown waits for no place."""
        return None

    def urge(self, wait: _waits.Wait) -> None:
        """Do nothing: a shutdown goes as fast as it can."""

    def was_withdrawn(self, wait: _waits.Wait) -> None:
        """Do nothing: a shutdown goes on all the same."""

    def help(self, _until: Future[Any]) -> bool:
        """Return false: a shutdown has a thread of its own."""
        return False

    def rescue(self) -> None:
        """Do nothing: a shutdown has a thread of its own."""
