"""The table's own rules, which no sequence of calls from outside can break."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from pykka_registry import RegistryStopped, Undeliverable
from pykka_registry._entry import AFTER, Blueprint, Entry, Incarnation, State
from pykka_registry._future import Future
from pykka_registry._inbox import Letter
from pykka_registry._policy import Policy
from pykka_registry._table import Table
from tests.support import Counting


def a_table() -> Table:
    return Table(None, "table", Policy())


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_a_state_follows_another_only_as_the_table_says(before: State, after: State) -> None:
    table = a_table()
    ref: Any = Counting().actor_ref
    entry = Entry("a", table, state=before, ref=ref)
    entry.incarnation = Incarnation(entry, Blueprint(Counting, (), {}), None)
    if before is not State.ABSENT:
        table._entries["a"] = entry
    if before is State.ACTIVE:
        table.active["a"] = ref
    if after in AFTER[before]:
        table._move(entry, after)
        assert entry.state is after
        assert ("a" in table.active) is (after is State.ACTIVE)
        assert ("a" in table._entries) is (after is not State.ABSENT)
    else:
        with pytest.raises(AssertionError, match=f"{before} is never followed by {after}"):
            table._move(entry, after)
        assert entry.state is before


def test_a_table_that_has_no_registry_yet_can_be_forked() -> None:
    table = a_table()
    table.forked()
    with pytest.raises(RegistryStopped, match="forked"):
        table.get("a")


def test_a_table_that_has_no_registry_yet_drains_for_nobody() -> None:
    table = a_table()
    table.close("closed", 0)
    assert table.retire()


def test_one_that_is_out_already_is_cut_off_from_who_waits_for_it() -> None:
    table = a_table()
    entry, future = Entry("a", table), Future[int]()
    table._queue(entry, Letter("x", future))
    table._change(functools.partial(table._cut_off, entry, ValueError("no")))
    with pytest.raises(Undeliverable, match="cannot be hashed or compared any more"):
        future.get(timeout=0)
    assert entry.state is State.ABSENT
    assert table._queued == 0


def test_a_key_that_nobody_runs_needs_no_rescue() -> None:
    table = a_table()
    entry = Entry("a", table)
    entry.rescue()
    assert entry.help(Future()) is False
    assert entry.state is State.ABSENT
