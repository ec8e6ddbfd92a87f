"""The transfer's state machine, without actors and without a store."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from examples.bank.transfer import Order, State, Transfer, TransferDiffers
from tests.bank.support import DAY

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER = Order("t1", "A", "B", Decimal("12.50"), DAY)

STEPS: dict[State, Callable[[Transfer], None]] = {
    State.DEBITED: Transfer.debited,
    State.COMPLETED: Transfer.completed,
    State.REFUSED: partial(Transfer.refused, reason="why"),
    State.REJECTED: partial(Transfer.rejected, reason="why"),
    State.REFUNDED: Transfer.refunded,
}

WAYS = [
    [State.STARTED],
    [State.STARTED, State.DEBITED],
    [State.STARTED, State.DEBITED, State.COMPLETED],
    [State.STARTED, State.REFUSED],
    [State.STARTED, State.DEBITED, State.REJECTED],
    [State.STARTED, State.DEBITED, State.REJECTED, State.REFUNDED],
]


def transfer_in(way: list[State]) -> Transfer:
    transfer = Transfer.of(ORDER)
    for state in way[1:]:
        STEPS[state](transfer)
    return transfer


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_it_goes_its_ways(way: list[State]) -> None:
    transfer = transfer_in(way)
    assert transfer.state is way[-1]
    assert transfer.is_over == (way[-1] in {State.COMPLETED, State.REFUSED, State.REFUNDED})
    assert transfer.version == len(way)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_it_goes_no_other_way(way: list[State]) -> None:
    allowed = {
        after[len(way)] for after in WAYS if len(after) > len(way) and after[: len(way)] == way
    }
    for state in set(State) - allowed - {State.STARTED}:
        transfer = transfer_in(way)
        with pytest.raises(ValueError, match="cannot become"):
            STEPS[state](transfer)
        assert transfer.state is way[-1]
        assert transfer.version == len(way)


def test_its_steps_move_the_money_and_each_has_an_id_of_its_own() -> None:
    assert Transfer.of(ORDER).order == ORDER
    steps = [ORDER.debit, ORDER.credit, ORDER.refund]
    assert [(step.account_id, str(step.amount)) for step in steps] == [
        ("A", "-12.50"),
        ("B", "12.50"),
        ("A", "12.50"),
    ]
    other = Order("t2", "A", "B", Decimal("12.50"), DAY)
    ids = {step.command_id for step in [*steps, other.debit, other.credit, other.refund]}
    assert len(ids) == 6


def test_the_same_order_on_another_day_is_the_same_transfer() -> None:
    transfer = Transfer.of(ORDER)
    transfer.confirm(Order("t1", "A", "B", Decimal("12.5"), DAY.replace(day=1)))
    assert (transfer.state, transfer.version, transfer.amount) == (State.STARTED, 1, ORDER.amount)
    assert len(transfer.collect_events()) == 1


@pytest.mark.parametrize(
    "order",
    [
        Order("t1", "X", "B", Decimal("12.50"), DAY),
        Order("t1", "A", "X", Decimal("12.50"), DAY),
        Order("t1", "A", "B", Decimal("12.51"), DAY),
    ],
    ids=["payer", "payee", "amount"],
)
def test_the_same_id_for_another_order_is_refused(order: Order) -> None:
    with pytest.raises(TransferDiffers, match=r"ordered before as 12\.50 from 'A' to 'B'"):
        Transfer.of(ORDER).confirm(order)
