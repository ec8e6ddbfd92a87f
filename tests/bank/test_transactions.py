"""Reading the CSV file: every line is for itself."""

from __future__ import annotations

import io
import os
import threading
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.bank.domain import Transaction
from examples.bank.problems import Unusable
from examples.bank.transactions import BadRow, Row, TransactionFile, open_transactions
from tests.bank.support import tx

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b"transaction_id,account_id,date,amount\n"
GOOD = b"1,A,2024-02-29,1.00\n"


def read(content: bytes) -> list[Row | BadRow]:
    return list(TransactionFile("f.csv", io.BytesIO(content)))


def test_a_row_is_a_transaction_with_its_line() -> None:
    assert read(HEADER + b"17,A,2024-02-29,-12.50\n") == [
        Row(2, Transaction("17", "A", date(2024, 2, 29), Decimal("-12.50")))
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER + GOOD,
        (HEADER + GOOD).replace(b"\n", b"\r\n"),
        (HEADER + GOOD).rstrip(),
        HEADER + b'"1","A","2024-02-29","1.00"\n',
        b'"transaction_id",account_id,date,amount\n' + GOOD,
        HEADER + b"\n\r\n" + GOOD,
    ],
    ids=["BOM", "CRLF", "no last line end", "quotes", "quoted header", "blank lines"],
)
def test_the_usual_spellings_of_csv_are_read(content: bytes) -> None:
    rows = read(content)
    assert [row.transaction for row in rows if isinstance(row, Row)] == [tx()]
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,A,2024-02-29", "3 columns instead of 4"),
        (b"1,A,2024-02-29,1.00,", "5 columns instead of 4"),
        (b" ", "1 columns instead of 4"),
        (b",A,2024-02-29,1.00", "transaction_id is empty"),
        (b"1,  ,2024-02-29,1.00", "account_id is empty"),
        (b"1, A,2024-02-29,1.00", "account_id ' A' has blanks around it"),
        (b"1,A\x1b[2J,2024-02-29,1.00", "unprintable characters"),
        (b"1," + b"A" * 201 + b",2024-02-29,1.00", "account_id is longer than 200 characters"),
        (b"1,A,2024-02-30,1.00", "date '2024-02-30' is not a date"),
        (b"1,A,20240229,1.00", "date '20240229' is not a date"),
        (b"1,A,2024-W09-4,1.00", "date '2024-W09-4' is not a date"),
        (b"1,A,29.02.2024,1.00", "date '29.02.2024' is not a date"),
        ("1,A,2024-02-2٩,1.00".encode(), "is not a date"),
        (b"1,A,,1.00", "date '' is not a date"),
        (b"1,A,2024-02-29,", "amount '' is not a plain decimal"),
        (b"1,A,2024-02-29,1e3", "amount '1e3' is not a plain decimal"),
        (b"1,A,2024-02-29,NaN", "amount 'NaN' is not a plain decimal"),
        (b"1,A,2024-02-29," + b"1" * 31, "amount has more than 30 digits"),
        (b"1,A,2024-02-29,1.00\xff", "the line is not UTF-8"),
        (b"1,A\0,2024-02-29,1.00", "the line has a NUL character"),
        (b'1,"A,2024-02-29,1.00', "the line is not CSV"),
        (b'1,"A"x,2024-02-29,1.00', "the line is not CSV"),
        (b"1,A,2024-02-29,1.00\r2,B,2024-02-29,1.00", "the line is not CSV"),
        (b"1,A,2024-02-29,1.00" + b" " * 70_000, "the line is longer than 65536 bytes"),
        (b"x" * 200_000, "the line is longer than 65536 bytes"),
    ],
)
def test_a_bad_row_is_told_by_its_line_and_swallows_no_neighbor(line: bytes, reason: str) -> None:
    before, bad, after = read(HEADER + GOOD + line + b"\n" + GOOD)
    assert (before, after) == (Row(2, tx()), Row(4, tx()))
    assert isinstance(bad, BadRow)
    assert bad.line == 3
    assert reason in bad.reason
    assert len(bad.reason) < 200


def test_a_bad_last_row_without_a_line_end_is_told_too() -> None:
    assert read(HEADER + b'1,"A') == [BadRow(2, "the line is not CSV: unexpected end of data")]


@given(st.binary(max_size=200))
def test_whatever_stands_between_two_good_rows_both_are_read(noise: bytes) -> None:
    rows = read(HEADER + GOOD + noise + b"\n" + GOOD)
    assert rows[0] == Row(2, tx())
    assert rows[-1] == Row(4 + noise.count(b"\n"), tx())


def test_a_file_with_a_header_only_has_no_rows() -> None:
    assert read(HEADER) == read(HEADER.rstrip()) == []


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_unusable(content: bytes) -> None:
    with pytest.raises(Unusable, match=r"f\.csv: the file is empty; its first line must be trans"):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        *[GOOD, b"a,b\n", HEADER.replace(b",", b";"), HEADER.upper(), b"\xff\xfe" + HEADER],
        *[b'"' + HEADER, HEADER.replace(b"\n", b",note\n"), b"\0\0\n", b"x" * 100_000],
        *[HEADER.replace(b"\n", b"\r"), b"\n" + HEADER, b"  \n" + HEADER],
    ],
)
def test_a_file_with_another_header_is_unusable(content: bytes) -> None:
    with pytest.raises(Unusable, match=r"f\.csv: the first line must be transaction_id,account_id"):
        read(content + GOOD)


@pytest.mark.parametrize(
    ("content", "rows"),
    [(HEADER, 0), (HEADER.rstrip(), 0), (HEADER + GOOD, 1), (HEADER + GOOD + GOOD.rstrip(), 2)],
)
def test_the_rows_of_a_file_are_counted_before_it_is_read(
    tmp_path: Path, content: bytes, rows: int
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with open_transactions(str(path)) as transactions:
        assert transactions.rows == rows == len(list(transactions))


def test_a_pipe_is_read_though_its_rows_cannot_be_counted(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(HEADER + GOOD,))
    writer.start()
    with open_transactions(str(pipe)) as transactions:
        assert transactions.rows is None
        assert list(transactions) == [Row(2, tx())]
    writer.join()


def test_a_missing_file_and_a_folder_are_unusable(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="there is no such file"), open_transactions("nowhere.csv"):
        pass
    with pytest.raises(Unusable, match="is a folder"), open_transactions(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("f.csv/x", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("circle", "Too many levels of symbolic links"),
        ("/proc/self/mem", "Input/output error"),
    ],
)
def test_a_file_that_cannot_be_read_is_unusable(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "f.csv").touch()
    (tmp_path / "circle").symlink_to("circle")
    with (
        pytest.raises(Unusable, match=f"the file cannot be read: {reason}"),
        open_transactions(str(tmp_path / name)),
    ):
        pass


def test_an_error_of_the_reader_is_not_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(HEADER)
    with pytest.raises(PermissionError), open_transactions(str(tmp_path / "f.csv")):
        raise PermissionError
