"""Which stores can be used, and what is said of the others."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.persistence import ProgrammingError

from examples.bank import patience
from examples.bank import store as module
from examples.bank.application import Bank
from examples.bank.interrupt import Stopped
from examples.bank.problems import Failed, Unusable
from examples.bank.store import find_store
from tests.bank.support import access_by_mode, open_bank

if TYPE_CHECKING:
    from pathlib import Path


def test_a_missing_file_is_made_when_the_store_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    store = find_store(str(path), create=True)
    assert not path.exists()
    store.open().close()
    assert path.exists()
    find_store(str(path), create=False).open().close()


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    path.touch()
    with open_bank(path) as bank:
        assert list(bank.account_ids()) == []


def test_a_name_that_looks_like_an_address_is_a_file_name(tmp_path: Path) -> None:
    with open_bank(tmp_path / "file:bank?mode=ro#%41"):
        assert [path.name for path in tmp_path.glob("*mode=ro#%41")]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "must outlive the program"),
        (":memory:", "must outlive the program"),
        (".", "is not a file"),
        ("nowhere/bank.sqlite", "there is no folder"),
        ("text.csv", "is not a SQLite database"),
        ("other.sqlite", "is the database of another program"),
        ("broken.sqlite", "cannot be used"),
        ("mysql://localhost/bank", "give the path of a SQLite file or a postgresql:// URL"),
        (
            "postgresql://u:secret@localhost:1/bank",
            "PostgreSQL localhost:1/bank: cannot be reached",
        ),
        ("postgresql://localhost:x/bank", "the PostgreSQL URL cannot be read"),
        ("postgresql://u:secret@[", "the PostgreSQL URL cannot be read"),
        ("postgresql://u:sec/secret@localhost/bank", "the PostgreSQL URL cannot be read"),
        ("postgresql://u:sec@secret@localhost/bank", "the PostgreSQL URL cannot be read"),
        ("postgresql://u:secret", "the PostgreSQL URL cannot be read"),
        ("postgresql+psycopg://u:secret@localhost/bank", "postgresql+psycopg://...: give the path"),
        ("look-alike.sqlite", "is the database of another program"),
        ("circle", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("text.csv/x", "there is no folder"),
        ("\udcff", "must be UTF-8"),
        ("postgresql://u:secret@localhost/bank?sslmode=require", "unsupported in the URL: sslmode"),
    ],
)
def test_what_cannot_be_a_store_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.csv").write_text("transaction_id,account_id,date,amount\n")
    (tmp_path / "broken.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with closing(sqlite3.connect("other.sqlite")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with closing(sqlite3.connect("look-alike.sqlite")) as connection:
        connection.execute("CREATE TABLE stored_events (x)")
    (tmp_path / "circle").symlink_to("circle")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(Unusable) as raised:
        find_store(target, create=True)
    message = str(raised.value)
    assert reason in message
    assert "\n" not in message
    assert "secret" not in message
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


@pytest.mark.parametrize("read_only", ["b.sqlite", "."])
def test_a_store_that_is_read_only_is_noticed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: str
) -> None:
    monkeypatch.setattr(os, "access", access_by_mode)
    (tmp_path / "b.sqlite").touch()
    (tmp_path / read_only).chmod(0o555)
    with pytest.raises(Unusable, match="the file or its folder is read-only"):
        find_store(str(tmp_path / "b.sqlite"), create=True)
    if read_only == ".":
        with pytest.raises(Unusable, match="no file can be made in the folder"):
            find_store(str(tmp_path / "new.sqlite"), create=True)


def test_a_missing_store_is_not_made_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="there is no such store; import transactions into it first"):
        find_store(str(tmp_path / "bank.sqlite"), create=False)


def test_a_store_that_stays_locked_is_told_after_our_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.sqlite"
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    store = find_store(str(path), create=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Failed, match="cannot be opened: another program keeps the store"):
            store.open()
        with pytest.raises(Failed, match="another program keeps the store locked"):
            find_store(str(path), create=True)


def test_nobody_has_to_wait_for_a_store_that_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    store = find_store(str(path), create=True)
    asked: list[bool] = []

    def after_one_attempt() -> bool:
        asked.append(True)
        return len(asked) > 1

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Stopped):
            store.open(after_one_attempt)
    assert len(asked) == 2


def test_many_can_open_a_new_store_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    opened: list[str] = []

    def open_and_close() -> None:
        store = find_store(str(tmp_path / "bank.sqlite"), create=True)
        barrier.wait(30)
        store.open().close()
        opened.append(store.name)

    threads = [threading.Thread(target=open_and_close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8


@pytest.mark.parametrize(
    "text",
    [
        'relation "stored_events" already exists',
        'duplicate key value violates unique constraint "pg_type_typname_nsp_index"',
        "tuple concurrently updated",
    ],
)
def test_who_makes_the_tables_while_another_does_tries_again(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def bank(**kwargs: Any) -> Bank:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ProgrammingError(text)
        return Bank(**kwargs)

    monkeypatch.setattr(module, "Bank", bank)
    find_store(str(tmp_path / "new.sqlite"), create=True).open().close()
    assert attempts == 2
