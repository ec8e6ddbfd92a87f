"""The application: the domain's aggregates, and the store that keeps their events.

It is a plain `eventsourcing` application. It knows nothing of actors, and one instance serves
all of them. Its recorder has patience with a store that is busy.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.persistence import JSONTranscoder, Transcoding
from eventsourcing.utils import get_topic

from examples.bank.domain import Account, Transaction
from examples.bank.patience import PatientRecorder
from examples.bank.transfer import Transfer
from pykka_registry.eventsourcing import GroupCommitRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventsourcing.domain import DomainEventProtocol
    from eventsourcing.persistence import ApplicationRecorder
    from eventsourcing.utils import EnvType


_PAGE = 5_000


class DateAsISO(Transcoding):
    """Stores a date as text."""

    type = date
    name = "date_iso"

    def encode(self, obj: date) -> str:
        """Return the date's ISO form."""
        return obj.isoformat()

    def decode(self, data: str) -> date:
        """Return the date of an ISO form."""
        return date.fromisoformat(data)


class Bank(Application[UUID]):
    """The bank's accounts, receipts and transfers."""

    def __init__(self, env: EnvType | None = None) -> None:
        """Open the store, and make its tables if they are missing."""
        try:
            super().__init__(env)
        except BaseException:
            # Nobody gets this object, so nobody else can close what it has opened.
            if hasattr(self, "factory"):
                self.factory.close()
            raise

    def construct_recorder(self) -> ApplicationRecorder:
        """Return a recorder that puts together what is stored at the same time, with patience."""
        return GroupCommitRecorder(PatientRecorder(super().construct_recorder(), self.closing))

    def register_transcodings(self, transcoder: JSONTranscoder) -> None:
        """Teach the library to store dates."""
        super().register_transcodings(transcoder)
        transcoder.register(DateAsISO())

    def account(self, account_id: str, version: int | None = None) -> Account | None:
        """Return the account as stored, now or at a version, or None if it was never opened."""
        try:
            account: Account = self.repository.get(Account.create_id(account_id), version=version)
        except AggregateNotFoundError:
            return None
        return account

    def booked(self, account_id: UUID, version: int) -> Transaction | None:
        """Return the transaction by which an account has got to a version."""
        opened = next(self.events.get(account_id, lte=1), None)
        change = next(self.events.get(account_id, gt=version - 1, lte=version), None)
        if not isinstance(opened, Account.Opened) or not isinstance(change, Account.Booked):
            return None
        return Transaction(change.reference, opened.account_id, change.on, change.amount)

    def transfer(self, transfer_id: str) -> Transfer | None:
        """Return the transfer as stored, or None if it was never started."""
        try:
            transfer: Transfer = self.repository.get(Transfer.create_id(transfer_id))
        except AggregateNotFoundError:
            return None
        return transfer

    def account_ids(self) -> Iterator[str]:
        """Find every account in the store."""
        for opened in self._events_of(Account.Opened):
            if isinstance(opened, Account.Opened):
                yield opened.account_id

    def unfinished_transfers(self) -> list[str]:
        """Find the transfers that were started and are not over."""
        unfinished: dict[UUID, str] = {}
        for change in self._events_of(
            Transfer.Started, Transfer.Completed, Transfer.Refused, Transfer.Refunded
        ):
            if isinstance(change, Transfer.Started):
                unfinished[change.originator_id] = change.transfer_id
            else:
                unfinished.pop(change.originator_id, None)
        return list(unfinished.values())

    def _events_of(self, *event_classes: type[Any]) -> Iterator[DomainEventProtocol[UUID]]:
        # The store has no index by topic: this reads past all events, but decodes only these.
        topics = [get_topic(event_class) for event_class in event_classes]
        last = 0
        while True:
            page = self.recorder.select_notifications(
                last, _PAGE, topics=topics, inclusive_of_start=False
            )
            yield from map(self.mapper.to_domain_event, page)
            if len(page) < _PAGE:
                return
            last = page[-1].id
