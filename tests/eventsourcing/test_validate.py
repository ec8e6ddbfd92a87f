"""A dry run decides and changes nothing."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.application import AggregateNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from pykka_registry.eventsourcing import (
    ConcurrencyError,
    Decision,
    LiveAggregates,
    live_aggregates,
)
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Insertions,
    Overdrawn,
    Refusal,
    balance,
    open_bank,
    stored,
)
from tests.support import poll

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.eventsourcing.support import Store


@pytest.fixture
def bank(popo: Store) -> Generator[Bank]:
    with open_bank(popo) as bank:
        yield bank


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    with live_aggregates(bank, Account, refusals=[Refusal]) as accounts:
        yield accounts


def test_it_returns_what_would_be(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    insertions = Insertions(bank.recorder)
    would_be = account.validate(Account.move, [Decimal(5), Decimal(-1)])
    assert (would_be.result, would_be.version) == (2, 3)
    assert [type(event) for event in would_be.events] == [Account.Deposited, Account.Withdrawn]
    assert insertions.sizes == []
    assert account.query(balance) == 0
    assert account.execute(Account.deposit, Decimal(5)).version == 2


def test_it_raises_what_would_be_raised(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    with pytest.raises(Overdrawn):
        account.validate(Account.withdraw, Decimal(5))
    with pytest.raises(ValueError, match="missing"):
        account.validate(Account.move, [Decimal(5), Decimal(0)])
    with pytest.raises(ConcurrencyError):
        account.using(expected_version=9).validate(Account.deposit, Decimal(5))
    assert accounts.receipt("a") is None
    assert accounts.ref(ADA).query(balance) == 0


def test_it_fails_where_a_receipt_could_not_be_kept(accounts: LiveAggregates[Account]) -> None:
    def refuse() -> None:
        raise Refusal((1, 2))

    account = accounts.create(Account, "Ada")
    command = account.using(command_id="a")
    with pytest.raises(TypeError, match="pair has returned"):
        command.validate(Account.pair)
    with pytest.raises(TypeError, match="call has raised Refusal with argument 1"):
        command.validate(Account.call, refuse)
    assert account.validate(Account.pair).result == ("Ada", Decimal(0))
    with pytest.raises(Refusal):
        account.validate(Account.call, refuse)
    assert command.validate(Account.deposit, Decimal(5)).result == 5


def test_it_rests_on_what_is_stored(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    assert account.call(Account.deposit, Decimal(1)) == 1

    def elsewhere() -> None:
        theirs: Account = stored(bank)
        theirs.deposit(Decimal(5))
        bank.save(theirs)

    elsewhere()
    assert account.validate(Account.withdraw, Decimal(6)).version == 4
    elsewhere()
    assert account.validate(Account.has, Decimal(11)).result
    elsewhere()
    with pytest.raises(ConcurrencyError):
        account.using(expected_version=4).validate(Account.has, Decimal(1))
    assert account.validate(Account.deposit, Decimal(1)).version == 6


def test_it_leaves_no_actor_of_one_that_does_not_exist(accounts: LiveAggregates[Account]) -> None:
    account = accounts.ref(ADA)
    with pytest.raises(AggregateNotFoundError):
        account.validate(Account.deposit, Decimal(5))
    poll(lambda: accounts.registry.stats().live == 0)
    assert account.or_create(Account, "Ada").validate(Account.deposit, Decimal(5)).result == 5
    poll(lambda: accounts.registry.stats().live == 0)
    with pytest.raises(AggregateNotFoundError):
        account.query(balance)


def test_of_a_command_that_is_done_it_knows_the_answer(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    account.call(Account.deposit, Decimal(5))
    again = account.validate(Account.deposit, Decimal(5))
    assert again == Decision(Decimal(5), 2, is_repeated=True)


AMOUNTS = st.lists(st.integers(-9, 9).map(Decimal), max_size=5)
COMMANDS = st.lists(st.tuples(st.booleans(), AMOUNTS), max_size=8)


@settings(max_examples=60, deadline=None)
@given(COMMANDS)
def test_whatever_is_validated_the_state_stays_identical(
    commands: list[tuple[bool, list[Decimal]]],
) -> None:
    bank = Bank(env={"PERSISTENCE_MODULE": "eventsourcing.popo"})
    with live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        for is_dry, amounts in commands:
            before: dict[str, Any] = account.query(lambda account: copy.deepcopy(vars(account)))
            position = bank.recorder.max_notification_id()
            imagined: object = None
            try:
                imagined = account.validate(Account.move, amounts).result
            except (Overdrawn, ValueError) as error:
                imagined = type(error)
            assert account.query(vars) == before
            assert vars(stored(bank)) == before
            assert bank.recorder.max_notification_id() == position
            if not is_dry:
                real: object = None
                try:
                    real = account.call(Account.move, amounts)
                except (Overdrawn, ValueError) as error:
                    real = type(error)
                assert real == imagined
    bank.close()
