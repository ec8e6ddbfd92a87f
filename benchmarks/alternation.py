"""Contestants take turns: a round of A, a round of B, a round of C, and again.

So a moment at which the machine is slow hits them all. Each has a process of its own, which sleeps
while others measure: nobody's threads, garbage or event loop burden anybody else.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import statistics
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from benchmarks.contestants import Amounts, Figures

__all__ = ["Entry", "alternate", "one_round"]

_LONGEST_ROUND = 900.0
"""Seconds after which a contestant is taken for hung."""

_CANNOT = "cannot"
_READY = "ready"


class Entry(NamedTuple):
    """Who takes part, and the function that does it."""

    name: str
    module: str
    function: str


class _Process:
    """The process of one contestant. Its answers are figures, or `None` if it has failed."""

    def __init__(self, entry: Entry, amounts: Amounts) -> None:
        context = multiprocessing.get_context("spawn")
        self._entry = entry
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry, amounts), daemon=True)
        self._process.start()
        theirs.close()
        self.can = self._receive() == _READY

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def round(self) -> Figures | None:
        """Measure one round."""
        if not self.can:
            return None
        try:
            self._pipe.send(True)
        except BrokenPipeError:
            self.can = False
            return None
        figures: Figures | None = self._receive()
        self.can = figures is not None
        return figures

    def _receive(self) -> Any:
        try:
            if self._pipe.poll(_LONGEST_ROUND):
                return self._pipe.recv()
        except EOFError:
            return None  # it has said why
        print(f"{self._entry.name}: no answer in {_LONGEST_ROUND:g} s", file=sys.stderr)
        return None


def alternate(
    entries: Sequence[Entry], amounts: Amounts, rounds: int
) -> Mapping[tuple[str, str], float]:
    """Return the medians of the entries' figures, each by entry and name.

    Before the first round that counts each has one that does not. Whoever cannot do it, or fails,
    has no figures.
    """
    processes = [_Process(entry, amounts) for entry in entries]
    try:
        taken: dict[str, list[Figures]] = {entry.name: [] for entry in entries}
        for number in range(rounds + 1):
            for entry, process in zip(entries, processes, strict=True):
                figures = process.round()
                if figures is not None and number > 0:
                    taken[entry.name].append(figures)
        return {
            (entry.name, name): statistics.median(figures[name] for figures in taken[entry.name])
            for entry, process in zip(entries, processes, strict=True)
            if process.can
            for name in taken[entry.name][0]
        }
    finally:
        for process in processes:
            process.close()


def one_round(entries: Sequence[Entry], amounts: Amounts) -> Mapping[tuple[str, str], float]:
    """Return the figures of one round each, one process after the other, each a fresh one."""
    result: dict[tuple[str, str], float] = {}
    for entry in entries:
        with contextlib.closing(_Process(entry, amounts)) as process:
            for name, figure in (process.round() or {}).items():
                result[entry.name, name] = figure
    return result


def _serve(pipe: Connection[Any, Any], entry: Entry, amounts: Amounts) -> None:
    """Do rounds for as long as somebody asks for them; in a process of its own."""
    code = 0
    try:
        task = getattr(importlib.import_module(entry.module), entry.function, None)
        pipe.send(_CANNOT if task is None else _READY)
        if task is not None:
            rounds = task(amounts)
            while pipe.recv():
                pipe.send(next(rounds))
    except (EOFError, BrokenPipeError):
        pass
    except BaseException:  # noqa: BLE001  # whatever it was: it is said here, and the run goes on
        print(f"{entry.name}, {entry.function}:", file=sys.stderr)
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # thousands of threads may be left, and nobody needs their end
