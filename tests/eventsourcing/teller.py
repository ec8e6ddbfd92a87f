"""A process that keeps accounts busy until it is killed, or has sent all of its commands.

    python -m tests.eventsourcing.teller NAME FIRST LAST

The settings of its store are in the environment. What each command is follows from the process's
name and the command's number; so whoever is started again with the same name sends the same ones.
Each answer is a line of JSON on standard output.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from eventsourcing.persistence import PersistenceError

from pykka_registry.eventsourcing import live_aggregates
from tests.eventsourcing.accounts import Account, Bank, Overdrawn, Refusal

if TYPE_CHECKING:
    from pykka_registry.eventsourcing import LiveAggregates

OWNERS = ["Ada", "Eve", "Joe"]
THREADS = 4


@dataclass(frozen=True)
class Order:
    """One command."""

    id: str
    owner: str
    is_deposit: bool
    amount: Decimal

    @classmethod
    def of(cls, name: str, number: int) -> Order:
        chance = random.Random(f"{name} {number}")
        owner = chance.choice(OWNERS)
        return cls(f"{name} {number}", owner, chance.random() < 0.6, Decimal(chance.randint(1, 99)))

    def send(self, accounts: LiveAggregates[Account]) -> str:
        """Carry it out, whatever the store does; return the answer."""
        while True:
            try:
                return self.send_once(accounts)
            except PersistenceError:
                continue

    def send_once(self, accounts: LiveAggregates[Account]) -> str:
        """Carry it out, or fail as the store does."""
        account = accounts.ref(Account.create_id(self.owner)).using(command_id=self.id)
        method = Account.deposit if self.is_deposit else Account.withdraw
        try:
            return str(account.call(method, self.amount))
        except Overdrawn as refusal:
            return f"refused: {refusal.args[1]}"


def main() -> None:
    name, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    numbers = itertools.count(first)
    telling = threading.Lock()
    bank = Bank(env=dict(os.environ))
    with live_aggregates(bank, Account, refusals=[Refusal], retries=1000, max_live=2) as accounts:
        for owner in OWNERS:
            accounts.get_or_create(Account, owner)

        def work() -> None:
            for number in numbers:
                if number >= last:
                    return
                answer = Order.of(name, number).send(accounts)
                with telling:
                    sys.stdout.write(json.dumps([number, answer]) + "\n")
                    sys.stdout.flush()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bank.close()


if __name__ == "__main__":
    main()
