"""The bank's accounts, live: what one answers is stored, and what was not stored it forgets."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.domain import CollectEventsProtocol
from eventsourcing.persistence import IntegrityError, OperationalError

from examples.bank.accounts import account_of, live_accounts
from examples.bank.application import Bank
from examples.bank.domain import Account, BalanceNotZero, OverdraftLimitExceeded
from examples.bank.patience import BankIsClosing
from examples.bank.store import find_store
from pykka_registry.eventsourcing import AggregateExists, CommandIdReused, ConcurrencyError
from tests.bank.support import BOOK, DAY, open_bank, replace_book, stored_balances, tx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from eventsourcing.persistence import Recording

    from examples.bank.domain import Transaction
    from pykka_registry.eventsourcing import Decision, LiveAggregates, LiveRef

D = Decimal


class TroubledBank(Bank):
    """A bank in which something else may happen right before or after each save."""

    before_save: Iterator[Callable[[], object]] = iter(())
    after_save: Iterator[Callable[[], object]] = iter(())

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


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    with live_accounts(bank) as accounts:
        yield accounts


@pytest.fixture
def account(accounts: LiveAggregates[Account]) -> LiveRef[Account]:
    return account_of(accounts, "A").or_create(Account, "A")


def book(account: LiveRef[Account], what: Transaction) -> Decision[Decimal]:
    once = account.using(command_id=what.command_id)
    return once.execute(Account.book, what.amount, on=what.on, reference=what.id)


@contextmanager
def elsewhere(path: Path, account_id: str = "A") -> Generator[LiveRef[Account]]:
    """The same account in another application on the same store, as in another process."""
    with open_bank(path) as other, live_accounts(other) as accounts:
        yield account_of(accounts, account_id).or_create(Account, account_id)


def book_elsewhere(path: Path, what: Transaction) -> Callable[[], None]:
    def do() -> None:
        with elsewhere(path, what.account_id) as account:
            book(account, what)

    return do


def test_the_first_transaction_opens_the_account(account: LiveRef[Account], path: Path) -> None:
    decision = book(account, tx(amount="1.50"))
    assert (decision.result, decision.version, decision.is_repeated) == (D("1.50"), 2, False)
    assert [type(event).__name__ for event in decision.events] == ["Opened", "Booked"]
    assert stored_balances(path) == {"A": D("1.50")}


def test_transactions_that_wait_are_booked_in_one_save_in_their_order(
    account: LiveRef[Account], bank: TroubledBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, sent = threading.Event(), threading.Event()

    def hold(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        begun.set()
        assert sent.wait(60)
        return BOOK(account, *args, **kwargs)

    saves: list[int] = []
    bank.after_save = iter([lambda: saves.append(1)] * 9)
    replace_book(monkeypatch, hold)
    futures = [account.submit(Account.book, D(1), on=DAY, reference="0")]
    assert begun.wait(60)
    futures += [account.submit(Account.book, D(1), on=DAY, reference=f"{n}") for n in range(1, 6)]
    sent.set()
    assert [future.get(timeout=60) for future in futures] == [1, 2, 3, 4, 5, 6]
    assert saves == [1, 1]
    references = [getattr(event, "reference", None) for event in bank.events.get(account.id)]
    assert references == [None, "0", "1", "2", "3", "4", "5"]


def test_a_transaction_is_booked_once(account: LiveRef[Account], path: Path) -> None:
    assert not book(account, tx()).is_repeated
    assert book(account, tx()).is_repeated
    assert not book(account, tx("2")).is_repeated
    assert book(account, tx()) == book(account, tx())
    assert book(account, tx()).result == D("1.00")
    assert stored_balances(path) == {"A": D("2.00")}


def test_other_content_under_the_same_id_is_refused_alone(
    account: LiveRef[Account], bank: Bank, path: Path
) -> None:
    booked = book(account, tx())
    with pytest.raises(CommandIdReused):
        book(account, tx(amount="2.00"))
    book(account, tx("2"))
    assert bank.booked(account.id, booked.version) == tx()
    assert bank.booked(account.id, 1) is None  # that was its opening
    assert stored_balances(path) == {"A": D("2.00")}


def test_an_account_whose_only_transaction_is_refused_is_not_opened(
    accounts: LiveAggregates[Account], account: LiveRef[Account], path: Path
) -> None:
    book(account, tx())
    with pytest.raises(CommandIdReused):
        book(account_of(accounts, "B").or_create(Account, "B"), tx(account="B"))
    assert stored_balances(path) == {"A": D("1.00")}


def test_the_account_is_loaded_once_and_not_before_it_is_needed(
    bank: TroubledBank, path: Path
) -> None:
    book_elsewhere(path, tx("0"))()
    read: list[object] = []
    select = bank.recorder.select_events

    def select_events(*args: Any, **kwargs: Any) -> Any:
        read.append(args)
        return select(*args, **kwargs)

    vars(bank.recorder)["select_events"] = select_events
    with live_accounts(bank) as accounts:
        account = account_of(accounts, "A")
        assert read == []
        for number in range(1, 4):
            assert book(account, tx(f"{number}")).result == number + 1
    assert len(read) == 1


@pytest.mark.parametrize("error", [FULL, ValueError("a bug")])
def test_after_a_failed_save_the_account_forgets_what_was_not_stored(
    account: LiveRef[Account], bank: TroubledBank, path: Path, error: Exception
) -> None:
    book(account, tx())
    bank.before_save = iter([raising(error)])
    with pytest.raises(type(error)):
        book(account, tx("2", amount="5.00"))
    assert book(account, tx("3")).result == D("2.00")
    assert stored_balances(path) == {"A": D("2.00")}


def test_when_another_process_was_faster_the_account_looks_again(
    account: LiveRef[Account], bank: TroubledBank, path: Path
) -> None:
    book(account, tx())
    bank.before_save = iter([book_elsewhere(path, tx("2", amount="10.00"))])
    assert book(account, tx("3", amount="0.50")).result == D("11.50")
    assert stored_balances(path) == {"A": D("11.50")}


def test_when_another_process_booked_the_same_transaction_it_is_booked_before(
    account: LiveRef[Account], bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx())])
    assert book(account, tx()).is_repeated
    assert stored_balances(path) == {"A": D("1.00")}


def test_when_another_process_used_the_id_on_another_account_the_row_is_refused(
    account: LiveRef[Account], bank: TroubledBank, path: Path
) -> None:
    bank.before_save = iter([book_elsewhere(path, tx(account="B"))])
    with pytest.raises(CommandIdReused):
        book(account, tx())
    assert not book(account, tx("2")).is_repeated
    assert stored_balances(path) == {"A": D("1.00"), "B": D("1.00")}


def test_a_lost_acknowledgment_books_nothing_twice(
    account: LiveRef[Account], bank: TroubledBank, path: Path
) -> None:
    bank.after_save = iter([raising(CONFLICT), raising(FULL)])
    assert book(account, tx()).result == D("1.00")
    assert book(account, tx("2")).result == D("2.00")
    assert stored_balances(path) == {"A": D("2.00")}


def test_endless_conflicts_come_to_an_end(
    account: LiveRef[Account], bank: TroubledBank, path: Path
) -> None:
    rivals = (book_elsewhere(path, tx(f"rival {number}")) for number in range(100))
    bank.before_save = iter(rivals)
    with pytest.raises(ConcurrencyError):
        book(account, tx())


def test_nothing_is_booked_once_the_bank_is_closing(
    account: LiveRef[Account], bank: Bank, path: Path
) -> None:
    bank.closing.set()
    with pytest.raises(BankIsClosing):
        book(account, tx())
    assert stored_balances(path) == {}


def test_an_account_is_opened_once_and_closed_once(
    accounts: LiveAggregates[Account], bank: Bank
) -> None:
    account = account_of(accounts, "A")
    with pytest.raises(AggregateNotFoundError):
        account.call(Account.close)
    assert accounts.create(Account, "A", D("10.00")) == account
    with pytest.raises(AggregateExists):
        accounts.create(Account, "A")
    account.call(Account.withdraw, D("10.00"), on=DAY, reference="1")
    with pytest.raises(BalanceNotZero):
        account.call(Account.close)
    account.call(Account.deposit, D("10.00"), on=DAY, reference="2")
    account.call(Account.close)
    stored = bank.account("A")
    assert stored is not None
    assert stored.is_closed


def test_deposits_and_withdrawals_happen_once(account: LiveRef[Account], path: Path) -> None:
    for _ in range(2):
        deposit, withdraw = account.using(command_id="1"), account.using(command_id="2")
        deposit.call(Account.deposit, D("10.00"), on=DAY, reference="1")
        withdraw.call(Account.withdraw, D("3.00"), on=DAY, reference="2")
    assert stored_balances(path) == {"A": D("7.00")}


def test_a_refusal_once_given_stays(
    accounts: LiveAggregates[Account], account: LiveRef[Account], path: Path
) -> None:
    withdraw = account.using(command_id="1")
    refusals: list[str] = []
    for _ in range(2):
        with pytest.raises(OverdraftLimitExceeded) as refused:
            withdraw.call(Account.withdraw, D(1), on=DAY, reference="1")
        refusals.append(str(refused.value))
        book(account, tx("2", amount="100.00"))
    assert refusals == ["account 'A' has 0 and an overdraft limit of 0"] * 2
    assert accounts.receipt("1") is not None
    assert stored_balances(path) == {"A": D("100.00")}


def test_nobody_pays_into_an_account_that_does_not_exist_though_it_be_opened_later(
    accounts: LiveAggregates[Account], path: Path
) -> None:
    deposit = account_of(accounts, "A").using(command_id="1")
    for _ in range(2):
        with pytest.raises(AggregateNotFoundError):
            deposit.call(Account.deposit, D(1), on=DAY, reference="1")
        accounts.get_or_create(Account, "A")
    assert stored_balances(path) == {"A": D(0)}
