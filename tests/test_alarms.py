"""Alarms: never early, late by no more than a bucket is wide, and few buckets however many."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykka_registry._alarms import Alarms, Owner

FINEST = 1 / 64
"""Seconds that an alarm may be late at least."""


class Ringing(Owner):
    """An owner with a name."""

    def __init__(self, name: object = None) -> None:
        self.alarm: float | None = None
        self.name = name


def late(delay: float) -> float:
    """Return by how much an alarm with this delay may be late at most."""
    return max(FINEST, delay / 32)


def buckets(alarms: Alarms[Ringing]) -> int:
    """Return how many buckets there are, those that have been emptied included."""
    assert len(alarms._buckets) == len(alarms._times)
    return len(alarms._times)


def test_without_alarms_there_is_nothing_to_wait_for() -> None:
    alarms: Alarms[Ringing] = Alarms()
    assert alarms.next() == math.inf
    assert alarms.ring(math.inf) == []


@pytest.mark.parametrize("delay", [0, 1e-9, 0.01, 0.3, 0.5, 0.51, 1, 30, 300, 86_400, 1e9])
@pytest.mark.parametrize("now", [0.0, 0.37, 3_600.1, 1e9 + 0.3])
def test_an_alarm_rings_once_neither_early_nor_late(now: float, delay: float) -> None:
    alarms: Alarms[Ringing] = Alarms()
    owner = Ringing()
    alarms.set(owner, now, delay)
    assert now + delay <= alarms.next() <= now + delay + late(delay)
    assert alarms.ring(math.nextafter(now + delay, -math.inf)) == []
    assert alarms.ring(now + delay + late(delay)) == [owner]
    assert owner.alarm is None
    assert alarms.ring(math.inf) == []
    assert alarms.next() == math.inf


@pytest.mark.parametrize("delay", [None, math.inf])
def test_an_alarm_that_never_rings_takes_the_old_one_off(delay: float | None) -> None:
    alarms: Alarms[Ringing] = Alarms()
    owner = Ringing()
    alarms.set(owner, 0, delay)
    assert alarms.next() == math.inf
    alarms.set(owner, 0, 10)
    alarms.set(owner, 1, delay)
    assert owner.alarm is None
    assert alarms.ring(1_000) == []


@pytest.mark.parametrize(("first", "second"), [(10, 20), (20, 10), (10, 10), (0, 1000)])
def test_an_alarm_that_is_moved_rings_at_its_last_time_only(first: int, second: int) -> None:
    alarms: Alarms[Ringing] = Alarms()
    owner = Ringing()
    alarms.set(owner, 0, first)
    alarms.set(owner, 0, second)
    assert alarms.ring(math.nextafter(second, 0)) == []
    assert alarms.ring(second + late(second)) == [owner]
    assert alarms.ring(math.inf) == []


def test_one_owners_alarm_is_taken_off_and_its_neighbours_rings() -> None:
    alarms: Alarms[Ringing] = Alarms()
    owners = [Ringing(i) for i in range(10)]
    for owner in owners:
        alarms.set(owner, 0, 5)
    alarms.set(owners[3], 1, None)
    assert alarms.ring(6) == owners[:3] + owners[4:]


def test_whoever_has_rung_may_be_set_again() -> None:
    alarms: Alarms[Ringing] = Alarms()
    owner = Ringing()
    rung = 0
    for now in range(0, 100, 10):
        alarms.set(owner, now, 1)
        rung += alarms.ring(now + 2).count(owner)
    assert rung == 10


def test_whoever_was_taken_off_by_halves_does_not_ring() -> None:
    """A Ctrl-C may come between the two steps."""
    alarms: Alarms[Ringing] = Alarms()
    owner, neighbour = Ringing(), Ringing()
    alarms.set(owner, 0, 1)
    alarms.set(neighbour, 0, 1)
    owner.alarm = None
    assert alarms.ring(math.inf) == [neighbour]


def test_those_who_are_due_first_are_returned_first() -> None:
    alarms: Alarms[Ringing] = Alarms()
    for delay in (30, 3, 300, 0.3):
        alarms.set(Ringing(delay), 0, delay)
    assert [owner.name for owner in alarms.ring(1_000)] == [0.3, 3, 30, 300]


@pytest.mark.parametrize("delay", [0.02, 0.3, 2, 30, 1_000])
def test_there_are_few_buckets_however_many_alarms(delay: float) -> None:
    """10,000 owners whose alarms begin at as many times, and are moved as often."""
    alarms: Alarms[Ringing] = Alarms()
    owners = [Ringing(i) for i in range(10_000)]
    most = rung = 0
    for i, now in enumerate(delay * j / 5_000 for j in range(20_000)):
        rung += len(alarms.ring(now))
        alarms.set(owners[i % len(owners)], now, delay)
        most = max(most, buckets(alarms))
    assert rung > 0
    assert 1 <= most <= 70
    alarms.ring(math.inf)
    assert buckets(alarms) == 0


@st.composite
def deeds(draw: st.DrawFn) -> tuple[int, float, float | None]:
    """An owner, the seconds that pass, and its new delay; some pass a long time."""
    return (
        draw(st.integers(0, 5)),
        draw(st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 2_000))),
        draw(st.one_of(st.none(), st.just(math.inf), st.floats(0, 0.6), st.floats(0, 1_000))),
    )


@settings(deadline=None, max_examples=300)
@given(st.floats(0, 1e7), st.lists(deeds(), min_size=1))
def test_each_alarm_rings_in_its_time(
    now: float, todo: list[tuple[int, float, float | None]]
) -> None:
    """Against a model that keeps each owner's last word."""
    alarms: Alarms[Ringing] = Alarms()
    owners = [Ringing(i) for i in range(6)]
    due: dict[Ringing, tuple[float, float]] = {}
    classes: set[float] = set()
    for i, passed, delay in todo:
        now += passed
        rung = alarms.ring(now)
        assert len(set(rung)) == len(rung)
        for owner in rung:
            earliest, _ = due.pop(owner)
            assert earliest <= now
        for _, latest in due.values():
            assert now < latest
        owner = owners[i]
        alarms.set(owner, now, delay)
        due.pop(owner, None)
        if delay is not None and not math.isinf(delay):
            due[owner] = (now + delay, now + delay + late(delay))
            classes.add(max(0, math.frexp(delay)[1]))
        for other, (earliest, latest) in due.items():
            assert other.alarm is not None
            assert earliest <= other.alarm <= latest
            assert alarms.next() <= other.alarm
        assert {owner for owner in owners if owner.alarm is not None} == set(due)
        assert buckets(alarms) <= 70 * len(classes)
    assert set(alarms.ring(math.inf)) == set(due)
    assert buckets(alarms) == 0
