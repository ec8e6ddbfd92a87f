"""The library's own published test cases pass, on every store and with group commit."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import TestCase

import pytest
from eventsourcing import popo, postgres, sqlite
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    TrackingRecorder,
)
from eventsourcing.tests import application as published_application
from eventsourcing.tests import persistence as published
from eventsourcing.utils import Environment, get_topic

import pykka_registry.eventsourcing.popo as our_popo
import pykka_registry.eventsourcing.postgres as our_postgres
import pykka_registry.eventsourcing.sqlite as our_sqlite
from pykka_registry.eventsourcing import GroupCommitProcessRecorder, GroupCommitRecorder
from tests.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.eventsourcing.support import Store


class _OnStore(TestCase):
    """Gives the library's test cases a store. Only what has one is a test."""

    __test__ = False
    store_name: str
    store: Store

    @pytest.fixture(autouse=True)
    def open_store(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Generator[None]:
        self.store = request.getfixturevalue(self.store_name)
        for name, value in self.store.env().items():
            monkeypatch.setenv(name, value)  # where the library's applications look
        with ExitStack() as self.open:
            yield
            # One of the library's tests leaves threads that read once more while a store closes,
            # and SQLite crashes if a connection is closed that is in use.
            for thread in threading.enumerate():
                if "read_continuously" in thread.name:
                    thread.join(PATIENCE)


class _OnPOPO(_OnStore):
    __test__ = True
    store_name = "popo"


class _OnSQLiteMemory(_OnStore):
    __test__ = True
    store_name = "sqlite_memory"


class _OnSQLiteFile(_OnStore):
    __test__ = True
    store_name = "sqlite_file"


class _OnPostgres(_OnStore):
    __test__ = True
    store_name = "postgres"


class _ApplicationRecorder(_OnStore, published.ApplicationRecorderTestCase):
    def create_recorder(self) -> ApplicationRecorder:
        recorder = self.open.enter_context(self.store.recorder())
        assert type(recorder) is GroupCommitRecorder
        return recorder


class TestApplicationRecorderOnPOPO(_OnPOPO, _ApplicationRecorder):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderOnSQLiteMemory(_OnSQLiteMemory, _ApplicationRecorder):
    pass


class TestApplicationRecorderOnSQLiteFile(_OnSQLiteFile, _ApplicationRecorder):
    pass


class TestApplicationRecorderOnPostgres(_OnPostgres, _ApplicationRecorder):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class _NotificationIDs(_OnStore, published.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return self.open.enter_context(self.store.recorder())


class TestNotificationIDsOnPOPO(_OnPOPO, _NotificationIDs):
    pass


class TestNotificationIDsOnSQLiteMemory(_OnSQLiteMemory, _NotificationIDs):
    pass


class TestNotificationIDsOnSQLiteFile(_OnSQLiteFile, _NotificationIDs):
    pass


class TestNotificationIDsOnPostgres(_OnPostgres, _NotificationIDs):
    pass


class _ProcessRecorder(_OnStore, published.ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        recorder = self.open.enter_context(self.store.process_recorder())
        assert type(recorder) is GroupCommitProcessRecorder
        return recorder


class TestProcessRecorderOnPOPO(_OnPOPO, _ProcessRecorder):
    pass


class TestProcessRecorderOnSQLiteMemory(_OnSQLiteMemory, _ProcessRecorder):
    pass


class TestProcessRecorderOnSQLiteFile(_OnSQLiteFile, _ProcessRecorder):
    pass


class TestProcessRecorderOnPostgres(_OnPostgres, _ProcessRecorder):
    pass


class _TrackingRecorder(_OnStore, published.TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return self.open.enter_context(self.store.process_recorder())


class TestTrackingRecorderOnPOPO(_OnPOPO, _TrackingRecorder):
    pass


class TestTrackingRecorderOnSQLiteFile(_OnSQLiteFile, _TrackingRecorder):
    pass


class TestTrackingRecorderOnPostgres(_OnPostgres, _TrackingRecorder):
    pass


class _Factory(_OnStore, published.InfrastructureFactoryTestCase[InfrastructureFactory[Any]]):
    def setUp(self) -> None:
        self.env = Environment(env=self.store.env())
        super().setUp()

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return GroupCommitRecorder

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return GroupCommitProcessRecorder


class POPOTracking(popo.POPOTrackingRecorder):
    pass


class TestFactoryOnPOPO(_OnPOPO, _Factory):
    def expected_factory_class(self) -> type[InfrastructureFactory[Any]]:
        return our_popo.Factory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return popo.POPOAggregateRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return popo.POPOTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return POPOTracking


class SQLiteTracking(sqlite.SQLiteTrackingRecorder):
    pass


class TestFactoryOnSQLiteFile(_OnSQLiteFile, _Factory):
    def expected_factory_class(self) -> type[InfrastructureFactory[Any]]:
        return our_sqlite.Factory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return sqlite.SQLiteAggregateRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return sqlite.SQLiteTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return SQLiteTracking


class PostgresTracking(postgres.PostgresTrackingRecorder):
    pass


class TestFactoryOnPostgres(_OnPostgres, _Factory):
    def expected_factory_class(self) -> type[InfrastructureFactory[Any]]:
        return our_postgres.Factory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return postgres.PostgresAggregateRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return postgres.PostgresTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return PostgresTracking


class TestApplicationOnPOPO(_OnPOPO, published_application.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(our_popo.Factory)


class TestApplicationOnSQLiteFile(_OnSQLiteFile, published_application.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(our_sqlite.Factory)


class TestApplicationOnPostgres(_OnPostgres, published_application.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(our_postgres.Factory)
