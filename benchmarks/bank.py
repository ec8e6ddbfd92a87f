"""What the bank gains from live aggregates: rows of a file per second, beside the library alone.

    python -m benchmarks.bank [--rounds N] [--rows N] [--csv FILE]

Both book the same file of transactions into a new SQLite file each time, and take turns. The
library alone does it as its users do, in one thread: get, book, save, with its cache, which is
large enough for all accounts and fast-forwards. It books each row as often as it is told to. The
bank does what `python -m examples.bank` does, with a receipt for each row, so that it is booked
once. The figures are medians of the rounds, and the exit status tells whether the bar was met.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from eventsourcing.application import AggregateNotFoundError, Application

from examples.bank.accounts import live_accounts
from examples.bank.application import DateAsISO
from examples.bank.domain import Account
from examples.bank.importer import Importer
from examples.bank.sample import sample_csv
from examples.bank.store import find_store
from examples.bank.transactions import BadRow, TransactionFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from eventsourcing.persistence import JSONTranscoder

ROWS = 5_000
ROWS_PER_ACCOUNT = 9
LEAST_GAIN = 3.0

Balances = dict[str, "Decimal"]


class Alone(Application[UUID]):
    """The application that the library's users would write."""

    def register_transcodings(self, transcoder: JSONTranscoder) -> None:
        """Teach the library to store dates."""
        super().register_transcodings(transcoder)
        transcoder.register(DateAsISO())


def import_alone(file: TransactionFile, db: Path) -> Balances:
    """Get, book, save, one row after the other."""
    settings = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(db),
        "AGGREGATE_CACHE_MAXSIZE": "0",  # 0: as many as there are
    }
    balances: Balances = {}
    with closing(Alone(env=settings)) as app:
        for row in file:
            assert not isinstance(row, BadRow)
            what = row.transaction
            try:
                account: Account = app.repository.get(Account.create_id(what.account_id))
            except AggregateNotFoundError:
                account = Account(what.account_id)
            balances[what.account_id] = account.book(what.amount, on=what.on, reference=what.id)
            app.save(account)
    return balances


def import_live(file: TransactionFile, db: Path) -> Balances:
    """Do what the bank does."""
    with (
        closing(find_store(str(db), create=True).open()) as bank,
        live_accounts(bank) as accounts,
    ):
        importer = Importer(bank, accounts)
        importer.run(file)
    assert importer.tally.booked == importer.tally.rows
    return {account_id: balance for account_id, (_, balance) in importer.tally.last_known.items()}


def measure(
    book: Callable[[TransactionFile, Path], Balances], csv: bytes
) -> tuple[float, Balances]:
    """Return the rows per second, and the balances."""
    with tempfile.TemporaryDirectory() as folder:
        file = TransactionFile("file", io.BytesIO(csv))
        began = time.perf_counter()
        balances = book(file, Path(folder, "bank.sqlite"))
        seconds = time.perf_counter() - began
    return (csv.count(b"\n") - 1) / seconds, balances


class Options(argparse.Namespace):
    """The command line."""

    rounds: int
    rows: int
    csv: Path | None


def main(arguments: Sequence[str]) -> int:
    """Print the figures and the bar; return 1 if it is missed."""
    parser = argparse.ArgumentParser(description="Rows per second of an import into the bank.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=ROWS, help="of a file that is made up")
    parser.add_argument("--csv", type=Path, help="a file to import in its place")
    options = parser.parse_args(arguments, namespace=Options())
    if options.csv is None:
        lines = sample_csv(options.rows, options.rows // ROWS_PER_ACCOUNT)
        csv = "".join(f"{line}\n" for line in lines).encode()
    else:
        csv = options.csv.read_bytes()
    theirs: list[float] = []
    ours: list[float] = []
    for _ in range(options.rounds):
        rate, expected = measure(import_alone, csv)
        theirs.append(rate)
        rate, balances = measure(import_live, csv)
        ours.append(rate)
        assert balances == expected
    one, other = statistics.median(theirs), statistics.median(ours)
    met = "met   " if other / one >= LEAST_GAIN else "MISSED"
    print(f"{'rows per second':<20} {'the library':>14} {'the bank':>14} {'ratio':>8}")
    rows = f"{options.rows:,} rows" if options.csv is None else options.csv.name
    print(f"{rows:<20} {one:>12,.0f}/s {other:>12,.0f}/s {other / one:>7.2f}x")
    print(f"{met} the bank: {other / one:.2f}x (bar: at least {LEAST_GAIN:g}x)")
    return 0 if other / one >= LEAST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
