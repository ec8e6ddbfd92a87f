"""Saves that wait at the same time share a transaction, and nothing else."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import (
    IntegrityError,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.popo import POPOApplicationRecorder

from pykka_registry.eventsourcing import (
    Fence,
    Fenced,
    GroupCommitProcessRecorder,
    GroupCommitRecorder,
    OutcomeUnknown,
)
from tests.eventsourcing.support import (
    Busy,
    Caller,
    HeldUp,
    Observed,
    Store,
    Watched,
    event,
    ids_in_log,
)
from tests.support import PATIENCE, Gate

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import FrameType


@pytest.fixture
def switches() -> Generator[None]:
    """Have threads take turns a thousand times more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


# What is shared.


def test_what_waits_while_the_store_is_busy_is_stored_in_one_transaction() -> None:
    busy = Busy()
    callers = [busy.save(event()) for _ in range(9)]
    busy.go_on()
    assert [caller.result for caller in callers] == [[id_] for id_ in range(2, 11)]
    assert busy.store.sizes == [1, 9]


def test_a_lone_save_is_stored_at_once_and_as_it_was_given() -> None:
    store = Watched()
    recorder = GroupCommitRecorder(store)
    given = (event(), event())
    assert recorder.insert_events(given, tracking=None) == [1, 2]
    assert recorder.insert_events([event()]) == [3]
    assert [call.kwargs for call in store.calls] == [{"tracking": None}, {}]


def test_each_caller_gets_the_ids_of_its_own_events() -> None:
    busy = Busy()
    saves = [[event() for _ in range(size)] for size in (2, 1, 3)]
    callers = [busy.save(*events, tracking=None) for events in saves]
    busy.go_on()
    assert [caller.result for caller in callers] == [[2, 3], [4], [5, 6, 7]]
    assert [ids_in_log(busy.recorder, events) for events in saves] == [[2, 3], [4], [5, 6, 7]]


def test_a_recorder_that_has_no_ids_gives_none_to_anybody() -> None:
    class Silent(Watched):
        def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> None:
            super().insert_events(stored_events, **kwargs)

    gate = Gate()
    store = Silent()
    recorder = Observed(store)
    store.before = lambda _: gate.pass_through()
    first = Caller(recorder.insert_events, [event()])
    gate.wait_until_reached()
    others = [Caller(recorder.insert_events, [event()]) for _ in range(2)]
    recorder.wait_for_joined(3)
    gate.open()
    assert [caller.result for caller in [first, *others]] == [None, None, None]
    assert store.sizes == [1, 2]


@pytest.mark.usefixtures("switches")
def test_under_load_each_save_is_whole_in_order_and_answered_with_its_ids(store: Store) -> None:
    saves_per_thread, threads = 12, 8
    with store.recorder() as recorder:
        start = threading.Barrier(threads)

        def work(number: int) -> list[tuple[list[StoredEvent], Sequence[int] | None]]:
            one, other = uuid4(), uuid4()
            start.wait(PATIENCE)
            done: list[tuple[list[StoredEvent], Sequence[int] | None]] = []
            for version in range(1, saves_per_thread + 1):
                events = [event(one, version), event(other, version), event()][: 1 + number % 3]
                done.append((events, recorder.insert_events(events, tracking=None)))
            return done

        callers = [Caller(work, number) for number in range(threads)]
        stored = [caller.result for caller in callers]
        for saves in stored:
            assert len(saves) == saves_per_thread
            for events, ids in saves:
                assert ids is not None
                assert list(ids) == ids_in_log(recorder, events)
                assert all(later == earlier + 1 for earlier, later in pairwise(ids))
        assert recorder.max_notification_id() == sum(len(e) for saves in stored for e, _ in saves)


# What is not shared.


def test_a_conflict_fails_only_its_own_save() -> None:
    busy = Busy()
    good = [busy.save(event()) for _ in range(2)]
    bad = busy.save(event(busy.first.originator_id, busy.first.originator_version), event())
    good += [busy.save(event()) for _ in range(2)]
    busy.go_on()
    assert isinstance(bad.error, IntegrityError)
    assert sorted(id_ for caller in good for id_ in caller.result or []) == [2, 3, 4, 5]
    assert sorted(busy.store.sizes[2:]) == [1, 1, 1, 1, 2]


def test_of_two_rivals_in_a_batch_one_wins() -> None:
    busy = Busy()
    aggregate = uuid4()
    rivals = [busy.save(event(aggregate, 1, state)) for state in (b"one", b"other")]
    busy.go_on()
    outcomes: list[str] = []
    for rival in rivals:
        try:
            outcomes.append(str(rival.result))
        except IntegrityError:
            outcomes.append("conflict")
    assert sorted(outcomes) == ["[2]", "conflict"]


def test_a_conflict_fails_only_its_own_save_in_every_store(store: Store) -> None:
    with store.recorder() as inner:
        assert isinstance(inner, GroupCommitRecorder)
        held = HeldUp(inner.wrapped)
        taken = event()
        inner.insert_events([taken])
        recorder = Observed(held)
        first = Caller(recorder.insert_events, [event()])
        held.gate.wait_until_reached()
        good = [Caller(recorder.insert_events, [event(), event()]) for _ in range(3)]
        bad = Caller(recorder.insert_events, [event(), taken])
        recorder.wait_for_joined(5)
        held.gate.open()
        assert isinstance(bad.error, IntegrityError)
        assert len(first.result or []) == 1
        assert [len(caller.result or []) for caller in good] == [2, 2, 2]
        assert len(inner.select_notifications(None, 100)) == 8


def test_what_carries_keyword_arguments_is_written_alone_and_in_turn() -> None:
    busy = Busy()
    busy.save(event())
    tracking = Tracking("upstream", 1)
    busy.save(event(), event(), tracking=tracking)
    busy.save(event(), custom=None)
    callers = [busy.save(event()) for _ in range(3)]
    busy.go_on()
    assert [caller.result for caller in callers] == [[6], [7], [8]]
    assert busy.store.sizes == [1, 1, 2, 1, 3]
    assert [call.kwargs for call in busy.store.calls[2:4]] == [
        {"tracking": tracking},
        {"custom": None},
    ]


def test_tracking_that_was_recorded_before_fails_only_its_own_save(store: Store) -> None:
    with store.process_recorder() as recorder:
        assert isinstance(recorder, GroupCommitProcessRecorder)
        recorder.insert_events([event()], tracking=Tracking("upstream", 5))
        refused, stored = event(), event()
        with pytest.raises(IntegrityError):
            recorder.insert_events([refused], tracking=Tracking("upstream", 5))
        recorder.insert_events([stored], tracking=None)
        assert recorder.max_tracking_id("upstream") == 5
        assert ids_in_log(recorder, [refused]) == [-1]
        assert ids_in_log(recorder, [stored]) != [-1]


def test_a_save_of_nothing_waits_for_nobody() -> None:
    busy = Busy()
    caller = Caller(busy.recorder.insert_events, [], tracking=None)
    assert not caller.result
    busy.go_on()
    assert busy.store.sizes == [1, 0]


# How much is shared.


def test_a_batch_has_no_more_callers_than_it_may() -> None:
    busy = Busy(max_callers=3)
    callers = [busy.save(event(), event()) for _ in range(7)]
    busy.go_on()
    assert [len(caller.result or []) for caller in callers] == [2] * 7
    assert busy.store.sizes == [1, 6, 6, 2]


def test_a_batch_has_no_more_events_than_it_may_but_for_a_single_save() -> None:
    busy = Busy(max_events=4)
    callers = [busy.save(*(event() for _ in range(size))) for size in (3, 1, 1, 3, 9, 1)]
    busy.go_on()
    assert [len(caller.result or []) for caller in callers] == [3, 1, 1, 3, 9, 1]
    assert busy.store.sizes == [1, 4, 4, 9, 1]


def test_who_has_written_a_batch_does_not_write_the_next() -> None:
    busy = Busy()
    leader, follower = busy.save(event()), busy.save(event())
    second = event()
    late_gate = Gate()

    def hold(events: Sequence[StoredEvent]) -> None:
        busy._hold(events)
        if len(events) == 2:
            # The batch of these two is being written, so this one gathers in the next.
            late.append(busy.save(second))
        if second in events:
            late_gate.pass_through()

    late: list[Caller[Any]] = []
    busy.store.before = hold
    busy.go_on()
    assert [leader.result, follower.result] == [[2], [3]]  # while the next is still held up
    late_gate.wait_until_reached()
    late_gate.open()
    assert late[0].result == [4]


@pytest.mark.parametrize("bounds", [{"max_events": 0}, {"max_callers": 0}])
def test_a_batch_that_could_hold_nothing_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GroupCommitRecorder(Watched(), **bounds)


# When the store fails.


def test_a_failure_of_the_store_is_told_to_each_and_nothing_is_tried_again() -> None:
    class Full(OperationalError):
        pass

    busy = Busy()
    events = [event() for _ in range(3)]
    busy.fail(on=events[0], error=Full("disk is full"))
    callers = [busy.save(e) for e in events]
    busy.go_on()
    errors = [caller.error for caller in callers]
    assert [(type(error), str(error)) for error in errors] == [(Full, "disk is full")] * 3
    assert len({id(error) for error in errors}) == 3, "two threads have raised the same exception"
    assert busy.store.sizes == [1, 3]


def test_a_failure_that_cannot_be_copied_is_told_as_a_failure_of_the_store() -> None:
    class Strange(OperationalError):
        def __init__(self, host: str, *, port: int) -> None:
            super().__init__(f"{host}:{port} is gone")

    busy = Busy()
    events = [event() for _ in range(2)]
    strange = Strange("db", port=1)
    busy.fail(on=events[0], error=strange)
    callers = [busy.save(e) for e in events]
    busy.go_on()
    for caller in callers:
        assert isinstance(caller.error, PersistenceError)
        assert "db:1 is gone" in str(caller.error)
        assert caller.error.__cause__ is strange


def test_a_failure_of_a_lone_save_is_raised_as_it_is() -> None:
    store = Watched()
    failure = OperationalError("disk is full")

    def fail(_: object) -> None:
        raise failure

    store.before = fail
    with pytest.raises(OperationalError) as caught:
        GroupCommitRecorder(store).insert_events([event()])
    assert caught.value is failure


def test_an_event_that_the_driver_cannot_take_fails_only_its_own_save(sqlite_file: Store) -> None:
    with sqlite_file.recorder(ORIGINATOR_ID_TYPE="text") as inner:
        assert isinstance(inner, GroupCommitRecorder)
        held = HeldUp(inner.wrapped)
        recorder = Observed(held)
        first = Caller(recorder.insert_events, [event("first")])
        held.gate.wait_until_reached()
        good = [Caller(recorder.insert_events, [event(name)]) for name in ("a", "b")]
        bad = Caller(recorder.insert_events, [event("\ud800")])
        recorder.wait_for_joined(4)
        held.gate.open()
        assert isinstance(bad.error, UnicodeEncodeError)
        assert first.result == [1]
        assert sorted(id_ for caller in good for id_ in caller.result or []) == [2, 3]


def test_an_error_after_the_batch_was_stored_does_not_look_like_a_conflict() -> None:
    busy = Busy()
    events = [event() for _ in range(3)]
    error = RuntimeError("a listener has failed")
    busy.fail(on=events[0], error=error, after=True)
    callers = [busy.save(e) for e in events]
    busy.go_on()
    for caller in callers:
        assert isinstance(caller.error, OutcomeUnknown)
        assert caller.error.__cause__ is error
        assert "whether the events were stored is unknown" in str(caller.error)
    assert ids_in_log(busy.recorder, events) == [2, 3, 4]


# When the thread that writes is interrupted.


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_leader_and_the_others_are_stored(
    interrupt: type[BaseException],
) -> None:
    busy = Busy()
    leaders = event()
    busy.fail(on=leaders, error=interrupt())
    leader = busy.save(leaders)
    followers = [busy.save(event()) for _ in range(3)]
    busy.go_on()
    assert isinstance(leader.error, interrupt)
    assert sorted(id_ for caller in followers for id_ in caller.result or []) == [2, 3, 4]
    assert ids_in_log(busy.recorder, [leaders]) == [-1]


def test_after_an_interrupt_nobody_takes_what_was_stored_for_a_conflict() -> None:
    busy = Busy()
    events = [event() for _ in range(3)]
    busy.fail(on=events[0], error=KeyboardInterrupt(), after=True)
    leader, *followers = [busy.save(e) for e in events]
    busy.go_on()
    assert isinstance(leader.error, KeyboardInterrupt)
    for caller in followers:
        assert isinstance(caller.error, OutcomeUnknown)
    assert ids_in_log(busy.recorder, events) == [2, 3, 4]


def test_an_interrupt_of_a_leader_that_waits_for_its_turn_loses_nobody() -> None:
    busy = Busy()
    follower: list[Caller[Any]] = []

    def interrupt() -> None:
        busy.recorder.wait_for_joined()  # the main thread, which leads
        follower.append(busy.save(event()))
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = Caller(interrupt)
    with pytest.raises(KeyboardInterrupt):
        busy.recorder.insert_events([event()])
    assert interrupter.result is None
    # The leader is gone, so the follower is on its own; it may be stored before the first is.
    assert follower[0].result in ([1], [2])
    latecomer = Caller(busy.recorder.insert_events, [event()])
    latecomer.result  # noqa: B018  # it is stored, too
    busy._gate.open()


class _Interrupt(BaseException):
    pass


@pytest.mark.usefixtures("switches")
def test_interrupts_at_any_moment_leave_nobody_hanging() -> None:
    recorder = GroupCommitRecorder(Watched())
    threads, saves = 2, 40
    armed = [False]

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if armed[0]:
            armed[0] = False
            raise _Interrupt

    def work() -> list[StoredEvent]:
        stored: list[StoredEvent] = []
        for _ in range(saves):
            mine = event()
            with suppress(OutcomeUnknown):
                recorder.insert_events([mine])
                stored.append(mine)
        return stored

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        callers = [Caller(work) for _ in range(threads)]
        struck = 0
        while not (all(caller.is_done() for caller in callers) and struck):
            timer = Caller(os.kill, os.getpid(), signal.SIGUSR1)
            try:
                armed[0] = True
                for _ in range(20):
                    recorder.insert_events([event()])
                armed[0] = False
            except _Interrupt:
                struck += 1
            timer.result  # noqa: B018
    finally:
        signal.signal(signal.SIGUSR1, before)
    for caller in callers:
        stored = caller.result
        assert stored
        assert -1 not in ids_in_log(recorder, stored)
    assert struck


# What is left.


def test_nothing_is_kept_of_what_was_stored() -> None:
    class Sink(POPOApplicationRecorder):
        def insert_events(
            self, stored_events: Sequence[StoredEvent], **kwargs: Any
        ) -> Sequence[int]:
            return range(len(stored_events))

    recorder = GroupCommitRecorder(Sink())
    for kwargs in ({}, {"custom": 1}):
        kept = event()
        is_kept = weakref.ref(kept)
        recorder.insert_events([kept], **kwargs)
        del kept
        gc.collect()
        assert is_kept() is None


def test_whatever_else_the_wrapped_recorder_has_can_be_reached() -> None:
    store = Watched()
    recorder: Any = GroupCommitRecorder(store)
    assert recorder.wrapped is store
    assert recorder.sizes == []
    with pytest.raises(AttributeError, match="nonsense"):
        recorder.nonsense  # noqa: B018
    assert copy.copy(recorder).wrapped is store  # a copy is made without `__init__`


# Fences.


def test_a_stale_fence_fails_only_its_own_save() -> None:
    busy = Busy()
    stale = Fence("shard", busy.store.raise_epoch("shard"))
    fresh = Fence("shard", busy.store.raise_epoch("shard"))
    other = Fence("other", busy.store.raise_epoch("other"))
    good = [
        busy.save(event(), fence=fresh, tracking=None),
        busy.save(event()),
        busy.save(event(), fence=(other, fresh)),
    ]
    bad = busy.save(event(), fence=stale)
    busy.go_on()
    assert isinstance(bad.error, Fenced)
    assert (bad.error.owner, bad.error.epoch, bad.error.current) == ("shard", 1, 2)
    assert sorted(id_ for caller in good for id_ in caller.result or []) == [2, 3, 4]
    assert busy.store.calls[1].kwargs == {"fence": (fresh, other, stale)}
    assert len(busy.store.calls[1].events) == 4


def test_good_fences_share_a_transaction() -> None:
    busy = Busy()
    fence = Fence("shard", busy.store.raise_epoch("shard"))
    callers = [busy.save(event(), fence=fence) for _ in range(3)]
    busy.go_on()
    assert [caller.result for caller in callers] == [[2], [3], [4]]
    assert busy.store.sizes == [1, 3]


def test_a_fence_for_a_store_that_would_ignore_it_is_refused() -> None:
    recorder = GroupCommitRecorder(POPOApplicationRecorder())
    with pytest.raises(TypeError, match="POPOApplicationRecorder would ignore fence="):
        recorder.insert_events([event()], fence=Fence("shard", 1))
    assert recorder.max_notification_id() is None


@pytest.mark.parametrize("nonsense", [7, "shard", (Fence("shard", 1), 7)])
def test_what_is_no_fence_is_refused(nonsense: object) -> None:
    recorder = GroupCommitRecorder(Watched())
    with pytest.raises(TypeError, match=r"fence= takes what claim\(\) has returned"):
        recorder.insert_events([event()], fence=nonsense)
    assert recorder.max_notification_id() is None
