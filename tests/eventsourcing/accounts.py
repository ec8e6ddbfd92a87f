"""Accounts as the library's users write them, who know nothing of actors."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  # the library looks at annotations
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import (
    Aggregate,
    BaseAggregate,
    CanInitAggregate,
    CanMutateAggregate,
    MetaDomainEvent,
    event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, StoredEvent

    from tests.eventsourcing.support import Store


class Refusal(Exception):
    """What the bank does not do."""


class Overdrawn(Refusal):
    def __init__(self, balance: Decimal, *, amount: Decimal) -> None:
        super().__init__(f"there are only {balance}", balance)
        self.amount = amount


class Account(Aggregate):
    class Opened(Aggregate.Created):
        owner: str

    class Deposited(Aggregate.Event):
        amount: Decimal

    class Withdrawn(Aggregate.Event):
        amount: Decimal

    class Closed(Aggregate.Event):
        pass

    class Noted(Aggregate.Event):
        what: object

        def apply(self, aggregate: Any) -> None:
            pass

    @event(Opened)
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = Decimal(0)
        self.history: list[Decimal] = []
        self.is_closed = False

    @staticmethod
    def create_id(owner: str) -> UUID:
        return uuid5(NAMESPACE_URL, owner)

    def deposit(self, amount: Decimal) -> Decimal:
        self.trigger_event(self.Deposited, amount=amount)
        return self.balance

    def withdraw(self, amount: Decimal) -> Decimal:
        if amount > self.balance:
            raise Overdrawn(self.balance, amount=amount)
        self.trigger_event(self.Withdrawn, amount=amount)
        return self.balance

    def move(self, amounts: Sequence[Decimal]) -> int:
        """Book several amounts, and fail at zero with some of them booked."""
        for amount in amounts:
            if amount < 0:
                self.withdraw(-amount)
            elif amount > 0:
                self.deposit(amount)
            else:
                msg = "an amount is missing"
                raise ValueError(msg)
        return len(amounts)

    @event(Closed)
    def close(self) -> None:
        if self.is_closed:
            msg = "it is closed already"
            raise ValueError(msg)
        self.is_closed = True

    def note(self, what: object) -> None:
        self.trigger_event(self.Noted, what=what)

    def has(self, amount: Decimal) -> bool:
        return self.balance >= amount

    def pair(self) -> tuple[str, Decimal]:
        return self.owner, self.balance

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Do what a test wants in the aggregate's turn."""
        return function(*args)

    @event(Deposited)
    def _when_deposited(self, amount: Decimal) -> None:
        self.history.append(amount)
        self.balance += amount

    @event(Withdrawn)
    def _when_withdrawn(self, amount: Decimal) -> None:
        self.history.append(-amount)
        self.balance -= amount


ADA = Account.create_id("Ada")


class Diary(BaseAggregate[str]):
    """An aggregate whose id is a text."""

    @dataclass(frozen=True)
    class Event(CanMutateAggregate[str], metaclass=MetaDomainEvent):
        originator_id: str
        originator_version: int
        timestamp: datetime

    @dataclass(frozen=True)
    class Begun(Event, CanInitAggregate[str]):
        originator_topic: str
        owner: str

    @dataclass(frozen=True)
    class Written(Event):
        line: str

    @event(Begun)
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.lines: list[str] = []

    @staticmethod
    def create_id(owner: str) -> str:
        return f"diary of {owner}"

    @event(Written)
    def write(self, line: str) -> None:
        self.lines.append(line)


class Bank(Application[UUID]):
    pass


class Library(Application[str]):
    pass


class SnapshottingBank(Application[UUID]):
    name = "Bank"
    snapshotting_intervals: ClassVar[dict[type[Any], int]] = {Account: 5}


class Insertions:
    """Watches what an application stores, and does what a test wants before and after it."""

    def __init__(self, recorder: ApplicationRecorder) -> None:
        self.before: list[Callable[[Sequence[StoredEvent]], object]] = []
        self.after: list[Callable[[Sequence[StoredEvent]], object]] = []
        self.sizes: list[int] = []
        self._insert = recorder.insert_events
        vars(recorder)["insert_events"] = self.insert_events

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        self.sizes.append(len(stored_events))
        if self.before:
            self.before.pop(0)(stored_events)
        ids = self._insert(stored_events, **kwargs)
        if self.after:
            self.after.pop(0)(stored_events)
        return ids


def failing(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@contextmanager
def open_bank(
    store: Store, cls: type[Application[UUID]] = Bank, settings: dict[str, str] | None = None
) -> Generator[Any]:
    app = cls(env=store.env(**settings or {}))
    try:
        yield app
    finally:
        app.close()


def stored(app: Application[Any], id_: UUID | str = ADA) -> Any:
    """Return what somebody else would load."""
    return app.repository.get(id_)


def count_reads(recorder: AggregateRecorder) -> list[int | None]:
    """Return a list that grows with each read, by the version after which it begins."""
    reads: list[int | None] = []
    select = recorder.select_events

    def select_events(*args: Any, **kwargs: Any) -> Sequence[StoredEvent]:
        reads.append(kwargs.get("gt"))
        return select(*args, **kwargs)

    vars(recorder)["select_events"] = select_events
    return reads


def balance(account: Account) -> Decimal:
    return account.balance
