"""A save that does not end as it should is looked up in the store: nothing is lost or doubled."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.cipher import AESCipher
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)
from eventsourcing.popo import POPOApplicationRecorder

from pykka_registry.eventsourcing import GroupCommitRecorder, OutcomeUnknown, live_aggregates
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Insertions,
    balance,
    failing,
    open_bank,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventsourcing.persistence import ApplicationRecorder, StoredEvent
    from eventsourcing.utils import EnvType

    from tests.eventsourcing.support import Store

LOST = [OperationalError("lost"), InterfaceError("lost"), RuntimeError("lost"), OutcomeUnknown()]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("command_id", [None, "a"])
def test_a_command_whose_acknowledgement_is_lost_is_done(
    error: Exception, command_id: str | None, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        insertions.after.append(failing(error))
        assert account.using(command_id=command_id).call(Account.deposit, Decimal(1)) == 1
        assert account.query(balance) == stored(bank).balance == 1
        insertions.after.append(failing(error))
        assert accounts.create(Account, "Eve").query(balance) == 0
        assert len(insertions.sizes) == 2
    assert caplog.record_tuples[0][:2] == ("pykka_registry", logging.WARNING)
    assert "the store has failed, but the events" in caplog.text


@pytest.mark.parametrize("command_id", [None, "a"])
@pytest.mark.parametrize("cipher", [False, True])
def test_a_recorder_that_writes_twice_does_it_once(
    command_id: str | None, cipher: bool, postgres: Store
) -> None:
    """As the library's does, if the acknowledgement of its first try is lost."""
    settings = {
        "CIPHER_TOPIC": "eventsourcing.cipher:AESCipher",
        "CIPHER_KEY": AESCipher.create_key(16),
    }
    with (
        open_bank(postgres, settings=settings if cipher else None) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        insert = insertions.insert_events
        insertions.after.append(insert)
        command = account.using(command_id=command_id)
        assert command.call(Account.deposit, Decimal(1)) == 1
        insertions.after.append(insert)
        assert accounts.create(Account, "Eve").query(balance) == 0
        assert len(insertions.sizes) == 4
        assert account.query(balance) == stored(bank).balance == 1


class HookedBank(Bank):
    name = "Bank"

    def __init__(self, env: EnvType | None = None) -> None:
        super().__init__(env)
        self.hooks: list[Callable[..., object]] = []

    def notify(self, new_events: list[Any]) -> None:
        if self.hooks:
            self.hooks.pop(0)(new_events)


def test_an_application_that_fails_afterwards_has_stored(store: Store) -> None:
    with open_bank(store, HookedBank) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        bank.hooks.append(failing(IntegrityError("a read model of yours")))
        assert account.call(Account.deposit, Decimal(1)) == stored(bank).balance == 1


class StubbornRecorder(POPOApplicationRecorder):
    """Somebody's own, which tries again."""

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        super().insert_events(stored_events, **kwargs)
        return super().insert_events(stored_events, **kwargs)


class BankOfStubbornRecorder(Bank):
    name = "Bank"

    def construct_recorder(self) -> ApplicationRecorder:
        return GroupCommitRecorder(StubbornRecorder())


class StubbornBank(Bank):
    name = "Bank"

    def save(self, *objs: Any, **kwargs: Any) -> list[Any]:
        events = [event for obj in objs for event in obj.collect_events()]
        super().save(*events, **kwargs)
        return super().save(*events, **kwargs)


@pytest.mark.parametrize("command_id", [None, "a"])
@pytest.mark.parametrize("cls", [BankOfStubbornRecorder, StubbornBank])
def test_a_store_of_somebodys_own_may_write_twice(
    cls: type[Bank], command_id: str | None, popo: Store
) -> None:
    with open_bank(popo, cls) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada").using(command_id=command_id)
        assert account.call(Account.deposit, Decimal(1)) == 1
        assert stored(bank).balance == 1


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_command_that_was_not_stored_says_so(error: Exception, store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        insertions.before.append(failing(error))
        # What is not there now may still be on its way, if a server has it.
        is_in_doubt = store.kind == "postgres" and isinstance(error, PersistenceError)
        with pytest.raises(OutcomeUnknown if is_in_doubt else type(error)) as raised:
            account.call(Account.deposit, Decimal(1))
        assert error in (raised.value, raised.value.__cause__)
        assert account.query(balance) == stored(bank).balance == 0
        assert account.call(Account.deposit, Decimal(1)) == stored(bank).balance == 1


def test_a_commit_that_comes_while_it_is_looked_up_is_seen(store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        select = bank.recorder.select_events

        def lose(events: Sequence[StoredEvent]) -> None:
            def select_late(*args: Any, **kwargs: Any) -> Sequence[StoredEvent]:
                vars(bank.recorder)["select_events"] = select
                found: Sequence[StoredEvent] = select(*args, **kwargs)
                insertions.insert_events(events)
                return found

            vars(bank.recorder)["select_events"] = select_late
            raise OperationalError("lost")

        insertions.before.append(lose)
        assert account.call(Account.move, [Decimal(1), Decimal(2)]) == 2
        assert account.query(balance) == stored(bank).balance == 3


def test_what_the_store_refuses_is_not_looked_up(popo: Store) -> None:
    with open_bank(popo) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        insertions.before.append(failing(DataError("too large")))
        with pytest.raises(DataError, match="too large"):
            account.call(Account.deposit, Decimal(1))
        assert account.call(Account.deposit, Decimal(1)) == 1


@pytest.mark.parametrize("command_id", [None, "a"])
def test_an_event_that_cannot_be_encoded_is_the_callers_error(
    command_id: str | None, store: Store
) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        with pytest.raises(TypeError, match="not serializable"):
            account.using(command_id=command_id).call(Account.note, object())
        account.call(Account.note, "a word")
        assert stored(bank).version == 2


def test_an_integrity_error_of_something_else_is_the_callers(popo: Store) -> None:
    with open_bank(popo) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        Insertions(bank.recorder).before.append(failing(IntegrityError("a trigger of yours")))
        with pytest.raises(IntegrityError, match="a trigger of yours"):
            account.call(Account.deposit, Decimal(1))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_outcome_that_cannot_be_learned_is_unknown(moment: str, store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada").using(command_id="a")
        insertions = Insertions(bank.recorder)
        select = bank.recorder.select_events

        def break_down(_events: object) -> None:
            vars(bank.recorder)["select_events"] = failing(OperationalError("down"))
            raise OperationalError("going down")

        getattr(insertions, moment).append(break_down)
        with pytest.raises(OutcomeUnknown) as raised:
            account.call(Account.deposit, Decimal(1))
        assert isinstance(raised.value, PersistenceError)
        assert str(raised.value.__cause__) == "going down"
        vars(bank.recorder)["select_events"] = select
        # With a command id it can be sent again, whatever has happened.
        assert account.call(Account.deposit, Decimal(1)) == 1
        assert accounts.ref(ADA).query(balance) == stored(bank).balance == 1


def test_a_rival_at_the_same_version_is_told_from_ourselves(store: Store) -> None:
    """Even if an error says nothing, and it has done nearly the same."""
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)

        def rival(_events: object, amount: int = 1) -> None:
            theirs: Account = stored(bank)
            theirs.deposit(Decimal(amount))
            bank.save(theirs)
            raise OperationalError("lost")

        insertions.before.append(rival)
        assert account.call(Account.deposit, Decimal(1)) == stored(bank).balance == 2

        def close(_events: object) -> None:
            theirs: Account = stored(bank)
            theirs.close()
            bank.save(theirs)

        insertions.before.append(close)
        assert account.call(Account.deposit, Decimal(1)) == 3


@pytest.mark.parametrize("command_id", [None, "a"])
def test_a_rival_that_has_done_the_same_in_the_same_microsecond_is_told_by_the_command_id(
    command_id: str | None, store: Store
) -> None:
    """Or by a store that tries once. Else nothing tells them: a limit, which the docs state."""
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada").using(command_id=command_id)
        insertions = Insertions(bank.recorder)
        insertions.before.append(lambda events: insertions.insert_events(events[:1]))
        expected = 1 if store.kind == "postgres" and not command_id else 2
        assert account.call(Account.deposit, Decimal(1)) == expected
        assert stored(bank).balance == expected


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_it_stores_leaves_what_is_stored(moment: str, popo: Store) -> None:
    with open_bank(popo) as bank, live_aggregates(bank, Account, backoff=(0, 0)) as accounts:
        account = accounts.create(Account, "Ada")
        getattr(Insertions(bank.recorder), moment).append(failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            account.call(Account.deposit, Decimal(1))
        assert account.query(balance) == stored(bank).balance == (moment == "after")
