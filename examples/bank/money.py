"""Exact amounts of money: read, add, write, and never round."""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

MAX_DIGITS = 30
"""The longest amount that is read, in digits before and after the point together."""

ZERO = Decimal(0)

# Wide enough for the sum of more amounts of MAX_DIGITS than any store can hold; if it ever
# were not, the trap makes the sum an error instead of a rounded balance.
_EXACT = Context(prec=4 * MAX_DIGITS, traps=[Inexact, InvalidOperation, Overflow])

_PLAIN_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def parse_amount(text: str) -> Decimal:
    """Read a plain decimal such as `12.50`, `-3` or `+7.1`.

    Raises:
        ValueError: for anything else: an exponent, `NaN`, blanks, a comma, too many digits.
    """
    if not _PLAIN_DECIMAL.fullmatch(text):
        msg = f"amount {text[:40]!r} is not a plain decimal such as -12.50"
        raise ValueError(msg)
    if len(text) > MAX_DIGITS and sum(map(str.isdigit, text)) > MAX_DIGITS:
        msg = f"amount has more than {MAX_DIGITS} digits"
        raise ValueError(msg)
    return Decimal(text)


def add(left: Decimal, right: Decimal) -> Decimal:
    """Add two amounts exactly, whatever the thread's own decimal context is."""
    return _EXACT.add(left, right)


def negated(amount: Decimal) -> Decimal:
    """Change the sign; Python's own minus would round to the thread's decimal context."""
    return amount.copy_negate()


def plain(amount: Decimal) -> str:
    """Write an amount with all its digits and without an exponent."""
    return format(amount, "f")
