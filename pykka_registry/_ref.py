"""The address of an aggregate: it names a key, never dies, and activates on demand."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

import pykka
from pykka.messages import ProxyCall

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import check_method, check_timeout
from pykka_registry._exceptions import NoAnswer, RegistryError
from pykka_registry._future import Future
from pykka_registry._inbox import Letter, stop_letter
from pykka_registry._log import name
from pykka_registry._proxy import AggregateProxy
from pykka_registry._table import Table
from pykka_registry._turns import send_and_help
from pykka_registry._waits import mine

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["AggregateRef"]

A = TypeVar("A", bound=AggregateMixin)
P = ParamSpec("P")
R = TypeVar("R")


class AggregateRef(Generic[A]):
    """An aggregate's address: its key, in its registry. `registry.ref(key)` makes one.

    It never dies. A message wakes its aggregate up if need be, waits while that starts, stops or
    rests after a failure, and is handled once, or reported: to who asked as an error, else as a
    dead letter. What one thread sends to one key is handled in the order sent. Two refs of one key
    are equal, whatever their options.

    All calls do their work in the calling thread. They run no code of the aggregate's there, unless
    it is a pooled one and they wait for it. Refs may be used by any thread.
    """

    __slots__ = ("_key", "_table", "_timeout")

    def __init__(self, table: Any, key: Hashable, timeout: float | None = None) -> None:
        if not isinstance(table, Table):
            msg = "an AggregateRef is not constructed: registry.ref(key) makes one"
            raise TypeError(msg)
        self._table = table
        self._key = key
        self._timeout = timeout

    @property
    def key(self) -> Any:
        """The key."""
        return self._key

    def __repr__(self) -> str:
        return f"<AggregateRef {name(self._key)} in {self._table.name!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AggregateRef):
            return NotImplemented
        return self._table is other._table and bool(self._key == other._key)

    def __hash__(self) -> int:
        return hash((id(self._table), self._key))

    def using(self, *, timeout: float | None) -> AggregateRef[A]:
        """Return the same ref with another timeout.

        Args:
            timeout: Seconds that `call` waits at most, as does `ask` if it is not told otherwise,
                and `get` of a future that `submit`, `ask` or the proxy has returned. `None` waits
                for as long as it takes.

        """
        check_timeout(timeout)
        return AggregateRef(self._table, self._key, timeout)

    # Typed calls.

    def call(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a method of the aggregate and wait for its result.

            balance = account.call(Account.deposit, 10)

        The method's name is what is sent, so a subclass's override wins.

        Raises:
            TypeError: If this is no method of the registry's class.
            Exception: What the method raised, or what `ask` raises.

        """
        name = self._name(method)
        if self._timeout is None:
            life = self._table.life_of(self._key)
            if life is not None:
                depth = len(mine.running)
                try:
                    if life.claim():
                        return cast("R", life.here(life.invoke, name, args, kwargs))
                except BaseException:
                    life.recover(depth)
                    raise
        return cast("R", self.ask(ProxyCall((name,), args, kwargs)))

    def submit(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> pykka.Future[R]:
        """Call a method of the aggregate; return a future of its result.

        The future has the errors, too. Its `get` without a timeout waits for as long as `using` has
        said. The message does not expire when `get` gives up.

        Raises:
            TypeError: If this is no method of the registry's class.

        """
        return self._ask(ProxyCall((self._name(method),), args, kwargs))

    def _name(self, method: object) -> str:
        blueprint = self._table.blueprint
        return check_method(method, None) if blueprint is None else blueprint.name_of(method)

    # Pykka's calls.

    def tell(self, message: Any) -> None:
        """Send a message; nobody waits for an answer. Runs no user code, and never waits.

        Raises:
            KeyAlreadyRegistered: If the key has a foreign actor, which no `AggregateRef` reaches.
            Overloaded: If `max_queued` messages wait for keys that are not active.
            RegistryStopped: If the registry is stopping or has stopped, unless one of its own
                aggregates calls.
            TypeError: If the aggregate is not active and the registry has no class to start.
            Undeliverable: If the key is quarantined.

        """
        self._table.deliver(self._key, Letter(message))

    @overload
    def ask(
        self, message: Any, *, block: Literal[False], timeout: float | None = None
    ) -> pykka.Future[Any]: ...

    @overload
    def ask(self, message: Any, *, block: Literal[True], timeout: float | None = None) -> Any: ...

    @overload
    def ask(
        self, message: Any, *, block: bool = True, timeout: float | None = None
    ) -> Any | pykka.Future[Any]: ...

    def ask(
        self, message: Any, *, block: bool = True, timeout: float | None = None
    ) -> Any | pykka.Future[Any]:
        """Send a message and wait for the answer.

        Args:
            message: Anything.
            block: Whether to wait; else a future is returned, which then has the errors, too.
            timeout: Seconds to wait at most. When they are over and no handler has begun, none
                will: the message has expired. Starting the handler and giving up are one atomic
                choice. Only a blocking `ask` expires its message.

        Raises:
            pykka.Timeout: After `timeout` seconds.
            Overloaded: After `timeout` seconds or the registry's `start_timeout`, if the key got no
                place under `max_live`; at once if all places are held by aggregates that wait for
                one, or if `max_queued` messages wait.
            Undeliverable: If the aggregate failed to start, is quarantined or was abandoned;
                `__cause__` says why.
            WaitCycle: If the calling aggregate would wait for itself. The message is not handled.
            Exception: What the handler raised, or what `tell` raises.

        """
        if not block:
            check_timeout(timeout)
            return self._ask(message)
        if timeout is None:
            timeout = self._timeout
            if timeout is None:
                return self._ask_and_help(message)
        check_timeout(timeout)
        future = self._ask(message)
        try:
            return future.get(timeout=timeout)
        except pykka.Timeout:
            if not future.done():
                error = self._table.expire(self._key, future, timeout)
                if error is not None:
                    raise error from error.__cause__
            if future.done():  # the answer has come, or is a Timeout itself
                return future.get()
        raise NoAnswer(self._key, timeout, "; its handler has begun and goes on")

    def _ask_and_help(self, message: Any) -> Any:
        """Ask without a timeout: this thread may run the aggregate."""
        life = self._table.life_of(self._key)
        if life is not None:
            depth = len(mine.running)
            try:
                if life.claim():
                    return life.here(life.receive, message)
            except BaseException:
                life.recover(depth)
                raise
        return send_and_help(self._ask, message).get()

    def _ask(self, message: Any, future: Future[Any] | None = None) -> Future[Any]:
        if future is None:
            future = Future()
        future.patience = self._timeout
        try:
            self._table.deliver(self._key, Letter(message, future))
        except RegistryError as error:
            future.fail(error)
        return future

    def proxy(self) -> AggregateProxy[A]:
        """Return a proxy, which is used like Pykka's.

        Needs no live aggregate: what is callable in the class is a method, any other name is an
        attribute to be read.
        """
        return AggregateProxy[A].to(self)

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
        """Stop the aggregate after the messages that were sent before; start nothing.

        It returns when the incarnation has ended. What is sent later activates the next one. If the
        key rests after a failure, messages that wait for it are reported, and it is not activated.

        Args:
            block: Whether to wait.
            timeout: Seconds to wait at most. The aggregate stops all the same.

        Returns:
            Whether there was an incarnation to stop, or a future of that.

        Raises:
            pykka.Timeout: After `timeout` seconds.
            WaitCycle: If the calling aggregate would wait for itself. It does not stop, unless
                somebody else wants it to, too.

        """
        check_timeout(timeout)
        letter = stop_letter(Future())
        helps = block and timeout is None
        future = send_and_help(self._table.stop, self._key, letter, helps=helps)
        return cast("bool", future.get(timeout=timeout)) if block else future
