"""The account, without actors and without a store."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.bank.domain import (
    Account,
    AccountClosed,
    BalanceNotZero,
    BookedDifferently,
    NotPositive,
    OverdraftLimitExceeded,
    Refusal,
)
from tests.bank.support import DAY, tx

D = Decimal


def replayed(account: Account) -> Account:
    """The account that its events make, as a store would give it back."""
    copy: Account | None = None
    for event in account.pending_events:
        copy = event.mutate(copy)
    assert copy is not None
    return copy


def account_with(balance: str, limit: str = "0") -> Account:
    account = Account("A", D(limit))
    account.book(D(balance), on=DAY, reference="1")
    return account


def test_a_new_account_is_open_and_empty() -> None:
    account = Account("A")
    assert (account.account_id, account.balance, account.is_closed) == ("A", D(0), False)


def test_the_same_account_id_is_always_the_same_stream() -> None:
    assert Account("A").id == Account("A").id != Account("B").id


def test_deposits_and_withdrawals_change_the_balance() -> None:
    account = Account("A")
    account.deposit(D("10.00"), on=DAY, reference="1")
    account.withdraw(D("2.50"), on=DAY, reference="2")
    assert account.balance == D("7.50")


def test_a_withdrawal_may_reach_the_overdraft_limit_and_not_exceed_it() -> None:
    account = account_with("5.00", limit="10.00")
    with pytest.raises(OverdraftLimitExceeded, match=r"has 5\.00 and an overdraft limit of 10\.00"):
        account.withdraw(D("15.01"), on=DAY, reference="2")
    account.withdraw(D("15.00"), on=DAY, reference="3")
    assert account.balance == D("-10.00")


def test_thirty_digits_are_compared_with_the_limit_exactly() -> None:
    account = account_with("100000000000000000000000000000")
    with pytest.raises(OverdraftLimitExceeded):
        account.withdraw(D("100000000000000000000000000001"), on=DAY, reference="2")


@pytest.mark.parametrize("amount", ["0", "-1"])
def test_deposits_and_withdrawals_are_of_positive_amounts(amount: str) -> None:
    account = account_with("10")
    with pytest.raises(NotPositive):
        account.deposit(D(amount), on=DAY, reference="2")
    with pytest.raises(NotPositive):
        account.withdraw(D(amount), on=DAY, reference="2")


def test_a_recorded_transaction_is_booked_even_into_overdraft() -> None:
    assert account_with("-100.00").balance == D("-100.00")


def test_a_closed_account_takes_and_gives_nothing_but_records_facts() -> None:
    account = Account("A")
    account.close()
    with pytest.raises(AccountClosed):
        account.deposit(D(1), on=DAY, reference="1")
    with pytest.raises(AccountClosed):
        account.withdraw(D(1), on=DAY, reference="1")
    with pytest.raises(AccountClosed):
        account.close()
    account.book(D(1), on=DAY, reference="1")
    assert account.balance == 1


@pytest.mark.parametrize("balance", ["0.01", "-0.01"])
def test_only_an_empty_account_can_be_closed(balance: str) -> None:
    with pytest.raises(BalanceNotZero):
        account_with(balance).close()


def test_a_refusal_leaves_no_event() -> None:
    account = account_with("1")
    before = list(account.pending_events)
    with pytest.raises(Refusal):
        account.withdraw(D(2), on=DAY, reference="2")
    assert list(account.pending_events) == before


commands = st.tuples(
    st.sampled_from(["book", "deposit", "withdraw", "close"]),
    st.decimals(-1000, 1000, places=2),
)


@given(st.lists(commands, max_size=30), st.decimals(0, 500, places=2))
def test_whatever_is_asked_of_it_an_account_is_what_its_events_say(
    asked: list[tuple[str, Decimal]], limit: Decimal
) -> None:
    account = Account("A", limit)
    expected = D(0)
    for number, (command, amount) in enumerate(asked):
        before = account.balance
        try:
            if command == "close":
                account.close()
                continue
            getattr(account, command)(amount, on=DAY, reference=str(number))
        except Refusal:
            assert account.balance == before
            assert command != "book"
        else:
            expected += -amount if command == "withdraw" else amount
            assert command != "withdraw" or account.balance >= -limit
        assert account.balance == expected
    copy = replayed(account)
    assert (copy.balance, copy.version, copy.is_closed, copy.overdraft_limit) == (
        account.balance,
        account.version,
        account.is_closed,
        account.overdraft_limit,
    )


def test_ids_of_different_sources_do_not_meet() -> None:
    mine = tx()
    other = replace(mine, source="transfer 1")
    assert mine.id == other.id
    assert mine.command_id != other.command_id


def test_what_was_booked_under_an_id_is_told_exactly() -> None:
    assert str(BookedDifferently(tx(amount="1.00"))) == (
        "transaction '1' was booked before as account 'A', 2024-02-29, 1.00"
    )
