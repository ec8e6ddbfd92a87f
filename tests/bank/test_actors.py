"""One aggregate in one actor: what it answers is stored, and what was not stored it forgets."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from eventsourcing.domain import CollectEventsProtocol
from eventsourcing.persistence import IntegrityError, OperationalError

from examples.bank.actors import AccountActor, Outcome, start_accounts
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
from tests.bank.support import open_bank, stored_balances, tx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path
    from typing import TypeAlias

    from eventsourcing.persistence import Recording

    from examples.bank.domain import Account, Transaction
    from pykka_registry import AggregateRef

    AccountRef: TypeAlias = AggregateRef[AccountActor]

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
def account_in(bank: Bank, account_id: str = "A") -> Generator[AccountRef]:
    with start_accounts(bank) as accounts:
        yield accounts.ref(account_id)


@pytest.fixture
def account(bank: Bank) -> Generator[AccountRef]:
    with account_in(bank) as account:
        yield account


def book_elsewhere(path: Path, *transactions: Transaction) -> Callable[[], None]:
    """Let another application on the same store book something, as another process would."""

    def book() -> None:
        with open_bank(path) as other:
            for transaction in transactions:
                account_id = transaction.account_id
                with account_in(other, account_id) as account:
                    account.call(AccountActor.book, transaction)

    return book


def test_the_first_transaction_opens_the_account(account: AccountRef, path: Path) -> None:
    statement = account.call(AccountActor.book, tx(amount="1.50"))
    assert statement.outcomes == [Outcome(is_new=True)]
    assert (statement.balance, statement.version, statement.events) == (Decimal("1.50"), 2, 3)
    assert stored_balances(path) == {"A": Decimal("1.50")}


def test_many_transactions_are_booked_in_one_save_in_their_order(
    account: AccountRef, bank: TroubledBank
) -> None:
    saves: list[int] = []
    bank.after_save = iter([lambda: saves.append(1)] * 9)
    statement = account.call(AccountActor.book, *(tx(str(number)) for number in range(5)))
    assert statement.balance == 5
    assert saves == [1]
    stored = bank.account("A")
    assert stored is not None
    references = [getattr(event, "reference", None) for event in bank.events.get(stored.id)]
    assert references == [None, "0", "1", "2", "3", "4"]


def test_a_transaction_is_booked_once(account: AccountRef, path: Path) -> None:
    account.call(AccountActor.book, tx())
    statement = account.call(AccountActor.book, tx(), tx("2"), tx("2"))
    assert statement.outcomes == [Outcome(), Outcome(is_new=True), Outcome()]
    assert account.call(AccountActor.book, tx()).events == 0
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_other_content_under_the_same_id_is_refused_alone(account: AccountRef, path: Path) -> None:
    statement = account.call(AccountActor.book, tx(), tx(amount="2.00"), tx("2"))
    assert [bool(outcome.refusal) for outcome in statement.outcomes] == [False, True, False]
    assert "'1' was booked before as account 'A', 2024-02-29, 1.00" in (
        statement.outcomes[1].refusal
    )
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_an_account_whose_only_transaction_is_refused_is_not_opened(
    bank: TroubledBank, account: AccountRef, path: Path
) -> None:
    account.call(AccountActor.book, tx())
    with account_in(bank, "B") as other:
        statement = other.call(AccountActor.book, tx(account="B"))
    assert statement.outcomes[0].refusal
    assert (statement.version, statement.events) == (0, 0)
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_the_account_is_loaded_by_its_own_thread_and_not_before_it_is_needed(
    account: AccountRef, bank: TroubledBank
) -> None:
    assert bank.loaded_by is None
    account.call(AccountActor.book, tx())
    assert bank.loaded_by not in {None, threading.current_thread()}


@pytest.mark.parametrize("error", [FULL, ValueError("a bug")])
def test_after_a_failed_save_the_actor_forgets_what_was_not_stored(
    account: AccountRef, bank: TroubledBank, path: Path, error: Exception
) -> None:
    account.call(AccountActor.book, tx())
    bank.before_save = iter([raising(error)])
    with pytest.raises(type(error)):
        account.call(AccountActor.book, tx("2", amount="5.00"))
    assert account.call(AccountActor.book, tx("3")).balance == Decimal("2.00")
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_when_another_process_was_faster_the_actor_looks_again(
    account: AccountRef, bank: TroubledBank, path: Path
) -> None:
    account.call(AccountActor.book, tx())
    bank.before_save = iter([book_elsewhere(path, tx("2", amount="10.00"))])
    assert account.call(AccountActor.book, tx("3", amount="0.50")).balance == Decimal("11.50")
    assert stored_balances(path) == {"A": Decimal("11.50")}


def test_when_another_process_booked_the_same_transaction_it_is_booked_before(
    account: AccountRef, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx())])
    assert account.call(AccountActor.book, tx()).outcomes == [Outcome()]
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_when_another_process_used_the_id_on_another_account_the_row_is_refused(
    account: AccountRef, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx(account="B"))])
    statement = account.call(AccountActor.book, tx(), tx("2"))
    assert "booked before as account 'B'" in statement.outcomes[0].refusal
    assert statement.outcomes[1] == Outcome(is_new=True)
    assert stored_balances(path) == {"A": Decimal("1.00"), "B": Decimal("1.00")}


def test_a_lost_acknowledgment_books_nothing_twice(
    account: AccountRef, bank: TroubledBank, path: Path
) -> None:
    bank.after_save = iter([raising(CONFLICT), raising(LOCKED)])
    assert account.call(AccountActor.book, tx()).balance == Decimal("1.00")
    assert account.call(AccountActor.book, tx("2")).balance == Decimal("2.00")
    assert stored_balances(path) == {"A": Decimal("2.00")}


def test_a_store_that_is_busy_for_a_moment_is_asked_again(
    account: AccountRef, bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([raising(LOCKED)] * 50)
    assert account.call(AccountActor.book, tx()).outcomes == [Outcome(is_new=True)]
    assert stored_balances(path) == {"A": Decimal("1.00")}


def test_endless_conflicts_come_to_an_end(account: AccountRef, bank: TroubledBank) -> None:
    bank.before_save = iter(lambda: raising(CONFLICT), None)
    with pytest.raises(IntegrityError):
        account.call(AccountActor.book, tx())


def test_nothing_is_booked_once_the_bank_is_closing(account: AccountRef, bank: Bank) -> None:
    bank.closing.set()
    with pytest.raises(BankIsClosing):
        account.call(AccountActor.book, tx())
    assert bank.account("A") is None


def test_an_account_is_opened_once_and_closed_once(account: AccountRef, bank: Bank) -> None:
    with pytest.raises(UnknownAccount):
        account.call(AccountActor.close)
    account.call(AccountActor.open, Decimal("10.00"))
    with pytest.raises(AccountExists):
        account.call(AccountActor.open)
    account.call(AccountActor.withdraw, tx(amount="-10.00"))
    with pytest.raises(BalanceNotZero):
        account.call(AccountActor.close)
    account.call(AccountActor.deposit, tx("2", amount="10.00"))
    account.call(AccountActor.close)
    stored = bank.account("A")
    assert stored is not None
    assert stored.is_closed


def test_deposits_and_withdrawals_happen_once(account: AccountRef, path: Path) -> None:
    account.call(AccountActor.open)
    for _ in range(2):
        account.call(AccountActor.deposit, tx("1", amount="10.00"))
        account.call(AccountActor.withdraw, tx("2", amount="-3.00"))
    assert stored_balances(path) == {"A": Decimal("7.00")}


def test_a_refusal_once_given_stays(account: AccountRef, bank: Bank, path: Path) -> None:
    account.call(AccountActor.open)
    with pytest.raises(OverdraftLimitExceeded) as first:
        account.call(AccountActor.withdraw, tx(amount="-1.00"))
    account.call(AccountActor.book, tx("2", amount="100.00"))
    with pytest.raises(Refusal) as again:
        account.call(AccountActor.withdraw, tx(amount="-1.00"))
    assert str(again.value) == str(first.value)
    assert stored_balances(path) == {"A": Decimal("100.00")}
    receipt = bank.receipt(tx())
    assert isinstance(receipt, Receipt)
    assert receipt.refusal == str(first.value)


def test_nobody_pays_into_an_account_that_does_not_exist(account: AccountRef, path: Path) -> None:
    with pytest.raises(UnknownAccount):
        account.call(AccountActor.deposit, tx())
    assert stored_balances(path) == {}
