"""While aggregates come that are new the next is taken for new, and the store finds out if not."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, OperationalError, Transcoding
from eventsourcing.popo import POPOApplicationRecorder

from pykka_registry.eventsourcing import ConcurrencyError, live_aggregates
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Insertions,
    Overdrawn,
    Refusal,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)
from tests.eventsourcing.support import Caller
from tests.support import PATIENCE, Gate

if TYPE_CHECKING:
    from collections.abc import Generator

    import pykka
    from eventsourcing.persistence import ApplicationRecorder

    from pykka_registry.eventsourcing import LiveAggregates, LiveRef
    from tests.eventsourcing.support import Store

ENOUGH = 20
ONE = Decimal(1)


def customer(accounts: LiveAggregates[Account], owner: str, **options: Any) -> LiveRef[Account]:
    ref = accounts.ref(Account.create_id(owner)).or_create(Account, owner)
    return ref.using(**options)


def have_new_ones(accounts: LiveAggregates[Account], count: int = ENOUGH) -> None:
    for number in range(count):
        assert customer(accounts, f"{count} {number}").call(Account.deposit, ONE) == 1


@pytest.fixture
def bank(store: Store) -> Generator[Bank]:
    with open_bank(store) as bank:
        yield bank


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    """Live accounts, of which many have been new."""
    with live_aggregates(bank, Account, refusals=[Refusal], retries=0) as accounts:
        have_new_ones(accounts)
        yield accounts


class Changing:
    """What is encoded as a text, but not the first time."""

    used = 0


class ChangingAsStr(Transcoding):
    type = Changing
    name = "changing"

    def encode(self, obj: Changing) -> str:
        obj.used += 1
        if obj.used == 1:
            msg = "it is not serializable"
            raise TypeError(msg)
        return ""

    def decode(self, data: str) -> Changing:
        raise NotImplementedError(data)


def results(futures: list[pykka.Future[Any]]) -> list[object]:
    found: list[object] = []
    for future in futures:
        try:
            found.append(future.get(timeout=PATIENCE))
        except Overdrawn as error:
            found.append(type(error))
    return found


def open_elsewhere(bank: Bank, amount: Decimal = ONE) -> None:
    """Have another process open an account, and pay in."""
    account = Account("Ada")
    account.deposit(amount)
    bank.save(account)


def test_what_is_likely_to_be_new_is_not_looked_for(popo: Store) -> None:
    with open_bank(popo) as bank, live_aggregates(bank, Account) as accounts:
        reads = count_reads(bank.recorder)
        have_new_ones(accounts, ENOUGH)
        assert len(reads) == ENOUGH
        have_new_ones(accounts, 3)
        assert len(reads) == ENOUGH
        open_elsewhere(bank)
        assert customer(accounts, "Ada").call(Account.deposit, ONE) == 2
        assert len(reads) > ENOUGH
        reads.clear()
        have_new_ones(accounts, 2)
        assert len(reads) == 2


class Stubborn(POPOApplicationRecorder):
    """Somebody's own, which may write twice."""


class StubbornBank(Bank):
    name = "Bank"

    def construct_recorder(self) -> ApplicationRecorder:
        return Stubborn()


def test_where_events_may_meet_themselves_only_what_has_a_receipt_is_taken_for_new(
    popo: Store,
) -> None:
    """Equal events, of the same microsecond, would be taken for a first try of ours."""
    with open_bank(popo, StubbornBank) as bank, live_aggregates(bank, Account) as accounts:
        have_new_ones(accounts)
        reads = count_reads(bank.recorder)
        customer(accounts, "Eve", command_id="a").call(Account.deposit, ONE)
        assert reads == []
        open_elsewhere(bank)
        assert customer(accounts, "Ada").call(Account.deposit, ONE) == 2
        assert len(reads) == 1


@pytest.mark.parametrize("command_id", [None, "a"])
def test_one_that_is_there_is_found_out(
    command_id: str | None, bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    """Even if nothing is to be decided again."""
    open_elsewhere(bank)
    ada = customer(accounts, "Ada", command_id=command_id)
    assert ada.call(Account.deposit, ONE) == stored(bank).balance == 2
    assert stored(bank).version == 3


@pytest.mark.parametrize("command_id", [None, "a"])
def test_a_refusal_rests_on_what_is_stored(
    command_id: str | None, bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    ada = customer(accounts, "Ada", command_id=command_id)
    with pytest.raises(Overdrawn):
        ada.call(Account.withdraw, ONE)
    with pytest.raises(AggregateNotFoundError):
        stored(bank)
    open_elsewhere(bank)
    again = customer(accounts, "Ada", command_id=command_id and "b")
    assert again.call(Account.withdraw, ONE) == stored(bank).balance == 0


class Taken(IntegrityError):
    """A domain's own."""


class Library(Aggregate):
    """Has a number of copies, and lends them."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.copies = 0

    @staticmethod
    def create_id(owner: str) -> UUID:
        return uuid5(NAMESPACE_URL, owner)

    @event("Bought")
    def buy(self, count: int) -> None:
        self.copies += count

    def lend(self) -> int:
        if self.copies == 0:
            raise Taken
        self.buy(-1)
        return self.copies


@pytest.mark.parametrize("command_id", [None, "a"])
def test_a_domains_own_error_of_the_stores_kind_rests_on_what_is_stored(
    command_id: str | None, popo: Store
) -> None:
    with (
        open_bank(popo) as bank,
        live_aggregates(bank, Library, refusals=[Taken], retries=0) as libraries,
    ):

        def library(owner: str, **options: Any) -> LiveRef[Library]:
            ref = libraries.ref(Library.create_id(owner)).or_create(Library, owner)
            return ref.using(**options)

        library("Ada").call(Library.buy, 1)
        library("Ada").stop()
        for number in range(ENOUGH):
            library(f"{number}").call(Library.buy, 1)
        assert library("Ada", command_id=command_id).call(Library.lend) == 0
        for number in range(ENOUGH):
            library(f"once more {number}").call(Library.buy, 1)
        for _ in range(2):
            with pytest.raises(Taken):
                library("Eve", command_id=command_id and "b").call(Library.lend)
        assert (libraries.receipt("b") is not None) == (command_id is not None)


def test_an_event_that_cannot_be_encoded_rests_on_what_is_stored(popo: Store) -> None:
    with open_bank(popo) as bank, live_aggregates(bank, Account) as accounts:
        have_new_ones(accounts)
        bank.mapper.transcoder.register(ChangingAsStr())
        open_elsewhere(bank)
        what = Changing()
        customer(accounts, "Ada").call(Account.note, what)
        assert what.used > 1
        assert accounts.ref(ADA).execute(Account.has, ONE).version == 3


def test_an_event_that_can_never_be_encoded_leaves_no_aggregate(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    with pytest.raises(TypeError, match="not serializable"):
        customer(accounts, "Ada", command_id="a").call(Account.note, object())
    with pytest.raises(AggregateNotFoundError):
        stored(bank)
    assert customer(accounts, "Ada", command_id="b").call(Account.deposit, ONE) == 1


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_command_that_was_done_before_gets_its_first_answer(
    way: str, bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    with live_aggregates(bank, Account) as others:
        assert customer(others, "Ada", command_id="a").call(Account.deposit, ONE) == 1
        assert others.ref(ADA).call(Account.deposit, ONE) == 2
    ada = customer(accounts, "Ada", command_id="a")
    if way == "call":
        assert ada.call(Account.deposit, ONE) == 1
    else:
        assert ada.submit(Account.deposit, ONE).get() == 1
    assert accounts.ref(ADA).query(balance) == stored(bank).balance == 2


def test_a_query_and_who_expects_a_version_look(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    open_elsewhere(bank)
    with pytest.raises(ConcurrencyError):
        customer(accounts, "Ada", expected_version=0).call(Account.deposit, ONE)
    accounts.ref(ADA).stop()
    have_new_ones(accounts, ENOUGH + 1)
    assert customer(accounts, "Ada").query(balance) == 1
    accounts.ref(ADA).stop()
    have_new_ones(accounts, ENOUGH + 2)
    assert customer(accounts, "Ada").validate(Account.deposit, ONE).result == 2


@pytest.mark.parametrize(
    ("is_there", "amounts", "balances"),
    [
        (False, [1, 1, 1], [1, 2, 3]),
        (True, [1, 1, 1], [6, 7, 8]),
        (False, [1, -6, 1], [1, Overdrawn, 2]),
        (True, [1, -6, 1], [6, 0, 1]),
        (True, [-1, -1, -1], [4, 3, 2]),
    ],
)
def test_each_of_those_that_wait_together_rests_on_what_is_stored(
    is_there: bool, amounts: list[int], balances: list[object], bank: Bank
) -> None:
    """A batch that rests on a wrong guess goes again one by one."""
    with live_aggregates(bank, Account, max_live=1) as accounts:
        have_new_ones(accounts)
        if is_there:
            open_elsewhere(bank, Decimal(5))
        gate = Gate()
        busy = customer(accounts, "Eve").submit(Account.call, gate.pass_through)
        gate.wait_until_reached()
        futures = [
            customer(accounts, "Ada", command_id=f"{number}").submit(
                Account.deposit if amount > 0 else Account.withdraw, Decimal(abs(amount))
            )
            for number, amount in enumerate(amounts)
        ]
        gate.open()
        busy.get(timeout=PATIENCE)
        assert results(futures) == balances
        assert stored(bank).balance == balances[-1]


def test_what_was_wrong_once_is_not_guessed_again(bank: Bank) -> None:
    with live_aggregates(bank, Account, max_live=1) as accounts:
        have_new_ones(accounts)
        open_elsewhere(bank)
        gate = Gate()
        busy = customer(accounts, "Eve").submit(Account.call, gate.pass_through)
        gate.wait_until_reached()
        futures = [
            customer(accounts, "Ada", command_id=command_id).submit(Account.deposit, ONE)
            for command_id in "ab"
        ]
        insertions = Insertions(bank.recorder)
        gate.open()
        busy.get(timeout=PATIENCE)
        assert results(futures) == [2, 3]
        # Eve's, the batch with an event too many, and each of its commands, all with receipts.
        assert insertions.sizes == [1, 5, 2, 2]


def test_a_store_that_fails_is_not_asked_again(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    insertions = Insertions(bank.recorder)
    insertions.before.append(failing(OperationalError("down")))
    with pytest.raises(OperationalError):
        customer(accounts, "Ada").call(Account.deposit, ONE)
    assert len(insertions.sizes) == 1
    assert customer(accounts, "Ada").call(Account.deposit, ONE) == stored(bank).balance == 1


@pytest.mark.parametrize("has_ids", [False, True])
def test_many_who_take_the_same_ones_for_new_lose_nothing_and_double_nothing(
    has_ids: bool, bank: Bank
) -> None:
    owners = [f"one of {number}" for number in range(15)]
    with (
        live_aggregates(bank, Account) as some,
        live_aggregates(bank, Account, max_live=4) as others,
    ):
        have_new_ones(some)
        have_new_ones(others, ENOUGH + 1)

        def deposit(accounts: LiveAggregates[Account], caller: int) -> int:
            turns = [owners[(caller + number) % len(owners)] for number in range(len(owners))]
            futures = [
                customer(
                    accounts, owner, command_id=f"{caller} to {owner}" if has_ids else None
                ).submit(Account.deposit, ONE)
                for owner in turns
            ]
            return len(results(futures))

        callers = [
            Caller(deposit, accounts, caller) for caller in range(3) for accounts in (some, others)
        ]
        assert [caller.result for caller in callers] == [len(owners)] * 6
        for owner in owners:
            account: Account = stored(bank, Account.create_id(owner))
            # With ids the commands of the two are the same ones.
            assert account.balance == len(account.history) == (3 if has_ids else 6)
