"""Carry out transfers, and finish those that a crash has left half done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from examples.bank.actors import MAX_LIVE, TransferActor, start_accounts, start_transfers
from examples.bank.interrupt import Stopped
from examples.bank.waiting import answer_of, never

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
        transfers: RegistryRef[TransferActor],
        wants_to_stop: Callable[[], bool],
    ) -> None:
        """Take the transfers' registry."""
        self._bank = bank
        self._transfers = transfers
        self._wants_to_stop = wants_to_stop

    def carry_out(self, order: Order) -> Transfer:
        """Carry out an order and wait for its end.

        Raises:
            Refusal: if the order's id belongs to another transfer.
            Stopped: if the user does not want to wait; the transfer may be unfinished.
        """
        transfer = self._transfers.ref(order.transfer_id)
        return self._wait(transfer.submit(TransferActor.order, order))

    def finish_all(self) -> Iterator[Transfer]:
        """Finish or compensate every transfer that is not over, one after the other."""
        for transfer_id in self._bank.unfinished_transfers():
            transfer = self._transfers.ref(transfer_id)
            yield self._wait(transfer.submit(TransferActor.resume))

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
    """Start the registries, and at the end stop the transfers first and then their accounts."""
    with (
        start_accounts(bank, max_live=max_live) as accounts,
        start_transfers(bank, accounts, max_live=max_live) as transfers,
    ):
        yield TransferDesk(bank, transfers, wants_to_stop)
