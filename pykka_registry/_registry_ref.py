"""The registry as others see it: a mapping of live actors, used in the caller's own thread."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

import pykka

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import (
    check_foreign,
    check_is_ref,
    check_key,
    check_ref,
    check_seconds,
    check_timeout,
)
from pykka_registry._entry import Ref, StartRequest
from pykka_registry._exceptions import RegistryStopped, WaitCycle
from pykka_registry._inbox import is_stop
from pykka_registry._log import name
from pykka_registry._ref import AggregateRef

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import TracebackType

    from pykka_registry._events import DeadLetter, Stats
    from pykka_registry._future import Future
    from pykka_registry._registry import AggregateRegistry
    from pykka_registry._table import Table

__all__ = ["Drain", "RegistryRef"]

A = TypeVar("A", bound=AggregateMixin)
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Drain:
    """Asks the registry to shut down; the reply is the list of abandoned keys."""

    timeout: float | None


class RegistryRef(pykka.ActorRef["AggregateRegistry"], Generic[A]):
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

    # Addressing.

    def ref(self, key: Hashable) -> AggregateRef[A]:
        """Return the address of the aggregate under `key`; that one need not be live, nor start.

        Raises:
            TypeError: If the key cannot be hashed.

        """
        check_key(key)
        return AggregateRef(self._table, key)

    # Starting.

    def get_or_start(self, key: Hashable, *, timeout: float | None = None) -> pykka.ActorRef[A]:
        """Return the live actor under `key`, or start one and wait until its `on_start` has ended.

        Concurrent callers share one activation and its outcome, failure included. If the key's last
        incarnation is still stopping, or the key rests after a failure, this waits.

        Args:
            key: Any hashable value.
            timeout: Seconds to wait at most. It ends the wait, not an activation that has begun.

        Raises:
            Overloaded: If there was no place for it under `max_live` within `timeout` or the
                registry's `start_timeout`, or all places are held by aggregates that wait for one.
            Quarantined: If the key failed too often, or an abandoned incarnation holds it.
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
        return StartRequest(key, self._table.check_class(), exclusive)

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

        They are sent with `tell`, by a thread that does nothing else: a listener whose inbox is
        bounded and full holds up the other listeners, and nobody else. One that has died is
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

    def wait_for(self, key: Hashable, *, timeout: float | None = None) -> pykka.ActorRef[A]:
        """Return the actor under `key` as soon as there is one; start nothing.

        Args:
            key: Any hashable value.
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Raises:
            RegistryStopped: If the registry is stopping or has stopped, or does so meanwhile.
            TypeError: If the key cannot be hashed.
            pykka.Timeout: After `timeout` seconds.

        """
        check_timeout(timeout)
        future = self._watch(key)
        try:
            return cast("pykka.ActorRef[A]", future.get(timeout=timeout))
        except pykka.Timeout:
            msg = f"key {name(key)} did not become active within {timeout} seconds"
            raise pykka.Timeout(msg) from None
        finally:
            self._table.unwatch(key, future)

    def _watch(self, key: Hashable) -> Future[Ref]:
        check_key(key)
        return self._table.watch(key)

    def stats(self) -> Stats:
        """Return what there is to do and what was done. Atomic, and costs the same at any size."""
        return self._table.stats()

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The last of the messages that were told and that nobody will handle, oldest first."""
        return list(self._table.dead_letters.kept)

    def release(self, key: Hashable) -> bool:
        """Open a key that was quarantined because it failed too often, and forget its failures.

        Returns:
            Whether it was quarantined.

        Raises:
            Quarantined: If an abandoned incarnation holds it: that one's thread must end first.
            TypeError: If the key cannot be hashed.

        """
        check_key(key)
        return self._table.release(key)

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
            WaitCycle: If one of the aggregates waits for the aggregate that calls. The shutdown
                goes on.

        """
        check_timeout(timeout)
        self._table.check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        future = super().stop(block=False)
        if not block:
            return future
        if self._table.runs_here():
            return True
        stopped = future.get(timeout=timeout)
        seconds_left = None if deadline is None else deadline - time.monotonic()
        self._table.finished.get(timeout=seconds_left)  # it may have been at its end already
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
            self._table.finished.get()
            abandoned = self._table.abandoned()
        except WaitCycle:
            # One of the aggregates waits for the one that calls. Its time will run out, so this
            # wait ends, and says of nobody that it waits for them.
            abandoned = self._table.finished.get()
        self._table.join()
        return abandoned

    def _drain(self, timeout: float | None) -> pykka.Future[list[Any]]:
        if timeout is not None:
            check_seconds(timeout, "timeout", least=0)
        future: pykka.Future[list[Any]] = self.ask(Drain(timeout), block=False)
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
        if isinstance(message, Drain) or is_stop(message):
            cast("Future[Any]", future).target = self._table
        return future.get(timeout=timeout) if block else future
