"""Whatever ends the program, and whenever: nothing is lost, doubled or half done."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from examples.bank.cli import main
from examples.bank.domain import Account
from examples.bank.transfer import Order, State, Transfer
from tests.bank.support import (
    DAY,
    PATIENCE,
    ROOT,
    Running,
    make_rows,
    open_bank,
    read_balances,
    run_bank,
    start_sabotaged,
    stored_balances,
    sums,
    write_csv,
)

if TYPE_CHECKING:
    from pathlib import Path

D = Decimal

KILL_AFTER_SAVES = """
import os, signal, eventsourcing.application as library
save, saves = library.Application.save, []
def save_and_die(self, *objs, **kwargs):
    result = save(self, *objs, **kwargs)
    saves.append(1)
    if len(saves) == {}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
library.Application.save = save_and_die
"""

STOPPED = (
    "python -m examples.bank: stopped; nothing is half booked: run the same command again to go on"
)

SAY_WHEN_BOOKING = """
import eventsourcing.application as library
save, said = library.Application.save, []
def save_and_say(self, *objs, **kwargs):
    result = save(self, *objs, **kwargs)
    if not said:
        said.append(True)
        print("booking", flush=True)
    return result
library.Application.save = save_and_say
"""


def test_killed_again_and_again_an_import_ends_like_one_clean_run(tmp_path: Path) -> None:
    accounts = 300
    rows = make_rows(1200, accounts)
    write_csv(tmp_path / "t.csv", rows)
    before = 0
    # Each account is saved at least once, and up to sixteen at the same time.
    moments = (1, 80, 100)
    assert sum(moments) + 16 * len(moments) < accounts
    for saves in moments:
        killed = start_sabotaged(
            KILL_AFTER_SAVES.format(saves), "t.csv", "--db", "b.sqlite", cwd=tmp_path
        ).end()
        assert killed.status == -signal.SIGKILL
        with open_bank(tmp_path / "b.sqlite") as bank:
            booked = sum(
                (account := bank.account(account_id)) is not None and account.version - 1
                for account_id in bank.account_ids()
            )
        assert before < booked < len(rows)
        before = booked
    done = run_bank("t.csv", "--db", "b.sqlite", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert read_balances(tmp_path / "balances.csv") == sums(rows)
    assert f"{before:,}" in done.out.split("booked before")[1].split("\n")[0]


def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    rows = make_rows(2500, 600)
    write_csv(tmp_path / "t.csv", rows)
    run = start_sabotaged(SAY_WHEN_BOOKING, "t.csv", "--db", "b.sqlite", cwd=tmp_path)
    assert run.read_line() == "booking"
    run.press_ctrl_c()
    stopped = run.end()
    assert stopped.status == 130
    assert stopped.err == f"{STOPPED}\n"
    assert not (tmp_path / "balances.csv").exists()
    told = int(stopped.out.split("rows ")[1].split()[0].replace(",", ""))
    assert 0 < told < len(rows)
    done = run_bank("t.csv", "--db", "b.sqlite", cwd=tmp_path)
    assert done.status == 0
    assert f"{told:,}" in done.out.split("booked before")[1].split("\n")[0]
    assert read_balances(tmp_path / "balances.csv") == sums(rows)


def test_ctrl_c_three_times_at_once_ends_it_just_so(tmp_path: Path) -> None:
    rows = make_rows(2500, 600)
    write_csv(tmp_path / "t.csv", rows)
    stores = [f"{number}.sqlite" for number in range(3)]
    for db in stores:
        run = start_sabotaged(SAY_WHEN_BOOKING, "t.csv", "--db", db, cwd=tmp_path)
        assert run.read_line() == "booking"
        for _ in range(3):
            run.press_ctrl_c()
        stopped = run.end()
        assert (stopped.status, stopped.err) == (130, f"{STOPPED}\n")
        assert not (tmp_path / "balances.csv").exists()
    assert run_bank("t.csv", "--db", stores[0], cwd=tmp_path).status == 0
    assert stored_balances(tmp_path / stores[0]) == sums(rows)


HOLD_UP_ALL_ACTORS = """
import threading, eventsourcing.application as library
first = threading.Semaphore()
def hold_up(self, *objs, **kwargs):
    if first.acquire(blocking=False):
        print("booking", flush=True)
        self.closing.wait()
        print("closing", flush=True)
    threading.Event().wait()
library.Application.save = hold_up
"""


def test_a_second_ctrl_c_does_not_wait_for_an_actor_that_hangs(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", make_rows(100, 50))
    run = start_sabotaged(HOLD_UP_ALL_ACTORS, "t.csv", cwd=tmp_path)
    for word in ("booking", "closing"):
        assert run.read_line() == word
        run.press_ctrl_c()
    stopped = run.end()
    assert (stopped.status, stopped.err) == (130, f"{STOPPED}\n")


@pytest.mark.parametrize("phase", ["import", "transfer", "unfinished transfer"])
def test_while_another_program_locks_the_store_ctrl_c_needs_no_patience(
    tmp_path: Path, phase: str
) -> None:
    """What is counted are attempts to store something: each waits for the lock for a second."""
    prepare(tmp_path / "b.sqlite")
    write_csv(tmp_path / "t.csv", make_rows(600, 60))
    arguments = ["t.csv"] if phase == "import" else ["transfer", "A", "B", "1", "--id", "t2"]
    if phase == "unfinished transfer":
        with open_bank(tmp_path / "b.sqlite") as bank:
            bank.save(Transfer.of(Order("t1", "A", "B", D("40.00"), DAY)))
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        run = start_sabotaged(SAY_EACH_ATTEMPT, *arguments, "--db", "b.sqlite", cwd=tmp_path)
        assert run.read_line() == "attempt"
        run.press_ctrl_c()
        stopped = run.end()
    assert (stopped.status, stopped.err) == (130, f"{STOPPED}\n")
    assert stopped.out.count("attempt") <= 2


SAY_EACH_ATTEMPT = """
import eventsourcing.sqlite as library
insert = library.SQLiteApplicationRecorder.insert_events
def say_and_insert(self, *args, **kwargs):
    print("attempt", flush=True)
    return insert(self, *args, **kwargs)
library.SQLiteApplicationRecorder.insert_events = say_and_insert
"""


def test_a_transfer_that_was_stopped_says_under_which_id_it_goes_on(tmp_path: Path) -> None:
    prepare(tmp_path / "b.sqlite")
    order = ("transfer", "A", "B", "40.00", "--db", "b.sqlite")
    run = start_sabotaged(HOLD_UP_ALL_ACTORS, *order, cwd=tmp_path)
    for word in ("booking", "closing"):
        assert run.read_line() == word
        run.press_ctrl_c()
    stopped = run.end()
    assert stopped.status == 130
    again = stopped.err.split("run the same command with ")[1].removesuffix(" to go on\n").split()
    for _ in range(2):
        assert run_bank(*order, *again, cwd=tmp_path).status == 0
    assert stored_balances(tmp_path / "b.sqlite") == {"A": D("60.00"), "B": D("40.00"), "C": D(0)}


def test_ctrl_c_while_the_program_is_still_being_loaded_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "rich.py").write_text("print('loading', flush=True)\nopen('pipe').read()\n")
    run = Running("-m", "examples.bank", cwd=tmp_path)
    assert run.read_line() == "loading"
    run.press_ctrl_c()
    stopped = run.end()
    assert (stopped.status, stopped.err) == (130, f"{STOPPED}\n")


def test_an_import_finishes_transfers_before_it_books(tmp_path: Path) -> None:
    prepare(tmp_path / "b.sqlite")
    with open_bank(tmp_path / "b.sqlite") as bank:
        bank.save(Transfer.of(Order("t1", "A", "B", D("40.00"), DAY)))
    write_csv(tmp_path / "t.csv", [("2", "A", "2024-02-29", "-100.00")])
    done = run_bank("t.csv", "--db", "b.sqlite", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("An unfinished transfer was found and is now completed: t1, 40.00")
    assert stored_balances(tmp_path / "b.sqlite") == {"A": D("-40.00"), "B": D("40.00"), "C": D(0)}


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    rows = make_rows(1000, 100)
    write_csv(tmp_path / "t.csv", rows)
    disk_is_full = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
"""
    full = start_sabotaged(disk_is_full, "t.csv", "--db", "b.sqlite", cwd=tmp_path).end()
    assert full.status == 1
    assert "the store failed after " in full.err
    assert "nothing is half booked: run the same command again to go on" in full.err
    assert full.err.count("\n") == 1
    assert not (tmp_path / "balances.csv").exists()
    done = run_bank("t.csv", "--db", "b.sqlite", cwd=tmp_path)
    assert done.status == 0
    assert read_balances(tmp_path / "balances.csv") == sums(rows)


def test_a_store_that_turns_read_only_is_one_line(tmp_path: Path) -> None:
    rows = make_rows(400, 100)
    write_csv(tmp_path / "t.csv", rows)
    turns_read_only = """
import eventsourcing.sqlite as library
connect = library.SQLiteConnectionPool._create_connection
def connect_for_reading(self):
    connection = connect(self)
    if self.is_journal_mode_wal and self.num_in_pool_seen:
        connection._sqlite_conn.execute("PRAGMA query_only=ON")
    self.num_in_pool_seen = True
    return connection
library.SQLiteConnectionPool.num_in_pool_seen = False
library.SQLiteConnectionPool._create_connection = connect_for_reading
"""
    run = start_sabotaged(turns_read_only, "t.csv", "--db", "b.sqlite", cwd=tmp_path).end()
    assert run.status == 1
    assert "attempt to write a readonly database" in run.err
    assert run.err.count("\n") == 1
    assert run_bank("t.csv", "--db", "b.sqlite", cwd=tmp_path).status == 0
    assert read_balances(tmp_path / "balances.csv") == sums(rows)


SAVES_OF_A_TRANSFER = 5
SAVES_OF_A_COMPENSATION = 7


def prepare(path: Path) -> None:
    with open_bank(path) as bank:
        payer, payee, closed = Account("A"), Account("B"), Account("C")
        payer.book(D("100.00"), on=DAY, reference="1")
        closed.close()
        bank.save(payer, payee, closed)


def test_killed_before_or_after_any_of_its_saves_a_transfer_ends_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[str, int, bool, Path]] = []
    for payee, saves in [("B", SAVES_OF_A_TRANSFER), ("C", SAVES_OF_A_COMPENSATION)]:
        for save in range(1, saves + 1):
            for before in (True, False):
                path = tmp_path / f"{payee}-{save}-{'before' if before else 'after'}.sqlite"
                prepare(path)
                cases.append((payee, save, before, path))
    # One more than there are saves: that run must end by itself, or a save has no test here.
    for payee, saves in [("B", SAVES_OF_A_TRANSFER + 1), ("C", SAVES_OF_A_COMPENSATION + 1)]:
        path = tmp_path / f"{payee}-alive.sqlite"
        prepare(path)
        cases.append((payee, saves, True, path))
    orders = [
        {
            "save": save,
            "before": before,
            "arguments": ["transfer", "A", payee, "40.00", "--db", str(path), "--id", "t1"],
        }
        for payee, save, before, path in cases
    ]
    server = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bank.fork_server"],
        cwd=ROOT,
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    ends = [int(line) for line in server.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert len(ends) == len(cases)
    assert ends[:-2] == [signal.SIGKILL] * (len(cases) - 2)
    assert [os.waitstatus_to_exitcode(end) for end in ends[-2:]] == [0, 1]

    for payee, save, before, path in cases:
        # Any command finishes what it finds; here it is another transfer that is refused.
        assert main(["transfer", "B", "A", "9999", "--db", str(path), "--id", "t2"]) == 1
        out = capsys.readouterr().out
        was_started = (save, before) != (1, True)
        last = SAVES_OF_A_TRANSFER if payee == "B" else SAVES_OF_A_COMPENSATION
        was_over = path.stem.endswith("alive") or (save, before) == (last, False)
        end = State.COMPLETED if payee == "B" else State.REFUNDED
        told = f"An unfinished transfer was found and is now {end}: t1, 40.00 from A to {payee}"
        assert (told in out) == (was_started and not was_over), path
        with open_bank(path) as bank:
            transfer = bank.transfer("t1")
            assert (transfer.state if transfer else None) == (end if was_started else None), path
            assert bank.unfinished_transfers() == []
        moved = D("40.00") if was_started and payee == "B" else D(0)
        assert stored_balances(path) == {"A": D("100.00") - moved, "B": moved, "C": D(0)}, path


def test_a_transfer_that_was_killed_is_the_same_when_it_is_ordered_again(tmp_path: Path) -> None:
    prepare(tmp_path / "b.sqlite")
    killed = start_sabotaged(
        KILL_AFTER_SAVES.format(2),
        *("transfer", "A", "B", "40.00", "--db", "b.sqlite", "--id", "t1"),
        cwd=tmp_path,
    ).end()
    assert killed.status == -signal.SIGKILL
    assert stored_balances(tmp_path / "b.sqlite") == {"A": D("60.00"), "B": D(0), "C": D(0)}
    again = run_bank(
        *("transfer", "A", "B", "40.00", "--db", "b.sqlite", "--id", "t1"), cwd=tmp_path
    )
    assert (again.status, again.err) == (0, "")
    assert "An unfinished transfer was found and is now completed: t1" in again.out
    assert stored_balances(tmp_path / "b.sqlite") == {"A": D("60.00"), "B": D("40.00"), "C": D(0)}


def test_two_processes_on_one_store_both_end_right(tmp_path: Path) -> None:
    """They share half of the rows, and all of the accounts."""
    rows = make_rows(1500, 60)
    write_csv(tmp_path / "first.csv", rows[:1000])
    write_csv(tmp_path / "second.csv", rows[500:])
    runs = [
        start_sabotaged("", f"{name}.csv", "--db", "b.sqlite", "--balances", name, cwd=tmp_path)
        for name in ("first", "second")
    ]
    ended: list[tuple[int, str]] = []

    def wait(run: int) -> None:
        end = runs[run].end()
        ended.append((end.status, end.err))

    threads = [threading.Thread(target=wait, args=(run,)) for run in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [(0, ""), (0, "")]
    assert stored_balances(tmp_path / "b.sqlite") == sums(rows)
