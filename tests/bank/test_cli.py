"""The command line: what is said, where, and with which exit status."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from examples.bank import screen
from examples.bank.application import Bank
from examples.bank.cli import main
from examples.bank.domain import Account
from examples.bank.sample import sample_csv, sample_rows
from examples.bank.transfer import Order, Transfer
from tests.bank.support import (
    BOOK,
    DAY,
    make_rows,
    open_bank,
    read_balances,
    replace_book,
    run_bank,
    start_sabotaged,
    stored_balances,
    sums,
    watch,
    write_csv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

D = Decimal
ROWS = make_rows(100, 10)

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", ROWS)
    return tmp_path


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse ends the program itself
        return int(end.code or 0)


def one_line(capsys: Output) -> str:
    """The only line of standard error; standard output is empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m examples.bank: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def test_an_import_ends_with_a_summary_and_the_balances(folder: Path, capsys: Output) -> None:
    assert run("t.csv", "--db", "b.sqlite", "--balances", "out.csv") == 0
    out, err = capsys.readouterr()
    assert err == ""
    figures = {line[:15].strip(): line[15:].strip().split()[0] for line in out.splitlines()[:8]}
    del figures["seconds"]
    assert figures == {
        "rows": "100",
        "booked": "100",
        "booked before": "0",
        "rejected": "0",
        "accounts": "10",
        "activations": "10",
        "events stored": "210",
    }
    assert "All 10 accounts were read from the store again and agree with the actors." in out
    assert read_balances(folder / "out.csv") == sums(ROWS)


def test_the_program_runs_as_a_process_that_warns_of_nothing(folder: Path) -> None:
    end = run_bank("t.csv", cwd=folder)
    assert (end.status, end.err) == (0, "")
    assert end.out.startswith("rows  ")
    assert read_balances(folder / "balances.csv") == sums(ROWS)


def test_balances_are_of_every_account_in_the_store(folder: Path) -> None:
    assert run("t.csv") == 0
    more = make_rows(30, 30, first=1000)
    write_csv(folder / "more.csv", more)
    assert run("more.csv") == 0
    assert read_balances(folder / "balances.csv") == sums([*ROWS, *more])


def test_without_a_file_it_books_the_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_csv, "__defaults__", (200, 50))
    assert run() == 0
    expected = sums(
        (number, account, day, amount) for number, account, day, amount in sample_rows(200, 50)
    )
    assert read_balances(folder / "balances.csv") == expected


def test_a_header_only_file_is_an_empty_import(folder: Path, capsys: Output) -> None:
    write_csv(folder / "none.csv", [])
    assert run("none.csv") == 0
    assert "All 0 accounts" in capsys.readouterr().out
    assert (folder / "balances.csv").read_bytes() == b"account_id,balance\r\n"


def test_rejected_rows_are_listed_with_their_lines_and_are_no_failure(
    folder: Path, capsys: Output
) -> None:
    bad = [("x", "A", "2024-02-29", "[red]1"), ("1", "A", "2024-02-29", "5")]
    write_csv(folder / "bad.csv", [*ROWS[:1], *bad])
    assert run("bad.csv") == 0
    out = capsys.readouterr().out
    assert "bad.csv, line 3: rejected: amount '[red]1' is not a plain decimal" in out
    assert "bad.csv, line 4: rejected: transaction '1' was booked before as account '7'" in out
    assert "rejected                 2\n" in out


def test_of_many_rejected_rows_the_first_are_listed(folder: Path, capsys: Output) -> None:
    write_csv(folder / "bad.csv", [("", "A", "2024-02-29", "1")] * 2500)
    assert run("bad.csv") == 0
    out = capsys.readouterr().out
    assert out.count(": rejected: ") == 20
    assert "... and 2,480 more rejected rows\n" in out


UNUSABLE: Mapping[str, tuple[Sequence[str], str]] = {
    "missing file": (["none.csv"], "none.csv: there is no such file"),
    "folder": (["."], ".: is a folder"),
    "empty file": (["empty.csv"], "empty.csv: the file is empty; its first line must be"),
    "other header": (["other.csv"], "other.csv: the first line must be transaction_id,account_id"),
    "no database": (["t.csv", "--db", "other.csv"], "other.csv: is not a SQLite database"),
    "database folder": (["t.csv", "--db", "no/b.sqlite"], "no/b.sqlite: there is no folder"),
    "balances folder": (["t.csv", "--balances", "no/b.csv"], "no/b.csv: there is no folder"),
    "balances are the file": (["t.csv", "--balances", "t.csv"], "t.csv: cannot be both"),
    "balances are the store": (["t.csv", "--db", "./b", "--balances", "b"], "b: cannot be both"),
    "store is the file": (["t.csv", "--db", "t.csv"], "t.csv: cannot be both"),
    "no PostgreSQL": (["t.csv", "--db", "postgresql://x@localhost:1/x"], "cannot be reached"),
    "no live actors": (["t.csv", "--max-live", "0"], "'0' is not a positive whole number"),
    "ceiling of words": (["t.csv", "--max-live", "few"], "'few' is not a positive whole number"),
    "unknown option": (["t.csv", "--fast"], "unrecognized arguments: --fast"),
    "two files": (["t.csv", "t.csv"], "unrecognized arguments: t.csv"),
    "transfer of words": (["transfer", "A", "B", "much"], "amount 'much' is not a plain decimal"),
    "transfer of nothing": (["transfer", "A", "B", "0.00"], "0.00 is not more than nothing"),
    "transfer of less": (["transfer", "A", "B", "-1"], "-1 is not more than nothing"),
    "transfer to itself": (["transfer", "A", "A", "1"], "'A' is both accounts"),
    "transfer without an amount": (["transfer", "A", "B"], "AMOUNT"),
    "transfer behind an option": (
        ["--db", "b.sqlite", "transfer", "A", "B", "5"],
        "transfer comes first: python -m examples.bank transfer FROM TO AMOUNT --db STORE",
    ),
    "transfer without a name": (["transfer", "A", "B", "1", "--id", ""], "the id is empty"),
    "transfer of two lines": (["transfer", "A\nB", "C", "1"], "unprintable characters"),
    "transfer of broken text": (["transfer", "\udcff", "C", "1"], "unprintable characters"),
    "transfer of too much text": (["transfer", "A", "B" * 201, "1"], "longer than 200 characters"),
    "balances are the log": (["t.csv", "--db", "b", "--balances", "b-wal"], "a file of the store"),
    "file of the store": (["b-shm", "--db", "b"], "b-shm: cannot be both a file of the store and"),
    "file in a circle": (["circle"], "circle: the file cannot be read: Too many levels"),
    "database in a circle": (["t.csv", "--db", "circle"], "circle: the store cannot be used: Too"),
    "balances in a circle": (["t.csv", "--balances", "circle"], "cannot be written there: Too"),
    "file at a URL": (["https://u:SECRET@h/t.csv"], "the transactions cannot be at a URL"),
    "balances at a URL": (["--balances", "sftp://u:SECRET@h"], "the balances cannot be at a URL"),
    "transfer in no store": (["transfer", "A", "B", "1"], "bank.sqlite: there is no such store"),
}


@pytest.mark.parametrize(("arguments", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_input_is_one_line_status_2_and_nothing_is_done(
    folder: Path, capsys: Output, arguments: Sequence[str], reason: str
) -> None:
    (folder / "empty.csv").touch()
    (folder / "other.csv").write_text("a,b\n1,2\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "circle").symlink_to("circle")
    assert run(*arguments) == 2
    assert reason in one_line(capsys)
    (folder / "circle").unlink()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["t.csv", "--db", "postgresql+psycopg://u:SECRET@localhost/bank"],
        ["t.csv", "--db", "postgresql://u:SECRET@["],
        ["t.csv", "--db", "postgresql://u:SECRET@localhost:1/bank"],
        ["t.csv", "--db", "postgresql://u:a@SECRET@localhost:1/bank"],
        ["t.csv", "--db", "postgresql://u:a/SECRET@localhost:1/bank"],
        ["t.csv", "--db", "postgresql://localhost:1/bank?password=SECRET&x=SECRET"],
        ["t.csv", "--db", "postgresql://localhost:1/bank?password=SECRET&sslmode=disable"],
        ["postgresql://u:SECRET@localhost/bank"],
        ["t.csv", "--balances", "postgresql://u:SECRET@localhost/bank"],
        ["t.csv", "postgresql://u:SECRET@localhost/bank"],
        ["transfer", "A", "B", "postgresql://u:SECRET@localhost/bank"],
        ["transfer", "A", "B", "1", "postgresql://u:SECRET@localhost/bank"],
        ["transfer", "A", "B", "1", "--db", "mysql://u:SECRET@localhost/bank"],
    ],
)
def test_whatever_is_wrong_a_password_is_not_shown(
    capsys: Output, arguments: Sequence[str]
) -> None:
    assert run(*arguments) == 2
    assert "SECRET" not in one_line(capsys)


def test_output_that_cannot_be_written_is_one_line_and_status_1(folder: Path) -> None:
    full = run_bank("t.csv", cwd=folder, out=Path("/dev/full"))
    assert full.status == 1
    assert full.err == (
        "python -m examples.bank: failed: No space left on device; "
        "nothing is half booked: run the same command again to go on\n"
    )


FEW_THREADS = """
import threading
from examples.bank import accounts
accounts.TURN = 0.7
start = threading.Thread.start
def start_if_few(thread):
    ours = [other for other in threading.enumerate() if "pykka-registry-" in other.name]
    if "pykka-registry-" in thread.name and len(ours) == {}:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_if_few
"""


def test_a_thread_that_cannot_be_started_is_one_line_and_status_1(folder: Path) -> None:
    end = start_sabotaged(FEW_THREADS.format(0), "t.csv", cwd=folder).end()
    assert end.status == 1
    assert "failed: can't start new thread; nothing is half booked: run" in end.err
    assert end.err.count("\n") == 1


def test_with_fewer_threads_than_accounts_may_be_live_an_import_goes_on(folder: Path) -> None:
    end = start_sabotaged(FEW_THREADS.format(3), "t.csv", cwd=folder).end()
    assert (end.status, end.err) == (0, "")
    assert read_balances(folder / "balances.csv") == sums(ROWS)


def test_balances_do_not_replace_the_file_that_the_output_is_sent_to(folder: Path) -> None:
    for balances in ("/dev/stdout", "out.txt"):
        end = run_bank("t.csv", "--balances", balances, cwd=folder, out=folder / "out.txt")
        assert end.status == 2
        assert f"{balances}: is where the program's own output goes" in end.err
        assert not (folder / "bank.sqlite").exists()


def test_balances_can_be_sent_down_a_pipe(folder: Path) -> None:
    end = run_bank("t.csv", "--balances", "/dev/stdout", cwd=folder)
    assert (end.status, end.err) == (0, "")
    assert end.out.count("account_id,balance\n") == 1


DAMAGES = {
    "a missing event": "DELETE FROM stored_events WHERE originator_version = 3",
    "an unknown event": "UPDATE stored_events SET topic = 'examples.bank.domain:Nothing'",
    "unreadable content": "UPDATE stored_events SET state = 'x'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_one_line_and_does_not_say_to_go_on(
    folder: Path, capsys: Output, damage: str
) -> None:
    assert run("t.csv") == 0
    capsys.readouterr()
    with closing(sqlite3.connect(folder / "bank.sqlite")) as connection:
        connection.execute(damage)
        connection.commit()
    write_csv(folder / "more.csv", make_rows(30, 10, first=1000))
    assert run("more.csv") == 1
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "its events are damaged, or another program has written to it; restore a copy" in err


def test_ctrl_c_while_the_accounts_are_read_again_stops_before_balances_are_written(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_ids = Bank.account_ids

    def press_ctrl_c_first(bank: Bank) -> Iterator[str]:
        signal.raise_signal(signal.SIGINT)
        return account_ids(bank)

    with monkeypatch.context() as sabotage:
        sabotage.setattr(Bank, "account_ids", press_ctrl_c_first)
        assert run("t.csv") == 130
    assert capsys.readouterr().err == (
        "python -m examples.bank: stopped; nothing is half booked: "
        "run the same command again to go on\n"
    )
    assert not (folder / "balances.csv").exists()
    assert stored_balances(folder / "bank.sqlite") == sums(ROWS)


def test_an_actor_that_disagrees_with_the_store_is_a_failure(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(account: Account, *args: Any, **kwargs: Any) -> D:
        return BOOK(account, *args, **kwargs) + 1

    replace_book(monkeypatch, lie)
    assert run("t.csv") == 1
    out, err = capsys.readouterr()
    assert "agree with" not in out
    assert "the store and the actors disagree: account '" in err
    assert not (folder / "balances.csv").exists()


def test_balances_that_cannot_be_written_in_the_end_are_a_failure(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    assert run("t.csv") == 1
    assert "balances.csv: the balances cannot be written: No space left on device" in (
        capsys.readouterr().err
    )


def test_on_a_terminal_a_bar_shows_rows_rate_and_live_actors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()

    def console(**options: Any) -> Console:
        return Console(file=terminal, force_terminal=True, width=120, **options)

    monkeypatch.setattr(screen, "_REFRESH", 0.0)
    monkeypatch.setattr(screen, "Console", console)
    assert run("t.csv") == 0
    shown = terminal.getvalue()
    assert "100 rows" in shown
    assert "rows/s" in shown
    assert "live actors" in shown


def test_the_ceiling_that_the_user_gives_is_the_registrys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    referee = watch(monkeypatch)
    with open_bank("bank.sqlite") as bank:
        bank.save(*(Transfer.of(Order(f"t{n}", f"{n}", "A", D(1), DAY)) for n in range(9)))
    assert run("t.csv", "--max-live", "2") == 0
    assert referee.most == 2
    assert referee.activations >= 9 + len(sums(ROWS))
    assert read_balances(folder / "balances.csv") == sums(ROWS)


@pytest.fixture
def accounts(folder: Path) -> Path:
    path = folder / "bank.sqlite"
    with open_bank(path) as bank:
        payer, payee, closed = Account("A"), Account("B"), Account("C")
        payer.book(Decimal("100.00"), on=DAY, reference="1")
        closed.close()
        bank.save(payer, payee, closed)
    return path


def balances(path: Path) -> dict[str, str]:
    return {account: str(balance) for account, balance in stored_balances(path).items()}


def test_a_transfer_is_told_and_is_done_once(accounts: Path, capsys: Output) -> None:
    assert run("transfer", "A", "B", "40.00", "--id", "t1") == 0
    assert capsys.readouterr() == ("transfer t1 completed: 40.00 from A to B\n", "")
    assert run("transfer", "A", "B", "40.00", "--id", "t1") == 0
    assert "transfer t1 was completed before, nothing more was moved" in capsys.readouterr().out
    assert balances(accounts) == {"A": "60.00", "B": "40.00", "C": "0"}
    assert run("transfer", "A", "B", "40.01", "--id", "t1") == 1
    assert "'t1' was ordered before as 40.00 from 'A' to 'B'" in one_line(capsys)


def test_two_transfers_without_an_id_are_two(accounts: Path, capsys: Output) -> None:
    assert run("transfer", "A", "B", "10") == run("transfer", "A", "B", "10") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1] != second.split()[1]
    assert balances(accounts)["A"] == "80.00"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["A", "B", "100.01"], "'A' has 100.00 and an overdraft limit of 0; nothing was moved"),
        (["A", "C", "1.00"], "account 'C' is closed; 'A' got the money back"),
        (["C", "A", "1.00"], "account 'C' is closed; nothing was moved"),
        (["A", "X", "1.00"], "account 'X' is unknown in bank.sqlite; nothing was moved"),
        (["X", "A", "1.00"], "account 'X' is unknown in bank.sqlite; nothing was moved"),
    ],
)
def test_a_refused_transfer_is_one_line_and_status_1(
    accounts: Path, capsys: Output, arguments: Sequence[str], reason: str
) -> None:
    assert run("transfer", *arguments) == 1
    assert reason in one_line(capsys)
    assert {key: Decimal(b) for key, b in balances(accounts).items()} == {"A": 100, "B": 0, "C": 0}


def test_help_is_there_for_both_commands(capsys: Output) -> None:
    assert run("--help") == run("transfer", "--help") == 0
    out = capsys.readouterr().out
    assert "FILE" in out
    assert "AMOUNT" in out
