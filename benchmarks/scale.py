"""What must not depend on how many aggregates are live: a whole life, and a look-up."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from benchmarks.contestants import Amounts, key_of
from benchmarks.contestants.ours import Account
from benchmarks.lookup import seconds_per_call
from benchmarks.memory import peak
from pykka_registry import AggregateRegistry

if TYPE_CHECKING:
    from benchmarks.contestants import Figures, Rounds

DRAIN_TIMEOUT = 600.0


def many(amounts: Amounts) -> Rounds:
    """Start very many aggregates, call each once, stop them all."""
    yield whole_lives(amounts.many)


def few(amounts: Amounts) -> Rounds:
    """Do the same with few."""
    while True:
        yield whole_lives(amounts.few)


def whole_lives(count: int) -> Figures:
    """Start aggregates, call each once, stop them all.

    Returns:
        The seconds for one aggregate: of each phase, and in all; and the most bytes of memory that
        the process has had so far.

    """
    start = time.perf_counter()
    registry = AggregateRegistry.start(Account)
    for number in range(count):
        registry.get_or_start(key_of(number))
    started = time.perf_counter()
    for number in range(count):
        registry.ref(key_of(number)).call(Account.deposit, 1)
    asked = time.perf_counter()
    assert len(registry) == count
    draining = time.perf_counter()
    abandoned = registry.drain(timeout=DRAIN_TIMEOUT)
    stopped = time.perf_counter()
    assert abandoned == []
    phases = {"start": started - start, "call": asked - started, "stop": stopped - draining}
    each = {phase: seconds / count for phase, seconds in phases.items()}
    return {**each, "all": sum(each.values()), "peak": peak()}


def lookup(amounts: Amounts) -> Rounds:
    """Look up live aggregates in any order, and the same in a `dict` with the same content."""
    chance = random.Random(1)
    registries = {size: AggregateRegistry.start(Account) for size in amounts.table_sizes}
    tables = {
        size: {key: registry.get_or_start(key) for key in map(key_of, range(size))}
        for size, registry in registries.items()
    }
    orders = {
        size: chance.choices(list(table), k=amounts.lookups) for size, table in tables.items()
    }
    while True:
        figures: dict[str, float] = {}
        for size in amounts.table_sizes:
            figures[f"dict.get {size}"] = seconds_per_call(tables[size].get, orders[size])
            figures[f"get {size}"] = seconds_per_call(registries[size].get, orders[size])
        yield figures
