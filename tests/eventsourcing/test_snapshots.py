"""Snapshots are taken as the library's settings say, and are never in anybody's way."""

from __future__ import annotations

import logging
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.persistence import IntegrityError, OperationalError

from pykka_registry.eventsourcing import LiveAggregates, live_aggregates
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    SnapshottingBank,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)
from tests.support import Gate, poll

if TYPE_CHECKING:
    from eventsourcing.persistence import StoredEvent

    from tests.eventsourcing.support import Store


def versions(bank: SnapshottingBank) -> list[int]:
    assert bank.snapshots is not None
    return [snapshot.originator_version for snapshot in bank.snapshots.get(ADA)]


def deposit(accounts: LiveAggregates[Account], times: int) -> None:
    account = accounts.get_or_create(Account, "Ada")
    for _ in range(times):
        account.call(Account.deposit, Decimal(1))


def break_snapshot(bank: SnapshottingBank, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bank.snapshots is not None
    recorder = bank.snapshots.recorder
    select = recorder.select_events

    def broken(*args: Any, **kwargs: Any) -> list[StoredEvent]:
        return [
            type(event)(event.originator_id, event.originator_version, event.topic, b"{]")
            for event in select(*args, **kwargs)
        ]

    monkeypatch.setattr(recorder, "select_events", broken)


def test_they_are_taken_at_the_library_s_intervals(store: Store) -> None:
    with open_bank(store, SnapshottingBank) as bank:
        with live_aggregates(bank, Account) as accounts:
            deposit(accounts, 4)
            poll(lambda: versions(bank) == [5])
            deposit(accounts, 4)
        with live_aggregates(bank, Account) as accounts:
            deposit(accounts, 1)
            poll(lambda: versions(bank) == [5, 10])
            account = accounts.ref(ADA)
            account.stop()
            reads = count_reads(bank.recorder)
            assert account.query(balance) == 9
            assert reads == [10]


def test_a_caller_does_not_wait_for_one(popo: Store) -> None:
    with (
        open_bank(popo, SnapshottingBank) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        gate = Gate()
        threads: list[int] = []
        insert = bank.snapshots.recorder.insert_events

        def slow(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            gate.pass_through()
            return insert(*args, **kwargs)

        vars(bank.snapshots.recorder)["insert_events"] = slow
        deposit(accounts, 4)  # returns, though the snapshot is held up
        gate.wait_until_reached()
        gate.open()
        poll(lambda: versions(bank) == [5])
        assert threading.get_ident() not in threads


@pytest.mark.parametrize("error", [OperationalError("down"), IntegrityError("taken")])
def test_one_that_cannot_be_stored_is_done_without(
    error: Exception, popo: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with open_bank(popo, SnapshottingBank) as bank:
        vars(bank.snapshots.recorder)["insert_events"] = failing(error)
        with live_aggregates(bank, Account) as accounts:
            deposit(accounts, 5)
        assert stored(bank).balance == 5
    warned = isinstance(error, OperationalError)
    assert ("goes without a snapshot at version 5" in caplog.text) == warned


def test_one_that_cannot_be_read_is_done_without(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_bank(store, SnapshottingBank) as bank:
        with live_aggregates(bank, Account) as accounts:
            deposit(accounts, 5)
            poll(lambda: versions(bank) == [5])
        break_snapshot(bank, monkeypatch)
        with live_aggregates(bank, Account) as accounts:
            assert accounts.ref(ADA).call(Account.deposit, Decimal(1)) == 6
    assert caplog.record_tuples[0][:2] == ("pykka_registry", logging.WARNING)
    assert "with its snapshot it cannot be loaded" in caplog.text


def test_one_that_comes_too_late_is_not_taken(popo: Store) -> None:
    with (
        open_bank(popo, SnapshottingBank) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        gate = Gate()
        account = accounts.create(Account, "Ada")
        held = account.submit(Account.call, gate.pass_through)
        gate.wait_until_reached()
        taken = account.submit(Account.move, [Decimal(1)] * 4)
        failed = account.submit(Account.move, [Decimal(0)])
        stopped = account.stop(block=False)
        gate.open()
        held.get()
        assert taken.get() == 4
        with pytest.raises(ValueError, match="missing"):
            failed.get()
        stopped.get()
        assert versions(bank) == []


def test_none_is_taken_without_the_setting(popo: Store) -> None:
    with (
        open_bank(popo, settings={"IS_SNAPSHOTTING_ENABLED": "yes"}) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        deposit(accounts, 10)
        accounts.ref(ADA).stop()
        assert versions(bank) == []
