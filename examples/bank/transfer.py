"""A transfer between two accounts: a process that is an aggregate of its own.

Two accounts are two streams of events in two actors, and there is no moment at which both change.
What makes the transfer whole is its memory: each step is an event, so that whoever finds it
unfinished knows how to go on.

    started ──> debited ──> completed
       │           └──────> rejected ──> refunded
       └──> refused

A step that is repeated, because nobody knows if it happened, carries the same transaction id as
before and gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.domain import Aggregate, event

from examples.bank.domain import Refusal, Transaction
from examples.bank.money import negated, plain

if TYPE_CHECKING:
    from datetime import date
    from decimal import Decimal

_TRANSFERS = uuid5(NAMESPACE_URL, "pykka-registry/examples/bank/transfers")


class State(StrEnum):
    """Where a transfer stands."""

    STARTED = "started"
    DEBITED = "debited"
    COMPLETED = "completed"
    REFUSED = "refused"
    REJECTED = "rejected"
    REFUNDED = "refunded"


OVER = frozenset({State.COMPLETED, State.REFUSED, State.REFUNDED})
"""Nothing is left to do."""


class TransferDiffers(Refusal):
    """The transfer's id was used before, for something else."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(
            f"transfer {transfer.transfer_id!r} was ordered before as {plain(transfer.amount)} "
            f"from {transfer.payer!r} to {transfer.payee!r}"
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants to have transferred, under an id of their own."""

    transfer_id: str
    payer: str
    payee: str
    amount: Decimal
    on: date

    @property
    def debit(self) -> Transaction:
        """The transaction of the first step, on the payer's account."""
        return self._transaction("debit", self.payer, negated(self.amount))

    @property
    def credit(self) -> Transaction:
        """The transaction of the second step, on the payee's account."""
        return self._transaction("credit", self.payee, self.amount)

    @property
    def refund(self) -> Transaction:
        """The transaction that compensates for the debit."""
        return self._transaction("refund", self.payer, self.amount)

    @property
    def source(self) -> str:
        """Who numbers the transactions of this transfer."""
        return f"transfer {self.transfer_id}"

    def _transaction(self, step: str, account_id: str, amount: Decimal) -> Transaction:
        return Transaction(step, account_id, self.on, amount, self.source)


class Transfer(Aggregate):
    """The state machine of one transfer."""

    class Started(Aggregate.Created):
        """Nothing has moved yet."""

        transfer_id: str
        payer: str
        payee: str
        amount: Decimal
        on: date

    class Debited(Aggregate.Event):
        """The payer's account has paid."""

    class Completed(Aggregate.Event):
        """The payee's account has been credited: done."""

    class Refused(Aggregate.Event):
        """The payer's account does not pay: over, and nothing has moved."""

        reason: str

    class Rejected(Aggregate.Event):
        """The payee's account takes no money: the payer must get it back."""

        reason: str

    class Refunded(Aggregate.Event):
        """The payer has got it back: over."""

    @event(Started)
    def __init__(self, transfer_id: str, payer: str, payee: str, amount: Decimal, on: date) -> None:
        """Start a transfer."""
        self.transfer_id = transfer_id
        self.payer = payer
        self.payee = payee
        self.amount = amount
        self.on = on
        self.state = State.STARTED
        self.reason = ""

    @staticmethod
    def create_id(transfer_id: str) -> UUID:
        """Return the id of the transfer's stream of events."""
        return uuid5(_TRANSFERS, transfer_id)

    @classmethod
    def of(cls, order: Order) -> Transfer:
        """Start the transfer that was ordered."""
        return cls(order.transfer_id, order.payer, order.payee, order.amount, order.on)

    def confirm(self, order: Order) -> None:
        """Return if this is the transfer that was ordered; a repeated order may be of a later day.

        Raises:
            TransferDiffers: if its id was used for something else.
        """
        if (self.payer, self.payee, self.amount) != (order.payer, order.payee, order.amount):
            raise TransferDiffers(self)

    @property
    def order(self) -> Order:
        """What was ordered, the first time."""
        return Order(self.transfer_id, self.payer, self.payee, self.amount, self.on)

    @property
    def is_over(self) -> bool:
        """Nothing is left to do."""
        return self.state in OVER

    @event(Debited)
    def debited(self) -> None:
        """Record that the payer's account has paid."""
        self._move(State.STARTED, State.DEBITED)

    @event(Completed)
    def completed(self) -> None:
        """Record that the payee's account has been credited."""
        self._move(State.DEBITED, State.COMPLETED)

    @event(Refused)
    def refused(self, reason: str) -> None:
        """Record that the payer's account does not pay."""
        self._move(State.STARTED, State.REFUSED)
        self.reason = reason

    @event(Rejected)
    def rejected(self, reason: str) -> None:
        """Record that the payee's account takes no money."""
        self._move(State.DEBITED, State.REJECTED)
        self.reason = reason

    @event(Refunded)
    def refunded(self) -> None:
        """Record that the payer has got the money back."""
        self._move(State.REJECTED, State.REFUNDED)

    def _move(self, origin: State, target: State) -> None:
        if self.state is not origin:
            msg = f"a transfer that is {self.state} cannot become {target}"
            raise ValueError(msg)
        self.state = target
