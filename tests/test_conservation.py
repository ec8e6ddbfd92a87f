"""No message is lost, doubled or reordered, as counted from outside; and the count can be wrong."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, get_args

import pytest

from pykka_registry import EndReason
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox
from tests.conservation import End, Fate, Report, Run, Setting, main, run
from tests.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry._inbox import Letter, Queue


LONG = 0.1
"""Seconds; on a slow machine, too, a busy key gets its next message sooner."""


@pytest.mark.parametrize("end", get_args(End))
def test_each_message_has_exactly_one_fate(end: End) -> None:
    """The report also says what was meant to come between and did not."""
    report = run(
        messages=12_000,
        senders=4,
        keys=60,
        max_live=24,
        seed=1,
        relays=True,
        plain=True,
        end=end,
        idle=LONG,
    )
    assert report.problems == ()
    fates = report.handled, report.expired, report.reported, report.dead, report.refused
    assert sum(fates) == report.sent > 5_000
    assert report.stats.ends[EndReason.EVICTED] > 0
    if end != "settle":
        assert report.stats.ends[EndReason.DRAINED] > 0
        assert report.refused > 1_000


def test_each_message_that_comes_from_outside_is_sent_and_has_exactly_one_fate() -> None:
    report = run(messages=10_000, senders=4, keys=60, max_live=24, seed=2, idle=LONG)
    assert report.problems == ()
    assert report.sent == 10_000


# The count can be wrong.


def small_run() -> Run:
    setting = Setting(senders=2, keys=20, relays=False, plain=False)
    return Run(messages=4_000, seed=3, setting=setting)


def wrong(report: Report) -> list[str]:
    """Return what is wrong; in a small run not all that is meant to happen does."""
    return [problem for problem in report.problems if not problem.startswith("never happened")]


@pytest.fixture(scope="module")
def settled() -> tuple[Run, Report]:
    """A run in which all is right, and what it has reported."""
    one = small_run()
    report = one.go(max_live=10, end="settle")
    assert wrong(report) == []
    return one, report


@pytest.mark.parametrize(
    ("marks", "column", "mark", "seen"),
    [
        ((Fate.TOLD, 1, 0), "handled", 0, "lost"),
        ((Fate.TOLD, 1, 0), "handled", 2, "doubled"),
        ((Fate.TOLD, 1, 0), "dead", 1, "doubled"),
        ((Fate.ANSWERED, 1, 0), "handled", 0, "lost"),
        ((Fate.ANSWERED, 1, 0), "handled", 2, "doubled"),
        ((Fate.ANSWERED, 1, 0), "fates", Fate.ASKED, "lost"),
        ((Fate.ANSWERED, 1, 0), "fates", Fate.REPORTED, "doubled"),
        ((Fate.ANSWERED, 1, 0), "fates", Fate.REFUSED, "doubled"),
        ((Fate.ANSWERED, 1, 0), "fates", Fate.UNSENT, "doubled"),
        ((Fate.TIMED_OUT, 0, 0), "handled", 1, "expired"),
    ],
)
def test_one_wrong_mark_among_thousands_is_seen(
    settled: tuple[Run, Report], marks: tuple[Fate, int, int], column: str, mark: int, seen: str
) -> None:
    one, report = settled
    ledger = one._ledger
    number = list(zip(ledger.fates[0], ledger.handled[0], ledger.dead[0], strict=True)).index(marks)
    cells: bytearray = getattr(ledger, column)[0]
    before = cells[number]
    cells[number] = mark
    try:
        (problem,) = wrong(one._report(report.stats))
    finally:
        cells[number] = before
    assert seen in problem
    assert wrong(one._report(report.stats)) == []


def lose_one(letters: list[Letter]) -> list[Letter]:
    lost = next(i for i, letter in enumerate(letters) if letter.reply_to is None)
    return letters[:lost] + letters[lost + 1 :]


def double_one(letters: list[Letter]) -> list[Letter]:
    return [next(letter for letter in letters if letter.reply_to is None), *letters]


@pytest.mark.parametrize("spoil", [lose_one, double_one])
def test_one_message_that_is_lost_or_doubled_is_seen(
    spoil: Callable[[list[Letter]], list[Letter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_queue_of = Inbox.take_queue_of
    spoilt: list[Inbox] = []

    def spoil_once(inbox: Inbox, source: Queue) -> None:
        if not spoilt and any(letter.reply_to is None for letter in source.queue):
            spoilt.append(inbox)
            source.queue = deque(spoil([*source.queue]))
        take_queue_of(inbox, source)

    monkeypatch.setattr(Inbox, "take_queue_of", spoil_once)
    report = small_run().go(max_live=10, end="settle")
    assert spoilt
    assert (report.lost, report.doubled) == ((1, 0) if spoil is lose_one else (0, 1))
    assert not report.ok


def test_messages_out_of_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    take_queue_of = Inbox.take_queue_of

    def take_reversed(inbox: Inbox, source: Queue) -> None:
        source.queue = deque(reversed(source.queue))
        take_queue_of(inbox, source)

    monkeypatch.setattr(Inbox, "take_queue_of", take_reversed)
    report = small_run().go(max_live=10, end="settle")
    assert report.disorder > 0
    assert (report.lost, report.doubled) == (0, 0)
    assert not report.ok


def test_expired_messages_that_are_handled_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Future[Any].begin

    def begin_all_the_same(future: Future[Any]) -> bool:
        begin(future)
        return True

    monkeypatch.setattr(Future, "begin", begin_all_the_same)
    report = small_run().go(max_live=10, end="settle")
    (problem,) = wrong(report)
    assert problem.startswith("expired: ")


def test_a_run_in_which_nothing_happens_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--messages", "10", "--senders", "1", "--keys", "1"]
    monkeypatch.setattr(sys, "argv", ["conservation", *options])
    assert main() == 1
    report = capsys.readouterr().out
    assert "WRONG: never happened: expired" in report
    assert "lost                                   0" in report


def test_a_run_that_is_stuck_ends_with_the_stacks_of_all_threads() -> None:
    stuck = (
        "from pykka_registry._inbox import Inbox; Inbox.take_queue_of = lambda *_: None; "
        "from tests.conservation import run; "
        "run(messages=100, senders=1, keys=1, max_live=1, seed=1, patience=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", stuck], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "stuck: nothing has happened for 1 seconds" in done.stderr
    assert "in run" in done.stderr
