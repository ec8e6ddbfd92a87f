"""Transfers over two actors: money moves as a whole or not at all, whoever else is at it."""

from __future__ import annotations

import threading
from decimal import Decimal
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import pytest

from examples.bank.accounts import account_of, live_accounts
from examples.bank.domain import Account, OverdraftLimitExceeded
from examples.bank.transfer import Order, State, Transfer, TransferDiffers
from examples.bank.transfers import open_desk
from tests.bank.support import DAY, Referee, open_bank, stored_balances, watch

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from examples.bank.application import Bank

D = Decimal


def order(amount: str = "40.00", *, payee: str = "B", number: int = 1) -> Order:
    return Order(f"t{number}", "A", payee, D(amount), DAY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store in which A has 100.00, B has 0.00, and C is closed."""
    path = tmp_path / "bank.sqlite"
    with open_bank(path) as bank:
        prepare(bank)
    return path


def prepare(bank: Bank) -> None:
    payer, payee, closed = Account("A"), Account("B"), Account("C")
    payer.book(D("100.00"), on=DAY, reference="1")
    closed.close()
    bank.save(payer, payee, closed)


@pytest.fixture
def bank(path: Path) -> Generator[Bank]:
    with open_bank(path) as bank:
        yield bank


def test_a_transfer_moves_money(bank: Bank, path: Path) -> None:
    with open_desk(bank) as desk:
        assert desk.carry_out(order()).state is State.COMPLETED
    assert stored_balances(path) == {"A": D("60.00"), "B": D("40.00"), "C": D(0)}
    assert bank.unfinished_transfers() == []


def test_the_same_transfer_moves_it_once(bank: Bank, path: Path) -> None:
    for _ in range(2):
        with open_desk(bank) as desk:
            for _ in range(2):
                assert desk.carry_out(order()).state is State.COMPLETED
    assert stored_balances(path) == {"A": D("60.00"), "B": D("40.00"), "C": D(0)}


def test_another_transfer_under_the_same_id_is_refused(bank: Bank, path: Path) -> None:
    with open_desk(bank) as desk:
        desk.carry_out(order())
        with pytest.raises(TransferDiffers):
            desk.carry_out(order("41.00"))
    assert stored_balances(path)["A"] == D("60.00")


def test_a_payer_without_the_money_does_not_pay(bank: Bank, path: Path) -> None:
    with open_desk(bank) as desk:
        transfer = desk.carry_out(order("100.01"))
    assert transfer.state is State.REFUSED
    assert "'A' has 100.00" in transfer.reason
    assert stored_balances(path) == {"A": D("100.00"), "B": D("0"), "C": D(0)}


@pytest.mark.parametrize(("payee", "reason"), [("C", "is closed"), ("X", "is unknown")])
def test_a_payer_gets_back_what_the_payee_cannot_take(
    bank: Bank, path: Path, payee: str, reason: str
) -> None:
    with open_desk(bank) as desk:
        transfer = desk.carry_out(order(payee=payee))
    assert transfer.state is State.REFUNDED
    assert reason in transfer.reason
    assert stored_balances(path) == {"A": D("100.00"), "B": D(0), "C": D(0)}


def test_even_a_payer_that_is_closed_by_then_gets_it_back(bank: Bank, path: Path) -> None:
    transfer = Transfer.of(order("100.00", payee="C"))
    bank.save(transfer)
    debit = transfer.order.debit
    with live_accounts(bank) as accounts:
        payer = account_of(accounts, "A")
        payer.using(command_id=debit.command_id).call(
            Account.withdraw, transfer.amount, on=debit.on, reference=debit.id
        )
        payer.call(Account.close)
    with open_desk(bank) as desk:
        assert [transfer.state for transfer in desk.finish_all()] == [State.REFUNDED]
    assert stored_balances(path)["A"] == D("100.00")


def test_all_unfinished_transfers_are_finished_with_few_actors(bank: Bank, path: Path) -> None:
    bank.save(*(Transfer.of(order("1.00", number=number)) for number in range(20)))
    assert len(bank.unfinished_transfers()) == 20
    with open_desk(bank) as desk:
        finished = list(desk.finish_all())
    assert {transfer.state for transfer in finished} == {State.COMPLETED}
    assert stored_balances(path) == {"A": D("80.00"), "B": D("20.00"), "C": D(0)}
    assert bank.unfinished_transfers() == []


@pytest.fixture
def referee(monkeypatch: pytest.MonkeyPatch) -> Referee:
    return watch(monkeypatch)


def test_where_one_account_may_be_live_a_transfer_has_both_one_after_the_other(
    bank: Bank, path: Path, referee: Referee
) -> None:
    """Money goes from account to account along a chain, and the last one takes none."""
    bank.save(*(Account(f"{number}") for number in range(8)))
    stations = ["A", *map(str, range(8)), "C"]
    with open_desk(bank, max_live=1) as desk:
        states = [
            desk.carry_out(Order(f"{payer} to {payee}", payer, payee, D("100.00"), DAY)).state
            for payer, payee in pairwise(stations)
        ]
    assert states == [State.COMPLETED] * 8 + [State.REFUNDED]
    assert stored_balances(path) == dict.fromkeys([*stations, "B"], D(0)) | {"7": D("100.00")}
    assert referee.most == 1
    assert referee.activations >= len(stations)


def test_many_transfers_at_once_end_though_one_account_and_one_transfer_may_be_live(
    bank: Bank, path: Path, referee: Referee
) -> None:
    """There and back again: they want the same accounts in different orders."""
    accounts = ["A", "B", "D"]
    bank.save(Account("D", overdraft_limit=D(9)), Transfer.of(order("9.00", payee="D", number=0)))
    ways = list(permutations(accounts, 2))
    states: list[State] = []
    with open_desk(bank, max_live=1) as desk:

        def carry_out(number: int) -> None:
            payer, payee = ways[number % len(ways)]
            states.append(desk.carry_out(Order(f"w{number}", payer, payee, D(1), DAY)).state)

        threads = [threading.Thread(target=carry_out, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        finished = list(desk.finish_all())
        for thread in threads:
            thread.join()
    assert len(states) == 30
    assert "t0" in {transfer.transfer_id for transfer in finished}
    assert set(states) <= {State.COMPLETED, State.REFUSED}  # B may have nothing to give yet
    assert bank.unfinished_transfers() == []
    assert sum(stored_balances(path).values()) == D("100.00")
    assert referee.most == 1


def test_two_processes_that_finish_the_same_transfer_agree(path: Path) -> None:
    """While money comes and goes on the payer's account: so one may find enough, and one not."""
    rounds = 15
    with open_bank(path) as bank:
        payer = bank.account("A")
        assert payer is not None
        payer.book(D("-100.00"), on=DAY, reference="empty")
        bank.save(payer)
    barrier = threading.Barrier(3)

    def carry_out(states: list[State]) -> None:
        with open_bank(path) as bank, open_desk(bank) as desk:
            for number in range(rounds):
                barrier.wait(60)
                states.append(desk.carry_out(order("10.00", number=number)).state)

    def pay_in() -> None:
        with (
            open_bank(path) as bank,
            live_accounts(bank) as accounts,
        ):
            account = account_of(accounts, "A")
            for number in range(rounds):
                barrier.wait(60)
                account.call(Account.book, D("10.00"), on=DAY, reference=f"in {number}")

    states: tuple[list[State], list[State]] = ([], [])
    threads = [threading.Thread(target=carry_out, args=(part,)) for part in states]
    threads.append(threading.Thread(target=pay_in))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(states[0]) == rounds
    assert states[0] == states[1]
    moved = D("10.00") * states[0].count(State.COMPLETED)
    assert stored_balances(path) == {"A": D("10.00") * rounds - moved, "B": moved, "C": D(0)}


def test_a_refused_debit_is_not_taken_later(bank: Bank, path: Path) -> None:
    """Killed after the refusal and before the transfer knew of it, it must not change its mind."""
    transfer = Transfer.of(order("150.00"))
    bank.save(transfer)
    debit = transfer.order.debit
    with live_accounts(bank) as accounts:
        payer = account_of(accounts, "A")
        with pytest.raises(OverdraftLimitExceeded):
            payer.using(command_id=debit.command_id).call(
                Account.withdraw, transfer.amount, on=debit.on, reference=debit.id
            )
        payer.call(Account.book, D("100.00"), on=DAY, reference="2")
    with open_desk(bank) as desk:
        assert [transfer.state for transfer in desk.finish_all()] == [State.REFUSED]
    assert stored_balances(path)["A"] == D("200.00")
