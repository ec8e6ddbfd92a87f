"""The registry: an actor that owns the table, and the ref through which everybody else uses it.

The ref does its work in the caller's thread. The actor does what needs an owner (it passes events
on, sweeps, shuts down) and answers the same calls as messages; nothing that others wait for goes
through its mailbox, and it never waits for an aggregate.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

import pykka

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import (
    check_aggregate_class,
    check_arguments,
    check_foreign,
    check_is_ref,
    check_is_tuple,
    check_key,
    check_ref,
    check_seconds,
    check_timeout,
)
from pykka_registry._exceptions import RegistryStopped, WaitCycle
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox, answer, fail, is_stop
from pykka_registry._log import log, name
from pykka_registry._table import Blueprint, StartRequest, Table

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping
    from types import TracebackType

    from pykka._actor import ActorInbox
    from pykka._envelope import Envelope

__all__ = ["AggregateRegistry", "RegistryRef"]

A = TypeVar("A", bound=AggregateMixin)
D = TypeVar("D")
Ref = pykka.ActorRef[Any]

_TICK = 0.5
"""Seconds between two looks at what sends no message: foreign actors, the main thread."""

_LAST_WORDS = 1.0
"""Seconds that listeners have to take the last events, if a shutdown has no time left."""


@dataclass(frozen=True, slots=True)
class _Drain:
    """Asks the registry to shut down; the reply is the list of abandoned keys."""

    timeout: float | None


@dataclass(frozen=True, slots=True)
class _Drained:
    """Its own envelope, too: tells the registry that nothing is left in its closed table."""

    reply_to: None = None

    @property
    def message(self) -> _Drained:
        return self


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
        drain_timeout: float = 30.0,
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
        drain_timeout: float = 30.0,
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
        drain_timeout: float = 30.0,
    ) -> RegistryRef[Any]:
        """Start a registry.

        Args:
            aggregate_class: What `get_or_start` and `start_new` start. Without it the registry only
                keeps what others register.
            *wrong: Nothing; for those who forget `args=`.
            args: For the constructor of each aggregate, as `threading.Thread` takes them.
            kwargs: For the constructor of each aggregate.
            name: How the registry is called in logs and errors; by default after its class.
            drain_timeout: Seconds that a shutdown gives the aggregates to end.

        Raises:
            TypeError: If the class is no aggregate class, or its constructor does not take the
                arguments.

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
        check_seconds(drain_timeout, "drain_timeout", least=0)
        if aggregate_class is None:
            if args or kwargs:
                msg = "args and kwargs are for an aggregate's constructor: pass its class, too"
                raise TypeError(msg)
        else:
            check_arguments(aggregate_class, args, kwargs or {})
            blueprint = Blueprint(aggregate_class, args, dict(kwargs or {}))
        if name is None:
            name = cls.__name__ if aggregate_class is None else aggregate_class.__name__
        return cast("RegistryRef[Any]", super().start(Table(blueprint, name), drain_timeout))

    def __init__(self, table: Any = None, drain_timeout: float = 0) -> None:
        if not isinstance(table, Table):
            msg = "a registry is started, not constructed: AggregateRegistry.start(Account)"
            raise TypeError(msg)
        super().__init__()
        self._table = table
        self._drain_timeout = drain_timeout
        self._registry_ref: RegistryRef[Any] = RegistryRef(self, table)
        # The fields below are touched by the registry's own thread only.
        self._deadline: float | None = None
        """When a shutdown gives up waiting; `None` while there is no shutdown."""
        self._stoppers: list[Envelope[Any]] = []
        """Who waits for the shutdown."""
        self._stops_all = False
        self._finished = False
        table.registry_ref = self._registry_ref
        table.on_drained = self._on_drained

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

    def _serve(self, envelope: Envelope[Any]) -> None:
        message = envelope.message
        if isinstance(message, _Drained):
            self._finish()
        elif isinstance(message, _Drain):
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
            self._table.sweep()
        except Exception as error:  # noqa: BLE001  # a key's own __hash__ or __eq__
            log(logging.ERROR, "registry %r could not sweep", self._table.name, error=error)
        # The interpreter joins all threads when the main thread has ended, and these end only when
        # told to.
        if not threading.main_thread().is_alive():
            self._shut_down(self._drain_timeout)

    def _shut_down(self, timeout: float) -> None:
        """Begin to shut down, or make a shutdown end sooner; `Drained` or the deadline ends it."""
        deadline = time.monotonic() + timeout
        if self._deadline is None:
            self._deadline = deadline
            refusal = f"registry {self._table.name!r} is stopping or has stopped; start another"
            for ref in self._table.close(refusal):
                ref.stop(block=False)
        self._deadline = min(self._deadline, deadline)

    def _finish(self) -> None:
        """End: whoever has not ended by now is abandoned."""
        self._finished = True
        abandoned = self._table.abandon()
        pykka.ActorRegistry.unregister(self.actor_ref)
        self.actor_stopped.set()
        for envelope in self._inbox.close(self._dead):
            if isinstance(envelope.message, _Drain) or is_stop(envelope.message):
                self._stoppers.append(envelope)
            else:
                fail(envelope, self._dead())
        seconds_left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        told = self._table.courier.finish(max(seconds_left, _LAST_WORDS))
        try:
            self.on_stop()
        except BaseException as error:  # noqa: BLE001  # the end must be seen to the end
            log(logging.ERROR, "registry %r raised in on_stop", self._table.name, error=error)
        if not self._stops_all:
            self._table.leave()
        for envelope in self._stoppers:
            answer(envelope, abandoned if isinstance(envelope.message, _Drain) else None)
        if abandoned:
            what = "registry %r abandons %d aggregates that did not end in time: %s"
            keys = ", ".join(map(name, abandoned))
            log(logging.ERROR, what, self._table.name, len(abandoned), keys)
        if not told:
            what = "registry %r ends with a listener that blocks: is its inbox bounded, and full?"
            log(logging.ERROR, what, self._table.name)

    def _dead(self) -> pykka.ActorDeadError:
        return pykka.ActorDeadError(f"registry {self._table.name!r} has stopped")

    def _on_drained(self) -> None:
        """Wake the registry; in any thread, with the table's lock held."""
        with contextlib.suppress(pykka.ActorDeadError):  # it may have ended before a late end
            self._inbox.put(cast("Envelope[Any]", _Drained()))

    @property
    def _inbox(self) -> Inbox:
        return cast("Inbox", self.actor_inbox)


class RegistryRef(pykka.ActorRef[AggregateRegistry], Generic[A]):
    """A registry as others see it: a mapping of the live actors, and the calls to start and stop.

    It is an `ActorRef`, and may be passed around like one. All its calls but `drain` and `stop` do
    their work in the caller's thread, without a message: a busy registry keeps nobody waiting.

    Reading (`get`, `registry[key]`, `in`, `len`, iteration) takes no lock and waits for nobody. It
    sees actors whose `on_start` has ended, and none that has begun to end; iteration goes over a
    snapshot. A ref may die right after it was returned.

    In a forked child every call raises `RegistryStopped`.
    """

    def __init__(self, actor: AggregateRegistry, table: Table) -> None:
        super().__init__(actor)
        self._table = table

    def __repr__(self) -> str:
        return f"<RegistryRef {self}>"

    def __str__(self) -> str:
        return f"{self._table.name!r} ({self.actor_urn})"

    # Reading.

    @overload
    def get(self, key: Hashable) -> pykka.ActorRef[A] | None: ...

    @overload
    def get(self, key: Hashable, default: D) -> pykka.ActorRef[A] | D: ...

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the ref of the live actor under `key`, or `default`.

        Raises:
            TypeError: If the key cannot be hashed.

        """
        try:
            ref = self._table.active.get(key)
            if ref is None:
                ref = self._table.get(key)
        except TypeError:
            check_key(key)
            raise
        return default if ref is None else ref

    def __getitem__(self, key: Hashable) -> pykka.ActorRef[A]:
        """Return the ref of the live actor under `key`.

        Raises:
            KeyError: If there is none.

        """
        ref = self.get(key)
        if ref is None:
            raise KeyError(key)
        return ref

    def __contains__(self, key: Hashable) -> bool:
        """Tell whether there is a live actor under `key`."""
        return self.get(key) is not None

    def __len__(self) -> int:
        """Return how many live actors there are."""
        return self._table.count()

    def __bool__(self) -> bool:
        """Return true: an empty registry is a registry."""
        return True

    def __iter__(self) -> Iterator[Any]:
        """Iterate over a snapshot of the keys."""
        return iter(self.keys())

    def keys(self) -> list[Any]:
        """Return the keys of the live actors."""
        return list(self._table.snapshot())

    def values(self) -> list[pykka.ActorRef[A]]:
        """Return the refs of the live actors."""
        return list(self._table.snapshot().values())

    def items(self) -> list[tuple[Any, pykka.ActorRef[A]]]:
        """Return the live actors by key."""
        return list(self._table.snapshot().items())

    # Starting.

    def get_or_start(self, key: Hashable, *, timeout: float | None = None) -> pykka.ActorRef[A]:
        """Return the live actor under `key`, or start one and wait until its `on_start` has ended.

        Concurrent callers share one activation and its outcome, failure included. If the key's last
        incarnation is still stopping, this waits for its end.

        Args:
            key: Any hashable value.
            timeout: Seconds to wait at most. It ends the wait, not an activation that has begun.

        Raises:
            Quarantined: If an abandoned incarnation holds the key.
            RegistryStopped: If the registry is stopping or has stopped.
            TypeError: If the key cannot be hashed, or the registry has no class.
            Undeliverable: If the actor ended before its `on_start` had.
            WaitCycle: If the calling aggregate would wait for itself.
            pykka.Timeout: After `timeout` seconds.
            Exception: What the constructor or `on_start` raised. The key is free then.

        """
        check_timeout(timeout)
        if self._table.refusal is None and (ref := self.get(key)) is not None:
            return ref
        return self._table.obtain(self._request(key, exclusive=False), timeout)

    def start_new(self, key: Hashable, *, timeout: float | None = None) -> pykka.ActorRef[A]:
        """Start an actor under `key`, which must be free, and wait until its `on_start` has ended.

        Of many callers one starts it; nothing is constructed for the others. If the key's last
        incarnation is still stopping, this waits for its end.

        Args:
            key: Any hashable value.
            timeout: Seconds to wait at most. It ends the wait, not an activation that has begun.

        Raises:
            KeyAlreadyRegistered: If the key has a live actor, or one that is starting.
            Exception: What `get_or_start` raises.

        """
        check_timeout(timeout)
        return self._table.obtain(self._request(key, exclusive=True), timeout)

    def _request(self, key: Hashable, *, exclusive: bool) -> StartRequest:
        check_key(key)
        blueprint = self._table.blueprint
        if blueprint is None:
            msg = (
                f"registry {self._table.name!r} has no aggregate class, so it can start nothing: "
                "give it one with AggregateRegistry.start(Account), "
                "or use Account.start(registry, key)"
            )
            raise TypeError(msg)
        return StartRequest(key, blueprint, exclusive)

    def _start(self, key: Hashable, *, exclusive: bool) -> pykka.Future[Ref]:
        request = self._request(key, exclusive=exclusive)
        self._table.start(request)
        return request.future

    # Foreign actors.

    def register(self, key: Hashable, ref: Ref) -> None:
        """Register an actor that is no aggregate. Atomic; a dead actor's registration is replaced.

        The registry neither starts nor stops it. When it has died no look-up returns it, and its
        `Terminated` comes within about a second. To register the same actor under its key again
        does nothing.

        Raises:
            KeyAlreadyRegistered: If the key has another live actor.
            RegistryStopped: If the registry is stopping or has stopped.
            TypeError: If the key cannot be hashed, or the actor is an aggregate.
            pykka.ActorDeadError: If the actor is dead.

        """
        check_key(key)
        check_ref(ref, "the actor to register")
        check_foreign(
            ref, AggregateMixin, f"start it with {ref.actor_class.__name__}.start(registry, key)"
        )
        self._table.register(key, ref)

    def unregister(self, key: Hashable, ref: Ref) -> bool:
        """Take the registration of a foreign actor back, if it is still this actor's. Atomic.

        Returns:
            Whether it was.

        Raises:
            TypeError: If the key cannot be hashed, or the actor is an aggregate.

        """
        check_key(key)
        check_is_ref(ref, "the actor to unregister")
        check_foreign(ref, AggregateMixin, "stop it with its ref's stop()")
        return self._table.unregister(key, ref)

    # Watching.

    def subscribe(self, listener: Ref) -> None:
        """Send `Registered` and `Terminated` to `listener` from now on, in the order of events.

        They are sent with `tell`, by a thread that does nothing else. A listener that has died is
        dropped.

        Raises:
            RegistryStopped: If the registry is stopping or has stopped.
            TypeError: If `listener` is no ref.
            pykka.ActorDeadError: If the listener is dead.

        """
        check_ref(listener, "the listener")
        self._table.subscribe(listener)
        self._table.courier.start()

    def unsubscribe(self, listener: Ref) -> None:
        """Send `listener` nothing more; what is under way may still arrive.

        Raises:
            TypeError: If `listener` is no ref.

        """
        check_is_ref(listener, "the listener")
        self._table.unsubscribe(listener)

    # Shutting down.

    @overload
    def stop(self, *, block: Literal[True] = True, timeout: float | None = None) -> bool: ...

    @overload
    def stop(
        self, *, block: Literal[False], timeout: float | None = None
    ) -> pykka.Future[bool]: ...

    @overload
    def stop(
        self, *, block: bool = True, timeout: float | None = None
    ) -> bool | pykka.Future[bool]: ...

    def stop(
        self, *, block: bool = True, timeout: float | None = None
    ) -> bool | pykka.Future[bool]:
        """Stop all aggregates, in parallel, then the registry.

        Each aggregate handles what it had accepted before. Those that do not end within the
        registry's `drain_timeout` are abandoned: the log names them. An aggregate of this registry
        that calls it does not wait, for it would wait for itself.

        Args:
            block: Whether to wait until all is done.
            timeout: Seconds to wait at most, as in Pykka. It ends the wait, not the shutdown.

        Returns:
            Whether the registry was alive, or a future of that.

        Raises:
            pykka.Timeout: After `timeout` seconds.

        """
        check_timeout(timeout)
        self._table.check_process()
        future = super().stop(block=False)
        if not block:
            return future
        if self._table.runs_here():
            return True
        stopped = future.get(timeout=timeout)
        self._table.join()
        return stopped

    def drain(self, timeout: float | None = None) -> list[Any]:
        """Stop all aggregates, in parallel, then the registry, and tell which did not end.

        Args:
            timeout: Seconds to give them, by default the registry's `drain_timeout`.

        Returns:
            The keys that had to be abandoned. If the registry had stopped before, those that are
            still held. Empty if one of its own aggregates calls this: it does not wait, for
            it would wait for itself.

        """
        future = self._drain(timeout)
        if self._table.runs_here():
            return []
        try:
            abandoned = future.get()
        except pykka.ActorDeadError:
            abandoned = self._table.abandoned()
        except WaitCycle:
            # One of the aggregates waits for the one that calls. Its time will run out, so this
            # wait ends, and says of nobody that it waits for them.
            abandoned = super().ask(_Drain(timeout), block=False).get()
        self._table.join()
        return abandoned

    def _drain(self, timeout: float | None) -> pykka.Future[list[Any]]:
        if timeout is not None:
            check_seconds(timeout, "timeout", least=0)
        future: pykka.Future[list[Any]] = self.ask(_Drain(timeout), block=False)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down, as `drain` does."""
        # A forked child leaves the parent's registry alone.
        with contextlib.suppress(RegistryStopped):
            self.drain()

    # Pykka's calls.

    def tell(self, message: Any) -> None:
        """See `pykka.ActorRef.tell`."""
        self._table.check_process()
        super().tell(message)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """See `pykka.ActorRef.ask`."""
        self._table.check_process()
        future = super().ask(message, block=False)
        if isinstance(message, _Drain) or is_stop(message):
            cast("Future[Any]", future).target = self._table
        return future.get(timeout=timeout) if block else future
