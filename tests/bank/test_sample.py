"""The sample is made up, and is the same for everybody."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

from examples.bank.sample import sample_csv, sample_rows
from examples.bank.transactions import Row, open_transactions
from tests.bank.support import Running

if TYPE_CHECKING:
    from pathlib import Path


def test_the_sample_is_the_same_everywhere_and_for_ever() -> None:
    content = "\n".join(sample_csv())
    assert (
        hashlib.sha256(content.encode()).hexdigest()
        == "a4917be2040b7dba6c62bddbfae08705d8467b81fa1e71f3733b8c0373bc7d50"
    )


def test_the_sample_has_thousands_of_rows_and_accounts_that_interleave() -> None:
    rows = list(sample_rows())
    assert len(rows) == len({row[0] for row in rows}) == 6000
    assert len({row[1] for row in rows}) == 2000
    assert all(before[2] <= after[2] for before, after in pairwise(rows))
    assert sum(before[1] == after[1] for before, after in pairwise(rows)) < 100


def test_the_script_prints_a_file_that_can_be_read(tmp_path: Path) -> None:
    made = Running("-m", "examples.bank.sample", "--rows", "50", "--accounts", "7", cwd=tmp_path)
    path = tmp_path / "my.csv"
    path.write_text(made.end().out)
    with open_transactions(str(path)) as transactions:
        rows = list(transactions)
    assert len([row for row in rows if isinstance(row, Row)]) == len(rows) == 50
    assert "\n".join(sample_csv(50, 7)) + "\n" == path.read_text()
