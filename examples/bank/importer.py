"""Send transactions to their accounts: many at once, each account's in the file's order.

One thread dispatches. It takes the file a chunk at a time and one account of the chunk after the
other, sends it its rows, each as a command of its own, and waits only when too many are under way.
It sends to addresses: which of the accounts are live is the registry's business. As an account's
rows of a chunk are sent together, it is activated for them once, however few may be live; for its
rows of the next chunk it comes back. And as they wait together, they are stored together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING
from uuid import UUID

from examples.bank.accounts import account_of
from examples.bank.domain import Account, BookedDifferently
from examples.bank.interrupt import Stopped
from examples.bank.problems import Failed
from examples.bank.store import STORE_ERRORS, explain
from examples.bank.transactions import BadRow, Row
from examples.bank.waiting import answer_of, never
from pykka_registry import RegistryError
from pykka_registry.eventsourcing import CommandIdReused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from decimal import Decimal

    import pykka

    from examples.bank.application import Bank
    from examples.bank.domain import Transaction
    from pykka_registry.eventsourcing import Decision, LiveAggregates

FIRST_CHUNK = 10_000
CHUNK = 100_000
"""Rows read ahead: few at first, so that the first balances come soon, then four times as many each
time, because each chunk activates each of its accounts, which replays its events."""

MAX_IN_FLIGHT = 1_000
"""Rows that were sent and not answered yet."""

_KEPT = 1_000  # rejected rows that are remembered; all are counted


@dataclass
class Tally:
    """What became of the rows."""

    rows: int = 0
    """Rows that are dealt with: booked, booked before, or rejected."""
    booked: int = 0
    already_booked: int = 0
    rejected: int = 0
    rejections: list[BadRow] = field(default_factory=list[BadRow])
    """The first of the rejected rows."""
    events: int = 0
    """Events that were stored."""
    last_known: dict[str, tuple[int, Decimal]] = field(
        default_factory=dict[str, "tuple[int, Decimal]"]
    )
    """Version and balance of each account, as it last said."""

    def reject(self, line: int, reason: str) -> None:
        """Count a row that is not booked."""
        self.rows += 1
        self.rejected += 1
        if len(self.rejections) < _KEPT:
            self.rejections.append(BadRow(line, reason))

    def count(self, row: Row, decision: Decision[Decimal]) -> None:
        """Count a row that is booked, now or before."""
        self.rows += 1
        if decision.is_repeated:
            self.already_booked += 1
        else:
            self.booked += 1
            self.events += len(decision.events) + 1  # and its receipt
        account_id = row.transaction.account_id
        said = (decision.version, decision.result)
        self.last_known[account_id] = max(said, self.last_known.get(account_id, said))

    def count_as_booked(self) -> None:
        """Count a row that was booked before, in other words."""
        self.rows += 1
        self.already_booked += 1


class Importer:
    """Books the rows of a file on live accounts."""

    def __init__(
        self,
        bank: Bank,
        accounts: LiveAggregates[Account],
        *,
        wants_to_stop: Callable[[], bool] = never,
        on_progress: Callable[[Tally], None] = lambda _tally: None,
    ) -> None:
        """Prepare an import.

        Args:
            bank: the application behind the accounts.
            accounts: the accounts.
            wants_to_stop: asked often; once it is true no further row is booked.
            on_progress: called whenever rows are dealt with, in the dispatching thread.
        """
        self.tally = Tally()
        self._bank = bank
        self._accounts = accounts
        self._wants_to_stop = wants_to_stop
        self._on_progress = on_progress
        self._in_flight: deque[tuple[Row, pykka.Future[Decision[Decimal]]]] = deque()

    def run(self, rows: Iterable[Row | BadRow]) -> bool:
        """Book the rows; return False if the user stopped it.

        When it returns or raises nothing is under way, and `tally` has the rows that are booked.

        Raises:
            Failed: if the store failed. Each row is booked as a whole or not at all.
        """
        try:
            for chunk in _chunks(self._good(rows)):
                # Accounts are at work side by side, and still the file's order must decide which
                # gets an id that it gives to several: the others wait until that one is settled.
                for part in _first_and_later_uses(chunk):
                    for account_rows in _by_account(part):
                        self._send(account_rows)
                    self._settle(0)
        except Stopped:
            self._abort()
            return False
        except STORE_ERRORS as error:
            self._abort()
            msg = f"the store failed after {self.tally.rows:,} rows: {explain(error)}"
            raise Failed(msg) from error
        except BaseException:
            self._abort()
            raise
        return True

    def _good(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        for row in rows:
            self._check()
            if isinstance(row, BadRow):
                self.tally.reject(*row)
            else:
                yield row

    def _send(self, rows: list[Row]) -> None:
        account_id = rows[0].transaction.account_id
        account = account_of(self._accounts, account_id).or_create(Account, account_id)
        for row in rows:
            self._settle(MAX_IN_FLIGHT - 1)
            what = row.transaction
            once = account.using(command_id=what.command_id)
            booking = once.dispatch(Account.book, what.amount, on=what.on, reference=what.id)
            self._in_flight.append((row, booking))

    def _settle(self, most: int) -> None:
        """Wait for the oldest rows until no more than so many are in flight."""
        while len(self._in_flight) > most:
            row, booking = self._in_flight[0]
            try:
                decision = answer_of(booking, self._wants_to_stop)
            except CommandIdReused:
                self._compare(row)
            else:
                self.tally.count(row, decision)
            self._in_flight.popleft()
            self._on_progress(self.tally)

    def _compare(self, row: Row) -> None:
        """See what a row's id was used for: 1.0 and 1.00 is the same amount in other words."""
        booked = self._booked(row.transaction)
        if booked == row.transaction:
            self.tally.count_as_booked()
        else:
            self.tally.reject(row.line, str(BookedDifferently(booked)))

    def _booked(self, transaction: Transaction) -> Transaction:
        receipt = self._accounts.receipt(transaction.command_id)
        assert receipt is not None
        booked = self._bank.booked(UUID(receipt.aggregate_id), receipt.aggregate_version)
        assert booked is not None
        return booked

    def _check(self) -> None:
        if self._wants_to_stop():
            raise Stopped

    def _abort(self) -> None:
        """Let the accounts finish what they are at, skip what waits, and count what was booked."""
        self._bank.closing.set()
        self._wants_to_stop = never
        while self._in_flight:
            try:
                self._settle(0)
            except (RegistryError, *STORE_ERRORS):
                self._in_flight.popleft()


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    size = FIRST_CHUNK
    while chunk := list(islice(rows, min(size, CHUNK))):
        yield chunk
        size *= 4


def _first_and_later_uses(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Split off the rows whose id stands before in these rows with another account."""
    accounts: dict[str, str] = {}
    first: list[Row] = []
    later: list[Row] = []
    for row in rows:
        account_id = row.transaction.account_id
        is_first = accounts.setdefault(row.transaction.id, account_id) == account_id
        (first if is_first else later).append(row)
    return first, later


def _by_account(rows: list[Row]) -> Iterable[list[Row]]:
    accounts: dict[str, list[Row]] = {}
    for row in rows:
        accounts.setdefault(row.transaction.account_id, []).append(row)
    return accounts.values()
