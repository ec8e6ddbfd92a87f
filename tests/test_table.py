"""The table's own rules, which no sequence of calls from outside can break."""

from __future__ import annotations

import pytest

from pykka_registry import RegistryStopped
from pykka_registry._entry import AFTER, Entry, State
from pykka_registry._table import Table
from tests.support import Counting


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_a_state_follows_another_only_as_the_table_says(before: State, after: State) -> None:
    table = Table(None, "table")
    entry = Entry("a", table, state=before, ref=Counting().actor_ref)
    if before is State.ACTIVE:
        table.active["a"] = Counting().actor_ref
    if after in AFTER[before]:
        table._move(entry, after)
        assert entry.state is after
        assert ("a" in table.active) is (after is State.ACTIVE)
    else:
        with pytest.raises(AssertionError, match=f"{before} is never followed by {after}"):
            table._move(entry, after)
        assert entry.state is before


def test_a_table_that_has_no_registry_yet_can_be_forked() -> None:
    table = Table(None, "table")
    table.forked()
    with pytest.raises(RegistryStopped, match="forked"):
        table.get("a")


def test_a_table_that_has_no_registry_yet_drains_for_nobody() -> None:
    assert Table(None, "table").close("closed") == []
