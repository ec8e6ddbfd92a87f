"""The aggregates of an application, each live in one actor: `live_aggregates` is all it takes."""

from __future__ import annotations

import copy
import functools
import operator
import time
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from eventsourcing.application import Application
from eventsourcing.domain import BaseAggregate
from eventsourcing.utils import get_topic
from pykka.messages import ProxyCall

from pykka_registry._checks import check_count
from pykka_registry._registry import AggregateRegistry
from pykka_registry.eventsourcing._command import (
    NO_TERMS,
    Command,
    Decision,
    Options,
    Terms,
    check_command_id,
    name_of,
    of_factory,
    of_method,
)
from pykka_registry.eventsourcing._kept import check_has_topic
from pykka_registry.eventsourcing._newcomers import Newcomers
from pykka_registry.eventsourcing._outcome import inserts_once, may_store_later, saves_plainly
from pykka_registry.eventsourcing._receipts import ReceiptBase, Receipts
from pykka_registry.eventsourcing._retirement import Retirement
from pykka_registry.eventsourcing._snapshots import Snapshots
from pykka_registry.eventsourcing._turn import LiveActor, Pending, Reply, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Literal, Self
    from uuid import UUID

    import pykka

    from pykka_registry._policy import Policies
    from pykka_registry._ref import AggregateRef
    from pykka_registry._registry_ref import RegistryRef

__all__ = ["LiveAggregates", "LiveRef", "live_aggregates"]

A = TypeVar("A", bound=BaseAggregate[Any])
P = ParamSpec("P")
R = TypeVar("R")

_RETRIES = 20

_EXECUTE = ("execute",)

_id_of = operator.attrgetter("id")


def live_aggregates(  # noqa: PLR0913  # each is a word of its own
    app: Application[Any],
    aggregate_class: type[A],
    *,
    refusals: Iterable[type[Exception]] = (),
    retries: int = _RETRIES,
    passivate_on: Mapping[type[Any], float | None] | None = None,
    passivate_after: Callable[[A], float | None] | None = None,
    name: str | None = None,
    **policies: Unpack[Policies],
) -> LiveAggregates[A]:
    """Have the aggregates of a class live in actors, one for each that is used.

        with live_aggregates(bank, Account) as accounts:
            accounts.ref(account_id).call(Account.deposit, Decimal("10.00"))

    Neither the application nor the aggregate class knows of it. A command takes an actor's turn; it
    loads the aggregate with the first, and not again. Others may use the application meanwhile, in
    this process or another: who comes second decides again.

    Args:
        app: The application. It stays open, and is closed by its owner, later.
        aggregate_class: The class of the aggregates.
        refusals: Error classes of the domain. A command that has an id and raises one of them is
            done by that: sent again it is refused again. They must be found by their names, so no
            function may define them.
        retries: How often at most a command is decided again, because another process was faster.
        passivate_on: After how many seconds without a message an aggregate is passivated, by the
            class of its last event, or a base of it; `None` for never. The last event alone
            decides, and decides again when the aggregate is loaded, for which it is read.
        passivate_after: The same as a function of the aggregate, which is called whenever that has
            been loaded or has changed, and no rule of `passivate_on` holds.
        name: How the registry is called in logs and errors; by default after the class.
        **policies: The registry's; see `AggregateRegistry.start`.

    Raises:
        TypeError: If an argument is not what it must be.
        ValueError: If a number is out of range, or the application caches its aggregates in a way
            in which it would not see what is stored here.
    """
    refusals = tuple(refusals)
    _check(app, aggregate_class, refusals)
    check_count(retries, "retries", least=0)
    id_type = getattr(getattr(aggregate_class, "Event", None), "originator_id_type", None)
    if id_type is None:
        message = (
            f"{aggregate_class.__name__} has no class Event that says what type its ids are of: "
            "derive one from CanMutateAggregate[UUID] or CanMutateAggregate[str]"
        )
        raise TypeError(message)
    if app.repository.cache is not None and not app.repository.fastforward:
        message = (
            "the application's cache would not see what is stored here: leave "
            "AGGREGATE_CACHE_MAXSIZE empty, for the actors are the cache, or set "
            "AGGREGATE_CACHE_FASTFORWARD to yes"
        )
        raise ValueError(message)
    receipts = Receipts(app, id_type)
    setup = Setup(
        app=app,
        snapshots=Snapshots(app, aggregate_class),
        receipts=receipts,
        newcomers=Newcomers(),
        retirement=Retirement(policies.get("idle"), passivate_on, passivate_after),
        refusals=refusals,
        attempts=retries + 1,
        saves_plainly=saves_plainly(app),
        inserts_once=inserts_once(app),
        may_store_later=may_store_later(app),
    )
    registry = AggregateRegistry.start(
        LiveActor, args=(setup,), name=name or aggregate_class.__name__, **policies
    )
    return LiveAggregates(registry, aggregate_class, id_type, receipts)


def _check(app: object, aggregate_class: object, refusals: tuple[object, ...]) -> None:
    if not isinstance(app, Application):
        message = f"the application comes first, an Application, not {app!r}"
        raise TypeError(message)
    if not (isinstance(aggregate_class, type) and issubclass(aggregate_class, BaseAggregate)):
        message = (
            f"the class of the aggregates must be one of the library's, not {aggregate_class!r}"
        )
        raise TypeError(message)
    for refusal in refusals:
        if not (isinstance(refusal, type) and issubclass(refusal, Exception)):
            message = f"refusals are classes of exceptions, which {refusal!r} is not"
            raise TypeError(message)
        if "TOPIC" in vars(refusal):
            get_topic(refusal)  # the library finds it by that from now on
        check_has_topic(refusal)


class LiveAggregates(Generic[A]):
    """The live aggregates of one class; `live_aggregates` makes it.

    All its calls may come from any thread.
    """

    __slots__ = ("_class", "_id_type", "_receipts", "_registry", "_terms")

    def __init__(  # nobody else calls it
        self,
        registry: RegistryRef[LiveActor],
        aggregate_class: type[A],
        id_type: type[UUID | str],
        receipts: Receipts,
        terms: Terms = NO_TERMS,
    ) -> None:
        self._registry = registry
        self._class = aggregate_class
        self._id_type = id_type
        self._receipts = receipts
        self._terms = terms

    def __repr__(self) -> str:
        return f"<LiveAggregates of {self._class.__name__} in {self._registry}>"

    @property
    def registry(self) -> RegistryRef[Any]:
        """The registry of the actors, whose keys are the aggregates' ids."""
        return self._registry

    def using(self, **options: Unpack[Options]) -> LiveAggregates[A]:
        """Return the same with options for `create`, `get_or_create` and the refs; see there."""
        terms = self._terms.but(options)
        return LiveAggregates(self._registry, self._class, self._id_type, self._receipts, terms)

    def ref(self, aggregate_id: UUID | str) -> LiveRef[A]:
        """Return the address of an aggregate, which need not exist.

        Raises:
            TypeError: if the id is not of the type of this application's ids.
        """
        if not isinstance(aggregate_id, self._id_type):
            right, wrong = self._id_type.__name__, type(aggregate_id).__name__
            message = (
                f"ids of {self._class.__name__} are of type {right}, and {aggregate_id!r} is of "
                f"type {wrong}: two types would be two live actors of one aggregate"
            )
            raise TypeError(message)
        return LiveRef(self._registry.ref(aggregate_id), self._class, None, self._terms)

    def create(self, factory: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> LiveRef[A]:
        """Create an aggregate, and return its address once it is stored.

            account = accounts.create(Account, "Ada")

        The factory, which is the class as a rule, runs in the calling thread.

        Raises:
            AggregateExists: if there is one of this id.
            Exception: what `LiveRef.call` raises.
        """
        return self._create(factory, args, kwargs, must_be_new=True)

    def get_or_create(
        self, factory: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs
    ) -> LiveRef[A]:
        """Create an aggregate, unless there is one of its id; return its address.

        Raises:
            Exception: what `LiveRef.call` raises.
        """
        return self._create(factory, args, kwargs, must_be_new=False)

    def _create(
        self,
        factory: Callable[..., A],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        must_be_new: bool,
    ) -> LiveRef[A]:
        # The id decides who is to store it, and it is made together with the aggregate.
        aggregate: object = factory(*args, **kwargs)
        if not isinstance(aggregate, self._class):
            message = f"{factory!r} must make a {self._class.__name__}, and has made {aggregate!r}"
            raise TypeError(message)
        ref = self.ref(aggregate.id)
        command = Command(
            getattr(factory, "__qualname__", "create"),
            _id_of,
            of_factory(factory, args, kwargs),
            # A command may be decided more than once, and each time takes what the aggregate has
            # triggered from it.
            new=functools.partial(copy.deepcopy, aggregate),
            must_be_new=must_be_new,
            makes_id=True,
            terms=self._terms,
        )
        return self.using(command_id=None, expected_version=None).ref(ref._ask(command).result)

    def receipt(self, command_id: UUID | str) -> ReceiptBase[Any] | None:
        """Read the receipt of a command; `None` if the command is not done.

        Reads the store in the calling thread.

        Raises:
            TypeError: if the id is neither a `str` nor a `UUID`.
            ValueError: if it is empty, or no text that can be stored.
        """
        check_command_id(command_id)
        return self._receipts.find(command_id)

    def stop(self, *, timeout: float | None = None) -> bool:
        """Stop all aggregates and the registry, as `RegistryRef.stop` does; the store stays open.

        Raises:
            pykka.Timeout: After `timeout` seconds.
        """
        return self._registry.stop(timeout=timeout)

    def drain(self, timeout: float | None = None) -> list[Any]:
        """Stop all aggregates and the registry; return the ids of those that did not end in time.

        See `RegistryRef.drain`.
        """
        return self._registry.drain(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all aggregates and the registry, as `drain` does."""
        self._registry.__exit__(exc_type, exc_value, traceback)


class LiveRef(Generic[A]):
    """The address of an aggregate: its id, among the live ones. `LiveAggregates.ref` makes one.

    It never dies, and may be kept, shared and compared. What is sent by it reaches the aggregate,
    live or not, one command after the other, those of one thread in the order sent.

    Arguments and results are passed as they are. Do not change one afterwards: it may be a part of
    the aggregate.
    """

    __slots__ = ("_class", "_new", "_ref", "_terms")

    def __init__(
        self,
        ref: AggregateRef[LiveActor],
        aggregate_class: type[A],
        new: Callable[[], A] | None,
        terms: Terms,
    ) -> None:
        self._ref = ref if terms.timeout is None else ref.using(timeout=terms.timeout)
        self._class = aggregate_class
        self._new = new
        self._terms = terms

    @property
    def id(self) -> Any:
        """The aggregate's id."""
        return self._ref.key

    def __repr__(self) -> str:
        return f"<LiveRef of {self._class.__name__} {self.id!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LiveRef):
            return NotImplemented
        return self._ref == other._ref

    def __hash__(self) -> int:
        return hash(self._ref)

    def using(self, **options: Unpack[Options]) -> LiveRef[A]:
        """Return the same ref with options; those that are not named stay as they are.

        Args:
            **options: On what terms commands are sent:

                * `timeout`: seconds to wait for the answer at most. What `call`, `execute`,
                  `query`, `validate`, `create` or `get_or_create` has sent, and whose turn has not
                  come by then, will not be carried out; what has begun goes on. What `submit` or
                  `dispatch` has sent is carried out whenever its turn comes: only the future's
                  `get` gives up then.
                * `command_id`: a `str` or `UUID` that the command is known by. It is done once, and
                  gets its first answer again whenever it is sent again.
                * `expected_version`: the version that the aggregate must have; 0 if it must be new.
        """
        return LiveRef(self._ref, self._class, self._new, self._terms.but(options))

    def or_create(
        self, factory: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs
    ) -> LiveRef[A]:
        """Return the same ref for commands that create the aggregate if there is none.

            account.or_create(Account, "Ada").call(Account.deposit, amount)

        What the factory triggers is stored in the same save as what the command does. It runs in
        the aggregate's turn, and must make one of this id. While many are new it may run, and the
        command on what it has made, before it is found out whether there is one; if there is, or
        either fails, the command is decided again.
        """

        def new() -> A:
            return factory(*args, **kwargs)

        return LiveRef(self._ref, self._class, new, self._terms)

    def call(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a method of the aggregate; when it returns, the events are stored.

            account.call(Account.deposit, Decimal("10.00"))

        The method's name is what is sent, so a subclass's override wins. It may be run more than
        once, on what is stored then, and must do nothing but decide.

        Raises:
            AggregateNotFoundError: If there is no such aggregate, and `or_create` makes none.
            CommandIdReused: If the command id belongs to another command.
            ConcurrencyError: If other processes have been faster too often, or the aggregate is not
                of the version that is expected.
            OutcomeUnknown: If the store has failed, and cannot be asked what it has stored; or is
                PostgreSQL, and may store it yet.
            TypeError: If this is no method of the class, or what it has triggered cannot be
                encoded, or what it has returned, or refused with, cannot be kept in a receipt.
                Nothing is stored then.
            pykka.Timeout: After `timeout` seconds.
            Exception: What the method has raised, or the store; nothing is stored then. Or what
                `AggregateRef.ask` raises.
        """
        return cast("R", self._ask(self._command(method, args, kwargs)).result)

    def submit(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> pykka.Future[R]:
        """Do what `call` does, but return a future of the result, which has the errors, too.

        The command is carried out whenever its turn comes, whatever timeout `using` has said: that
        is for how long the future's `get` waits.
        """
        return self._send(self._command(method, args, kwargs), is_whole=False)

    def execute(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Decision[R]:
        """Do what `call` does, but return all of the decision: result, version and events."""
        return cast("Decision[R]", self._ask(self._command(method, args, kwargs)))

    def dispatch(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> pykka.Future[Decision[R]]:
        """Do what `execute` does, but return a future of the decision, which has the errors, too.

        Commands of one thread that wait for an aggregate are stored together. Each is carried out
        whenever its turn comes, as with `submit`.
        """
        return self._send(self._command(method, args, kwargs), is_whole=True)

    def validate(
        self, method: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Decision[R]:
        """Return what `execute` would, or raise what it would, and change nothing.

        The method runs on a copy of the aggregate as it is stored. An aggregate that does not exist
        is not live afterwards.
        """
        return self._ref.call(LiveActor.validate, self._command(method, args, kwargs))

    def query(self, function: Callable[[A], R]) -> R:
        """Return what a function says of the aggregate.

            account.query(lambda account: account.balance)

        It runs in the aggregate's turn, and must change nothing. It sees what is in memory: all
        that this process has stored, and what another process has stored perhaps not yet. For an
        answer that rests on all that is stored, `call` a method that triggers nothing, or expect a
        version.

        Raises:
            TypeError: If the function triggers an event, or the ref has a command id.
            Exception: what `call` raises.
        """
        if self._terms.command_id is not None:
            message = "a query stores nothing, and no receipt either: ask without a command_id"
            raise TypeError(message)
        command = Command("query", function, stores=False, terms=self._terms)
        return cast("R", self._ask(command).result)

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
        """Let the aggregate go from memory, after what was sent before; as `AggregateRef.stop`."""
        return self._ref.stop(block=block, timeout=timeout)

    def _command(self, method: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Command:
        name = name_of(method, self._class)
        run = operator.methodcaller(name, *args, **kwargs)
        if self._terms.command_id is not None:
            args, kwargs = of_method(name, self._class, args, kwargs)
        return Command(name, run, (args, kwargs), self._new, terms=self._terms)

    def _send(self, command: Command, *, is_whole: bool) -> Reply:
        reply = Reply(is_whole=is_whole)
        self._ref._ask(ProxyCall(_EXECUTE, (command,), {}), reply)
        return reply

    def _ask(self, command: Command) -> Decision[Any]:
        timeout = self._terms.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        reply = self._ref.call(LiveActor.execute, command)
        if isinstance(reply, Pending):
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            decision: Decision[Any] = reply.get(timeout=left)
            return decision
        return reply
