"""An aggregate is passivated by the rule of its last event, or by what its state says."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import OperationalError

from pykka_registry import EndReason
from pykka_registry.eventsourcing import LiveAggregates, live_aggregates
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)
from tests.support import Gate, poll

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.eventsourcing.support import Store


@pytest.fixture
def bank(popo: Store) -> Generator[Bank]:
    with open_bank(popo) as bank:
        yield bank


def has_gone(accounts: LiveAggregates[Account]) -> bool:
    return accounts.registry.stats().live == 0


def test_the_rule_of_the_last_event_holds(bank: Bank) -> None:
    rules = {Account.Closed: 0, Account.Deposited: 3600, Account.Withdrawn: None}
    with live_aggregates(bank, Account, idle=600, passivate_on=rules) as accounts:
        account = accounts.create(Account, "Ada")
        for amount in (5, -1, 5):
            account.call(Account.move, [Decimal(amount)])
        account.call(Account.close)
        poll(lambda: has_gone(accounts))
        assert account.query(balance) == 9  # it comes back, and the rule still holds
        poll(lambda: has_gone(accounts))
        assert accounts.registry.stats().ends[EndReason.OWN_WORD] == 2
        elsewhere: Account = stored(bank)
        elsewhere.deposit(Decimal(1))
        bank.save(elsewhere)
        reads = count_reads(bank.recorder)
        assert account.query(balance) == account.query(balance) == 10
        assert ADA in accounts.registry
        assert reads == [None, 5]  # the account, and its last event


def test_only_the_last_event_decides(bank: Bank) -> None:
    rules = {Account.Withdrawn: 0}
    with live_aggregates(bank, Account, passivate_on=rules) as accounts:
        account = accounts.create(Account, "Ada")
        account.call(Account.move, [Decimal(5), Decimal(-1), Decimal(1)])
        assert account.query(balance) == 5
        gate = Gate()
        busy = account.submit(Account.call, gate.pass_through)
        gate.wait_until_reached()
        amounts = [Decimal(-1), Decimal(1)]
        together = [account.submit(Account.move, [amount]) for amount in amounts]
        gate.open()
        for future in (busy, *together):
            future.get(timeout=60)
        assert account.query(balance) == 5
        assert accounts.registry.stats().activations == 1
        assert ADA in accounts.registry
        account.call(Account.move, [Decimal(1), Decimal(-1)])
        poll(lambda: has_gone(accounts))


def test_a_rule_that_cannot_be_looked_up_changes_nothing(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    rules = {Account.Opened: 0}
    with live_aggregates(bank, Account, idle=600, passivate_on=rules) as accounts:
        bank.save(Account("Ada"))
        select = bank.recorder.select_events

        def select_all(*args: Any, **kwargs: Any) -> Any:
            if kwargs["lte"] is not None:
                raise OperationalError
            return select(*args, **kwargs)

        vars(bank.recorder)["select_events"] = select_all
        assert accounts.ref(ADA).query(balance) == 0
        assert ADA in accounts.registry
    assert "passivate_on or passivate_after has failed" in caplog.text


def test_no_function_sees_what_is_not_stored(bank: Bank) -> None:
    seen: list[tuple[Decimal, int]] = []

    def look(account: Account) -> float:
        seen.append((account.balance, account.version))
        return 600

    with live_aggregates(bank, Account, passivate_after=look) as accounts:
        account = accounts.create(Account, "Ada")
        gate = Gate()
        busy = account.submit(Account.call, gate.pass_through)
        gate.wait_until_reached()
        ones: list[Any] = [
            account.submit(Account.move, [Decimal(amount) for amount in amounts])
            for amounts in ((1,), (1000, 0), (1,))
        ]
        gate.open()
        busy.get(timeout=60)
        ones[0].get(timeout=60)
        with pytest.raises(ValueError, match="missing"):
            ones[1].get(timeout=60)
        ones[2].get(timeout=60)
        with pytest.raises(ValueError, match="missing"):
            account.call(Account.move, [Decimal(1000), Decimal(0)])
        assert account.query(balance) == 2
    assert set(seen) == {(Decimal(0), 1), (Decimal(1), 2), (Decimal(2), 3)}


def test_a_later_decision_takes_the_word_back(bank: Bank) -> None:
    rules = {Account.Withdrawn: 0}
    with live_aggregates(bank, Account, passivate_on=rules) as accounts:
        account = accounts.create(Account, "Ada")
        account.call(Account.move, [Decimal(5), Decimal(1), Decimal(-1)])
        poll(lambda: has_gone(accounts))
        # Both wait for the same incarnation, so the second finds it.
        first = account.submit(Account.withdraw, Decimal(1))
        second = account.submit(Account.close)
        first.get()
        second.get()
        assert account.query(balance) == 4
        assert ADA in accounts.registry


def test_a_rule_for_a_base_class_holds_for_what_has_none(bank: Bank) -> None:
    rules = {Aggregate.Event: 0, Account.Deposited: 3600}
    with live_aggregates(bank, Account, passivate_on=rules) as accounts:
        account = accounts.create(Account, "Ada")
        account.call(Account.deposit, Decimal(1))
        assert ADA in accounts.registry
        account.call(Account.close)
        poll(lambda: has_gone(accounts))


def test_a_function_of_the_state_decides_too(bank: Bank) -> None:
    with live_aggregates(
        bank,
        Account,
        passivate_on={Account.Deposited: 3600},
        passivate_after=lambda account: 0 if account.is_closed else 60,
    ) as accounts:
        account = accounts.create(Account, "Ada")
        account.call(Account.deposit, Decimal(1))
        account.call(Account.close)
        poll(lambda: has_gone(accounts))
        # What has been loaded is looked at, too.
        assert account.query(balance) == 1
        poll(lambda: has_gone(accounts))


def test_an_error_changes_no_rule(bank: Bank) -> None:
    with live_aggregates(bank, Account, idle=0, passivate_on={Account.Deposited: 3600}) as accounts:
        account = accounts.create(Account, "Ada")
        account.call(Account.deposit, Decimal(1))
        with pytest.raises(ValueError, match="missing"):
            account.call(Account.move, [Decimal(0)])
        assert account.query(balance) == 1
        assert ADA in accounts.registry


def balance_as_text(account: Account) -> str:
    return str(account.balance)


def test_a_function_that_fails_fails_no_command(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    functions: list[Any] = [failing(ZeroDivisionError()), Account.close, balance_as_text]
    for wrong in functions:
        with live_aggregates(bank, Account, passivate_after=wrong) as accounts:
            account = accounts.get_or_create(Account, "Ada")
            account.call(Account.deposit, Decimal(1))
    assert stored(bank).balance == 3
    assert {record[1] for record in caplog.record_tuples} == {logging.ERROR}
    assert "passivate_after has failed" in caplog.text


def test_wrong_rules_are_found_at_once(bank: Bank) -> None:
    wrong: Any
    for wrong, why in (
        ([Account.Closed], "must be a mapping"),
        ({"Closed": 0}, "event classes as keys"),
        ({Account.Closed: "0"}, r"passivate_on\[Closed\] must be a number"),
    ):
        with pytest.raises(TypeError, match=why):
            live_aggregates(bank, Account, passivate_on=wrong)
    with pytest.raises(ValueError, match="at least 0"):
        live_aggregates(bank, Account, passivate_on={Account.Closed: -1})
    wrong = 5
    with pytest.raises(TypeError, match="must be callable"):
        live_aggregates(bank, Account, passivate_after=wrong)
