"""The accounts, each live in an actor while it is used: that is all there is to say about actors.

The actor loads its account with the first command, decides, stores, and answers once that is
stored. What is sent with a command id is done once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsourcing.application import AggregateNotFoundError

from examples.bank.domain import Account, Refusal
from examples.bank.transfer import Transfer
from pykka_registry.eventsourcing import live_aggregates

if TYPE_CHECKING:
    from examples.bank.application import Bank
    from pykka_registry.eventsourcing import LiveAggregates, LiveRef

MAX_LIVE = 16
"""How many accounts, or transfers, are live at most, unless told otherwise.

A store takes one writer at a time, and a few actors that wait for it fill its transactions. While
an account waits to be live its rows gather, to be stored together.
"""

TURN = 300.0
"""Seconds that one with a message waits for its turn to be live."""

_REFUSALS = (Refusal, AggregateNotFoundError)
"""What is an answer, which stays once it is given: were it forgotten, a repeated step of a transfer
could be refused here and accepted there, and money would be lost between."""


def live_accounts(bank: Bank, *, max_live: int = MAX_LIVE) -> LiveAggregates[Account]:
    """Return the accounts of a bank; close them with `with`.

    There are many more of them than may be live: a command activates its account, and one that has
    nothing to do makes way for it.
    """
    return live_aggregates(
        bank,
        Account,
        refusals=_REFUSALS,
        name="accounts",
        max_live=max_live,
        start_timeout=TURN,
    )


def account_of(accounts: LiveAggregates[Account], account_id: str) -> LiveRef[Account]:
    """Return the address of an account, which need not be open."""
    return accounts.ref(Account.create_id(account_id))


def live_transfers(bank: Bank, *, max_live: int = MAX_LIVE) -> LiveAggregates[Transfer]:
    """Return the transfers of a bank; close them with `with`."""
    return live_aggregates(bank, Transfer, name="transfers", max_live=max_live, start_timeout=TURN)
