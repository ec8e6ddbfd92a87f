"""What a ceiling costs: the hit rates of SIEVE beside LRU's and the best that there could be.

    python benchmarks/eviction.py [--plot FILE.svg]

A hit is a request for what is live; all else must be started first. SIEVE is the package's own, LRU
is an `OrderedDict`, and the optimum knows the future: of all that is live it retires what will not
be asked for again for the longest time. All three get the same requests, made by chance with fixed
seeds, so every run prints the same figures. The first request for a key is a miss for everybody, so
even the optimum is below 1.

The loop has no bar: when the keys are asked for one after another, over and over, SIEVE and LRU
alike retire each of them just before it is asked for again. When popularity changes for all keys at
once, SIEVE is the slower one to let the old favourites go; its bar says how much it may lose there.

The exit status tells whether the bars were met. `--plot` draws the curves; it needs matplotlib, the
tables need nothing.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import importlib
import importlib.util
import random
import sys
from collections import OrderedDict
from itertools import accumulate, chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka_registry._sieve import Node, Sieve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEYS = 100_000
REQUESTS = 500_000
SIZES = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000)

RESHUFFLED_AFTER = 50_000
SCANNED_AFTER, SCANNED = 20_000, 10_000
LOOP_PER_SIZE = 1.1

LEAST_OF_LRU = 1.0
LEAST_OF_LRU_SHIFTING = 0.85
LEAST_OF_OPTIMUM = 0.85


class Rates(NamedTuple):
    """Hits per request."""

    sieve: float
    lru: float
    optimum: float


class Workload(NamedTuple):
    """Requests, and what to call them."""

    name: str
    what: str
    requests: Callable[[int], Sequence[int]]
    """The keys that are asked for, given the size of the cache."""


# The policies.


class Live(Node):
    """What is live under a key."""

    __slots__ = ("key", "visited")

    def __init__(self, key: int) -> None:
        self.key = key
        self.visited = False


def pardon(node: Live) -> bool:
    """Tell whether it was visited since the last call, and clear the mark."""
    visited, node.visited = node.visited, False
    return visited


def hits_of_sieve(requests: Sequence[int], size: int) -> int:
    """Return how many requests hit a cache of this size that retires by SIEVE."""
    hits = 0
    live: dict[int, Live] = {}
    sieve: Sieve[Live] = Sieve()
    for key in requests:
        node = live.get(key)
        if node is not None:
            node.visited = True
            hits += 1
            continue
        if len(live) == size:
            coldest = sieve.choose(pardon)
            assert coldest is not None
            sieve.remove(coldest)
            del live[coldest.key]
        live[key] = node = Live(key)
        sieve.insert(node)
    return hits


def hits_of_lru(requests: Sequence[int], size: int) -> int:
    """Return how many requests hit a cache of this size that retires the least recently used."""
    hits = 0
    live: OrderedDict[int, None] = OrderedDict()
    for key in requests:
        if key in live:
            live.move_to_end(key)
            hits += 1
            continue
        if len(live) == size:
            live.popitem(last=False)
        live[key] = None
    return hits


def hits_of_optimum(requests: Sequence[int], size: int) -> int:
    """Return how many requests hit a cache of this size that knows the future (Belady's MIN)."""
    # When what is asked for now is asked for next; if it never is, at a time of its own after the
    # end. So a time says which key it is the time of.
    end = len(requests)
    following = [0] * end
    next_time: dict[int, int] = {}
    for now in range(end - 1, -1, -1):
        key = requests[now]
        following[now] = next_time.get(key, end + key)
        next_time[key] = now
    hits = 0
    live: set[int] = set()
    latest: list[int] = []  # a heap, negative: the latest time comes first
    for key, time in zip(requests, following, strict=True):
        if key in live:
            hits += 1
        else:
            if len(live) == size:
                # Times that have passed are still in the heap, but below all that are to come, and
                # every live key has one of those.
                when = -heapq.heappop(latest)
                live.remove(requests[when] if when < end else when - end)
            live.add(key)
        heapq.heappush(latest, -time)
    return hits


# The workloads.


def zipf(chance: random.Random, count: int) -> list[int]:
    """Return requests by rank: the second is asked for half as often as the first, and so on."""
    return chance.choices(range(KEYS), cum_weights=_zipf_weights(), k=count)


@functools.cache
def _zipf_weights() -> list[float]:
    return list(accumulate(1 / rank for rank in range(1, KEYS + 1)))


def shuffled(chance: random.Random) -> list[int]:
    """Return all keys in any order: who is how popular."""
    return chance.sample(range(KEYS), KEYS)


def make_zipf() -> list[int]:
    """Return requests whose popularity never changes."""
    return zipf(random.Random(1), REQUESTS)


def make_shifting() -> list[int]:
    """Return requests whose popularity changes for all keys at once, again and again."""
    chance = random.Random(2)
    requests: list[int] = []
    while len(requests) < REQUESTS:
        popular = shuffled(chance)
        requests += [popular[rank] for rank in zipf(chance, RESHUFFLED_AFTER)]
    return requests[:REQUESTS]


def make_scanned() -> list[int]:
    """Return requests among which somebody reads all the keys in order, a piece at a time."""
    chance = random.Random(3)
    popular = shuffled(chance)
    in_order = cycle(range(KEYS))
    requests: list[int] = []
    while len(requests) < REQUESTS:
        requests += [popular[rank] for rank in zipf(chance, SCANNED_AFTER)]
        requests += islice(in_order, SCANNED)
    return requests[:REQUESTS]


def make_loop(size: int) -> list[int]:
    """Return requests for slightly more keys than the cache has room for, over and over."""
    return list(islice(cycle(range(round(size * LOOP_PER_SIZE))), REQUESTS))


def fixed(requests: list[int]) -> Callable[[int], list[int]]:
    """Return the same requests for each size."""
    return lambda _size: requests


def workloads() -> list[Workload]:
    """Return them all."""
    return [
        Workload("zipf", "some keys are popular", fixed(make_zipf())),
        Workload(
            "shifting",
            f"zipf, but every {RESHUFFLED_AFTER:,} requests others are popular",
            fixed(make_shifting()),
        ),
        Workload(
            "scan",
            f"zipf, and after each {SCANNED_AFTER:,} requests {SCANNED:,} keys are read in order",
            fixed(make_scanned()),
        ),
        Workload("loop", f"{LOOP_PER_SIZE:g} times the cache's size, over and over", make_loop),
    ]


# The report.


def measure(workload: Workload) -> dict[int, Rates]:
    """Print and return the hit rates for each size."""
    print(f"{workload.name}: {workload.what}")
    print(
        f"{'cache':>12} {'of keys':>8} {'sieve':>8} {'lru':>8} {'optimum':>8} "
        f"{'sieve/lru':>10} {'sieve/optimum':>14}"
    )
    rates: dict[int, Rates] = {}
    for size in SIZES:
        requests = workload.requests(size)
        rates[size] = rate = Rates(
            hits_of_sieve(requests, size) / len(requests),
            hits_of_lru(requests, size) / len(requests),
            hits_of_optimum(requests, size) / len(requests),
        )
        to_lru = f"{rate.sieve / rate.lru:.3f}x" if rate.lru else "-"
        print(
            f"{size:>12,} {size / KEYS:>8.1%} {rate.sieve:>8.4f} {rate.lru:>8.4f} "
            f"{rate.optimum:>8.4f} {to_lru:>10} {rate.sieve / rate.optimum:>13.3f}x"
        )
    print()
    return rates


def plot(results: Mapping[str, Mapping[int, Rates]], titles: Mapping[str, str], to: Path) -> None:
    """Draw one panel per workload; the file's ending says in which format."""
    # Imported here and by name: the tables need no matplotlib, and neither do the type checkers.
    matplotlib, figures, ticker = (
        importlib.import_module(module)
        for module in ("matplotlib", "matplotlib.figure", "matplotlib.ticker")
    )
    styles = {  # the later ones on top: dashes, so that both are seen where two lines are one
        "optimum": ("optimum (knows the future)", "#767676", ":", "s"),
        "sieve": ("SIEVE", "#0072B2", "-", "o"),
        "lru": ("LRU", "#D55E00", "--", "^"),
    }
    figure = figures.Figure(figsize=(10, 7.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    figure.suptitle(f"Hit rate by cache size ({KEYS:,} keys, {REQUESTS:,} requests)")
    lines: list[Any] = []
    for place, (name, rates) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        lines = [
            axes.plot(
                [100 * size / KEYS for size in rates],
                [getattr(rate, policy) for rate in rates.values()],
                label=label,
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4,
            )[0]
            for policy, (label, color, line, marker) in styles.items()
        ]
        axes.set_title(f"{name}: {titles[name]}", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.FixedLocator([0.1, 0.3, 1, 3, 10, 30]))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.set_ylim(-0.04, 1)  # room for a line at 0
        axes.set_xlabel("cache size, of all keys")
        axes.set_ylabel("hit rate")
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(handles=lines, loc="outside lower center", ncols=len(styles), frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "eviction"}):  # the same figures, the same file
        figure.savefig(to, metadata={"Date": None} if to.suffix == ".svg" else None, dpi=150)


def main() -> int:
    """Print the figures and their bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the curves, too")
    to: Path | None = parser.parse_args().plot
    if to is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: python -m pip install --group bench")

    print(f"hit rates: {REQUESTS:,} requests, {KEYS:,} keys\n")
    chosen = workloads()
    results = {workload.name: measure(workload) for workload in chosen}

    bars: list[tuple[str, bool, str]] = []
    for name, bar in (
        ("zipf", LEAST_OF_LRU),
        ("scan", LEAST_OF_LRU),
        ("shifting", LEAST_OF_LRU_SHIFTING),
    ):
        figure = min(rate.sieve / rate.lru for rate in results[name].values())
        bars.append(
            (f"{name}: SIEVE against LRU: {figure:.3f}x", figure >= bar, f"at least {bar:g}x")
        )
    figure = min(rate.sieve / rate.optimum for rate in results["zipf"].values())
    bars.append(
        (
            f"zipf: SIEVE against the optimum: {figure:.3f}x",
            figure >= LEAST_OF_OPTIMUM,
            f"at least {LEAST_OF_OPTIMUM:g}x",
        )
    )
    best = max(chain.from_iterable((rate.sieve, rate.lru) for rate in results["loop"].values()))
    for text, met, bar_text in bars:
        print(f"{'met   ' if met else 'MISSED'} {text}, at the worst size (bar: {bar_text})")
    print(f"       loop: SIEVE and LRU hit {best:.3f} of the requests at best (no bar)")

    if to is not None:
        plot(results, {workload.name: workload.what for workload in chosen}, to)
        print(f"drawn: {to}")
    return 0 if all(met for _, met, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
