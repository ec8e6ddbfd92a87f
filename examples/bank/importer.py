"""Send transactions to their accounts' actors: many at once, each account's in the file's order.

One thread dispatches. It takes the file a chunk at a time and one account of the chunk after the
other, sends it its rows, and waits only when too many rows are under way. It sends to addresses:
which of the accounts are live is the registry's business. As an account's rows are sent together,
it is activated for them once, however few may be live.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from examples.bank.actors import AccountActor
from examples.bank.application import BankIsClosing
from examples.bank.interrupt import Stopped
from examples.bank.problems import Failed
from examples.bank.store import STORE_ERRORS, explain
from examples.bank.transactions import BadRow, Row
from examples.bank.waiting import answer_of, never
from pykka_registry import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from decimal import Decimal

    import pykka

    from examples.bank.actors import Statement
    from examples.bank.application import Bank
    from pykka_registry import RegistryRef

CHUNK = 100_000
"""Rows read ahead. Each chunk activates each of its accounts, which replays its events."""

BATCH = 50
"""Rows in one message. They are stored in one write, and writes are what an import waits for."""

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
    """Version and balance of each account, as its actor last said."""

    def reject(self, line: int, reason: str) -> None:
        """Count a row that is not booked."""
        self.rows += 1
        self.rejected += 1
        if len(self.rejections) < _KEPT:
            self.rejections.append(BadRow(line, reason))

    def count(self, rows: Sequence[Row], statement: Statement) -> None:
        """Count rows that their account has answered."""
        for row, outcome in zip(rows, statement.outcomes, strict=True):
            if outcome.refusal:
                self.reject(row.line, outcome.refusal)
            else:
                self.rows += 1
                self.booked += outcome.is_new
                self.already_booked += not outcome.is_new
        self.events += statement.events
        if statement.version:
            account_id = rows[0].transaction.account_id
            self.last_known[account_id] = (statement.version, statement.balance)


class Importer:
    """Books the rows of a file through a registry of account actors."""

    def __init__(
        self,
        bank: Bank,
        accounts: RegistryRef[AccountActor],
        *,
        wants_to_stop: Callable[[], bool] = never,
        on_progress: Callable[[Tally], None] = lambda _tally: None,
    ) -> None:
        """Prepare an import.

        Args:
            bank: the application behind the actors.
            accounts: the registry.
            wants_to_stop: asked often; once it is true no further row is booked.
            on_progress: called whenever rows are dealt with, in the dispatching thread.
        """
        self.tally = Tally()
        self._bank = bank
        self._accounts = accounts
        self._wants_to_stop = wants_to_stop
        self._on_progress = on_progress
        self._in_flight: deque[tuple[list[Row], pykka.Future[Statement]]] = deque()
        self._rows_in_flight = 0

    def run(self, rows: Iterable[Row | BadRow]) -> bool:
        """Book the rows; return False if the user stopped it.

        When it returns or raises nothing is under way, and `tally` has the rows that are booked.

        Raises:
            Failed: if the store failed. Each row is booked as a whole or not at all.
        """
        try:
            for chunk in _chunks(self._good(rows)):
                # Actors run side by side, and still the file's order must decide which account
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
        account = self._accounts.ref(rows[0].transaction.account_id)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            self._settle(MAX_IN_FLIGHT - len(batch))
            transactions = (row.transaction for row in batch)
            self._in_flight.append((batch, account.submit(AccountActor.book, *transactions)))
            self._rows_in_flight += len(batch)

    def _settle(self, most: int) -> None:
        """Wait for the oldest rows until no more than so many are in flight."""
        while self._rows_in_flight > most:
            rows, future = self._in_flight[0]
            statement = answer_of(future, self._wants_to_stop)
            self._drop_oldest()
            self.tally.count(rows, statement)
            self._on_progress(self.tally)

    def _drop_oldest(self) -> None:
        rows, _ = self._in_flight.popleft()
        self._rows_in_flight -= len(rows)

    def _check(self) -> None:
        if self._wants_to_stop():
            raise Stopped

    def _abort(self) -> None:
        """Let the actors finish what they are at, skip what waits, and count what was booked."""
        self._bank.closing.set()
        self._wants_to_stop = never
        while self._in_flight:
            try:
                self._settle(0)
            except (BankIsClosing, RegistryError, *STORE_ERRORS):
                self._drop_oldest()


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


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
