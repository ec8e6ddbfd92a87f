"""Who is measured: for each runtime a module, in which each task is a function of the same name.

A task is a generator: it sets up, then each `next` is one measured round. What a round yields are
figures by name, in seconds for one operation or in bytes. A module without a task's function cannot
do that task.

Each contestant does a task in its own idiom, the fastest that its documentation offers, with the
same aggregate: a number that a message adds to, and that is the answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

__all__ = [
    "BLOCKED_FOR",
    "FULL",
    "IT",
    "QUICK",
    "WORKERS",
    "Amounts",
    "Figures",
    "Rounds",
    "in_turn",
    "key_of",
    "seconds_all_at_once",
]

Figures: TypeAlias = Mapping[str, float]
Rounds: TypeAlias = Iterator[Figures]

T = TypeVar("T")

IT = ""
"""The name of a task's figure when it has but one."""

BLOCKED_FOR = 0.010
"""Seconds that a blocking handler blocks."""

WORKERS = 32
"""Threads for handlers that block, if an aggregate has none of its own."""


class Amounts(NamedTuple):
    """How much of everything."""

    rounds: int
    """Measured rounds; each contestant has one more, unmeasured, before."""
    idle: int
    """Live aggregates that one caller asks in turn: each has long been idle when it is asked."""
    calls: int
    callers: int
    calls_of_each: int
    pipelined: int
    tells: int
    live: int
    """Live aggregates beside those that are started and stopped."""
    started: int
    remembered: int
    """Live aggregates whose memory is measured."""
    remembered_threads: int
    """The same where each of them is a thread."""
    blocking: int
    few: int
    many: int
    """Live aggregates in one process: what each costs with many is compared to what with few."""
    table_sizes: tuple[int, ...]
    lookups: int


FULL = Amounts(
    rounds=9,
    idle=16,
    calls=4_000,
    callers=4,
    calls_of_each=3_000,
    pipelined=5_000,
    tells=50_000,
    live=5_000,
    started=500,
    remembered=100_000,
    remembered_threads=5_000,
    blocking=200,
    few=10_000,
    many=1_000_000,
    table_sizes=(1_000, 100_000, 1_000_000),
    lookups=200_000,
)
QUICK = FULL._replace(
    rounds=3,
    calls=1_600,
    calls_of_each=1_000,
    pipelined=2_000,
    tells=20_000,
    live=1_000,
    started=200,
    remembered=20_000,
    remembered_threads=1_000,
    many=100_000,
    table_sizes=(1_000, 10_000, 100_000),
    lookups=50_000,
)


def key_of(number: int) -> str:
    """Return the key of an aggregate; each call makes a new string."""
    return f"acc-{number}"


def in_turn(things: Iterable[T], count: int) -> list[T]:
    """Return them one after another, over and over."""
    return list(itertools.islice(itertools.cycle(things), count))


def seconds_all_at_once(callers: Sequence[Callable[[], object]]) -> float:
    """Return the seconds that all of them take, each in a thread of its own, from a barrier on."""
    barrier = threading.Barrier(len(callers))
    spans: list[tuple[float, float]] = []

    def run(caller: Callable[[], object]) -> None:
        barrier.wait()
        start = time.perf_counter()
        caller()
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(spans) < len(callers):
        msg = "a caller has failed"
        raise RuntimeError(msg)
    return max(end for _, end in spans) - min(start for start, _ in spans)
