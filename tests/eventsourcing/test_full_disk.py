"""A disk that is full, and a store that turns read-only: nothing is half done, and it goes on."""

from __future__ import annotations

import itertools
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import PersistenceError
from eventsourcing.sqlite import SQLiteConnection, SQLiteConnectionPool

from pykka_registry.eventsourcing import live_aggregates
from tests.eventsourcing.accounts import Account, Refusal, balance, open_bank, stored
from tests.eventsourcing.teller import OWNERS, Order
from tests.eventsourcing.test_live_crashes import check
from tests.support import PATIENCE, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from pykka_registry.eventsourcing import LiveRef
    from tests.eventsourcing.support import Store

ONE = Decimal(1)
THREADS = 4
ROOM = 50_000  # bytes that there are left for what the tellers store


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[SQLiteConnection]:
    """The connections that the library has made."""
    made: list[SQLiteConnection] = []
    create = SQLiteConnectionPool._create_connection

    def create_connection(pool: SQLiteConnectionPool) -> SQLiteConnection:
        made.append(create(pool))
        return made[-1]

    monkeypatch.setattr(SQLiteConnectionPool, "_create_connection", create_connection)
    return made


def pragma(connections: list[SQLiteConnection], what: str) -> None:
    for connection in connections:
        with closing(connection._sqlite_conn.execute(f"PRAGMA {what}")) as cursor:
            cursor.fetchall()


@contextmanager
def no_larger_files(path: Path) -> Generator[None]:
    """Have the operating system refuse to let a file grow, which is the log of what was stored."""
    size = Path(f"{path}-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + ROOM, hard))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_more_pages(connections: list[SQLiteConnection]) -> Generator[None]:
    """Have SQLite do what it does when the disk is full."""
    pragma(connections, "max_page_count = 30")
    try:
        yield
    finally:
        pragma(connections, "max_page_count = 1073741823")


@contextmanager
def only_queries(connections: list[SQLiteConnection]) -> Generator[None]:
    pragma(connections, "query_only = on")
    try:
        yield
    finally:
        pragma(connections, "query_only = off")


@contextmanager
def read_only_server(url: str) -> Generator[None]:
    """Have PostgreSQL turn read-only, which its sessions see one after the other."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        try:
            poll(lambda: is_read_only(url))
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")


def is_read_only(url: str) -> bool:
    """Tell whether a new session is: those that there are have been told by then."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW transaction_read_only").fetchone()
    return row == ("on",)


@dataclass(frozen=True)
class Trouble:
    """A store, and what befalls it for a while."""

    store: Store
    begin: Callable[[], AbstractContextManager[None]]
    message: str
    """What the store says then."""


@pytest.fixture(params=["no larger files", "no more pages", "only queries", "read-only server"])
def trouble(request: pytest.FixtureRequest, connections: list[SQLiteConnection]) -> Trouble:
    """Each trouble in turn."""
    kind = "postgres" if request.param == "read-only server" else "sqlite_file"
    store: Store = request.getfixturevalue(kind)
    if request.param == "no larger files":
        path = Path(store.settings["SQLITE_DBNAME"])
        return Trouble(store, lambda: no_larger_files(path), "disk I/O error")
    if request.param == "no more pages":
        message = "database or disk is full"
        return Trouble(store, lambda: no_more_pages(connections), message)
    if request.param == "only queries":
        message = "attempt to write a readonly database"
        return Trouble(store, lambda: only_queries(connections), message)
    return Trouble(store, lambda: read_only_server(store.url), "in a read-only transaction")


def count_until_it_fails(trouble: Trouble, step: Callable[[int], object]) -> int:
    """Return how often something small still found a place, before the store said why not."""
    until = time.monotonic() + PATIENCE
    for number in itertools.count():
        assert time.monotonic() < until, f"{number} found a place, and the next would"
        try:
            step(number)
        except PersistenceError as error:
            if trouble.message not in str(error):
                raise
            return number
    raise AssertionError


def test_a_command_that_finds_no_room_has_done_nothing(trouble: Trouble) -> None:
    with open_bank(trouble.store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        with trouble.begin():
            count = count_until_it_fails(trouble, lambda _: account.call(Account.deposit, ONE))
            # What is stored can still be read; and a new one leaves nothing.
            assert account.query(balance) == stored(bank).balance == count
            number = count_until_it_fails(
                trouble, lambda number: accounts.create(Account, f"customer {number}")
            )
            unlucky = accounts.ref(Account.create_id(f"customer {number}"))
            with pytest.raises(AggregateNotFoundError):
                unlucky.query(balance)
            poll(lambda: unlucky.id not in accounts.registry)
        poll(lambda: deposits(account) == count + 1)
        assert stored(bank).balance == count + 1


def deposits(account: LiveRef[Account]) -> Decimal | None:
    """Return the new balance, if there is one: a server's sessions do not change all at once."""
    try:
        return account.call(Account.deposit, ONE)
    except PersistenceError:
        return None


def test_what_finds_no_room_can_be_sent_again_and_the_books_are_exact(trouble: Trouble) -> None:
    with (
        open_bank(trouble.store) as bank,
        live_aggregates(bank, Account, refusals=[Refusal]) as accounts,
    ):
        for owner in OWNERS:
            accounts.create(Account, owner)

        def send_until_it_fails(thread: int) -> list[str]:
            answers: list[str] = []
            count = count_until_it_fails(
                trouble,
                lambda number: answers.append(Order.of(f"{thread}", number).send_once(accounts)),
            )
            assert accounts.receipt(Order.of(f"{thread}", count).id) is None
            return answers

        with trouble.begin(), ThreadPoolExecutor(THREADS) as threads:
            sent = list(threads.map(send_until_it_fails, range(THREADS)))
        orders: list[Order] = []
        for thread, answers in enumerate(sent):
            mine = [Order.of(f"{thread}", number) for number in range(len(answers) + 1)]
            answers.append(mine[-1].send(accounts))
            # Each gets its first answer again.
            assert [order.send(accounts) for order in mine] == answers
            orders += mine
        check(bank, accounts, orders, [answer for answers in sent for answer in answers])
