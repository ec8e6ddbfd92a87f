"""What stays behind after many lives: memory, threads and objects while keys come and go.

    python -m benchmarks.soak [--seconds N] [--keys N] [--live N]

Several threads send to a million keys, some of them popular, with room for 20,000 live aggregates:
most new keys retire another. Every few seconds this process is sampled: its resident memory, the
blocks that Python has allocated in it, its threads, the objects of the package and its aggregates
that the garbage collector knows, and the futures among them. Nothing may grow after the warm-up:
the median of the last quarter of the time is compared with that of the second quarter. And every
message must have been handled once.

Resident memory creeps for the first minutes, while the blocks do not: each thread's share of the
heap (glibc's arenas) needs many lives to become as ragged as it will be. `MALLOC_ARENA_MAX=1` makes
that short; a busy machine needs it, or a longer soak.

The exit status tells whether all that held. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import sys
import threading
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pykka

from benchmarks.contestants import key_of
from benchmarks.contestants.ours import PATIENCE
from benchmarks.memory import resident
from pykka_registry import AggregateMixin, AggregateRegistry, EndReason, PooledActor

if TYPE_CHECKING:
    from pykka_registry import RegistryRef, Stats

SENDERS = 3
BATCH = 200
"""Requests that a sender chooses at once."""
SAMPLES = 24
"""Few: everything stands still for a sample, for up to half a second."""
DRAIN_TIMEOUT = 300.0

MOST_GROWTH = 1.05
FEW_THREADS = 2
FEW_OBJECTS = 200
"""So many more are no growth: they come and go with the messages under way."""

_handled = itertools.count()
"""Counts the messages; its `next` is atomic."""


class Account(AggregateMixin, PooledActor):
    """An aggregate that counts what it handles."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add an amount and return the sum."""
        next(_handled)
        self.balance += amount
        return self.balance

    def on_receive(self, message: Any) -> None:
        """Add an amount that was told."""
        self.deposit(message)


class Sample(NamedTuple):
    """What there is at one moment."""

    memory: int
    blocks: int
    threads: int
    objects: int
    futures: int


class Limit(NamedTuple):
    """How a figure of the samples is shown, and how much more of it is no growth."""

    name: str
    slack: int


LIMITS = {
    "memory": Limit("resident memory, bytes", 0),
    "blocks": Limit("blocks of memory in use", FEW_OBJECTS),
    "threads": Limit("threads", FEW_THREADS),
    "objects": Limit("objects of ours", FEW_OBJECTS),
    "futures": Limit("futures", FEW_OBJECTS),
}


class Senders:
    """Threads that send to random keys until they are told to end."""

    def __init__(self, registry: RegistryRef[Account], keys: int) -> None:
        self._registry = registry
        # By rank: the second is asked for half as often as the first, and so on.
        weights = itertools.accumulate(1 / rank for rank in range(1, keys + 1))
        self._weights = array("d", weights)  # the garbage collector does not walk it
        self._numbers = range(keys)
        self._end = threading.Event()
        self._sent = [0] * SENDERS
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    @property
    def sent(self) -> int:
        """How many messages they have sent."""
        return sum(self._sent)

    def end(self) -> None:
        """Let them end, and wait for it."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, place: int) -> None:
        chance = random.Random(place)
        try:
            while not self._end.is_set():
                numbers = chance.choices(self._numbers, cum_weights=self._weights, k=BATCH)
                for position, number in enumerate(numbers):
                    self._send(number, position % 4)
                    self._sent[place] += 1
        except Exception as error:  # noqa: BLE001  # the main thread reports it
            self.errors.append(error)

    def _send(self, number: int, way: int) -> None:
        ref = self._registry.ref(key_of(number))
        if way == 0:
            ref.tell(1)
        elif way == 1:
            ref.using(timeout=PATIENCE * 10).call(Account.deposit, 1)
        elif way == 2:  # noqa: PLR2004  # the third way
            ref.submit(Account.deposit, 1).get()
        else:
            ref.call(Account.deposit, 1)


def take_sample() -> Sample:
    """Look at this process; what is garbage does not count."""
    memory = resident()
    blocks = sys.getallocatedblocks()
    classes = Counter(map(type, gc.get_objects()))
    ours: dict[type[Any], int] = {
        cls: count
        for cls, count in classes.items()
        if cls is Account or cls.__module__.startswith("pykka_registry.")
    }
    futures = sum(count for cls, count in ours.items() if issubclass(cls, pykka.Future))
    return Sample(memory, blocks, threading.active_count(), sum(ours.values()), futures)


def soak(registry: RegistryRef[Account], seconds: float, keys: int) -> tuple[list[Sample], int]:
    """Send for so many seconds; return the samples, and how many messages were sent."""
    senders = Senders(registry, keys)
    samples: list[Sample] = []
    start = time.monotonic()
    every = seconds / SAMPLES
    for number in range(1, SAMPLES + 1):
        time.sleep(max(0.0, start + number * every - time.monotonic()))
        samples.append(take_sample())
        if number % (SAMPLES // 12) == 0:
            last, stats = samples[-1], registry.stats()
            print(
                f"{time.monotonic() - start:>6.0f} s {senders.sent:>12,} sent "
                f"{stats.live:>7,} live {last.memory / 2**20:>8.1f} MiB {last.threads:>4} threads "
                f"{last.objects:>9,} objects {last.futures:>7,} futures",
                flush=True,
            )
        if senders.errors:
            break
    senders.end()
    for error in senders.errors:
        print(f"NOT MET a sender has failed: {error!r}")
    return samples, senders.sent


def growth_is_bounded(samples: list[Sample]) -> bool:
    """Print how much each figure has grown; tell whether none has grown too much."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    bounded = True
    for field, limit in LIMITS.items():
        before = statistics.median(getattr(sample, field) for sample in second)
        after = statistics.median(getattr(sample, field) for sample in last)
        met = after <= before * MOST_GROWTH or after <= before + limit.slack
        bounded = bounded and met
        print(
            f"{'met    ' if met else 'NOT MET'} {limit.name}: {before:,.0f}, then {after:,.0f}: "
            f"{after / before - 1 if before else 0:+.1%} (bar: at most {MOST_GROWTH - 1:+.0%}"
            f"{f' or {limit.slack} more' if limit.slack else ''})"
        )
    return bounded


def all_were_handled(sent: int, stats: Stats) -> bool:
    """Print what has become of the messages; tell whether each was handled once."""
    handled = next(_handled)
    dead = sum(stats.dead_letters.values())
    met = handled == sent and dead == 0
    print(
        f"{'met    ' if met else 'NOT MET'} handled {handled:,} of {sent:,} messages, "
        f"{dead:,} dead letters (bar: each once, none)"
    )
    return met


def main() -> int:
    """Print the samples and the bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=300, help="for how long (300)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys (1,000,000)")
    parser.add_argument("--live", type=int, default=20_000, help="live at most (20,000)")
    options: Any = parser.parse_args()
    print(f"{options.keys:,} keys, {options.live:,} live at most, {options.seconds:g} s\n")

    registry = AggregateRegistry.start(Account, max_live=options.live)
    start = time.perf_counter()
    samples, sent = soak(registry, options.seconds, options.keys)
    seconds = time.perf_counter() - start
    abandoned = registry.drain(timeout=DRAIN_TIMEOUT)
    stats = registry.stats()
    print(
        f"\n{sent / seconds:,.0f} messages a second, hit rate {1 - stats.activations / sent:.3f}, "
        f"{stats.activations:,} activations, {stats.ends[EndReason.EVICTED]:,} evictions, "
        f"{stats.declined:,} declined, {stats.redelivered:,} handed on"
    )
    if abandoned:
        print(f"NOT MET {len(abandoned):,} aggregates did not end")
    verdicts = [
        len(samples) == SAMPLES,
        growth_is_bounded(samples),
        all_were_handled(sent, stats),
        not abandoned,
    ]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
