"""One aggregate in one actor: what it answers is stored, and what was not stored it forgets."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from eventsourcing.domain import CollectEventsProtocol
from eventsourcing.persistence import IntegrityError, OperationalError

from examples.bank.actors import AccountActor, AccountProxy, Outcome, start_account
from examples.bank.application import Bank, BankIsClosing
from examples.bank.domain import (
    AccountExists,
    BalanceNotZero,
    OverdraftLimitExceeded,
    Receipt,
    Refusal,
    UnknownAccount,
)
from examples.bank.store import find_store
from pykka_registry import AggregateRegistry
from tests.bank.support import open_bank, stored_balances, tx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from eventsourcing.persistence import Recording

    from examples.bank.domain import Account, Transaction

T = TypeVar("T")


class TroubledBank(Bank):
    """A bank in which something else may happen right before or after each save."""

    before_save: Iterator[Callable[[], object]] = iter(())
    after_save: Iterator[Callable[[], object]] = iter(())
    loaded_by: threading.Thread | None = None

    def account(self, account_id: str, version: int | None = None) -> Account | None:
        self.loaded_by = threading.current_thread()
        return super().account(account_id, version)

    def save(self, *objs: Any, **kwargs: Any) -> list[Recording[Any]]:
        try:
            next(self.before_save, lambda: None)()
        except BaseException:
            # As in the library: what is pending is taken out before the store is asked.
            for obj in objs:
                if isinstance(obj, CollectEventsProtocol):
                    obj.collect_events()
            raise
        saved = super().save(*objs, **kwargs)
        next(self.after_save, lambda: None)()
        return saved


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


LOCKED = OperationalError("database is locked")
FULL = OperationalError("database or disk is full")
CONFLICT = IntegrityError("UNIQUE constraint failed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.sqlite"


@pytest.fixture
def bank(path: Path) -> Generator[TroubledBank]:
    bank = TroubledBank(env=find_store(str(path), create=True).settings)
    yield bank
    bank.close()


@contextmanager
def account_in(bank: Bank, account_id: str = "A") -> Generator[AccountProxy]:
    with AggregateRegistry.start(AccountActor, args=(bank,)) as accounts:
        yield start_account(accounts, account_id)


@pytest.fixture
def account(bank: Bank) -> Generator[AccountProxy]:
    with account_in(bank) as proxy:
        yield proxy


def book_elsewhere(path: Path, *transactions: Transaction) -> Callable[[], None]:
    """Let another application on the same store book something, as another process would."""

    def book() -> None:
        with open_bank(path) as other:
            for transaction in transactions:
                account_id = transaction.account_id
                with account_in(other, account_id) as account:
                    account.book(transaction).get()

    return book


def test_the_first_transaction_opens_the_account(account: AccountProxy, path: Path) -> None:
    statement = account.book(tx(amount="1.50")).get()
    assert statement.outcomes == [Outcome(is_new=True)]
    assert (statement.balance, statement.version, statement.events) == (Decimal("1.50"), 2, 3)
    assert stored_balances(path) == {"A": Decimal("1.50")}


def test_many_transactions_are_booked_in_one_save_in_their_order(
    account: AccountProxy, bank: TroubledBank
) -> None:
    saves: list[int] = []
    bank.after_save = iter([lambda: saves.append(1)] * 9)
    statement = account.book(*(tx(str(number)) for number in range(5))).get()
    assert statement.balance == 5
    assert saves == [1]
    stored = bank.account("A")
    assert stored is not None
    references = [getattr(event, "reference", None) for event in bank.events.get(stored.id)]
    assert references == [None, "0", "1", "2", "3", "4"]


def test_a_transaction_is_booked_once(account: AccountProxy, path: Path) -> None:
    account.book(tx()).get()
    statement = account.book(tx(), tx("2"), tx("2")).get()
    assert statement.outcomes == [Outcome(), Outcome(is_new=True), Outcome()]
    assert account.book(tx()).get().events == 0
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_other_content_under_the_same_id_is_refused_alone(
    account: AccountProxy, path: Path
) -> None:
    statement = account.book(tx(), tx(amount="2.00"), tx("2")).get()
    assert [bool(outcome.refusal) for outcome in statement.outcomes] == [False, True, False]
    assert "'1' was booked before as account 'A', 2024-02-29, 1.00" in (
        statement.outcomes[1].refusal
    )
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_an_account_whose_only_transaction_is_refused_is_not_opened(
    bank: TroubledBank, account: AccountProxy, path: Path
) -> None:
    account.book(tx()).get()
    with account_in(bank, "B") as other:
        statement = other.book(tx(account="B")).get()
    assert statement.outcomes[0].refusal
    assert (statement.version, statement.events) == (0, 0)
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_the_account_is_loaded_by_its_own_thread_and_not_before_it_is_needed(
    account: AccountProxy, bank: TroubledBank
) -> None:
    assert bank.loaded_by is None
    account.book(tx()).get()
    assert bank.loaded_by not in {None, threading.current_thread()}


@pytest.mark.parametrize("error", [FULL, ValueError("a bug")])
def test_after_a_failed_save_the_actor_forgets_what_was_not_stored(
    account: AccountProxy, bank: TroubledBank, path: Path, error: Exception
) -> None:
    account.book(tx()).get()
    bank.before_save = iter([raising(error)])
    with pytest.raises(type(error)):
        account.book(tx("2", amount="5.00")).get()
    assert account.book(tx("3")).get().balance == Decimal("2.00")
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_when_another_process_was_faster_the_actor_looks_again(
    account: AccountProxy, bank: TroubledBank, path: Path
) -> None:
    account.book(tx()).get()
    bank.before_save = iter([book_elsewhere(path, tx("2", amount="10.00"))])
    assert account.book(tx("3", amount="0.50")).get().balance == Decimal("11.50")
    assert stored_balances(path) == {"A": Decimal("11.50")}


def test_when_another_process_booked_the_same_transaction_it_is_booked_before(
    account: AccountProxy, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx())])
    assert account.book(tx()).get().outcomes == [Outcome()]
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_when_another_process_used_the_id_on_another_account_the_row_is_refused(
    account: AccountProxy, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx(account="B"))])
    statement = account.book(tx(), tx("2")).get()
    assert "booked before as account 'B'" in statement.outcomes[0].refusal
    assert statement.outcomes[1] == Outcome(is_new=True)
    assert stored_balances(path) == {"A": Decimal("1.00"), "B": Decimal("1.00")}


def test_a_lost_acknowledgment_books_nothing_twice(
    account: AccountProxy, bank: TroubledBank, path: Path
) -> None:
    bank.after_save = iter([raising(CONFLICT), raising(LOCKED)])
    assert account.book(tx()).get().balance == Decimal("1.00")
    assert account.book(tx("2")).get().balance == Decimal("2.00")
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_a_store_that_is_busy_for_a_moment_is_asked_again(
    account: AccountProxy, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([raising(LOCKED)] * 50)
    assert account.book(tx()).get().outcomes == [Outcome(is_new=True)]
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_endless_conflicts_come_to_an_end(account: AccountProxy, bank: TroubledBank) -> None:
    bank.before_save = iter(lambda: raising(CONFLICT), None)
    with pytest.raises(IntegrityError):
        account.book(tx()).get()


def test_nothing_is_booked_once_the_bank_is_closing(account: AccountProxy, bank: Bank) -> None:
    bank.closing.set()
    with pytest.raises(BankIsClosing):
        account.book(tx()).get()
    assert bank.account("A") is None


def test_an_account_is_opened_once_and_closed_once(account: AccountProxy, bank: Bank) -> None:
    with pytest.raises(UnknownAccount):
        account.close().get()
    account.open(Decimal("10.00")).get()
    with pytest.raises(AccountExists):
        account.open().get()
    account.withdraw(tx(amount="-10.00")).get()
    with pytest.raises(BalanceNotZero):
        account.close().get()
    account.deposit(tx("2", amount="10.00")).get()
    account.close().get()
    stored = bank.account("A")
    assert stored is not None
    assert stored.is_closed


def test_deposits_and_withdrawals_happen_once(account: AccountProxy, path: Path) -> None:
    account.open().get()
    for _ in range(2):
        account.deposit(tx("1", amount="10.00")).get()
        account.withdraw(tx("2", amount="-3.00")).get()
    assert stored_balances(path) == {"A": Decimal("7.00")}


def test_a_refusal_once_given_stays(account: AccountProxy, bank: Bank, path: Path) -> None:
    account.open().get()
    with pytest.raises(OverdraftLimitExceeded) as first:
        account.withdraw(tx(amount="-1.00")).get()
    account.book(tx("2", amount="100.00")).get()
    with pytest.raises(Refusal) as again:
        account.withdraw(tx(amount="-1.00")).get()
    assert str(again.value) == str(first.value)
    assert stored_balances(path) == {"A": Decimal("100.00")}
    receipt = bank.receipt(tx())
    assert isinstance(receipt, Receipt)
    assert receipt.refusal == str(first.value)


def test_nobody_pays_into_an_account_that_does_not_exist(account: AccountProxy, path: Path) -> None:
    with pytest.raises(UnknownAccount):
        account.deposit(tx()).get()
    assert stored_balances(path) == {}
