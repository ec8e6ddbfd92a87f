"""The library's environment settings switch group commit on, and say how much a batch holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.popo import POPOApplicationRecorder, POPOProcessRecorder
from eventsourcing.system import ProcessApplication

from pykka_registry.eventsourcing import GroupCommitProcessRecorder, GroupCommitRecorder

if TYPE_CHECKING:
    from tests.eventsourcing.support import Store


def test_one_setting_wraps_the_recorder_of_an_application_that_nobody_has_changed(
    store: Store,
) -> None:
    with Application[Any](env=store.env()) as application:
        assert type(application.recorder) is GroupCommitRecorder
        assert application.events.recorder is application.recorder


def test_it_wraps_the_recorder_of_a_process_application_too(store: Store) -> None:
    class Process(ProcessApplication[Any]):
        @singledispatchmethod
        def policy(self, domain_event: Any, processing_event: Any) -> None: ...

    with Process(env=store.env()) as process:
        assert type(process.recorder) is GroupCommitProcessRecorder


def test_an_application_may_have_a_setting_of_its_own(popo: Store) -> None:
    class Orders(Application[Any]):
        pass

    settings = popo.env(GROUP_COMMIT="no", ORDERS_GROUP_COMMIT="yes")
    with Orders(env=settings) as orders, Application[Any](env=settings) as other:
        assert isinstance(orders.recorder, GroupCommitRecorder)
        assert not isinstance(other.recorder, GroupCommitRecorder)


def test_it_can_be_switched_off(store: Store) -> None:
    with store.factory(GROUP_COMMIT="no") as factory:
        assert not isinstance(factory.application_recorder(), GroupCommitRecorder)
        assert not isinstance(factory.process_recorder(), GroupCommitRecorder)


def test_the_bounds_of_a_batch_can_be_set(popo: Store) -> None:
    with popo.recorder(GROUP_COMMIT_MAX_EVENTS="7", GROUP_COMMIT_MAX_CALLERS="3") as recorder:
        assert isinstance(recorder, GroupCommitRecorder)
        assert (recorder._max_events, recorder._max_callers) == (7, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GROUP_COMMIT", "perhaps"),
        ("GROUP_COMMIT_MAX_EVENTS", "0"),
        ("GROUP_COMMIT_MAX_EVENTS", "many"),
        ("GROUP_COMMIT_MAX_CALLERS", "-1"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(popo: Store, name: str, value: str) -> None:
    with popo.factory(**{name: value}) as factory, pytest.raises(OSError, match=f"{name} is"):
        factory.application_recorder()


def test_an_empty_setting_is_as_good_as_none(popo: Store) -> None:
    with popo.recorder(GROUP_COMMIT="", GROUP_COMMIT_MAX_EVENTS="") as recorder:
        assert isinstance(recorder, GroupCommitRecorder)


def test_any_recorder_can_be_wrapped_by_hand() -> None:
    class Orders(Application[Any]):
        def construct_recorder(self) -> GroupCommitRecorder:
            return GroupCommitRecorder(super().construct_recorder())

    with Orders() as orders:
        assert isinstance(orders.recorder, GroupCommitRecorder)
        assert type(orders.recorder.wrapped) is POPOApplicationRecorder
    process_recorder = GroupCommitProcessRecorder(POPOProcessRecorder(), max_callers=2)
    assert process_recorder.max_tracking_id("upstream") is None
