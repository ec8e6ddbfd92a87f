"""Processes that share a store, and are killed at any moment: what was acknowledged is there once.

TEST_KILLS is how often they are killed; with TEST_KILLS=50 it takes some minutes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from eventsourcing.persistence import InterfaceError, OperationalError

from pykka_registry.eventsourcing import live_aggregates
from tests.eventsourcing.accounts import Account, Insertions, Refusal, open_bank, stored
from tests.eventsourcing.teller import OWNERS, Order
from tests.support import PATIENCE, poll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsourcing.persistence import StoredEvent

    from pykka_registry.eventsourcing import LiveAggregates
    from tests.eventsourcing.accounts import Bank
    from tests.eventsourcing.support import Store

ROOT = Path(__file__).parent.parent.parent
KILLS = int(os.environ.get("TEST_KILLS", "4"))
LAST_ONES = 30  # commands that are sent after the last kill


class Teller:
    """A process that is started again and again; see `tests.eventsourcing.teller`."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.answers: dict[int, str] = {}
        self._store = store
        self._lock = threading.Lock()

    def start(self, last: int = 10**9) -> None:
        """Go on with the first command that was not acknowledged."""
        first = next(n for n in range(len(self.answers) + 1) if n not in self.answers)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "tests.eventsourcing.teller"),
                *(self.name, str(first), str(last)),
            ],
            cwd=ROOT,
            env=os.environ | self._store.env() | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            if line.endswith("\n"):
                number, answer = json.loads(line)
                # Whoever sends it again gets the first answer.
                assert self.answers.setdefault(number, answer) == answer

    def wait_for(self, more: int) -> None:
        enough = len(self.answers) + more
        poll(lambda: len(self.answers) >= enough or self._popen.poll() is not None)
        assert self._popen.poll() is None, "it has ended by itself"

    def kill(self) -> None:
        self._popen.kill()
        self.end(status=-9)

    def end(self, status: int = 0) -> None:
        assert self._popen.wait(PATIENCE) == status
        self._reader.join(PATIENCE)
        assert self._popen.stdout
        self._popen.stdout.close()

    @property
    def orders(self) -> list[Order]:
        assert sorted(self.answers) == list(range(len(self.answers)))
        return [Order.of(self.name, number) for number in range(len(self.answers))]


def check(
    bank: Bank, accounts: LiveAggregates[Account], orders: Sequence[Order], answers: Sequence[str]
) -> None:
    """Compare what was acknowledged with what is stored."""
    assert len(orders) == len(answers) > 0
    balances = dict.fromkeys(OWNERS, Decimal(0))
    events = dict.fromkeys(OWNERS, 1)
    refused = 0
    for order, answer in zip(orders, answers, strict=True):
        receipt = accounts.receipt(order.id)
        assert receipt is not None, f"{order} was acknowledged, and is lost"
        if receipt.refusal is None:
            assert answer == str(receipt.result)
            balances[order.owner] += order.amount if order.is_deposit else -order.amount
            events[order.owner] += 1
        else:
            assert answer == f"refused: {receipt.arguments[1]}"
            refused += 1
    assert refused < len(orders)
    for owner in OWNERS:
        account: Account = stored(bank, Account.create_id(owner))
        assert account.balance == balances[owner]
        versions = [event.originator_version for event in bank.events.get(account.id)]
        assert versions == list(range(1, events[owner] + 1))
    assert bank.recorder.max_notification_id() is not None
    log = bank.recorder.select_notifications(None, 1_000_000)
    assert len(log) == sum(events.values()) + len(orders)


@pytest.mark.parametrize("kind", ["sqlite_file", "postgres"])
def test_processes_that_are_killed_at_any_moment_lose_nothing_and_double_nothing(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(kind)
    with open_bank(store) as bank:  # and with it the tables
        tellers = [Teller("left", store), Teller("right", store)]
        for teller in tellers:
            teller.start()
        for number in range(KILLS):
            victim = tellers[number % 2]
            victim.wait_for(random.randint(1, 40))
            victim.kill()
            victim.start()
        for teller in tellers:
            teller.wait_for(1)
            teller.kill()
        for teller in tellers:
            teller.start(last=max(teller.answers) + LAST_ONES)
        for teller in tellers:
            teller.end()
        with live_aggregates(bank, Account) as accounts:
            orders = [order for teller in tellers for order in teller.orders]
            answers = [teller.answers[n] for teller in tellers for n in sorted(teller.answers)]
            check(bank, accounts, orders, answers)


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_fails_at_random_loses_nothing_and_doubles_nothing(
    seed: int, store: Store
) -> None:
    chance = random.Random(seed)
    with (
        open_bank(store) as bank,
        live_aggregates(bank, Account, refusals=[Refusal], retries=1000) as here,
        live_aggregates(bank, Account, refusals=[Refusal], retries=1000) as there,
    ):
        for owner in OWNERS:
            here.create(Account, owner)
        faulty = Faulty(bank, chance)
        orders = [Order.of(str(seed), number) for number in range(60)]

        def send(number: int) -> str:
            return orders[number].send((here, there)[number % 2])

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(send, range(len(orders))))
            again = list(threads.map(send, reversed(range(len(orders)))))
        assert answers == again[::-1]
        assert min(faulty.failures.values()) > 0
        faulty.mend()
        check(bank, here, orders, answers)


class Faulty:
    """Has the store of an application fail, now and then."""

    def __init__(self, bank: Bank, chance: random.Random) -> None:
        self.failures = {"before": 0, "after": 0, "reading": 0}
        self._chance = chance
        self._recorder = bank.recorder
        self._mended = False
        insertions = Insertions(bank.recorder)
        self._insert = insertions.insert_events
        self._select = bank.recorder.select_events
        vars(bank.recorder)["insert_events"] = self._insert_events
        vars(bank.recorder)["select_events"] = self._select_events

    def mend(self) -> None:
        self._mended = True

    def _fail(self, moment: str) -> None:
        if not self._mended and self._chance.random() < 0.2:
            self.failures[moment] += 1
            raise self._chance.choice([OperationalError, InterfaceError])(moment)

    def _insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: object
    ) -> Sequence[int] | None:
        self._fail("before")
        ids = self._insert(stored_events, **kwargs)
        self._fail("after")
        return ids

    def _select_events(self, *args: object, **kwargs: object) -> Sequence[StoredEvent]:
        self._fail("reading")
        return self._select(*args, **kwargs)  # type: ignore[arg-type]
