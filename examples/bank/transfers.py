"""Carry out transfers, and finish those that a crash has left half done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from examples.bank.actors import AccountActor, TransferActor, TransferProxy
from examples.bank.interrupt import Stopped
from examples.bank.waiting import answer_of, never
from pykka_registry import AggregateRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import pykka

    from examples.bank.application import Bank
    from examples.bank.transfer import Order, Transfer
    from pykka_registry import RegistryRef

T = TypeVar("T")


class TransferDesk:
    """Where transfers are ordered; `open_desk` makes one."""

    def __init__(
        self,
        bank: Bank,
        accounts: RegistryRef[AccountActor],
        transfers: RegistryRef[TransferActor],
        wants_to_stop: Callable[[], bool],
    ) -> None:
        """Take the two registries that transfers need."""
        self._bank = bank
        self._accounts = accounts
        self._transfers = transfers
        self._wants_to_stop = wants_to_stop

    def carry_out(self, order: Order) -> Transfer:
        """Carry out an order and wait for its end.

        Raises:
            Refusal: if the order's id belongs to another transfer.
            Stopped: if the user does not want to wait; the transfer may be unfinished.
        """
        return self._wait(self._proxy(order.transfer_id).order(order))

    def finish_all(self) -> Iterator[Transfer]:
        """Finish or compensate every transfer that is not over, one after the other."""
        for transfer_id in self._bank.unfinished_transfers():
            transfer = self._wait(self._proxy(transfer_id).resume())
            self._transfers[transfer_id].stop()
            for account_id in (transfer.payer, transfer.payee):
                account = self._accounts.get(account_id)
                if account is not None:
                    account.stop()
            yield transfer

    def _wait(self, future: pykka.Future[T]) -> T:
        try:
            return answer_of(future, self._wants_to_stop)
        except Stopped:
            # An actor that keeps asking for a store that is locked must not hold us up.
            self._bank.closing.set()
            raise

    def _proxy(self, transfer_id: str) -> TransferProxy:
        return cast("TransferProxy", self._transfers.get_or_start(transfer_id).proxy())


@contextmanager
def open_desk(bank: Bank, wants_to_stop: Callable[[], bool] = never) -> Generator[TransferDesk]:
    """Start the registries, and at the end stop the transfers first and then their accounts."""
    with (
        AggregateRegistry.start(AccountActor, args=(bank,), name="accounts") as accounts,
        AggregateRegistry.start(
            TransferActor, args=(bank, accounts), name="transfers"
        ) as transfers,
    ):
        yield TransferDesk(bank, accounts, transfers, wants_to_stop)
