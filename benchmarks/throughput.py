"""Calls per second, of random live keys, against how many aggregates are live: both runtimes.

`benchmarks.runtime --plot FILE` measures and draws it. One thread calls through the registry, by
key. The pooled runtime has two lines: a caller with a timeout sleeps until a thread of the pool has
answered, one without runs the handler itself.
"""

from __future__ import annotations

import importlib
import random
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pykka

from benchmarks.alternation import Entry, one_round
from benchmarks.contestants import IT, Amounts, key_of
from benchmarks.contestants.ours import PATIENCE, Account
from pykka_registry import AggregateMixin, AggregateRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from benchmarks.contestants import Rounds
    from pykka_registry import RegistryRef

POOLED = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
POOLED_QUICK = (100, 1_000, 10_000)
THREADS = (100, 300, 1_000, 3_000, 10_000)
THREADS_QUICK = (100, 1_000)

_WINDOWS = 9
_SECONDS = 0.1
"""How long a window is; the figure is the median of all windows."""
_LINES = {  # label, color, dashes, marker
    "pooled": ("PooledActor", "#0072B2", "-", "o"),
    "patient": ("PooledActor, calls with a timeout", "#56B4E9", "--", "s"),
    "threads": ("ThreadingActor", "#D55E00", "-", "^"),
}


class Threaded(AggregateMixin, pykka.ThreadingActor):
    """The same aggregate, with a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add an amount and return the sum."""
        self.balance += amount
        return self.balance


def pooled(amounts: Amounts) -> Rounds:
    """Call pooled aggregates."""
    yield {IT: _calls_per_second(Account, None, amounts)}


def patient(amounts: Amounts) -> Rounds:
    """Call pooled aggregates with a timeout."""
    yield {IT: _calls_per_second(Account, PATIENCE, amounts)}


def threads(amounts: Amounts) -> Rounds:
    """Call aggregates that are threads."""
    yield {IT: _calls_per_second(Threaded, None, amounts)}


def measure(amounts: Amounts, *, quick: bool) -> Mapping[str, Mapping[int, float]]:
    """Return the calls per second by line and number of live aggregates."""
    pooled_sizes = POOLED_QUICK if quick else POOLED
    thread_sizes = THREADS_QUICK if quick else THREADS
    result: dict[str, dict[int, float]] = {}
    for line in _LINES:
        result[line] = {}
        for size in thread_sizes if line == "threads" else pooled_sizes:
            figures = one_round([Entry(line, __name__, line)], amounts._replace(live=size))
            if (line, IT) in figures:
                result[line][size] = figures[line, IT]
    return result


def plot(rates: Mapping[str, Mapping[int, float]], to: Path) -> None:
    """Draw the lines; the file's ending says in which format."""
    # Imported here and by name: the tables need no matplotlib, and neither do the type checkers.
    matplotlib, figures = map(importlib.import_module, ("matplotlib", "matplotlib.figure"))
    figure = figures.Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for name, by_size in rates.items():
        label, color, dashes, marker = _LINES[name]
        sizes, heights = list(by_size), list(by_size.values())
        axes.plot(sizes, heights, dashes, label=label, color=color, marker=marker, markersize=5)
    axes.set_title("One caller, random live keys, by key through the registry")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("live aggregates")
    axes.set_ylabel("calls per second")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    # Text stays text, which is small and can be found; ids do not change from run to run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "throughput"}):
        figure.savefig(to, metadata={"Date": None} if to.suffix == ".svg" else None, dpi=150)


def _calls_per_second(aggregate: Any, timeout: float | None, amounts: Amounts) -> float:
    chance = random.Random(1)
    with AggregateRegistry.start(aggregate) as registry:
        keys = [key_of(number) for number in range(amounts.live)]
        for key in keys:
            registry.get_or_start(key)
        for key in chance.choices(keys, k=amounts.calls):  # to warm up
            registry.ref(key).using(timeout=timeout).call(aggregate.deposit, 1)
        return statistics.median(
            _calls_in_window(registry, aggregate, timeout, partial(chance.choices, keys, k=100))
            for _ in range(_WINDOWS)
        )


def _calls_in_window(
    registry: RegistryRef[Any],
    aggregate: Any,
    timeout: float | None,
    choose: Callable[[], Iterable[str]],
) -> float:
    calls = 0
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < _SECONDS:
        for key in choose():
            registry.ref(key).using(timeout=timeout).call(aggregate.deposit, 1)
            calls += 1
    return calls / seconds
