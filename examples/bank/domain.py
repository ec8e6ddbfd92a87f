"""The domain: accounts, and the transactions on them.

Nothing here knows of actors or databases. An `Account` is an aggregate of the `eventsourcing`
library: plain methods decide, and what they decide is an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.domain import Aggregate, event

from examples.bank.money import ZERO, add, negated, plain

if TYPE_CHECKING:
    from datetime import date
    from decimal import Decimal

_BANK = uuid5(NAMESPACE_URL, "pykka-registry/examples/bank")
_ACCOUNTS = uuid5(_BANK, "accounts")

FILE = "file"
"""The numbering of the transactions that come from files."""


class Refusal(Exception):  # noqa: N818 - the bank's answer is a refusal, not a malfunction
    """The bank does not do what it was asked to do; the text says why."""


class UnknownAccount(Refusal):
    """There is no account of this id."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id!r} is unknown")


class AccountClosed(Refusal):
    """The account is closed; only recorded transactions are booked on it."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id!r} is closed")


class BalanceNotZero(Refusal):
    """An account with money on it, or overdrawn, cannot be closed."""

    def __init__(self, account_id: str, balance: Decimal) -> None:
        super().__init__(
            f"account {account_id!r} cannot be closed: its balance is {plain(balance)}"
        )


class NotPositive(Refusal):
    """Deposits, withdrawals and transfers are of more than nothing."""

    def __init__(self, amount: Decimal) -> None:
        super().__init__(f"{plain(amount)} is not a positive amount")


class OverdraftLimitExceeded(Refusal):
    """The withdrawal would take the account below its overdraft limit."""

    def __init__(self, account_id: str, balance: Decimal, limit: Decimal) -> None:
        super().__init__(
            f"account {account_id!r} has {plain(balance)} and an overdraft limit of {plain(limit)}"
        )


class BookedDifferently(Refusal):
    """The transaction's id was used before, for something else."""

    def __init__(self, booked: Transaction) -> None:
        super().__init__(
            f"transaction {booked.id!r} was booked before as account "
            f"{booked.account_id!r}, {booked.on}, {plain(booked.amount)}"
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """One movement of money on one account, under the id that its source gave it."""

    id: str
    account_id: str
    on: date
    amount: Decimal
    """Positive for a credit, negative for a debit."""

    source: str = FILE
    """Who numbers it: ids are unique within a source."""

    @property
    def command_id(self) -> str:
        """What the command that books it is known by in the store."""
        return f"{self.source}: {self.id}"


class Account(Aggregate):
    """An account: a balance that no rounding touches, and a limit to overdraw it."""

    class Opened(Aggregate.Created):
        """The account exists from here on."""

        account_id: str
        overdraft_limit: Decimal

    class Booked(Aggregate.Event):
        """A transaction that has already happened was recorded."""

        reference: str
        on: date
        amount: Decimal

    class Deposited(Aggregate.Event):
        """Money was paid in."""

        reference: str
        on: date
        amount: Decimal

    class Withdrawn(Aggregate.Event):
        """Money was taken out."""

        reference: str
        on: date
        amount: Decimal

    class Closed(Aggregate.Event):
        """Nobody pays in or takes out any more."""

    @event(Opened)
    def __init__(self, account_id: str, overdraft_limit: Decimal = ZERO) -> None:
        """Open an account."""
        self.account_id = account_id
        self.overdraft_limit = overdraft_limit
        self.balance = ZERO
        self.is_closed = False

    @staticmethod
    def create_id(account_id: str) -> UUID:
        """Return the id of the account's stream of events."""
        return uuid5(_ACCOUNTS, account_id)

    def book(self, amount: Decimal, *, on: date, reference: str) -> Decimal:
        """Record what has already happened; a fact is never refused. Return the balance."""
        self.trigger_event(self.Booked, reference=reference, on=on, amount=amount)
        return self.balance

    def deposit(self, amount: Decimal, *, on: date, reference: str) -> None:
        """Pay in.

        Raises:
            Refusal: if the amount is not positive or the account is closed.
        """
        self._require_positive(amount)
        self._require_open()
        self.trigger_event(self.Deposited, reference=reference, on=on, amount=amount)

    def withdraw(self, amount: Decimal, *, on: date, reference: str) -> None:
        """Take out.

        Raises:
            Refusal: if the amount is not positive, the account is closed, or the balance would
                go below the overdraft limit.
        """
        self._require_positive(amount)
        self._require_open()
        if add(self.balance, negated(amount)) < negated(self.overdraft_limit):
            raise OverdraftLimitExceeded(self.account_id, self.balance, self.overdraft_limit)
        self.trigger_event(self.Withdrawn, reference=reference, on=on, amount=amount)

    def close(self) -> None:
        """Close the account.

        Raises:
            Refusal: if it is closed already or its balance is not zero.
        """
        self._require_open()
        if self.balance:
            raise BalanceNotZero(self.account_id, self.balance)
        self.trigger_event(self.Closed)

    @event(Booked)
    def _when_booked(self, amount: Decimal) -> None:
        self.balance = add(self.balance, amount)

    @event(Deposited)
    def _when_deposited(self, amount: Decimal) -> None:
        self.balance = add(self.balance, amount)

    @event(Withdrawn)
    def _when_withdrawn(self, amount: Decimal) -> None:
        self.balance = add(self.balance, negated(amount))

    @event(Closed)
    def _when_closed(self) -> None:
        self.is_closed = True

    def _require_open(self) -> None:
        if self.is_closed:
            raise AccountClosed(self.account_id)

    def _require_positive(self, amount: Decimal) -> None:
        if amount <= 0:
            raise NotPositive(amount)
