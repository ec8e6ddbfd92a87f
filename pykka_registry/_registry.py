"""The registry: an actor that owns the table.

It does what needs an owner (it sweeps, and shuts down) and answers the calls of its ref as
messages. Nothing that others wait for goes through its mailbox, and it never waits for an
aggregate.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

import pykka

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import (
    check_aggregate_class,
    check_arguments,
    check_is_tuple,
)
from pykka_registry._entry import Blueprint, Ref
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox, answer, fail, is_stop
from pykka_registry._log import log, name
from pykka_registry._policy import Policies, Policy
from pykka_registry._registry_ref import Drain, RegistryRef
from pykka_registry._table import Table

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from pykka._actor import ActorInbox
    from pykka._envelope import Envelope

    from pykka_registry._events import Stats
    from pykka_registry._inbox import Mail
    from pykka_registry._ref import AggregateRef

__all__ = ["AggregateRegistry"]

A = TypeVar("A", bound=AggregateMixin)

_TICK = 0.5
"""Seconds between two looks at what sends no message: foreign actors, the main thread."""

_LINGER = 0.1
_LINGER_MOST = 1.0
"""For what part of a shutdown's time, and for how many seconds at most, an idle aggregate stays
because others are at work and may need it."""

_LAST_WORDS = 1.0
"""Seconds that listeners have to take the last events, if a shutdown has no time left."""


@dataclass(frozen=True, slots=True)
class _Note:
    """Its own envelope, too: the table's word that the registry is wanted."""

    settled: bool
    """Its closed table has nothing to do; else an alarm is due sooner than was known."""
    reply_to: None = None

    @property
    def message(self) -> _Note:
        return self


_SETTLED = _Note(settled=True)
_ALARM = _Note(settled=False)


class AggregateRegistry(pykka.ThreadingActor):
    """Keeps one live actor per key.

    Start it, and use the ref that `start` returns:

        with AggregateRegistry.start(Account) as accounts:
            account = accounts.get_or_start("acc-1")

    Everything that this class offers beside `start` is for code that has the registry as a proxy
    only: `RegistryRef` has the same calls without the way through a mailbox.
    """

    @overload
    @classmethod
    def start(
        cls,
        aggregate_class: None = None,
        /,
        *,
        name: str | None = None,
        **policies: Unpack[Policies],
    ) -> RegistryRef[Any]: ...

    @overload
    @classmethod
    def start(
        cls,
        aggregate_class: type[A],
        /,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **policies: Unpack[Policies],
    ) -> RegistryRef[A]: ...

    @classmethod
    def start(
        cls,
        aggregate_class: type[AggregateMixin] | None = None,
        /,
        *wrong: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **policies: Any,
    ) -> RegistryRef[Any]:
        """Start a registry.

        Args:
            aggregate_class: What `get_or_start` and `start_new` start. Without it the registry only
                keeps what others register.
            *wrong: Nothing; for those who forget `args=`.
            args: For the constructor of each aggregate, as `threading.Thread` takes them.
            kwargs: For the constructor of each aggregate.
            name: How the registry is called in logs and errors; by default after its class.
            **policies: When aggregates come and go, and how long others wait; times in seconds:

                * `idle=None`: after how long without a message an aggregate is retired.
                * `max_live=None`: how many are live at most. At this ceiling the coldest idle one
                  is retired; a busy one never is.
                * `max_starting=64`: how many activations run at once.
                * `max_queued=100_000`: how many messages wait for keys that are not active.
                * `start_timeout=30`: how long a key waits for a place under the ceiling, and then
                  for its activation.
                * `stop_timeout=30`: how long an aggregate that ends may take, before it is
                  abandoned.
                * `drain_timeout=30`: how long a shutdown gives the aggregates to end.
                * `restart="on message"`: when a key that failed is activated again: by the next
                  message, `"at once"`, or `"never"`.
                * `backoff=(0.1, 30)`: how long a key rests after its first failure, and at most;
                  each failure doubles it, give or take a fifth.
                * `max_failures=5`: after how many a key is quarantined.
                * `failure_window=60`: once a key has been active for so long without one, or
                  left alone for so long after its rest, they are forgotten.
                * `quarantine=300`: for how long; `None` until `release(key)`.
                * `dead_letters=1000`: how many are kept.
                * `on_dead_letter=None`: a function that is called with each, in a thread that
                  does nothing else but tell.

        Raises:
            TypeError: If the class is no aggregate class, its constructor does not take the
                arguments, or a policy is of the wrong type or unknown.
            ValueError: If a policy is out of range.

        """
        blueprint = None
        if wrong:
            msg = (
                "an aggregate's arguments go into args: AggregateRegistry.start(Account, args=(…,))"
            )
            raise TypeError(msg)
        if aggregate_class is not None:
            check_aggregate_class(aggregate_class, AggregateMixin)
        check_is_tuple(args)
        policy = Policy.of(policies)
        if aggregate_class is None:
            if args or kwargs:
                msg = "args and kwargs are for an aggregate's constructor: pass its class, too"
                raise TypeError(msg)
        else:
            check_arguments(aggregate_class, args, kwargs or {})
            blueprint = Blueprint(aggregate_class, args, dict(kwargs or {}))
        if name is None:
            name = cls.__name__ if aggregate_class is None else aggregate_class.__name__
        return cast("RegistryRef[Any]", super().start(Table(blueprint, name, policy)))

    def __init__(self, table: Any = None) -> None:
        if not isinstance(table, Table):
            msg = "a registry is started, not constructed: AggregateRegistry.start(Account)"
            raise TypeError(msg)
        super().__init__()
        self._table = table
        self._drain_timeout = table.policy.drain_timeout
        self._registry_ref: RegistryRef[Any] = RegistryRef(self, table)
        # The fields below are touched by the registry's own thread only.
        self._deadline: float | None = None
        """When a shutdown gives up waiting; `None` while there is no shutdown."""
        self._stoppers: list[Mail] = []
        """Who waits for the shutdown."""
        self._stops_all = False
        self._finished = False
        table.registry_ref = self._registry_ref
        table.on_settled = lambda: self._note(_SETTLED)
        table.on_alarm = lambda: self._note(_ALARM)

    @property
    def actor_ref(self) -> Any:
        """The registry's `RegistryRef`."""
        return self._registry_ref

    # The calls as messages. One that would wait answers with a future.

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return what `RegistryRef.get` returns."""
        return self._registry_ref.get(key, default)

    def keys(self) -> list[Any]:
        """Return what `RegistryRef.keys` returns."""
        return self._registry_ref.keys()

    def values(self) -> list[Ref]:
        """Return what `RegistryRef.values` returns."""
        return self._registry_ref.values()

    def items(self) -> list[tuple[Any, Ref]]:
        """Return what `RegistryRef.items` returns."""
        return self._registry_ref.items()

    def register(self, key: Hashable, ref: Ref) -> None:
        """Do what `RegistryRef.register` does."""
        self._registry_ref.register(key, ref)

    def unregister(self, key: Hashable, ref: Ref) -> bool:
        """Do what `RegistryRef.unregister` does."""
        return self._registry_ref.unregister(key, ref)

    def ref(self, key: Hashable) -> AggregateRef[Any]:
        """Return what `RegistryRef.ref` returns."""
        return self._registry_ref.ref(key)

    def start_new(self, key: Hashable) -> pykka.Future[Ref]:
        """Do what `RegistryRef.start_new` does, but answer with a future of the ref."""
        return self._registry_ref._start(key, exclusive=True)

    def get_or_start(self, key: Hashable) -> pykka.Future[Ref]:
        """Do what `RegistryRef.get_or_start` does, but answer with a future of the ref."""
        return self._registry_ref._start(key, exclusive=False)

    def subscribe(self, listener: Ref) -> None:
        """Do what `RegistryRef.subscribe` does."""
        self._registry_ref.subscribe(listener)

    def unsubscribe(self, listener: Ref) -> None:
        """Do what `RegistryRef.unsubscribe` does."""
        self._registry_ref.unsubscribe(listener)

    def wait_for(self, key: Hashable) -> pykka.Future[Ref]:
        """Do what `RegistryRef.wait_for` does, but answer with a future of the ref."""
        return self._registry_ref._watch(key)

    def stats(self) -> Stats:
        """Return what `RegistryRef.stats` returns."""
        return self._registry_ref.stats()

    def release(self, key: Hashable) -> bool:
        """Do what `RegistryRef.release` does."""
        return self._registry_ref.release(key)

    def drain(self, timeout: float | None = None) -> pykka.Future[list[Any]]:
        """Do what `RegistryRef.drain` does, but answer with a future of the abandoned keys."""
        return self._registry_ref._drain(timeout)

    # The actor's own life.

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        return cast("ActorInbox", Inbox())

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return Future()

    def _start_actor_loop(self) -> None:
        try:
            super()._start_actor_loop()
        except RuntimeError:
            # Pykka leaves an actor whose thread cannot start in its registry, and `stop_all` waits
            # for it for ever.
            pykka.ActorRegistry.unregister(self.actor_ref)
            self.actor_stopped.set()
            raise

    def _actor_loop_setup(self) -> None:
        self._table.thread = threading.current_thread()
        if self._table.policy.on_dead_letter is not None:
            self._table.courier.start()
        try:
            self.on_start()
        except BaseException as error:  # noqa: BLE001  # as an aggregate's, it fails the start only
            pykka.ActorRegistry.unregister(self.actor_ref)
            self.actor_stopped.set()
            log(logging.ERROR, "registry %r failed to start", self._table.name, error=error)

    def _actor_loop_running(self) -> None:
        """Serve until the shutdown is complete.

        In place of Pykka's loop, because a message that fails does not end the registry.
        """
        try:
            self._serve_until_finished()
        finally:
            if not self._finished:  # pragma: no cover  # whatever may have gone wrong, nobody hangs
                self._shut_down(0)
                self._finish()

    def _serve_until_finished(self) -> None:
        next_tick = time.monotonic() + _TICK
        while not self._finished:
            if self.actor_stopped.is_set():  # by on_start's failure, or by somebody outside
                self._shut_down(self._drain_timeout)
            wake_at = next_tick if self._deadline is None else min(next_tick, self._deadline)
            wake_at = self._table.ring(wake_at)
            envelope = self._inbox.get(timeout=wake_at - time.monotonic())
            if envelope is not None:
                self._serve(envelope)
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline and not self._finished:
                self._finish()
            elif now >= next_tick:
                next_tick = now + _TICK
                self._tick()

    def _actor_loop_teardown(self) -> None:
        """Stop everybody else, if a handler said so; `_finish` has left no message over."""
        if self._stops_all:
            pykka.ActorRegistry.stop_all()

    def _serve(self, envelope: Mail) -> None:
        message = envelope.message
        if isinstance(message, _Note):
            if message.settled and self._table.retire():
                self._finish()
        elif isinstance(message, Drain):
            self._stoppers.append(envelope)
            self._shut_down(self._drain_timeout if message.timeout is None else message.timeout)
        elif is_stop(message):
            self._stoppers.append(envelope)
            self._shut_down(self._drain_timeout)
        else:
            try:
                reply = self._handle_receive(message)
            except Exception as error:  # noqa: BLE001  # goes to the asker or the log
                fail(envelope, error)
                if envelope.reply_to is None:
                    what = "registry %r goes on after a message that failed"
                    log(logging.ERROR, what, self._table.name, error=error)
            except BaseException as error:  # noqa: BLE001  # it stops every actor
                dead = pykka.ActorDeadError(f"{self} ended with {type(error).__name__}")
                dead.__cause__ = error
                fail(envelope, dead)
                self._stops_all = True
                self._shut_down(self._drain_timeout)
            else:
                answer(envelope, reply)

    def _tick(self) -> None:
        try:
            self._table.tick()
            self._table.sweep()
        except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
            log(logging.ERROR, "registry %r could not sweep", self._table.name, error=error)
        # The interpreter joins all threads when the main thread has ended, and these end only when
        # told to.
        if not threading.main_thread().is_alive():
            self._shut_down(self._drain_timeout)

    def _shut_down(self, timeout: float) -> None:
        """Begin to shut down, or make a shutdown end sooner."""
        deadline = time.monotonic() + timeout
        if self._deadline is None:
            self._deadline = deadline
            refusal = f"registry {self._table.name!r} is stopping or has stopped; start another"
            self._table.close(refusal, min(timeout * _LINGER, _LINGER_MOST))
        self._deadline = min(self._deadline, deadline)

    def _finish(self) -> None:
        """End: whoever has not ended by now is abandoned."""
        self._finished = True
        abandoned = self._table.abandon()
        try:
            self._end(abandoned)
        finally:
            if not self._stops_all:
                self._table.leave()
            for envelope in self._stoppers:
                answer(envelope, abandoned if isinstance(envelope.message, Drain) else None)
            self._table.finished.set(abandoned)

    def _end(self, abandoned: list[Hashable]) -> None:
        """Refuse every message, tell the last events, and run the last hook."""
        pykka.ActorRegistry.unregister(self.actor_ref)
        self.actor_stopped.set()
        for envelope in self._inbox.close(self._dead):
            if isinstance(envelope.message, Drain) or is_stop(envelope.message):
                self._stoppers.append(envelope)
            else:
                fail(envelope, self._dead())
        seconds_left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        told = self._table.courier.finish(max(seconds_left, _LAST_WORDS))
        try:
            self.on_stop()
        except BaseException as error:  # noqa: BLE001  # the end must be seen to the end
            log(logging.ERROR, "registry %r raised in on_stop", self._table.name, error=error)
        if abandoned:
            what = "registry %r abandons %d aggregates that did not end in time: %s"
            keys = ", ".join(map(name, abandoned))
            log(logging.ERROR, what, self._table.name, len(abandoned), keys)
        if not told:
            what = "registry %r ends with a listener that blocks: is its inbox bounded, and full?"
            log(logging.ERROR, what, self._table.name)

    def _dead(self) -> pykka.ActorDeadError:
        return pykka.ActorDeadError(f"registry {self._table.name!r} has stopped")

    def _note(self, note: _Note) -> None:
        """Wake the registry; in any thread, with the table's lock held."""
        with contextlib.suppress(pykka.ActorDeadError):  # it may have ended before a late end
            self._inbox.put(cast("Envelope[Any]", note))

    @property
    def _inbox(self) -> Inbox:
        return cast("Inbox", self.actor_inbox)
