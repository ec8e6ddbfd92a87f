"""The connection to a real server is cut while it commits: nothing is lost, doubled or denied."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import eventsourcing.utils
import psycopg
import pytest

from pykka_registry.eventsourcing import OutcomeUnknown, live_aggregates
from tests.eventsourcing.accounts import ADA, Account, Bank, Insertions, balance, open_bank, stored
from tests.eventsourcing.link import Link, Moment, link_to
from tests.eventsourcing.support import Caller, Observed
from tests.support import Gate, poll

if TYPE_CHECKING:
    from collections.abc import Generator

    from eventsourcing.persistence import ApplicationRecorder

    from pykka_registry.eventsourcing import LiveAggregates, LiveRef
    from tests.eventsourcing.support import Store

ONE = Decimal(1)

WRITING = (b"BEGIN",)
ALL = (b"BEGIN", b"SELECT")
"""Statements that an outage lets nobody send."""


class ObservedBank(Bank):
    name = "Bank"

    def construct_recorder(self) -> ApplicationRecorder:
        return Observed(super().construct_recorder())


class Branch:
    """A bank behind a link, and an account in it."""

    def __init__(self, link: Link, bank: Bank, accounts: LiveAggregates[Account]) -> None:
        self.link = link
        self.bank = bank
        self.accounts = accounts
        accounts.create(Account, "Ada")

    def ada(self, command_id: str | None = None) -> LiveRef[Account]:
        return self.accounts.ref(ADA).using(command_id=command_id)

    @property
    def balance(self) -> Decimal:
        """What is stored, by events whose versions have no gaps."""
        account: Account = stored(self.bank)
        assert account.version == 1 + len(account.history)
        return account.balance

    def works(self, before: int) -> None:
        """See that the account is served, and by what is stored."""
        assert self.accounts.ref(ADA).query(balance) == self.balance == before
        assert self.accounts.ref(ADA).call(Account.deposit, ONE) == self.balance == before + 1


@pytest.fixture
def branch(postgres: Store, monkeypatch: pytest.MonkeyPatch) -> Generator[Branch]:
    monkeypatch.setattr(eventsourcing.utils, "sleep", float)  # between the retries: at once
    settings = {"GROUP_COMMIT": "no"}  # the application wraps its recorder itself
    with (
        link_to(postgres) as (link, store),
        open_bank(store, ObservedBank, settings) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        yield Branch(link, bank, accounts)


@pytest.mark.parametrize("command_id", [None, "a"])
@pytest.mark.parametrize("moment", Moment)
def test_a_commit_that_is_cut_off_is_made_once(
    moment: Moment, command_id: str | None, branch: Branch
) -> None:
    """The library's recorder connects and tries again; then it may meet its own events."""
    branch.link.cuts.append(moment)
    assert branch.ada(command_id).call(Account.deposit, ONE) == branch.balance == 1
    assert branch.link.cut == 1
    branch.works(1)


@pytest.mark.parametrize("command_id", [None, "a"])
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
def test_while_nobody_can_write_it_is_read_what_was_committed(
    moment: Moment, command_id: str | None, branch: Branch
) -> None:
    ada = branch.ada(command_id)
    branch.link.cuts.append(moment)
    branch.link.outage = WRITING
    if moment is Moment.AFTER:
        assert ada.call(Account.deposit, ONE) == 1
    else:
        with pytest.raises(OutcomeUnknown):
            ada.call(Account.deposit, ONE)
    assert branch.link.cut > 1
    branch.link.outage = ()
    assert branch.balance == (moment is Moment.AFTER)
    branch.works(int(branch.balance))


@pytest.mark.parametrize("command_id", [None, "a"])
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
def test_while_nobody_can_read_either_it_is_unknown(
    moment: Moment, command_id: str | None, branch: Branch
) -> None:
    ada = branch.ada(command_id)
    branch.link.cuts.append(moment)
    branch.link.outage = ALL
    with pytest.raises(OutcomeUnknown):
        ada.call(Account.deposit, ONE)
    branch.link.outage = ()
    assert branch.balance == (moment is Moment.AFTER)
    if command_id:
        assert ada.call(Account.deposit, ONE) == branch.balance == 1
    branch.works(int(branch.balance))


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
def test_each_of_those_whose_commit_is_cut_off_together_is_made_once(
    moment: Moment, branch: Branch
) -> None:
    recorder: Any = branch.bank.recorder
    gate = Gate()

    def hold(_events: object) -> None:
        gate.pass_through()

    def cut(_events: object) -> None:
        branch.link.cuts.append(moment)

    insertions = Insertions(recorder.wrapped)
    insertions.before += [hold, cut]
    first = Caller(branch.accounts.create, Account, "the first")
    gate.wait_until_reached()
    others = {name: Caller(branch.accounts.create, Account, name) for name in ("Bob", "Eve")}
    recorder.wait_for_joined(len(others) + 2)  # and Ada's
    gate.open()
    assert first.result.query(balance) == 0
    for name, caller in others.items():
        assert caller.result.call(Account.deposit, ONE) == 1
        assert stored(branch.bank, Account.create_id(name)).version == 2
    assert branch.link.cut == 1
    assert insertions.sizes[:2] == [1, 2]


class Brake:
    """Has the server hold up the commits of a bank, for as long as a session has a lock."""

    def __init__(self, postgres: Store, bank: Bank) -> None:
        recorder: Any = bank.recorder
        schema = postgres.settings["POSTGRES_SCHEMA"]
        self._table = f"{schema}.{recorder.events_table_name}"
        self._session = psycopg.connect(postgres.url, autocommit=True)
        self._key = self._value("SELECT hashtext(%s)", schema)
        self._session.execute(
            f"CREATE FUNCTION {schema}.hold_up() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_advisory_xact_lock({self._key}); RETURN NULL; END $$".encode()
        )
        self._session.execute(
            f"CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON {self._table} DEFERRABLE "
            f"INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.hold_up()".encode()
        )
        self._session.execute("SELECT pg_advisory_lock(%s)", (self._key,))

    def _value(self, query: str, *parameters: object) -> Any:
        row = self._session.execute(query.encode(), parameters).fetchone()
        assert row
        return row[0]

    def holds_a_commit_up(self) -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(self._value(waiting))

    def keeps_another_waiting(self) -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        return bool(self._value(waiting, self._table))

    def release(self) -> None:
        self._session.execute("SELECT pg_advisory_unlock(%s)", (self._key,))

    def close(self) -> None:
        self._session.close()


@pytest.mark.parametrize("command_id", [None, "a"])
def test_a_try_that_overtakes_the_commit_waits_for_it(
    command_id: str | None, postgres: Store, branch: Branch
) -> None:
    with closing(Brake(postgres, branch.bank)) as brake:
        branch.link.cuts.append(Moment.IN_FLIGHT)
        caller = Caller(branch.ada(command_id).call, Account.deposit, ONE)
        poll(lambda: brake.holds_a_commit_up() and brake.keeps_another_waiting())
        assert branch.balance == 0
        brake.release()
        assert caller.result == branch.balance == 1
        branch.works(1)


@pytest.mark.parametrize("command_id", [None, "a"])
def test_what_is_not_stored_yet_is_not_denied(
    command_id: str | None, postgres: Store, branch: Branch
) -> None:
    """It cannot be found, and comes later."""
    ada = branch.ada(command_id)
    with closing(Brake(postgres, branch.bank)) as brake:
        branch.link.cuts.append(Moment.IN_FLIGHT)
        branch.link.outage = WRITING
        with pytest.raises(OutcomeUnknown):
            ada.call(Account.deposit, ONE)
        poll(brake.holds_a_commit_up)
        assert branch.balance == 0
        branch.link.outage = ()
        brake.release()
        poll(lambda: branch.balance == 1)
        if command_id:
            assert ada.call(Account.deposit, ONE) == branch.balance == 1
        branch.works(1)
