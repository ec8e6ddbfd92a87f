"""Read transactions from a CSV file, line by line: a bad row is reported and harms no other."""

from __future__ import annotations

import csv
import io
import stat
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from examples.bank.domain import Transaction
from examples.bank.money import parse_amount
from examples.bank.problems import Unusable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HEADER = ("transaction_id", "account_id", "date", "amount")

_LONGEST_LINE = 64 * 1024  # bytes; whatever the file is, memory stays bounded
_LONGEST_ID = 200  # characters
_ISO_DATE_LENGTH = len("2020-12-31")
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A transaction and the line of the file that it stands in."""

    line: int
    transaction: Transaction


class BadRow(NamedTuple):
    """A line of the file that is no transaction, and why."""

    line: int
    reason: str


class TransactionFile:
    """An open file of transactions, whose header has been checked."""

    def __init__(self, name: str, file: IO[bytes], rows: int | None = None) -> None:
        """Read the header.

        Args:
            name: how to call the file in messages.
            file: the file, at its start.
            rows: how many rows it has, or None if that cannot be known before it is read.

        Raises:
            Unusable: if there is no header or another one.
        """
        self.name = name
        self.rows = rows
        self._file = file
        first = self._file.readline(_LONGEST_LINE).removeprefix(_BOM)
        wanted = ",".join(HEADER)
        if not first:
            msg = f"{name}: the file is empty; its first line must be {wanted}"
            raise Unusable(msg)
        try:
            fields = tuple(_fields(first))
        except ValueError:
            fields = ()
        if fields != HEADER:
            msg = f"{name}: the first line must be {wanted}"
            raise Unusable(msg)

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Read the rows; blank lines are none."""
        number = 1
        # Lines end where the file's bytes say so, and a quote cannot hide that: were one left
        # open, a reader of quoted line breaks would take all the rest for one field.
        while line := self._file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                self._skip_line()
                yield BadRow(number, f"the line is longer than {_LONGEST_LINE} bytes")
            elif line.strip(b"\r\n"):
                try:
                    yield Row(number, parse_row(line))
                except ValueError as error:
                    yield BadRow(number, str(error))

    def _skip_line(self) -> None:
        while (rest := self._file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass


@contextmanager
def open_transactions(path: str) -> Generator[TransactionFile]:
    """Open a file of transactions.

    Raises:
        Unusable: if it is missing, is no file, cannot be read, is empty or has another header.
    """
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(path).open("rb"))
            rows = None
            if stat.S_ISREG(Path(path).stat().st_mode):
                rows = _count_rows(file)
            transactions = TransactionFile(path, file, rows)
        except FileNotFoundError as error:
            msg = f"{path}: there is no such file"
            raise Unusable(msg) from error
        except IsADirectoryError as error:
            msg = f"{path}: is a folder; give the path of a CSV file"
            raise Unusable(msg) from error
        except OSError as error:
            msg = f"{path}: the file cannot be read: {error.strerror or error}"
            raise Unusable(msg) from error
        yield transactions


def parse_row(line: bytes) -> Transaction:
    """Read one line of the file.

    Raises:
        ValueError: if it is no transaction; the text says why.
    """
    fields = _fields(line)
    if len(fields) != len(HEADER):
        msg = f"{len(fields)} columns instead of {len(HEADER)}"
        raise ValueError(msg)
    transaction_id, account_id, day, amount = fields
    check_id("transaction_id", transaction_id)
    check_id("account_id", account_id)
    return Transaction(transaction_id, account_id, _parse_date(day), parse_amount(amount))


def _fields(line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = "the line is not UTF-8"
        raise ValueError(msg) from error
    if "\0" in text:
        msg = "the line has a NUL character"
        raise ValueError(msg)
    try:
        return [field for row in csv.reader([text], strict=True) for field in row]
    except csv.Error as error:
        msg = f"the line is not CSV: {error}"
        raise ValueError(msg) from error


def check_id(column: str, value: str) -> None:
    """Check an id.

    Raises:
        ValueError: if it cannot be one; the text says why.
    """
    if not value.strip():
        msg = f"{column} is empty"
    elif len(value) > _LONGEST_ID:
        msg = f"{column} is longer than {_LONGEST_ID} characters"
    elif value != value.strip() or not value.isprintable():
        msg = f"{column} {value[:40]!r} has blanks around it or unprintable characters in it"
    else:
        return
    raise ValueError(msg)


def _parse_date(text: str) -> date:
    # Python also reads 20201231 and 2020-W53-4; two spellings of a day are one too many here.
    if len(text) == _ISO_DATE_LENGTH and text.isascii() and text[4] == text[7] == "-":
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    msg = f"date {text[:40]!r} is not a date such as 2020-12-31"
    raise ValueError(msg)


def _count_rows(file: IO[bytes]) -> int:
    lines, last = 0, b"\n"
    while block := file.read(io.DEFAULT_BUFFER_SIZE * 64):
        lines += block.count(b"\n")
        last = block[-1:]
    file.seek(0)
    return max(lines + (last != b"\n") - 1, 0)
