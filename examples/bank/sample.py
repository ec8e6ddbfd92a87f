"""Make transactions of a bank that does not exist, the same ones each time.

python -m examples.bank.sample > my.csv
python -m examples.bank.sample --rows 200000 --accounts 4500 > large.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING

from examples.bank.transactions import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 6_000
ACCOUNTS = 2_000

_FIRST_DAY = date(2024, 1, 1)
_DAYS = 366


def sample_rows(rows: int = ROWS, accounts: int = ACCOUNTS) -> Iterator[tuple[str, ...]]:
    """Make the rows: dates ascend, accounts interleave, and two thirds of the rows are debits.

    The first rows open the accounts, one after the other, with a credit.
    """
    # Not for secrets: the same seed must make the same file on every machine.
    random = Random(1993)
    width = len(str(max(rows, accounts)))
    for number in range(1, rows + 1):
        account = number if number <= accounts else random.randint(1, accounts)
        is_credit = number <= accounts or random.random() < 1 / 3
        cents = random.randint(100_00, 5_000_00) if is_credit else -random.randint(1_00, 2_000_00)
        yield (
            f"sample-{number:0{width}}",
            f"sample-{account:0{width}}",
            (_FIRST_DAY + timedelta(days=_DAYS * (number - 1) // rows)).isoformat(),
            str(Decimal(cents).scaleb(-2)),
        )


def sample_csv(rows: int = ROWS, accounts: int = ACCOUNTS) -> Iterator[str]:
    """Make the lines of the file, without line ends."""
    yield ",".join(HEADER)
    yield from map(",".join, sample_rows(rows, accounts))


def main() -> None:
    """Print the file."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.bank.sample", description="Print a CSV file of transactions."
    )
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--accounts", type=int, default=ACCOUNTS, metavar="N", help="default: %(default)s"
    )
    options = parser.parse_args()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(sample_rows(options.rows, options.accounts))


if __name__ == "__main__":
    main()
