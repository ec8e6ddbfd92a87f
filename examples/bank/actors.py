"""The actors: each owns one aggregate, and is the only one in this process that changes it.

An actor keeps its aggregate in memory, loads it with its first message, and answers once the
events are stored. What it has in memory is only a copy, so after any doubt it is thrown away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pykka
from eventsourcing.persistence import IntegrityError

from examples.bank.application import BankIsClosing
from examples.bank.domain import Account, AccountExists, Receipt, Refusal, UnknownAccount
from examples.bank.money import ZERO, negated
from examples.bank.store import STORE_ERRORS, is_busy
from examples.bank.transfer import State, Transfer
from pykka_registry import AggregateMixin, AggregateRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from uuid import UUID

    from examples.bank.application import Bank
    from examples.bank.domain import Transaction
    from examples.bank.transfer import Order
    from pykka_registry import RegistryRef

T = TypeVar("T")

MAX_LIVE = 16
"""How many accounts, or transfers, are live at most, unless told otherwise.

A store takes one writer at a time, and the library keeps five connections open for all threads, so
a few actors keep it busy. More bring only connections that come and go, and switches of threads.
"""

_CONFLICTS = 20  # how often another process may be faster at one message
_PATIENCE = 30.0  # seconds to wait, for one message, while another process keeps the store busy
_TURN = 300.0  # seconds that one with a message waits for its turn to be live


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction."""

    is_new: bool = False
    """It is booked now; else it was booked before or is refused."""

    refusal: str = ""
    """Why it is refused; empty if it is booked."""


@dataclass(frozen=True, slots=True)
class Statement:
    """An account's answer to transactions: what became of each, and how the account is then."""

    outcomes: list[Outcome]
    balance: Decimal
    version: int
    """The version that has this balance; 0 if there is no account, as all was refused."""

    events: int
    """How many events were stored."""


class _Turns:
    """One message is one turn: load, decide, save; and again if another process came between.

    Say the account's last event has version 7, and this process and another one book on it. Both
    decide on what version 7 says, and both want to store version 8. The store takes the first; to
    the second it raises `IntegrityError`, and that one's turn starts again: it forgets its copy,
    loads version 8, decides on what that says, and stores version 9.
    """

    _bank: Bank

    def _forget(self) -> None:
        """Throw away what is in memory; the next turn loads it again."""
        raise NotImplementedError

    def _turn(self, attempt: Callable[[], T]) -> T:
        conflicts = 0
        deadline = time.monotonic() + _PATIENCE
        while True:
            if self._bank.closing.is_set():
                raise BankIsClosing
            try:
                return attempt()
            except IntegrityError:
                # Somebody else has stored this version, or this receipt: look again and decide
                # again. After a failed save the object in memory holds what never happened.
                self._forget()
                conflicts += 1
                if conflicts == _CONFLICTS:
                    raise
            except STORE_ERRORS as error:
                self._forget()
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            except BaseException:
                self._forget()
                raise


class AccountActor(_Turns, AggregateMixin, pykka.ThreadingActor):
    """Owns one account. Its key is the account's id."""

    def __init__(self, bank: Bank) -> None:
        """Take the application; the account itself is loaded by the first message."""
        super().__init__()
        self._bank = bank
        self._account: Account | None = None

    def open(self, overdraft_limit: Decimal = ZERO) -> None:
        """Open the account.

        Raises:
            AccountExists: if it was opened before.
        """

        def attempt() -> None:
            if self._load() is not None:
                raise AccountExists(self.key)
            self._save(Account(self.key, overdraft_limit))

        self._turn(attempt)

    def close(self) -> None:
        """Close the account.

        Raises:
            Refusal: if it is unknown, closed already, or its balance is not zero.
        """

        def attempt() -> None:
            account = self._existing()
            account.close()
            self._save(account)

        self._turn(attempt)

    def book(self, *transactions: Transaction) -> Statement:
        """Record transactions, each one once; the account's first one opens it.

        What is new is stored in one save: they are booked together, or none of them is. One is
        refused if its id was used for something else.
        """

        def attempt() -> Statement:
            account = self._load()
            outcomes: list[Outcome] = []
            receipts: dict[UUID, Receipt] = {}
            for transaction in transactions:
                receipt = receipts.get(transaction.receipt_id) or self._bank.receipt(transaction)
                if receipt is None:
                    account = account or Account(self.key)
                    account.book(transaction.amount, on=transaction.on, reference=transaction.id)
                    receipt = Receipt.for_transaction(transaction)
                    receipts[receipt.id] = receipt
                    outcomes.append(Outcome(is_new=True))
                else:
                    outcomes.append(_repeated(receipt, transaction))
            if account is None:
                return Statement(outcomes, ZERO, 0, 0)
            events = self._save(account, *receipts.values()) if receipts else 0
            return Statement(outcomes, account.balance, account.version, events)

        return self._turn(attempt)

    def deposit(self, transaction: Transaction) -> None:
        """Pay in once.

        Raises:
            Refusal: if the account does not take it; asked again it refuses again.
        """

        def decide() -> Account:
            account = self._existing()
            account.deposit(transaction.amount, on=transaction.on, reference=transaction.id)
            return account

        self._once(transaction, decide)

    def withdraw(self, transaction: Transaction) -> None:
        """Take out once; the transaction's amount is negative.

        Raises:
            Refusal: if the account does not give it; asked again it refuses again.
        """

        def decide() -> Account:
            account = self._existing()
            amount = negated(transaction.amount)
            account.withdraw(amount, on=transaction.on, reference=transaction.id)
            return account

        self._once(transaction, decide)

    def _once(self, transaction: Transaction, decide: Callable[[], Account]) -> None:
        def attempt() -> None:
            receipt = self._bank.receipt(transaction)
            if receipt is not None:
                receipt.confirm(transaction)
                return
            try:
                account = decide()
            except Refusal as refusal:
                # An answer once given stays: were it forgotten, a repeated step of a transfer
                # could be refused here and accepted there, and money would be lost between.
                self._save(None, Receipt.for_transaction(transaction, str(refusal)))
                raise
            self._save(account, Receipt.for_transaction(transaction))

        self._turn(attempt)

    def _load(self) -> Account | None:
        if self._account is None:
            self._account = self._bank.account(self.key)
        return self._account

    def _existing(self) -> Account:
        account = self._load()
        if account is None:
            raise UnknownAccount(self.key)
        return account

    def _save(self, account: Account | None, *receipts: Receipt) -> int:
        events = len(self._bank.save(account, *receipts))
        self._account = account
        return events

    def _forget(self) -> None:
        self._account = None


def _repeated(receipt: Receipt, transaction: Transaction) -> Outcome:
    try:
        receipt.confirm(transaction)
    except Refusal as refusal:
        return Outcome(refusal=str(refusal))
    return Outcome()


def start_accounts(bank: Bank, *, max_live: int = MAX_LIVE) -> RegistryRef[AccountActor]:
    """Start the registry of the accounts.

    There are many more of them than may be live: a message activates its account, and one that has
    nothing to do makes way for it.
    """
    return AggregateRegistry.start(
        AccountActor, args=(bank,), name="accounts", max_live=max_live, start_timeout=_TURN
    )


class TransferActor(_Turns, AggregateMixin, pykka.ThreadingActor):
    """Owns one transfer and sees it through. Its key is the transfer's id."""

    def __init__(self, bank: Bank, accounts: RegistryRef[AccountActor]) -> None:
        """Take the application and the accounts' registry."""
        super().__init__()
        self._bank = bank
        self._accounts = accounts
        self._transfer: Transfer | None = None

    def order(self, order: Order) -> Transfer:
        """Carry out an order once: asked again, it goes on from where it stands.

        Raises:
            TransferDiffers: if the transfer's id was used for something else.
        """

        def attempt() -> Transfer:
            transfer = self._load()
            if transfer is None:
                transfer = self._save(Transfer.of(order))
            transfer.confirm(order)
            return self._finish(transfer)

        return self._turn(attempt)

    def resume(self) -> Transfer:
        """Finish a transfer that was started before, or compensate for it."""

        def attempt() -> Transfer:
            transfer = self._load()
            if transfer is None:
                msg = f"transfer {self.key!r} was never started"
                raise LookupError(msg)
            return self._finish(transfer)

        return self._turn(attempt)

    def _finish(self, transfer: Transfer) -> Transfer:
        while not transfer.is_over:
            self._step(transfer)
            self._save(transfer)
        return transfer

    def _step(self, transfer: Transfer) -> None:
        # Killed between an account's answer and our own save, the step is taken again, and the
        # account's receipt gives the same answer again.
        payer = self._accounts.ref(transfer.payer)
        payee = self._accounts.ref(transfer.payee)
        if transfer.state is State.STARTED:
            try:
                payer.call(AccountActor.withdraw, transfer.debit)
            except Refusal as refusal:
                transfer.refused(str(refusal))
            else:
                transfer.debited()
        elif transfer.state is State.DEBITED:
            try:
                payee.call(AccountActor.deposit, transfer.credit)
            except Refusal as refusal:
                transfer.rejected(str(refusal))
            else:
                transfer.completed()
        else:
            # The payer may have closed the account since; what it must get back is a fact.
            payer.call(AccountActor.book, transfer.refund)
            transfer.refunded()

    def _load(self) -> Transfer | None:
        if self._transfer is None:
            self._transfer = self._bank.transfer(self.key)
        return self._transfer

    def _save(self, transfer: Transfer) -> Transfer:
        self._bank.save(transfer)
        self._transfer = transfer
        return transfer

    def _forget(self) -> None:
        self._transfer = None


def start_transfers(
    bank: Bank, accounts: RegistryRef[AccountActor], *, max_live: int = MAX_LIVE
) -> RegistryRef[TransferActor]:
    """Start the registry of the transfers, which is to be stopped before that of the accounts."""
    return AggregateRegistry.start(
        TransferActor,
        args=(bank, accounts),
        name="transfers",
        max_live=max_live,
        start_timeout=_TURN,
    )
