"""Amounts are read strictly and added exactly."""

from __future__ import annotations

from decimal import Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.bank.money import MAX_DIGITS, add, negated, parse_amount, plain


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12.50", "12.50"),
        ("-3", "-3"),
        ("+7.1", "7.1"),
        (".5", "0.5"),
        ("0", "0"),
        ("007.00", "7.00"),
        ("9" * MAX_DIGITS, "9" * MAX_DIGITS),
    ],
)
def test_a_plain_decimal_is_read_with_all_its_digits(text: str, amount: str) -> None:
    assert str(parse_amount(text)) == amount


@pytest.mark.parametrize(
    "text",
    [
        *["", " 1", "1 ", "1e3", "1E-3", "NaN", "sNaN", "inf", "-Infinity", "1,5", "1_000", "--1"],
        *[".", "5.", "0x1", "١٢", "1.2.3", "\n1", "1\n", "one", "1" * (MAX_DIGITS + 1)],
    ],
)
def test_what_is_no_plain_decimal_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_amount(text)


@given(st.lists(st.integers(-(10**28) + 1, 10**28 - 1), max_size=50), st.integers(0, 28))
def test_a_sum_is_exact_and_written_without_an_exponent(cents: list[int], places: int) -> None:
    total = Decimal(0)
    for cent in cents:
        digits = f"{abs(cent):0{places + 1}d}"
        whole, fraction = digits[: len(digits) - places], digits[len(digits) - places :]
        sign = "-" if cent < 0 else ""
        total = add(
            total, parse_amount(f"{sign}{whole}.{fraction}" if places else f"{sign}{whole}")
        )
    text = plain(total)
    assert "E" not in text
    assert int(text.replace(".", "")) == sum(cents)


def test_a_sum_that_could_not_be_exact_is_an_error() -> None:
    with pytest.raises(Inexact):
        add(Decimal("1e200"), Decimal("1e-200"))


def test_the_threads_own_decimal_context_rounds_nothing() -> None:
    with localcontext() as context:
        context.prec = 3
        assert plain(add(Decimal("1234.56"), Decimal("0.01"))) == "1234.57"
        assert plain(negated(Decimal("1234.56"))) == "-1234.56"
