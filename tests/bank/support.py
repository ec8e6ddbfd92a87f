"""What the bank's tests share: files, stores, and the program as a process of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from examples.bank.domain import Account, Transaction
from examples.bank.store import find_store
from examples.bank.transactions import HEADER
from pykka_registry.eventsourcing import _live
from pykka_registry.eventsourcing._turn import LiveActor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import pytest

    from examples.bank.application import Bank
    from pykka_registry.eventsourcing._turn import Setup

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0  # seconds until a process that should have ended is taken for hanging
DAY = date(2024, 2, 29)

Columns = tuple[str, str, str, str]


def tx(number: str = "1", account: str = "A", amount: str = "1.00", on: date = DAY) -> Transaction:
    return Transaction(number, account, on, Decimal(amount))


def make_rows(count: int, accounts: int, *, first: int = 1) -> list[Columns]:
    """Rows whose balances are easy to tell: amounts are all different, accounts interleave."""
    return [
        (str(number), str(number * 7 % accounts), "2024-02-29", f"{number % 3 - 1}.{number:05}")
        for number in range(first, first + count)
    ]


def write_csv(path: Path, rows: Iterable[Columns]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path


def sums(rows: Iterable[Columns]) -> dict[str, Decimal]:
    balances: dict[str, Decimal] = {}
    for _, account, _, amount in rows:
        balances[account] = balances.get(account, Decimal(0)) + Decimal(amount)
    return balances


def read_balances(path: Path) -> dict[str, Decimal]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["account_id"]: Decimal(row["balance"]) for row in csv.DictReader(file)}


@contextmanager
def open_bank(db: str | Path) -> Generator[Bank]:
    bank = find_store(str(db), create=True).open()
    try:
        yield bank
    finally:
        bank.close()


def stored_balances(db: str | Path) -> dict[str, Decimal]:
    """Read every account, and on the way prove that no account is in the store twice."""
    with open_bank(db) as bank:
        ids = list(bank.account_ids())
        assert len(ids) == len(set(ids))
        accounts = [bank.account(account_id) for account_id in ids]
        return {account.account_id: account.balance for account in accounts if account}


def access_by_mode(path: str | Path, mode: int) -> bool:
    """Answer like `os.access` to anybody but root, who may write anywhere."""
    return not mode & os.W_OK or bool(Path(path).stat().st_mode & 0o200)


class Referee:
    """Counts the live actors of each registry from outside, from first line to last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[object, Counter[object]] = {}
        self.most = 0
        self.most_per_account = 0
        self.activations = 0

    def enter(self, registry: object, key: object) -> None:
        with self._lock:
            live = self._live.setdefault(registry, Counter())
            live[key] += 1
            self.activations += 1
            self.most = max(self.most, live.total())
            self.most_per_account = max(self.most_per_account, live[key])

    def leave(self, registry: object, key: object) -> None:
        with self._lock:
            self._live[registry][key] -= 1


def watched_by(referee: Referee) -> type[LiveActor]:
    class WatchedActor(LiveActor):
        def __init__(self, setup: Setup) -> None:
            referee.enter(self.registry.actor_urn, self.key)
            super().__init__(setup)

        def on_stop(self) -> None:
            super().on_stop()
            referee.leave(self.registry.actor_urn, self.key)

    return WatchedActor


def watch(monkeypatch: pytest.MonkeyPatch) -> Referee:
    """Have a referee count all live aggregates from now on."""
    referee = Referee()
    monkeypatch.setattr(_live, "LiveActor", watched_by(referee))
    return referee


BOOK = Account.book
"""The original."""


def replace_book(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Decimal]) -> None:
    """Have another function in the place of `Account.book`, which it is known by."""
    function.__name__ = BOOK.__name__
    monkeypatch.setattr(Account, BOOK.__name__, function)


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    status: int
    out: str
    err: str


class Running:
    """The program, or a piece of code that runs it in its own way, in a process of its own."""

    def __init__(self, *command: str, cwd: Path, out: Path | None = None) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SQLITE_", "POSTGRES_"))
        }
        path = [str(ROOT), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "COLUMNS": "200"}
        with out.open("w") if out else nullcontext(subprocess.PIPE) as stdout:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=cwd,
                env=environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
            )

    def read_line(self) -> str:
        """Wait for a line of its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def press_ctrl_c(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> Ended:
        """Wait for its end."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
        return Ended(self._process.returncode, out or "", err)


def run_bank(*arguments: str, cwd: Path, out: Path | None = None) -> Ended:
    return Running("-W", "error", "-m", "examples.bank", *arguments, cwd=cwd, out=out).end()


# Runs the program after some code of the test's own, which decides what goes wrong and when.
_SABOTAGED = """
import sys
from examples.bank.cli import main
{sabotage}
sys.exit(main(sys.argv[1:]))
"""


def start_sabotaged(sabotage: str, *arguments: str, cwd: Path) -> Running:
    code = _SABOTAGED.format(sabotage=sabotage)
    return Running("-W", "error", "-c", code, *arguments, cwd=cwd)
