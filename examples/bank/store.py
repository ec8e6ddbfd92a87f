"""Where the events are kept: a SQLite file or a PostgreSQL database, named by `--db`."""

from __future__ import annotations

import getpass
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eventsourcing.domain import EventSourcingError, OriginatorIDError, OriginatorVersionError
from eventsourcing.persistence import MapperDeserialisationError
from eventsourcing.utils import TopicError

from examples.bank.application import Bank
from examples.bank.interrupt import HOW_TO_GO_ON, Stopped
from examples.bank.patience import is_busy, patiently
from examples.bank.problems import Failed, Unusable
from examples.bank.waiting import never

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

STORE_ERRORS = (EventSourcingError, sqlite3.Error, TopicError)
"""What the library raises when a store fails; some errors of `sqlite3` pass through it."""

_UNREADABLE = (OriginatorIDError, OriginatorVersionError, MapperDeserialisationError, TopicError)

_LOCK_TIMEOUT = 1  # seconds of one attempt; nobody can stop the program in that time
_CONNECTIONS = 33  # for each thread of the pool one, and one more; others come and go
_CONNECT_TIMEOUT = 5  # seconds
_RECONNECT_TIMEOUT = 2  # seconds; the library tries ten times, in case the server only restarts

# What PostgreSQL says to the one that comes second.
_RACES = ("already exists", "duplicate key", "concurrently updated")

_TABLE = "stored_events"
_COLUMNS = {"originator_id", "originator_version", "topic", "state"}
_SQLITE_MAGIC = b"SQLite format 3\0"


def first_line(error: BaseException) -> str:
    """Return an error's text without the details that follow in further lines."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error).strip() or type(error).__name__).splitlines()[0]


def cause_of(error: BaseException) -> str:
    """Say why a store failed."""
    if isinstance(error, _UNREADABLE):
        return "its events are damaged, or another program has written to it"
    if "is locked" in str(error):
        return "another program keeps the store locked"
    return first_line(error)


def explain(error: BaseException) -> str:
    """Say why a store failed, and what to do."""
    is_damaged = isinstance(error, _UNREADABLE) or any(
        text in str(error) for text in ("malformed", "not a database")
    )
    advice = "restore a copy of the store" if is_damaged else HOW_TO_GO_ON
    return f"{cause_of(error)}; {advice}"


@dataclass(frozen=True, slots=True)
class Store:
    """A place for events: its name, and the settings with which the library finds it."""

    name: str
    settings: dict[str, str] = field(repr=False)

    def open(self, wants_to_stop: Callable[[], bool] = never) -> Bank:
        """Return an application on this store, whose tables are made if they are missing.

        Raises:
            Failed: if the store does not let us.
            Stopped: if the user does not want to wait.
        """
        try:
            return _open_patiently(self._open, wants_to_stop)
        except (*STORE_ERRORS, OSError) as error:
            msg = f"{self.name}: the store cannot be opened: {explain(error)}"
            raise Failed(msg) from error

    def _open(self) -> Bank:
        path = self.settings.get("SQLITE_DBNAME")
        if path is None:
            return Bank(env=self.settings)
        # The library switches a new file to the write-ahead log when it connects, and does not
        # close that connection if another process is in the way. With ours open all is switched.
        with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            return Bank(env=self.settings)


def _open_patiently(attempt: Callable[[], T], wants_to_stop: Callable[[], bool] = never) -> T:
    def check() -> None:
        if wants_to_stop():
            raise Stopped

    errors = (*STORE_ERRORS, OSError)
    return patiently(attempt, errors, is_passing=_may_be_a_race, check=check)


def _may_be_a_race(error: BaseException) -> bool:
    # Two processes that make the tables of one new store at the same time get in each other's way,
    # and the second attempt finds them made.
    return is_busy(error) or any(text in str(error) for text in _RACES)


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
        scheme = target.partition("://")[0]  # the rest may have a password in it
        msg = f"{scheme}://...: give the path of a SQLite file or a postgresql:// URL"
        raise Unusable(msg)
    return _find_sqlite(target, create=create)


def _find_sqlite(target: str, *, create: bool) -> Store:
    path = Path(target).absolute()
    if not target or ":memory:" in str(path) or "mode=memory" in str(path):
        msg = f"{target!r}: the events must outlive the program; give the path of a file"
        raise Unusable(msg)
    try:
        target.encode()
    except UnicodeEncodeError as error:
        msg = f"{target!r}: the name of a SQLite file must be UTF-8"
        raise Unusable(msg) from error
    try:
        _check_sqlite(path, create=create)
    except (OSError, sqlite3.Error) as error:
        if is_busy(error):
            msg = f"{target}: {explain(error)}"
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
        "SQLITE_POOL_SIZE": str(_CONNECTIONS),
        "AGGREGATE_CACHE_MAXSIZE": "",  # the actors are the cache
    }
    return Store(target, settings)


def _check_sqlite(path: Path, *, create: bool) -> None:
    if not path.parent.is_dir():
        msg = f"there is no folder {path.parent}; make it first"
        raise ValueError(msg)
    if not _exists(path):
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
    if not _open_patiently(lambda: _is_new_or_ours(path)):
        msg = "is the database of another program; choose another path"
        raise ValueError(msg)


def _exists(path: Path) -> bool:
    # Not `Path.exists`: it also says no to what cannot be, such as a circle of links.
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _is_new_or_ours(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({_TABLE})")}
    return not names or columns == _COLUMNS


def _find_postgres(url: str) -> Store:
    try:
        # Only this store needs it, and the bank runs without.
        import psycopg  # noqa: PLC0415
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415
    except ImportError as error:
        msg = "PostgreSQL needs a driver: pip install 'eventsourcing[postgres]'"
        raise Unusable(msg) from error
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:
        given = {"port": ""}
    host, port = given.pop("host", ""), given.pop("port", "5432")
    user, password = given.pop("user", "") or getpass.getuser(), given.pop("password", "")
    dbname = given.pop("dbname", user)
    if not port.isdecimal() or "@" in host + dbname:
        # The driver's own words repeat the URL, and what it takes for a host, a port or a name
        # may be a piece of a password with special characters in it.
        msg = (
            "--db: the PostgreSQL URL cannot be read; it is postgresql://user:password@host:port/"
            "dbname, and special characters in it are written like %40 for @"
        )
        raise Unusable(msg)
    name = f"PostgreSQL {host or 'localhost'}:{port}/{dbname}"
    if given:
        msg = (
            f"{name}: unsupported in the URL: {', '.join(sorted(given))}; "
            "set it by the driver's environment, such as PGSSLMODE"
        )
        raise Unusable(msg)
    try:
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
