"""An interrupt between any two lines of a call leaves a registry that works as before.

Each call is made again and again, and interrupted one line later each time.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest

import pykka_registry
from pykka_registry import AggregateRegistry, RegistryError, _mending, _table
from pykka_registry._entry import State
from pykka_registry._inbox import is_stop
from tests.support import PATIENCE, Counting, Gate, join, nothing_remains, poll, start_thread
from tests.test_passivation import ADD

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pykka_registry import RegistryRef
    from pykka_registry._after import After
    from pykka_registry._table import Table

PACKAGE = str(Path(pykka_registry.__file__).parent)


class Interrupter:
    """Runs a call in a thread of its own, and interrupts it at one line of the package."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.thread: threading.Thread | None = None
        self.where: str | None = None
        """The line at which the call was interrupted; none if it came to its end before."""

    def run(self, call: Callable[[], object]) -> None:
        def run() -> None:
            self.thread = threading.current_thread()
            sys.settrace(self._trace)
            try:
                call()
            except (KeyboardInterrupt, RegistryError, pykka.Timeout):
                pass
            finally:
                sys.settrace(None)

        join(start_thread(run))

    def _trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        # Python looks for signals neither at a `try:` nor between the end of a `with` block, where
        # it comes to the first line again, and the release of the lock.
        if event == "line" and not line.lstrip().startswith(("with ", "try:")):
            self._left -= 1
            if not self._left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


def check(table: Table) -> None:
    """Fail if what a table keeps besides its rows does not follow from them."""
    with table._lock:
        entries = table._all_entries()
        states = Counter(entry.state for entry in entries)
        assert {s: n for s, n in table._states.items() if n and s is not State.ABSENT} == states
        assert -table._states[State.ABSENT] == len(entries)
        letters = [letter for entry in entries for letter in entry.queue]
        counted = [letter for letter in letters if not is_stop(letter.message)]
        assert table._queued == sum(
            letter.reply_to is None or letter.reply_to.queued for letter in counted
        )
        assert table.active == {e.key: e.ref for e in entries if e.state is State.ACTIVE}
        incarnations = [e.incarnation for e in entries if e.incarnation is not None]
        launched = {i for i in incarnations if i.launched}
        assert all(incarnation.has_place for incarnation in launched)
        assert table.admission.live >= len(launched)
        due = {i for i in incarnations if i.entry.state is State.STARTING and not i.launched}
        assert set(table.admission._waiting) == due
        assert len(table.admission._sieve) == states[State.ACTIVE]
        for entry in entries:
            if entry.state in {State.STARTING, State.STOPPING, State.BACKOFF}:
                assert table._alarms.has(entry)


def nothing(_registry: RegistryRef[Counting]) -> None: ...


def active(registry: RegistryRef[Counting]) -> None:
    registry.get_or_start("k")


def other(registry: RegistryRef[Counting]) -> None:
    registry.get_or_start("other")


def resting(registry: RegistryRef[Counting]) -> None:
    registry.ref("k").proxy().fail.defer(ValueError("no"))
    poll(lambda: registry.stats().ends)
    registry.ref("k").tell(ADD)
    registry.ref("k").submit(Counting.add)


def quarantined(registry: RegistryRef[Counting]) -> None:
    registry.ref("k").proxy().fail.defer(ValueError("no"))
    poll(lambda: registry.stats().quarantined)


CALLS: list[
    tuple[
        Callable[[RegistryRef[Counting]], None],
        Callable[[RegistryRef[Counting]], object],
        dict[str, Any],
    ]
] = [
    (nothing, lambda r: r.ref("k").tell(ADD), {}),
    (nothing, lambda r: r.ref("k").ask(ADD, timeout=PATIENCE), {}),
    (nothing, lambda r: r.get_or_start("k", timeout=PATIENCE), {}),
    (nothing, lambda r: r.get_or_start("k", timeout=0), {}),
    (nothing, lambda r: r.ref("k").ask(ADD, timeout=0), {}),
    (active, lambda r: r.ref("k").ask(ADD, timeout=PATIENCE), {}),
    (active, lambda r: r.ref("k").stop(timeout=PATIENCE), {}),
    (active, lambda r: r["k"].actor_stopped.set(), {}),
    (other, lambda r: r.ref("k").tell(ADD), {"max_live": 1}),
    (other, lambda r: r.ref("k").ask(ADD, timeout=0), {"max_live": 1}),
    (resting, lambda r: r.ref("k").stop(timeout=PATIENCE), {"backoff": (0.02, 0.02)}),
    (resting, lambda r: r.ref("k").ask(ADD, timeout=0), {"backoff": (0.02, 0.02)}),
    (quarantined, lambda r: r.release("k"), {"max_failures": 0, "quarantine": 0.05}),
]


@pytest.mark.parametrize(("before", "call", "policies"), CALLS)
def test_a_call_that_is_interrupted_anywhere_leaves_a_registry_that_works(
    before: Callable[[Any], None],
    call: Callable[[Any], object],
    policies: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = 0
    interrupter = Interrupter(at)

    def interrupted(table: Table, after: After) -> None:
        """Every other time, be interrupted in the mending, too, so that another thread mends."""
        if at % 2 == 0 and threading.current_thread() is interrupter.thread:
            raise KeyboardInterrupt
        _mending.mend(table, after)

    monkeypatch.setattr(_table, "mend", interrupted)
    while True:
        at += 1
        interrupter = Interrupter(at)
        registry = AggregateRegistry.start(Counting, **policies)
        before(registry)
        interrupter.run(lambda: call(registry))  # noqa: B023  # it is over before the next
        if interrupter.where is None:
            registry.drain()
            break
        try:
            registry._table.tick()
            check(registry._table)
            poll(lambda: not registry.stats().quarantined)  # noqa: B023  # the same
            for key in ("k", "z"):
                assert registry.ref(key).submit(Counting.add).get(timeout=PATIENCE) >= 1
            check(registry._table)
            join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))  # noqa: B023
            assert nothing_remains(registry)
            assert registry.stats().live == 0
        except BaseException as error:
            error.add_note(f"interrupted at {interrupter.where}")
            raise
    assert at > 10


class SlowToStop(Counting):
    """Waits at a gate in its last hook."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def on_stop(self) -> None:
        if self.key == "stopping":
            self._gate.pass_through()


@pytest.mark.parametrize("closed", [False, True])
def test_all_that_follows_from_the_rows_is_made_anew(*, closed: bool) -> None:
    gate, at_work = Gate(), Gate()
    registry = AggregateRegistry.start(
        SlowToStop, args=(gate,), backoff=(0.1, 0.1), max_failures=1, quarantine=2, idle=1000
    )
    table = registry._table
    for key, failures in {"failed": 1, "resting": 1, "quarantined": 2}.items():
        for _ in range(failures):
            registry.ref(key).proxy().fail.defer(ValueError("no"))
            poll(lambda: registry.stats().live == 0)
    registry.ref("active").proxy().wait_at(at_work)
    at_work.wait_until_reached()
    stopping = registry.get_or_start("stopping").stop(block=False)
    gate.wait_until_reached()
    letters: list[pykka.Future[Any]] = [
        registry.ref("stopping").submit(Counting.add),
        registry.ref("stopping").stop(block=False),
    ]
    poll(lambda: registry.stats().quarantined)
    letters.append(registry.ref("resting").submit(Counting.add))
    if closed:
        table.close("closed", 0.1)
    with table._lock:
        stale = table._entries["stopping"].ref
        assert stale is not None
        table.active.clear()
        table.active["stopping"] = stale
        table._queued, table._quiet = 99, 99
        table._states.clear()
        table._alarms = type(table._alarms)()
        table.admission.mend([])
        table._is_torn = True
    table.tick()
    check(table)
    assert registry.stats().queued in {1, 2}  # the one that rests may have begun by now
    assert registry.get("stopping") is None
    assert registry.get("active") is not None
    record = table._failures.get("failed")
    assert closed or (record is not None and table._alarms.has(record))
    gate.open()
    at_work.open()
    assert stopping.get(timeout=PATIENCE) is True
    if not closed:
        assert [letter.get(timeout=PATIENCE) for letter in letters] == [1, True, 1]
        poll(lambda: not registry.stats().quarantined)
    join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))
    assert nothing_remains(registry)


def test_a_mending_that_is_interrupted_is_done_by_the_next_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mended: list[bool] = []

    def interrupted(table: Table, after: After) -> None:
        mended.append(len(mended) > 0)
        if not mended[-1]:
            raise KeyboardInterrupt
        _mending.mend(table, after)

    def move(*_args: object) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(_table, "mend", interrupted)
        raise KeyboardInterrupt

    with AggregateRegistry.start(Counting) as registry:
        monkeypatch.setattr(registry._table, "_move", move)
        with pytest.raises(KeyboardInterrupt):
            registry.ref("k").tell(ADD)
        assert registry.ref("k").call(Counting.add) in {1, 2}
        assert mended == [False, True]
        check(registry._table)


@pytest.mark.parametrize("step", ["close", "abandon", "ring", "retire"])
@pytest.mark.parametrize("how", ["drain", "stop"])
def test_whatever_fails_in_the_registrys_thread_nobody_waits_for_ever(
    step: str, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = AggregateRegistry.start(Counting, drain_timeout=0.2)
    assert registry.ref("k").call(Counting.add) == 1
    real = getattr(registry._table, step)

    def fail(*args: Any) -> Any:
        monkeypatch.undo()
        real(*args)
        raise OSError("trouble")

    monkeypatch.setattr(registry._table, step, fail)
    join(start_thread(registry.drain if how == "drain" else registry.stop))
    assert not registry.is_alive()
    assert "trouble" in caplog.text
    poll(lambda: not registry.stats().live)
