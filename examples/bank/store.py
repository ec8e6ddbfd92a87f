"""Where the events are kept: a SQLite file or a PostgreSQL database, named by `--db`."""

from __future__ import annotations

import getpass
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eventsourcing.domain import EventSourcingError
from eventsourcing.persistence import ConnectionUnavailableError

from examples.bank.application import Bank
from examples.bank.problems import Failed, Unusable

STORE_ERRORS = (EventSourcingError, sqlite3.Error)
"""What the library raises when a store fails; some errors of `sqlite3` pass through it."""

_PATIENCE = 30.0  # seconds to wait for another process to let go of the store
_LOCK_TIMEOUT = 5  # seconds
_CONNECT_TIMEOUT = 5  # seconds
_RECONNECT_TIMEOUT = 2  # seconds; the library tries ten times, in case the server only restarts

_SQLITE_MAGIC = b"SQLite format 3\0"


def is_busy(error: BaseException) -> bool:
    """Tell if the store only asks to try again: somebody else is writing to it."""
    return isinstance(error, ConnectionUnavailableError) or "is locked" in str(error)


def first_line(error: BaseException) -> str:
    """Return an error's text without the details that follow in further lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True, slots=True)
class Store:
    """A place for events: its name, and the settings with which the library finds it."""

    name: str
    settings: dict[str, str] = field(repr=False)

    def open(self) -> Bank:
        """Return an application on this store, whose tables are made if they are missing.

        Raises:
            Failed: if the store does not let us.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return Bank(env=self.settings)
            except (*STORE_ERRORS, OSError) as error:
                # Two processes that make the tables of one new store at the same time get in
                # each other's way, and the second attempt finds them made.
                if not _may_be_a_race(error) or time.monotonic() > deadline:
                    msg = f"{self.name}: the store cannot be opened: {first_line(error)}"
                    raise Failed(msg) from error
                time.sleep(0.05)


def _may_be_a_race(error: BaseException) -> bool:
    return is_busy(error) or "already exists" in str(error) or "duplicate key" in str(error)


def find_store(target: str, *, create: bool) -> Store:
    """Check that a store can be used, before anything depends on it.

    Args:
        target: the path of a SQLite file, or the URL of a PostgreSQL database.
        create: whether a SQLite file may be missing and is to be made.

    Raises:
        Unusable: if it cannot; the text says why and what to do.
        Failed: if it is locked.
    """
    if target.startswith(("postgresql://", "postgres://")):
        return _find_postgres(target)
    if "://" in target:
        msg = f"{target}: give the path of a SQLite file or a postgresql:// URL"
        raise Unusable(msg)
    return _find_sqlite(target, create=create)


def _find_sqlite(target: str, *, create: bool) -> Store:
    path = Path(target).absolute()
    if not target or ":memory:" in str(path) or "mode=memory" in str(path):
        msg = f"{target!r}: the events must outlive the program; give the path of a file"
        raise Unusable(msg)
    try:
        _check_sqlite(path, create=create)
    except (OSError, sqlite3.Error) as error:
        if is_busy(error):
            msg = f"{target}: another program keeps the store locked; run it again later"
            raise Failed(msg) from error
        msg = f"{target}: the store cannot be used: {first_line(error)}"
        raise Unusable(msg) from error
    except ValueError as error:
        msg = f"{target}: {error}"
        raise Unusable(msg) from error
    settings = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(path),
        "SQLITE_LOCK_TIMEOUT": str(_LOCK_TIMEOUT),
        "AGGREGATE_CACHE_MAXSIZE": "",  # the actors are the cache
    }
    return Store(target, settings)


def _check_sqlite(path: Path, *, create: bool) -> None:
    if not path.parent.is_dir():
        msg = f"there is no folder {path.parent}; make it first"
        raise ValueError(msg)
    if not path.exists():
        if not create:
            msg = "there is no such store; import transactions into it first"
            raise ValueError(msg)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            msg = f"no file can be made in the folder {path.parent}; choose another"
            raise ValueError(msg)
        return
    if not path.is_file():
        msg = "is not a file; give the path of a SQLite file, which is made if it is missing"
        raise ValueError(msg)
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        msg = "the file or its folder is read-only; make both writable or choose another store"
        raise ValueError(msg)
    with path.open("rb") as file:
        magic = file.read(len(_SQLITE_MAGIC))
    if magic not in {b"", _SQLITE_MAGIC}:
        msg = "is not a SQLite database; choose another path"
        raise ValueError(msg)
    with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables and "stored_events" not in tables:
        msg = "is the database of another program; choose another path"
        raise ValueError(msg)


def _find_postgres(url: str) -> Store:
    try:
        # Only this store needs it, and the bank runs without.
        import psycopg  # noqa: PLC0415
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415
    except ImportError as error:
        msg = "PostgreSQL needs a driver: pip install 'eventsourcing[postgres]'"
        raise Unusable(msg) from error
    name = "the PostgreSQL database"  # the URL may have a password in it
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        host, port = given.pop("host", ""), given.pop("port", "5432")
        user, password = given.pop("user", "") or getpass.getuser(), given.pop("password", "")
        dbname = given.pop("dbname", user)
        name = f"PostgreSQL {host or 'localhost'}:{port}/{dbname}"
        if given:
            msg = (
                f"{name}: unsupported in the URL: {', '.join(sorted(given))}; "
                "set it by the driver's environment, such as PGSSLMODE"
            )
            raise Unusable(msg)
        with psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        msg = f"{name}: cannot be reached: {first_line(error)}; check the URL and the server"
        raise Unusable(msg) from error
    settings = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": port,
        "POSTGRES_USER": user,
        "POSTGRES_PASSWORD": password,
        "POSTGRES_DBNAME": dbname,
        "POSTGRES_CONNECT_TIMEOUT": str(_RECONNECT_TIMEOUT),
        "AGGREGATE_CACHE_MAXSIZE": "",  # the actors are the cache
    }
    return Store(name, settings)
