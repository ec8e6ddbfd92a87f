"""An interrupt between any two lines of a call leaves a registry that works as before.

Each call is made again and again, and interrupted one line later each time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import itertools
import linecache
import sys
import threading
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest

import pykka_registry
from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    DeadLetterReason,
    EndReason,
    PooledActor,
    RegistryError,
    Undeliverable,
    _aggregate,
    _decisions,
    _life,
    _mending,
    _waits,
)
from pykka_registry._entry import Entry, State
from pykka_registry._future import Future
from pykka_registry._inbox import Letter, is_stop, stop_letter
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    join,
    nothing_remains,
    poll,
    start_thread,
)
from tests.test_passivation import ADD, ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def resting_and_absent(registry: RegistryRef[Counting]) -> None:
    registry.ref("k").proxy().fail.defer(ValueError("no"))
    poll(lambda: registry.stats().ends)


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
    (resting_and_absent, lambda r: r.ref("k").tell(ADD), {"backoff": (0.02, 0.02)}),
    (resting_and_absent, lambda r: r.ref("k").ask(ADD, timeout=0), {"backoff": (0.02, 0.02)}),
    (resting_and_absent, lambda r: r.get_or_start("k"), {"backoff": (0.02, 0.02)}),
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

    monkeypatch.setattr(_decisions, "mend", interrupted)
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


def interrupts() -> Iterator[Interrupter]:
    """Yield one interrupter after the other, each of a later line, until one has not struck."""
    for at in itertools.count(1):
        interrupter = Interrupter(at)
        yield interrupter
        if interrupter.where is None:
            assert at > 10
            return


def tell_numbers(registry: RegistryRef[Counting], numbers: list[int]) -> None:
    """Let a key rest, and tell it to append five numbers when it does so no longer."""
    resting_and_absent(registry)
    for number in range(5):
        registry.ref("k").proxy().run.defer(numbers.append, number)


def test_a_purge_of_expired_letters_that_is_interrupted_loses_and_reorders_none() -> None:
    for interrupter in interrupts():
        numbers: list[int] = []
        with AggregateRegistry.start(Counting, backoff=(0.02, 0.02)) as registry:
            resting_and_absent(registry)
            address = registry.ref("k")
            for number in range(5):
                address.proxy().run.defer(numbers.append, number)
                with contextlib.suppress(pykka.Timeout):
                    address.ask(ADD, timeout=0)
            # With one more, most letters in the queue will have expired.
            interrupter.run(lambda: address.ask(ADD, timeout=0))  # noqa: B023  # over by then
            registry._table.tick()
            check(registry._table)
            poll(lambda: len(numbers) == 5)  # noqa: B023  # the same
        assert numbers == list(range(5)), interrupter.where


def test_letters_that_are_given_up_while_an_interrupt_comes_have_their_fate() -> None:
    """One of them may be reported twice, but none is lost, and none handled that is reported."""
    for interrupter in interrupts():
        numbers: list[int] = []
        with AggregateRegistry.start(Counting, backoff=(0.02, 0.02)) as registry:
            tell_numbers(registry, numbers)
            address = registry.ref("k")
            asked = address.submit(Counting.add)
            interrupter.run(lambda: address.stop(timeout=PATIENCE))  # noqa: B023  # over by then
            registry._table.tick()
            check(registry._table)
            with contextlib.suppress(RegistryError):
                asked.get(timeout=PATIENCE)
            registry.ref("k").call(Counting.add)
            dead = [letter.message.args[1] for letter in registry.dead_letters]
            assert len(dead) <= sum(registry.stats().dead_letters.values()) <= 6
        assert sorted({*numbers, *dead}) == list(range(5)), interrupter.where
        assert len(numbers) + len(dead) <= 6, interrupter.where
        assert not {*numbers} & {*dead}, interrupter.where


def test_keys_that_are_good_stay_when_a_bad_one_goes_and_an_interrupt_comes() -> None:
    for interrupter in interrupts():
        key = BadKey()
        registry = AggregateRegistry.start(Counting)
        refs = [registry.get_or_start(number) for number in range(4)]
        bad = registry.get_or_start(key)
        key.is_bad = True
        interrupter.run(bad.actor_stopped.set)
        bad.stop()
        registry._table.tick()
        assert [registry.get_or_start(number) for number in range(4)] == refs, interrupter.where
        join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))  # noqa: B023  # over
        assert not any(ref.is_alive() for ref in refs)


class BadKey:
    """Raises when it is hashed, once it is told to."""

    is_bad = False

    def __hash__(self) -> int:
        if self.is_bad:
            raise ValueError("no")
        return 1


def test_an_end_of_a_foreign_actor_is_told_though_an_interrupt_comes() -> None:
    foreign = Listener.start()
    for interrupter in interrupts():
        listener = Listener.start()
        with AggregateRegistry.start(Counting) as registry:
            registry.subscribe(listener)
            registry.register("f", foreign)
            interrupter.run(lambda: registry.unregister("f", foreign))  # over by then
            registry.unregister("f", foreign)
            assert registry.get("f") is None
            told = ends(listener, 1)
            assert {(end.key, end.reason) for end in told} == {("f", EndReason.UNREGISTERED)}
            assert 1 <= registry.stats().ends[EndReason.UNREGISTERED] <= 2
        listener.stop()
    foreign.stop()


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


def test_what_a_quarantined_key_still_has_in_its_queue_is_reported() -> None:
    """An interrupt came between the two."""
    gate = Gate()
    registry = AggregateRegistry.start(
        SlowToStop, args=(gate,), max_failures=0, quarantine=None, stop_timeout=0.05
    )
    table = registry._table
    registry.ref("failed").proxy().fail.defer(ValueError("no"))
    registry.get_or_start("stopping").stop(block=False)
    gate.wait_until_reached()
    poll(lambda: registry.stats().quarantined == 2)
    with table._lock:
        for entry in table._all_entries():
            entry.queue = deque([Letter("told"), stop_letter(Future())])
        table._is_torn = True
    table.tick()
    check(table)
    assert registry.stats().queued == 0
    assert registry.stats().dead_letters == {
        DeadLetterReason.QUARANTINED: 1,
        DeadLetterReason.ABANDONED: 1,
    }
    gate.open()
    registry.drain()
    poll(lambda: nothing_remains(registry))


def test_what_was_lost_stays_lost_after_an_interrupt() -> None:
    key, gate = BadKey(), Gate()
    registry = AggregateRegistry.start(Counting)
    table = registry._table
    good = registry.get_or_start("good")
    bad = registry.get_or_start(key)
    bad.proxy().wait_at(gate)
    gate.wait_until_reached()
    with table._lock:
        (entry,) = [entry for entry in table._all_entries() if entry.key is key]
        table._lost = {entry: ValueError("no")}  # and it is not out of the others yet
        table._is_torn = True
    table.tick()
    assert list(table._entries) == ["good"]
    assert registry.get("good") is good
    assert registry.get(key) is None
    gate.open()
    join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))
    assert not bad.is_alive()
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
        monkeypatch.setattr(_decisions, "mend", interrupted)
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


# Turns, which a thread that waits takes itself.


class Noting(AggregateMixin, PooledActor):
    """Counts, and notes what it is told, in a list that outlives it."""

    def __init__(self, noted: list[int]) -> None:
        super().__init__()
        self._noted = noted

    def add(self) -> int:
        return 1

    def note(self, number: int) -> None:
        self._noted.append(number)


def pooled_active(registry: RegistryRef[Noting]) -> None:
    registry.get_or_start("k")
    registry.ref("k").call(Noting.add)


def pooled_told(registry: RegistryRef[Noting]) -> None:
    pooled_active(registry)
    for number in range(3):
        registry.ref("k").proxy().note.defer(number)


def pooled_nothing(_registry: RegistryRef[Noting]) -> None: ...


TURNS: dict[
    str,
    tuple[Callable[[RegistryRef[Noting]], None], Callable[[RegistryRef[Noting]], object]],
] = {
    "start": (pooled_nothing, lambda r: r.get_or_start("k")),
    "call that starts": (pooled_nothing, lambda r: r.ref("k").call(Noting.add)),
    "call": (pooled_active, lambda r: r.ref("k").call(Noting.add)),
    "ask": (pooled_active, lambda r: r.ref("k").ask(ADD)),
    "ask of the ref": (pooled_active, lambda r: r["k"].ask(ADD)),
    "tell": (pooled_active, lambda r: r.ref("k").tell(ADD)),
    "stop": (pooled_active, lambda r: r.ref("k").stop()),
    "stop by the flag": (pooled_active, lambda r: r["k"].actor_stopped.set()),
    "call behind others": (pooled_told, lambda r: r.ref("k").call(Noting.add)),
    "stop behind others": (pooled_told, lambda r: r.ref("k").stop()),
}


class Aside(concurrent.futures.Executor):
    """Keeps what it is given, and runs it once it is open."""

    def __init__(self) -> None:
        self._tasks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._is_open = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with self._lock:
            if not self._is_open:
                self._tasks.append(partial(fn, *args, **kwargs))
                return concurrent.futures.Future()
        start_thread(partial(fn, *args, **kwargs))
        return concurrent.futures.Future()

    def open(self) -> None:
        with self._lock:
            self._is_open = True
        for task in self._tasks:
            start_thread(task)


def lines_with(text: str, module: Any) -> set[str]:
    """Return where a module has a text, as `Interrupter` says it."""
    lines = inspect.getsource(module).splitlines()
    return {f"{module.__file__}:{i}" for i, line in enumerate(lines, 1) if text in line}


HANDLER = lines_with("._handle_receive(message)", _life)


def left_of(mine: Any) -> tuple[list[Any], Any]:
    return [*mine.running], mine.held


@pytest.mark.parametrize("what", TURNS)
def test_a_turn_that_is_interrupted_anywhere_is_taken_by_others(what: str) -> None:
    before, call = TURNS[what]
    at = 0
    while True:
        at += 1
        noted: list[int] = []
        executor = Aside()
        registry = AggregateRegistry.start(
            Noting, args=(noted,), backoff=(0, 0), max_failures=1_000_000, executor=executor
        )
        before(registry)
        interrupter = Interrupter(at)
        ends: list[object] = []

        def run(registry: RegistryRef[Noting] = registry, ends: list[object] = ends) -> None:
            try:
                call(registry)
            except BaseException as error:
                ends.append(type(error))
                raise
            finally:
                sys.settrace(None)
                ends.append(left_of(_waits.mine))

        interrupter.run(run)
        try:
            assert ends[-1] == ([], None)
            assert interrupter.where is None or ends[0] is KeyboardInterrupt
            executor.open()
            assert registry.ref("k").submit(Noting.add).get(timeout=PATIENCE) == 1
            assert registry.ref("k").call(Noting.add) == 1
            noted += [letter.message.args[0] for letter in registry.dead_letters]
            expected = [0, 1, 2] if before is pooled_told else []
            if interrupter.where in HANDLER and len(noted) == 2:
                expected = sorted(noted)  # the third one's handler had begun
            assert sorted(noted) == expected
            assert len({*noted}) == len(noted)
            join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))  # noqa: B023
            assert nothing_remains(registry)
        except BaseException as error:
            error.add_note(f"interrupted at {interrupter.where}")
            raise
        if interrupter.where is None:
            break
    assert at > 30


def at_depth(depth: int, call: Callable[[], object]) -> object:
    return call() if depth <= 0 else at_depth(depth - 1, call)


@pytest.mark.parametrize("what", TURNS)
def test_a_turn_that_meets_the_end_of_the_stack_is_taken_by_others(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_waits, _aggregate):  # who has so little room does not help otherwise
        monkeypatch.setattr(module, "has_room", lambda: True)
    before, call = TURNS[what]
    met = 0
    for room in range(1, 31):
        noted: list[int] = []
        executor = Aside()
        registry = AggregateRegistry.start(
            Noting, args=(noted,), backoff=(0, 0), max_failures=1_000_000, executor=executor
        )
        before(registry)
        ends: list[object] = []

        def run(
            registry: RegistryRef[Noting] = registry, ends: list[object] = ends, room: int = room
        ) -> None:
            def deep() -> None:
                call(registry)

            try:
                at_depth(sys.getrecursionlimit() - room - 10, deep)
            except BaseException as error:  # noqa: BLE001
                ends.append(type(error))
            ends.append(left_of(_waits.mine))

        join(start_thread(run))
        try:
            assert ends[-1] == ([], None)
            assert len(ends) == 1 or ends[0] in {RecursionError, Undeliverable}
            met += len(ends) == 2
            executor.open()
            with contextlib.suppress(Undeliverable):  # a start that has met it fails
                registry.ref("k").submit(Noting.add).get(timeout=PATIENCE)
            assert registry.ref("k").call(Noting.add) == 1
            fates = noted + [letter.message.args[0] for letter in registry.dead_letters]
            assert len({*fates}) == len(fates)
            expected = {0, 1, 2} if before is pooled_told else set[int]()
            # One whose handler has met it has failed of it, as of any other exception.
            assert len(expected - {*fates}) <= registry.stats().ends.get(EndReason.FAILED, 0)
            join(start_thread(lambda: registry.drain(timeout=2 * PATIENCE)))  # noqa: B023
            assert nothing_remains(registry)
        except BaseException as error:
            error.add_note(f"with {room} frames left")
            raise
    assert met > 1


def test_who_meets_the_end_of_the_stack_as_a_key_is_freed_blames_not_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AggregateRegistry.start(Noting, args=([],)) as registry:
        ref = registry.ref("k")
        assert ref.call(Noting.add) == 1
        table = registry._table
        move = table._move

        def meet_it(entry: Entry, state: State, delay: float | None = None) -> None:
            if state is State.ABSENT:
                monkeypatch.undo()
                entry.state = state
                raise RecursionError
            move(entry, state, delay)

        monkeypatch.setattr(table, "_move", meet_it)
        with contextlib.suppress(RecursionError):
            ref.stop()
        assert ref.using(timeout=5).call(Noting.add) == 1


@pytest.mark.parametrize("where", ["before it is made", "before it is in the line"])
def test_a_successor_is_made_anew_that_an_interrupt_kept_from_being_launched(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    executor = Aside()

    def be_interrupted(*_args: object, **_kwargs: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with AggregateRegistry.start(Noting, args=(noted,), executor=executor) as registry:
        table = registry._table
        registry.get_or_start("k")
        stopped = registry.ref("k").stop(block=False)
        behind = registry.ref("k").submit(Noting.add)
        if where == "before it is made":
            monkeypatch.setattr(table, "_hand_over", be_interrupted)
        else:
            monkeypatch.setattr(table.admission, "enqueue", be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.get()
        check(table)
        executor.open()
        assert stopped.get(timeout=PATIENCE) is True
        assert behind.get(timeout=PATIENCE) == 1


class PooledSlowToStop(AggregateMixin, PooledActor):
    """Waits at a gate in its last hook."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def on_stop(self) -> None:
        self._gate.pass_through()


def test_a_late_end_frees_the_key_though_an_interrupt_comes_before_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    raised: list[BaseException] = []

    def be_interrupted(_entry: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    registry = AggregateRegistry.start(
        PooledSlowToStop, args=(gate,), executor=Aside(), stop_timeout=0.05
    )

    def stop() -> None:
        try:
            registry.ref("k").stop()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    registry.get_or_start("k")
    thread = start_thread(stop)
    gate.wait_until_reached()
    poll(lambda: registry.stats().quarantined)
    monkeypatch.setattr(registry._table, "_remove", be_interrupted)
    gate.open()
    join(thread)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    check(registry._table)
    assert registry.stats().quarantined == 0
    assert registry.get_or_start("k").is_alive()
    assert registry.ref("k").stop() is True
    registry.drain()
    assert nothing_remains(registry)
