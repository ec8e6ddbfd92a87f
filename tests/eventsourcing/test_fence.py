"""An owner that has been replaced can store nothing."""

from __future__ import annotations

import pickle
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pytest
from eventsourcing import postgres as library_postgres
from eventsourcing import sqlite as library_sqlite
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    Tracking,
)
from eventsourcing.utils import get_topic

from pykka_registry.eventsourcing import Fence, Fenced, GroupCommitRecorder, claim
from pykka_registry.eventsourcing.postgres import (
    FencedPostgresApplicationRecorder,
    FencedPostgresProcessRecorder,
)
from pykka_registry.eventsourcing.sqlite import (
    FencedSQLiteApplicationRecorder,
    FencedSQLiteProcessRecorder,
)
from tests.eventsourcing.support import Caller, Store, ids_in_log
from tests.eventsourcing.support import event as new_event
from tests.support import PATIENCE, Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from eventsourcing.persistence import ApplicationRecorder, StoredEvent


@pytest.fixture(params=["yes", "no"], ids=["group commit", "plain"])
def recorder(store: Store, request: pytest.FixtureRequest) -> Generator[ApplicationRecorder]:
    with store.recorder(GROUP_COMMIT=request.param) as recorder:
        assert isinstance(recorder, GroupCommitRecorder) is (request.param == "yes")
        yield recorder


def test_each_claim_of_a_name_raises_its_epoch(recorder: ApplicationRecorder) -> None:
    assert claim(recorder, "shard") == Fence("shard", 1)
    assert claim(recorder, "shard") == Fence("shard", 2)
    assert claim(recorder, "other") == Fence("other", 1)


def test_a_claim_stores_no_event(recorder: ApplicationRecorder) -> None:
    claim(recorder, "shard")
    assert recorder.max_notification_id() is None


def test_an_owner_stores_until_it_is_replaced(recorder: ApplicationRecorder) -> None:
    old = claim(recorder, "shard")
    assert recorder.insert_events([new_event(), new_event()], fence=old, tracking=None) == [1, 2]
    new = claim(recorder, "shard")
    refused = [new_event(), new_event()]
    with pytest.raises(
        Fenced, match=r"'shard' at epoch 1 has been replaced.* at epoch 2"
    ) as caught:
        recorder.insert_events(refused, fence=old, tracking=None)
    assert (caught.value.owner, caught.value.epoch, caught.value.current) == ("shard", 1, 2)
    assert ids_in_log(recorder, refused) == [-1, -1]
    stored = [new_event()]
    assert recorder.insert_events(stored, fence=new, tracking=None) == ids_in_log(recorder, stored)
    assert recorder.insert_events([new_event()], tracking=None)  # who needs no fence is free


def test_a_save_of_two_owners_is_refused_if_one_has_been_replaced(
    recorder: ApplicationRecorder,
) -> None:
    one, other = claim(recorder, "one"), claim(recorder, "other")
    assert recorder.insert_events([new_event()], fence=(one, other)) == [1]
    claim(recorder, "other")
    with pytest.raises(Fenced):
        recorder.insert_events([new_event()], fence=(one, other))
    assert recorder.max_notification_id() == 1


def test_a_name_that_nobody_has_claimed_is_refused(recorder: ApplicationRecorder) -> None:
    with pytest.raises(Fenced, match="nobody has claimed 'shard' in this store") as caught:
        recorder.insert_events([new_event()], fence=Fence("shard", 1))
    assert caught.value.current is None
    assert recorder.max_notification_id() is None


def test_a_conflict_is_a_conflict_to_the_owner_only(recorder: ApplicationRecorder) -> None:
    old = claim(recorder, "shard")
    taken = new_event()
    recorder.insert_events([taken], fence=old)
    with pytest.raises(IntegrityError):
        recorder.insert_events([taken], fence=old)
    claim(recorder, "shard")
    with pytest.raises(Fenced):  # and not a conflict, after which it would load and try again
        recorder.insert_events([taken], fence=old)


def test_claims_at_the_same_time_have_different_epochs(recorder: ApplicationRecorder) -> None:
    callers = [Caller(claim, recorder, "shard") for _ in range(8)]
    assert sorted(caller.result.epoch for caller in callers) == list(range(1, 9))


def test_what_tracking_says_is_refused_with_the_events(store: Store) -> None:
    with store.process_recorder() as recorder:
        old = claim(recorder, "shard")
        recorder.insert_events([new_event()], tracking=Tracking("upstream", 1), fence=old)
        claim(recorder, "shard")
        for tracking in (Tracking("upstream", 2), Tracking("upstream", 1)):
            with pytest.raises(Fenced):
                recorder.insert_events([new_event()], tracking=tracking, fence=old)
        assert recorder.max_tracking_id("upstream") == 1
        assert recorder.max_notification_id() == 1


class Dog(Aggregate):
    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


def test_an_application_that_nobody_has_changed_saves_with_a_fence(store: Store) -> None:
    with Application[Any](env=store.env()) as application:
        old = claim(application.recorder, "dogs")
        fido, rex = Dog("Fido"), Dog("Rex")
        recordings = application.save(fido, rex, fence=old)
        assert [recording.notification.id for recording in recordings] == [1, 2]
        new = claim(application.recorder, "dogs")
        fido.add_trick("roll over")
        rex.add_trick("play dead")
        with pytest.raises(Fenced):
            application.save(fido, rex, fence=old)
        same_fido: Dog = application.repository.get(fido.id)
        assert same_fido.tricks == []
        same_fido.add_trick("sit")
        application.save(same_fido, fence=new)


def test_a_fence_is_good_in_another_process(sqlite_file: Store) -> None:
    with sqlite_file.recorder() as mine, sqlite_file.recorder() as theirs:
        fence: Fence = pickle.loads(pickle.dumps(claim(mine, "shard")))  # noqa: S301  # our own
        assert theirs.insert_events([new_event()], fence=fence) == [1]
        claim(theirs, "shard")
        with pytest.raises(Fenced):
            mine.insert_events([new_event()], fence=fence)


def test_a_fence_costs_nobody_anything_who_has_none(postgres: Store) -> None:
    class Strict(FencedPostgresApplicationRecorder):
        def _insert_events(self, curs: Any, stored_events: Any, **kwargs: Any) -> None:
            no_cursor: Any = None  # nothing may be asked of the database here
            super()._insert_events(no_cursor, stored_events, **kwargs)

    with postgres.factory() as factory:
        assert isinstance(factory, library_postgres.PostgresFactory)
        recorder = Strict(factory.datastore)
        recorder.create_table()
        assert recorder.insert_events([new_event()], tracking=None) == [1]


# Where it would not hold.


def test_a_store_without_fences_refuses_a_claim(store: Store) -> None:
    with (
        store.as_the_librarys().recorder() as recorder,
        pytest.raises(TypeError, match=r"ApplicationRecorder cannot check a fence: set PERSIST"),
    ):
        claim(recorder, "shard")


class Forgetful(FencedSQLiteApplicationRecorder):
    """Overrides the extension point and forgets the keyword arguments."""

    def _insert_events(
        self, c: library_sqlite.SQLiteCursor, stored_events: Sequence[StoredEvent], **_: Any
    ) -> Sequence[int] | None:
        return super()._insert_events(c, stored_events)


def test_a_class_that_does_not_check_is_found_out_by_the_claim(sqlite_file: Store) -> None:
    with (
        sqlite_file.recorder(APPLICATION_RECORDER_TOPIC=get_topic(Forgetful)) as recorder,
        pytest.raises(ProgrammingError, match="Forgetful has let a stale fence pass"),
    ):
        claim(recorder, "shard")


def test_a_recorder_class_of_the_users_own_without_fences_refuses_a_claim(
    sqlite_file: Store,
) -> None:
    topic = get_topic(library_sqlite.SQLiteApplicationRecorder)
    with sqlite_file.recorder(APPLICATION_RECORDER_TOPIC=topic) as recorder:
        assert isinstance(recorder, GroupCommitRecorder)
        with pytest.raises(TypeError, match="SQLiteApplicationRecorder cannot check a fence"):
            claim(recorder, "shard")


@pytest.mark.parametrize("group_commit", ["yes", "no"])
def test_database_functions_go_past_a_fence_so_both_are_refused(
    postgres: Store, group_commit: str
) -> None:
    with postgres.recorder(
        POSTGRES_ENABLE_DB_FUNCTIONS="yes", GROUP_COMMIT=group_commit
    ) as recorder:
        assert recorder.insert_events([new_event()]) == [1]
        with pytest.raises(NotSupportedError, match="POSTGRES_ENABLE_DB_FUNCTIONS; switch"):
            claim(recorder, "shard")
        with pytest.raises(NotSupportedError, match="would not be checked"):
            recorder.insert_events([new_event()], fence=Fence("shard", 1))
        assert recorder.max_notification_id() == 1


def test_a_name_of_a_table_that_postgresql_would_cut_off_is_refused(postgres: Store) -> None:
    name = "t" * (library_postgres.PostgresRecorder.MAX_IDENTIFIER_LEN - 3)
    with postgres.factory() as factory:
        assert isinstance(factory, library_postgres.PostgresFactory)
        with pytest.raises(ProgrammingError, match="too long"):
            FencedPostgresApplicationRecorder(factory.datastore, events_table_name=name)


ISOLATION = ("read committed", "repeatable read", "serializable")


class Held(FencedPostgresApplicationRecorder):
    """Can be held up between the check and the insert, or before the check."""

    checked = Gate()
    begun = Gate()
    passed: ClassVar[list[object]] = []

    def _insert_events(self, curs: Any, stored_events: Any, **kwargs: Any) -> None:
        if stored_events:
            curs.execute("SELECT 1")  # now the transaction has its snapshot, if it has only one
            curs.fetchall()
            self.begun.pass_through()
        super()._insert_events(curs, stored_events, **kwargs)
        if stored_events:
            self.passed.append(stored_events)
            self.checked.pass_through()


@pytest.fixture(params=ISOLATION)
def held(
    postgres: Store, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Generator[ApplicationRecorder]:
    level = request.param.replace(" ", r"\ ")
    monkeypatch.setenv("PGOPTIONS", f"-c default_transaction_isolation={level}")
    monkeypatch.setattr(Held, "checked", Gate())
    monkeypatch.setattr(Held, "begun", Gate())
    monkeypatch.setattr(Held, "passed", [])
    with postgres.recorder(APPLICATION_RECORDER_TOPIC=get_topic(Held)) as recorder:
        yield recorder


def test_a_claim_waits_for_the_save_that_has_been_checked(held: ApplicationRecorder) -> None:
    old = claim(held, "shard")
    Held.begun.open()
    mine = new_event()
    save = Caller(held.insert_events, [mine], fence=old)
    Held.checked.wait_until_reached()

    def take_over() -> list[int]:
        claim(held, "shard")
        return ids_in_log(held, [mine])

    successor = Caller(take_over)
    wait_until_blocked(held, unless=successor.is_done)
    Held.checked.open()
    assert save.result == [1]
    assert successor.result == [1], "the predecessor's save came after its successor had loaded"


def test_a_save_that_has_begun_before_a_claim_is_checked_after_it(
    held: ApplicationRecorder,
) -> None:
    old = claim(held, "shard")
    Held.checked.open()
    save = Caller(held.insert_events, [new_event()], fence=old)
    Held.begun.wait_until_reached()
    new = claim(held, "shard")
    Held.begun.open()
    assert isinstance(save.error, Fenced)
    assert save.error.current == new.epoch
    assert held.max_notification_id() is None


def test_a_claim_is_not_overtaken_by_saves_that_come_after_it(held: ApplicationRecorder) -> None:
    old = claim(held, "shard")
    Held.begun.open()
    first = Caller(held.insert_events, [new_event()], fence=old)
    Held.checked.wait_until_reached()
    successor = Caller(claim, held, "shard")
    wait_until_blocked(held, unless=successor.is_done)
    # Were it let in, there could always be another one before that one ends.
    second = Caller(unwrapped(held).insert_events, [new_event()], fence=old)
    wait_until_blocked(held, 2, unless=lambda: len(Held.passed) > 1)
    Held.checked.open()
    assert first.result == [1]
    assert successor.result.epoch == 2
    assert isinstance(second.error, Fenced)


def unwrapped(recorder: ApplicationRecorder) -> ApplicationRecorder:
    assert isinstance(recorder, GroupCommitRecorder)
    return recorder.wrapped


def wait_until_blocked(
    recorder: Any, count: int = 1, *, unless: Callable[[], bool] = lambda: False
) -> None:
    """Wait until so many transactions of PostgreSQL wait for others."""
    deadline = monotonic() + PATIENCE
    with recorder.datastore.get_connection() as connection:
        blocked = 0
        while blocked < count and not unless():
            assert monotonic() < deadline, "nobody has to wait"
            row = connection.execute(
                "SELECT count(DISTINCT pid) AS blocked FROM pg_locks WHERE NOT granted"
            ).fetchone()
            blocked = row["blocked"]


def test_a_claim_is_durable_even_where_other_commits_are_not(
    postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c synchronous_commit=off")
    schema = postgres.settings["POSTGRES_SCHEMA"]
    with postgres.recorder() as recorder, psycopg.connect(postgres.url, autocommit=True) as other:
        other.execute(
            f"""
            CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('synchronous_commit') = 'off' THEN
                    RAISE EXCEPTION 'this claim would not be durable';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER durable BEFORE INSERT OR UPDATE ON {schema}.stored_events_fence
                FOR EACH ROW EXECUTE FUNCTION {schema}.refuse();
            """.encode()
        )
        assert claim(recorder, "shard").epoch == 1
        assert claim(recorder, "shard").epoch == 2


# What the library has to go on doing for that.


def test_the_librarys_recorders_still_have_the_extension_point(
    sqlite_file: Store, postgres: Store
) -> None:
    """`_insert_events(cursor, events, **kwargs)`: in the transaction of the save, told everything.

    It is the one private name of the library that the fences rely on.
    """
    told: list[tuple[int, dict[str, Any]]] = []

    class SQLite(FencedSQLiteProcessRecorder):
        def _insert_events(self, c: Any, stored_events: Any, **kwargs: Any) -> Any:
            ids = super()._insert_events(c, stored_events, **kwargs)
            told.append((len(stored_events), kwargs))
            assert ids
            assert len(ids) == len(stored_events)
            raise ZeroDivisionError

    class Postgres(FencedPostgresProcessRecorder):
        def _insert_events(self, curs: Any, stored_events: Any, **kwargs: Any) -> None:
            super()._insert_events(curs, stored_events, **kwargs)
            told.append((len(stored_events), kwargs))
            raise ZeroDivisionError

    tracking = Tracking("upstream", 1)
    with ExitStack() as stack:
        factories = [stack.enter_context(store.factory()) for store in (sqlite_file, postgres)]
        for factory, kind in zip(factories, (SQLite, Postgres), strict=True):
            datastore: Any = vars(factory)["datastore"]
            recorder = kind(datastore)
            recorder.create_table()
            with pytest.raises(ZeroDivisionError):
                recorder.insert_events([new_event()], tracking=tracking, custom=7)
            assert recorder.max_notification_id() is None
            assert recorder.max_tracking_id("upstream") is None
    assert told == [(1, {"tracking": tracking, "custom": 7})] * 2
