"""What a look-up costs: `registry.get` beside `dict.get` and `pykka.ActorRegistry.get_by_urn`.

    python benchmarks/lookup.py

All three look up the same live actors, in the same order, in one run, taking turns; the figures are
medians. The exit status tells whether the bars were met.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry import AggregateMixin, AggregateRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (10, 1_000, 10_000)
ROUNDS = 15
LOOKUPS = 20_000
SLOW_LOOKUPS = 50  # get_by_urn is linear

MOST_TIMES_DICT = 4.0
MOST_GROWTH = 1.5
LEAST_TIMES_FASTER_THAN_URN = 100.0


class Account(AggregateMixin, pykka.ThreadingActor):
    """An aggregate that only has to be there."""


def seconds_per_call(call: Callable[[Any], object], keys: Sequence[Any]) -> float:
    """Return the mean time of one call over all keys, without what the loop around it costs."""
    start = time.perf_counter()
    for key in keys:
        call(key)
    middle = time.perf_counter()
    for _key in keys:
        pass
    return (2 * middle - start - time.perf_counter()) / len(keys)


def measure(size: int) -> tuple[float, float, float, float]:
    """Return the medians for dict, registry, a key that is absent there, and URN, in seconds."""
    chance = random.Random(size)
    with AggregateRegistry.start(Account) as registry:
        keys = [f"acc-{i}" for i in range(size)]
        refs = {key: registry.get_or_start(key) for key in keys}
        order = [chance.choice(keys) for _ in range(LOOKUPS)]
        absent = [f"no-{key}" for key in order]
        urns = [refs[key].actor_urn for key in order[:SLOW_LOOKUPS]]
        times = [
            (
                seconds_per_call(refs.get, order),
                seconds_per_call(registry.get, order),
                seconds_per_call(registry.get, absent),
                seconds_per_call(pykka.ActorRegistry.get_by_urn, urns),
            )
            for _ in range(ROUNDS)
        ]
    by_dict, by_registry, missed, by_urn = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    return by_dict, by_registry, missed, by_urn


def main() -> int:
    """Print the figures and their bars; return 1 if one is missed."""
    print(
        f"{'live actors':>12} {'dict.get':>10} {'registry.get':>13} {'ratio':>6} "
        f"{'absent':>9} {'ratio':>6} "
        f"{'get_by_urn':>11} {'ratio':>8}"
    )
    ratios: dict[int, float] = {}
    faster: dict[int, float] = {}
    for size in SIZES:
        by_dict, by_registry, missed, by_urn = measure(size)
        ratios[size] = by_registry / by_dict
        faster[size] = by_urn / by_registry
        print(
            f"{size:>12,} {by_dict * 1e9:>7.0f} ns {by_registry * 1e9:>10.0f} ns "
            f"{ratios[size]:>5.2f}x {missed * 1e9:>6.0f} ns {missed / by_dict:>5.2f}x "
            f"{by_urn * 1e6:>8.1f} us {faster[size]:>7,.0f}x"
        )
    growth = ratios[SIZES[-1]] / ratios[SIZES[0]]
    bars = [
        (
            f"registry.get against dict.get: {max(ratios.values()):.2f}x",
            max(ratios.values()) <= MOST_TIMES_DICT,
            f"at most {MOST_TIMES_DICT:g}x",
        ),
        (
            f"that ratio at {SIZES[-1]:,} against {SIZES[0]}: {growth:.2f}x",
            growth <= MOST_GROWTH,
            f"at most {MOST_GROWTH:g}x",
        ),
        (
            f"faster than get_by_urn at 1,000: {faster[1_000]:,.0f}x",
            faster[1_000] >= LEAST_TIMES_FASTER_THAN_URN,
            f"at least {LEAST_TIMES_FASTER_THAN_URN:g}x",
        ),
    ]
    for figure, met, bar in bars:
        print(f"{'met   ' if met else 'MISSED'} {figure} (bar: {bar})")
    return 0 if all(met for _, met, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
