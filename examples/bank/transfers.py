"""Carry out transfers, and finish those that a crash has left half done.

A step is two commands: one to an account, and one that has the transfer remember the answer. Each
has an id that follows from the transfer's. Killed between them the step is taken again, and the
account gives the same answer again; and so it does to another process that is at the same transfer.
"""

from __future__ import annotations

from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from eventsourcing.application import AggregateNotFoundError

from examples.bank.accounts import MAX_LIVE, account_of, live_accounts, live_transfers
from examples.bank.domain import Account, Refusal, UnknownAccount
from examples.bank.interrupt import Stopped
from examples.bank.transfer import OVER, State, Transfer
from examples.bank.waiting import answer_of, never

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from decimal import Decimal

    import pykka

    from examples.bank.application import Bank
    from examples.bank.domain import Transaction
    from examples.bank.transfer import Order
    from pykka_registry.eventsourcing import LiveAggregates, LiveRef

T = TypeVar("T")


class TransferDesk:
    """Where transfers are ordered; `open_desk` makes one."""

    def __init__(
        self,
        bank: Bank,
        accounts: LiveAggregates[Account],
        transfers: LiveAggregates[Transfer],
        wants_to_stop: Callable[[], bool],
    ) -> None:
        """Take the live aggregates."""
        self._bank = bank
        self._accounts = accounts
        self._transfers = transfers
        self._wants_to_stop = wants_to_stop

    def carry_out(self, order: Order) -> Transfer:
        """Carry out an order and return the transfer at its end.

        Asked again, it goes on from where it stands.

        Raises:
            TransferDiffers: if the order's id belongs to another transfer.
            Stopped: if the user does not want to wait; the transfer may be unfinished.
        """
        transfer = self._transfers.ref(Transfer.create_id(order.transfer_id))
        self._wait(transfer.or_create(Transfer.of, order).submit(Transfer.confirm, order))
        return self._finish(transfer)

    def finish_all(self) -> Iterator[Transfer]:
        """Finish or compensate every transfer that is not over, one after the other."""
        for transfer_id in self._bank.unfinished_transfers():
            yield self._finish(self._transfers.ref(Transfer.create_id(transfer_id)))

    def _finish(self, transfer: LiveRef[Transfer]) -> Transfer:
        # The order as it was the first time: a repeated one may be of a later day.
        order: Order = transfer.query(attrgetter("order"))
        while (state := transfer.query(attrgetter("state"))) not in OVER:
            self._step(transfer, state, order)
        finished = self._bank.transfer(order.transfer_id)
        assert finished is not None
        return finished

    def _step(self, transfer: LiveRef[Transfer], state: State, order: Order) -> None:
        memory = transfer.using(command_id=f"{order.source}: after {state}")
        if state is State.REJECTED:
            # The payer may have closed the account since; what it must get back is a fact.
            self._do(Account.book, order.refund, order.amount)
            self._wait(memory.submit(Transfer.refunded))
            return
        if state is State.STARTED:
            refusal = self._ask(Account.withdraw, order.debit, order.amount)
            done, refused = Transfer.debited, Transfer.refused
        else:
            refusal = self._ask(Account.deposit, order.credit, order.amount)
            done, refused = Transfer.completed, Transfer.rejected
        if refusal is None:
            self._wait(memory.submit(done))
        else:
            self._wait(memory.submit(refused, refusal))

    def _ask(
        self, method: Callable[..., Any], transaction: Transaction, amount: Decimal
    ) -> str | None:
        """Have an account do its part, once; return why it does not, if so."""
        try:
            self._do(method, transaction, amount)
        except Refusal as refusal:
            return str(refusal)
        except AggregateNotFoundError:
            return str(UnknownAccount(transaction.account_id))
        return None

    def _do(self, method: Callable[..., Any], transaction: Transaction, amount: Decimal) -> None:
        account = account_of(self._accounts, transaction.account_id)
        once = account.using(command_id=transaction.command_id)
        self._wait(once.submit(method, amount, on=transaction.on, reference=transaction.id))

    def _wait(self, future: pykka.Future[T]) -> T:
        try:
            return answer_of(future, self._wants_to_stop)
        except Stopped:
            # An actor that keeps asking for a store that is locked must not hold us up.
            self._bank.closing.set()
            raise


@contextmanager
def open_desk(
    bank: Bank, wants_to_stop: Callable[[], bool] = never, *, max_live: int = MAX_LIVE
) -> Generator[TransferDesk]:
    """Have accounts and transfers live, and at the end stop the transfers first."""
    with (
        live_accounts(bank, max_live=max_live) as accounts,
        live_transfers(bank, max_live=max_live) as transfers,
    ):
        yield TransferDesk(bank, accounts, transfers, wants_to_stop)
