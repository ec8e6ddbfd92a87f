"""Read every account from the store again, and compare with what the actors said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.bank.interrupt import Stopped
from examples.bank.money import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from examples.bank.application import Bank


def balances_in(bank: Bank, wants_to_stop: Callable[[], bool]) -> dict[str, Decimal]:
    """Replay every account in the store.

    Raises:
        Stopped: if the user wants to stop.
    """
    balances: dict[str, Decimal] = {}
    for account_id in bank.account_ids():
        if wants_to_stop():
            raise Stopped
        account = bank.account(account_id)
        if account is not None:
            balances[account_id] = account.balance
    return balances


def disagreements(
    bank: Bank,
    balances: Mapping[str, Decimal],
    last_known: Mapping[str, tuple[int, Decimal]],
) -> list[str]:
    """Say where the store and the actors' last answers differ; an empty list is what we want.

    An answer holds for a version of the account. If another process has booked on it since, the
    store is read as of that version.
    """
    found: list[str] = []
    for account_id, (version, balance) in last_known.items():
        if balances.get(account_id) == balance:
            continue
        account = bank.account(account_id, version)
        if account is None or (account.version, account.balance) != (version, balance):
            stored = "nothing" if account is None else plain(account.balance)
            found.append(
                f"account {account_id!r}: its actor said {plain(balance)} at version {version}, "
                f"the store says {stored}"
            )
    return found
