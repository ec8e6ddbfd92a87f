"""What `PooledActor` costs beside stock Pykka, xoscar and Thespian: a table with its bars.

    python -m benchmarks.runtime [--only WORD] [--quick] [--plot FILE.svg]

All contestants of a row are measured in the same run, in turns, each in a process of its own, on
two cores; the figures are medians. How each does a task is in `benchmarks/contestants`. Figures of
the BEAM were measured elsewhere, on such a machine, and are given, not measured; their rows compare
nothing to them. The table is Markdown.

With a timeout a caller sleeps until a thread of the pool has answered. Without one it runs the
handler itself, if the aggregate is idle.

`--quick` takes less of everything and says so; its verdicts are a hint. `--plot` draws calls per
second against live aggregates. The exit status tells whether the bars were met. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import throughput
from benchmarks.alternation import Entry, alternate, one_round
from benchmarks.contestants import FULL, IT, QUICK, WORKERS, Amounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CORES = 2
PEERS = {"Pykka": "pykka", "xoscar": "xoscar", "Thespian": "thespian"}
MODULES = {
    "ours": "benchmarks.contestants.ours",
    "Pykka": "benchmarks.contestants.stock",
    "xoscar": "benchmarks.contestants.with_xoscar",
    "Thespian": "benchmarks.contestants.with_thespian",
}
PATIENT = "with a timeout"


class Unit(NamedTuple):
    """How a figure is shown."""

    name: str
    size: float
    is_rate: bool = False

    def show(self, figure: float) -> str:
        """Return the figure with its unit."""
        if self.is_rate:
            return f"{self.size / figure:,.0f}{self.name}"
        count = figure / self.size
        return f"{count:.3g} {self.name}" if count < _MANY else f"{count:,.0f} {self.name}"


_MANY = 1000

MICROSECONDS = Unit("us", 1e-6)
MILLISECONDS = Unit("ms", 1e-3)
RATE = Unit("/s", 1, is_rate=True)
KIB = Unit("KiB", 1024)
GIB = Unit("GiB", 1024**3)


NO_BAR = math.inf


class Bar(NamedTuple):
    """How much our figure may be: so many times another, or so much."""

    most: float
    of: tuple[str, str] | None = None
    """Who, and which figure; `None` if the bar is absolute."""
    called: str = ""

    def text(self, unit: Unit) -> str:
        """Say what the bar is."""
        if self.most == NO_BAR:
            return ""
        if self.of is None:
            return f"≤ {unit.show(self.most)}"
        if unit.is_rate:
            return f"≥ {1 / self.most:g} x {self.called}"
        if self.most < 1:
            return f"≤ 1/{1 / self.most:g} of {self.called}"
        return f"≤ {self.most:g} x {self.called}"


class Row(NamedTuple):
    """A figure, and what it has to be."""

    title: str
    tasks: tuple[str, ...]
    """What has to be measured for it."""
    unit: Unit
    bars: tuple[Bar, ...]
    figure: str = IT
    beside: tuple[tuple[str, tuple[str, str]], ...] = ()
    """What else is shown: how it is called, and whose figure it is."""
    given: str = ""
    """What is known from elsewhere."""


class Task(NamedTuple):
    """What is measured at once."""

    entries: tuple[Entry, ...]
    in_turns: bool = True
    """Else each has one round."""


def versus_all(function: str, *more: Entry, in_turns: bool = True) -> Task:
    """Return the task that each contestant does by the function of this name."""
    entries = tuple(Entry(name, module, function) for name, module in MODULES.items())
    return Task((*entries, *more), in_turns)


def tasks() -> dict[str, Task]:
    """Return what there is to measure."""
    ours, scale = MODULES["ours"], "benchmarks.scale"
    return {
        "key call": versus_all("key_call", Entry(PATIENT, ours, "patient_key_call")),
        "idle ask": versus_all("idle_ask", Entry(PATIENT, ours, "patient_idle_ask")),
        "crowd": versus_all("crowd"),
        "pipelined": versus_all("pipelined"),
        "tells": versus_all("tells"),
        "lives": versus_all("lives"),
        "memory": versus_all("memory", in_turns=False),
        "many": Task((Entry("ours", scale, "many"),), in_turns=False),
        "few": Task((Entry("few", scale, "few"),)),
        "lookup": Task((Entry("ours", scale, "lookup"),)),
        "blocking": versus_all("blocking"),
    }


def rows(amounts: Amounts) -> list[Row]:
    """Return the table's rows."""

    def pykka(most: float, figure: str = IT) -> Bar:
        return Bar(most, ("Pykka", figure), "Pykka")

    def xoscar(most: float, figure: str = IT) -> Bar:
        return Bar(most, ("xoscar", figure), "xoscar")

    many = f"{amounts.many:,} live in one process"
    few = f"at {amounts.few:,}"
    patient = ((PATIENT, (PATIENT, IT)),)
    return [
        Row(
            "call of an idle aggregate, from its key to the answer",
            ("key call",),
            MICROSECONDS,
            (pykka(1 / 5), xoscar(1 / 2)),
            beside=patient,
            given="BEAM, given: 3.7 to 5.2 us",
        ),
        Row(
            "ask of an idle aggregate, ref at hand",
            ("idle ask",),
            MICROSECONDS,
            (pykka(1 / 10),),
            beside=patient,
            given="BEAM, given: 2.0 us",
        ),
        Row(
            f"asks, {amounts.callers} callers of {amounts.callers} aggregates",
            ("crowd",),
            RATE,
            (pykka(1 / 5),),
        ),
        Row("pipelined asks", ("pipelined",), RATE, (pykka(1 / 4),)),
        Row("tells, one producer, until handled", ("tells",), RATE, (pykka(1 / 1.5),)),
        Row(
            f"activation, {amounts.live:,} live",
            ("lives",),
            MICROSECONDS,
            (pykka(1 / 15, "start"), xoscar(1 / 3, "start")),
            figure="start",
            given="BEAM, given: 11 to 21 us",
        ),
        Row(
            f"stop until the key is free, {amounts.live:,} live",
            ("lives",),
            MICROSECONDS,
            (pykka(1 / 15, "stop"),),
            figure="stop",
            given="BEAM, given: 3.7 us",
        ),
        Row(
            f"resident memory per live aggregate, {amounts.remembered:,} live "
            f"(Pykka: {amounts.remembered_threads:,})",
            ("memory",),
            KIB,
            (Bar(1024),),
            given="BEAM, given: 3.1 KiB",
        ),
        Row(
            f"{many}: a whole life",
            ("many", "few"),
            MICROSECONDS,
            (Bar(1.5, ("few", "all"), few),),
            figure="all",
            beside=((few, ("few", "all")),),
            given="BEAM, given: 20.9 us; Pykka ends near 22,000 to 32,000 live",
        ),
        *(
            Row(
                f"{many}: {phase}",
                ("many", "few"),
                MICROSECONDS,
                (Bar(NO_BAR, ("few", phase)),),
                figure=phase,
                beside=((few, ("few", phase)),),
            )
            for phase in ("start", "call", "stop")
        ),
        Row(
            f"{many}: peak of resident memory",
            ("many", "few"),
            GIB,
            (Bar(1.5 * 1024**3),),
            figure="peak",
            given="BEAM, given: 3.2 KB each",
        ),
        *(
            Row(
                f"registry.get, random order, {size:,} live",
                ("lookup",),
                MICROSECONDS,
                (Bar(2.5, ("ours", f"dict.get {size}"), "dict.get"),),
                figure=f"get {size}",
                beside=(("dict.get", ("ours", f"dict.get {size}")),),
                given="X3m on the BEAM, given: 1.0 to 1.4 us",
            )
            for size in amounts.table_sizes
        ),
        Row(
            f"{amounts.blocking} aggregates asked at once that block 10 ms, pool of {WORKERS}",
            ("blocking",),
            MILLISECONDS,
            (Bar(1.3, ("ours", "ideal"), "ideal"),),
            beside=(("ideal", ("ours", "ideal")),),
        ),
    ]


def measure(name: str, amounts: Amounts) -> Mapping[tuple[str, str], float]:
    """Measure a task; return its figures, by whose they are and their name."""
    task = tasks()[name]
    start = time.perf_counter()
    print(f"{name} ... ", end="", file=sys.stderr, flush=True)
    if task.in_turns:
        figures = alternate(task.entries, amounts, amounts.rounds)
    else:
        figures = one_round(task.entries, amounts)
    print(f"{time.perf_counter() - start:.1f} s", file=sys.stderr)
    return figures


HEADER = ("figure", "ours", *PEERS, "beside", "ratio", "bar", "")


def lines_of(row: Row, figures: Mapping[tuple[str, str], float]) -> tuple[list[list[str]], bool]:
    """Return a row's lines, one for each bar, and whether all bars were met."""
    unit = row.unit
    known = tasks()
    measured = {entry.name for task in row.tasks for entry in known[task].entries}

    def show(whose: str, figure: str = row.figure) -> str:
        if whose not in measured:
            return ""
        value = figures.get((whose, figure))
        return "n/a" if value is None else unit.show(value)

    beside = [f"{label}: {show(*whose)}" for label, whose in row.beside]
    if row.given:
        beside.append(row.given)
    lines: list[list[str]] = []
    ours = figures.get(("ours", row.figure))
    all_met = True
    for bar in row.bars:
        other = 1.0 if bar.of is None else figures.get(bar.of)
        ratio = None if ours is None or other is None else ours / other
        met = ratio is not None and ratio <= bar.most
        all_met = all_met and met
        verdict = "" if bar.most == NO_BAR else "met" if met else "NOT MET"
        if ratio is None or bar.of is None:
            shown = "n/a" if ratio is None else ""
        elif unit.is_rate:
            shown = f"{1 / ratio:.2f} x"
        else:
            shown = f"1/{1 / ratio:.1f}" if max(ratio, bar.most) < 1 else f"{ratio:.2f} x"
        head = ["" for _ in HEADER[:-3]]
        if not lines:
            head = [row.title, show("ours"), *map(show, PEERS), "; ".join(beside)]
        lines.append([*head, shown, bar.text(unit), verdict])
    return lines, all_met


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print the lines under their header, as Markdown."""
    widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    for line in (HEADER, rule, *lines):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def take_cores() -> None:
    """Run this process and those that it starts on as many cores as the bars are for."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def main() -> int:
    """Print the figures and their bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="rows whose title has this word in it"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the throughput, too")
    options: Any = parser.parse_args()
    needed = [*PEERS.values(), "uvloop", *(["matplotlib"] if options.plot else [])]
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"{', '.join(missing)} is missing: python -m pip install --group bench")
    amounts = QUICK if options.quick else FULL
    table = [
        row
        for row in rows(amounts)
        if not options.only or any(word.lower() in row.title.lower() for word in options.only)
    ]
    if not table:
        parser.error(f"no row has one of these words in its title: {', '.join(options.only)}")

    take_cores()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PEERS.values()]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = f"{len(os.sched_getaffinity(0))} cores"
    medians = f"medians of {amounts.rounds} rounds where they take turns"
    quick = ["quick"] if options.quick else []
    print(", ".join([*versions, python, cores, medians, *quick]), end="\n\n", flush=True)
    measured: dict[str, Mapping[tuple[str, str], float]] = {}
    lines: list[list[str]] = []
    all_met = True
    try:
        for row in table:
            for task in row.tasks:
                if task not in measured:
                    measured[task] = measure(task, amounts)
            figures = {key: f for task in row.tasks for key, f in measured[task].items()}
            its_lines, met = lines_of(row, figures)
            lines += its_lines
            all_met = all_met and met
    finally:  # what there is when somebody has enough of it
        print_table(lines)
    if options.plot:
        throughput.plot(throughput.measure(amounts, quick=options.quick), options.plot)
        print(f"\ndrawn: {options.plot}")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
