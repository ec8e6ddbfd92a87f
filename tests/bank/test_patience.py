"""Patience with a busy store: it is asked again, for so long, and not once the bank is closing."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import (
    ConnectionUnavailableError,
    OperationalError,
    PersistenceError,
    StoredEvent,
)
from eventsourcing.popo import POPOApplicationRecorder

from examples.bank import patience
from examples.bank.patience import BankIsClosing, PatientRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOCKED = OperationalError("database is locked")
EVENT = StoredEvent(uuid4(), 1, "topic", b"state")


class BusyRecorder(POPOApplicationRecorder):
    """Fails so many times before it does what it is asked."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.attempts = 0

    def _fail(self) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        self._fail()
        return super().insert_events(stored_events, **kwargs)

    def select_events(self, *args: Any, **kwargs: Any) -> Sequence[StoredEvent]:
        self._fail()
        return super().select_events(*args, **kwargs)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSE", 0.0)


def test_a_store_that_is_busy_for_a_moment_is_asked_again() -> None:
    busy = BusyRecorder(*[LOCKED] * 50, ConnectionUnavailableError("none left"))
    recorder = PatientRecorder(busy, threading.Event())
    assert recorder.insert_events([EVENT]) == [1]
    assert busy.attempts == 52
    busy.errors += [LOCKED] * 5
    assert list(recorder.select_events(EVENT.originator_id)) == [EVENT]


def test_patience_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    recorder = PatientRecorder(BusyRecorder(*[LOCKED] * 50), threading.Event())
    with pytest.raises(OperationalError, match="is locked"):
        recorder.insert_events([EVENT])


def test_what_will_not_pass_is_told_at_once() -> None:
    busy = BusyRecorder(OperationalError("disk is full"))
    with pytest.raises(OperationalError, match="full"):
        PatientRecorder(busy, threading.Event()).insert_events([EVENT])
    assert busy.attempts == 1


def test_once_the_bank_is_closing_a_busy_store_is_not_asked_again() -> None:
    closing = threading.Event()

    class ClosingRecorder(BusyRecorder):
        def _fail(self) -> None:
            closing.set()
            super()._fail()

    busy = ClosingRecorder(LOCKED)
    with pytest.raises(BankIsClosing):
        PatientRecorder(busy, closing).insert_events([EVENT])
    assert busy.attempts == 1


def test_once_the_bank_is_closing_the_store_is_not_asked() -> None:
    closing = threading.Event()
    recorder = PatientRecorder(POPOApplicationRecorder(), closing)
    uses: list[Callable[[], object]] = [
        partial(recorder.insert_events, [EVENT]),
        partial(recorder.select_events, EVENT.originator_id),
        partial(recorder.select_notifications, None, 1),
        recorder.max_notification_id,
    ]
    for use in uses:
        assert use()
    closing.set()
    for use in uses:
        with pytest.raises(BankIsClosing) as raised:
            use()
        assert isinstance(raised.value, PersistenceError)
