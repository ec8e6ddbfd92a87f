"""What live aggregates gain: commands per second through them, beside the library alone.

    python -m benchmarks.live_aggregates [--rounds N] [--seconds S] [popo] [sqlite] [postgres]

1,000 accounts have 100 events each. 32 threads deposit on accounts that chance picks. The library
alone does it as its users do: get, command, save, and again after a conflict, with its cache, which
is large enough for all of them and fast-forwards. Live aggregates do it on the persistence module
that shares transactions. Both take turns on one store in one run; the figures are medians of the
rounds. Then 32 threads deposit on one account, and one that has 1,000 events gets its first
command, with a snapshot and without. The exit status tells whether the bars were met.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, OperationalError

from benchmarks.group_commit import STORES
from pykka_registry.eventsourcing import live_aggregates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.group_commit import Settings

CALLERS = 32
ACCOUNTS = 1_000
EVENTS = 100
MANY_EVENTS = 1_000
LEAST_GAIN = {"popo": 3.0, "sqlite": 4.0, "postgres": 5.0}
LEAST_GAIN_OF_A_HOT_ONE = {"sqlite": 20.0}
ONE = Decimal(1)


class Account(Aggregate):
    """What everybody deposits on."""

    class Opened(Aggregate.Created):
        """It is there."""

        number: int

    class Deposited(Aggregate.Event):
        """Money has come."""

        amount: Decimal

    @event(Opened)
    def __init__(self, number: int) -> None:
        """Open it."""
        self.number = number
        self.balance = Decimal(0)

    @staticmethod
    def create_id(number: int) -> UUID:
        """Return its id."""
        return uuid5(NAMESPACE_URL, str(number))

    @event(Deposited)
    def deposit(self, amount: Decimal) -> None:
        """Pay in."""
        self.balance += amount


class Bank(Application[UUID]):
    """The accounts."""

    snapshotting_intervals: ClassVar[dict[type[Any], int]] = {}


def prepare(bank: Bank, first: int, count: int, events: int) -> list[UUID]:
    """Make accounts that have a past; return their ids."""
    for number in range(first, first + count):
        account = Account(number)
        for _ in range(events - 1):
            account.deposit(ONE)
        bank.save(account)
    return [Account.create_id(number) for number in range(first, first + count)]


def measure(deposit: Callable[[UUID], object], ids: Sequence[UUID], seconds: float) -> float:
    """Return the commands per second of all callers."""
    start, over = threading.Barrier(CALLERS + 1), threading.Event()
    done = [0] * CALLERS

    def work(number: int) -> None:
        chance = random.Random(number)
        start.wait()
        while not over.is_set():
            deposit(chance.choice(ids))
            done[number] += 1

    workers = [threading.Thread(target=work, args=[number]) for number in range(CALLERS)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    over.wait(seconds)
    over.set()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - began)


def deposit_alone(bank: Bank, account_id: UUID) -> None:
    """Deposit as the library's users do."""
    while True:
        try:
            account: Account = bank.repository.get(account_id)
            account.deposit(ONE)
            bank.save(account)
        except (IntegrityError, OperationalError):
            continue  # somebody else was faster, or there was no connection
        return


class Contest:
    """The library and live aggregates take turns on one kind of store."""

    def __init__(self, store: str, new_store: Callable[[], Settings], options: Options) -> None:
        """Take the store's name, and what makes settings for a new one."""
        self._store = store
        self._new_store = new_store
        self._options = options
        self.bars: list[tuple[str, float, float]] = []

    def _settings(self, base: Settings, *, live: bool, cache: bool = False) -> Settings:
        module = f"eventsourcing.{self._store}"
        return base | {
            "PERSISTENCE_MODULE": f"pykka_registry.{module}" if live else module,
            "AGGREGATE_CACHE_MAXSIZE": "0" if cache else "",  # 0: as many as there are
        }

    def compete(self, name: str, count: int, *, cache: bool, least: float | None) -> None:
        """Print the figures of the two, and note the bar."""
        base = self._new_store()
        theirs: list[float] = []
        ours: list[float] = []
        with (
            Bank(env=self._settings(base, live=False, cache=cache)) as alone,
            Bank(env=self._settings(base, live=True)) as bank,
            live_aggregates(bank, Account) as accounts,
        ):
            # Each has its own, so that nobody finds what the other has changed.
            their_ids = prepare(alone, 0, count, EVENTS)
            our_ids = prepare(bank, count, count, EVENTS)
            refs = {account_id: accounts.ref(account_id) for account_id in our_ids}
            for account_id in their_ids:
                alone.repository.get(account_id)
            for ref in refs.values():
                ref.query(lambda account: account.balance)
            for _ in range(self._options.rounds):
                theirs.append(
                    measure(lambda i: deposit_alone(alone, i), their_ids, self._options.seconds)
                )
                ours.append(
                    measure(
                        lambda i: refs[i].call(Account.deposit, ONE), our_ids, self._options.seconds
                    )
                )
        one, other = statistics.median(theirs), statistics.median(ours)
        print(f"{name:<46} {one:>8,.0f}/s {other:>8,.0f}/s {other / one:>7.2f}x", flush=True)
        if least is not None:
            self.bars.append((f"{self._store}, {name}", other / one, least))

    def first_command(self) -> None:
        """Print how long the first command takes, with a snapshot and without."""
        settings = self._settings(self._new_store(), live=True) | {"IS_SNAPSHOTTING_ENABLED": "yes"}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        with Bank(env=settings) as bank, live_aggregates(bank, Account) as accounts:
            ids = prepare(bank, 0, 2 * self._options.rounds, MANY_EVENTS)
            for number, account_id in enumerate(ids):
                has_snapshot = number % 2 == 0
                if has_snapshot:
                    bank.take_snapshot(account_id)
                began = time.perf_counter()
                accounts.ref(account_id).call(Account.deposit, ONE)
                seconds[has_snapshot].append(time.perf_counter() - began)
        with_one, without = (1_000 * statistics.median(seconds[has]) for has in (True, False))
        print(
            f"first command on one of {MANY_EVENTS:,} events: {with_one:.1f} ms with a snapshot, "
            f"{without:.1f} ms without: {without / with_one:.1f}x"
        )


class Options(argparse.Namespace):
    """The command line."""

    stores: list[str]
    rounds: int
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Print the figures and their bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description="Commands per second of live aggregates.")
    parser.add_argument("stores", nargs="*", metavar="STORE", help=", ".join(STORES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    options = parser.parse_args(arguments, namespace=Options())
    bars: list[tuple[str, float, float]] = []
    for store in options.stores or STORES:
        with ExitStack() as stack:
            contest = Contest(store, stack.enter_context(STORES[store]()), options)
            print(f"{CALLERS} callers {'the library':>45} {'live':>10} {'ratio':>8}")
            many = f"{ACCOUNTS:,} accounts, with the library's cache"
            contest.compete(many, ACCOUNTS, cache=True, least=LEAST_GAIN[store])
            hot = LEAST_GAIN_OF_A_HOT_ONE.get(store)
            contest.compete("one account, without the cache", 1, cache=False, least=hot)
            contest.compete("one account, with the library's cache", 1, cache=True, least=None)
            contest.first_command()
            bars += contest.bars
    for name, ratio, bar in bars:
        met = "met   " if ratio >= bar else "MISSED"
        print(f"{met} {name}: {ratio:.2f}x (bar: at least {bar:g}x)")
    return 0 if all(ratio >= bar for _, ratio, bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
