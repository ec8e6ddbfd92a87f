"""A Ctrl-C wherever Python looks for one loses no message, no answer and no wake-up.

Each call is made again and again, and interrupted one place later each time. Coverage does not see
what these tests run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import opcode
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest

import pykka_registry
from pykka_registry import AggregateMixin, AggregateRegistry, PooledActor
from pykka_registry._future import Future
from tests.support import PATIENCE, join, start_thread
from tests.test_mending import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from pykka_registry import RegistryRef

PACKAGE = str(Path(pykka_registry.__file__).parent)


class Interrupt:
    """Runs a call in a thread of its own, with an interrupt at one place of the package.

    CPython looks for signals where a function of Python's begins, where a loop goes back, and when
    a function of C's has returned, before its result is kept; nowhere else.
    """

    def __init__(self, at: int) -> None:
        self._left = at
        self._called_from: FrameType | None = None
        """Where a function was called, if none of Python's has begun since."""
        self.where: str | None = None
        """The place; none if the call came to its end before."""
        self.raised: type[BaseException] | None = None

    def during(self, call: Callable[[], object]) -> None:
        def run() -> None:
            sys.settrace(self._trace)
            try:
                call()
            except BaseException as error:  # noqa: BLE001
                self.raised = type(error)
            finally:
                sys.settrace(None)

        join(start_thread(run))

    def _trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            self._called_from = None
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            self._called_from = None
            self._come_to(frame)
        elif event == "opcode":
            has_returned = self._called_from is frame
            name = names_of(frame.f_code)[frame.f_lasti // 2]
            self._called_from = frame if name.startswith("CALL") else None
            if has_returned or name.startswith("JUMP_BACKWARD"):
                self._come_to(frame)
        return self._trace

    def _come_to(self, frame: FrameType) -> None:
        self._left -= 1
        if not self._left:
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            sys.settrace(None)
            raise KeyboardInterrupt


@functools.cache
def names_of(code: CodeType) -> list[str]:
    """Return the names of a function's instructions, as they are without specialization."""
    return [opcode.opname[number] for number in code.co_code[::2]]


def interrupts(least: int) -> Iterator[Interrupt]:
    """Yield interrupts, each one place later, until one has not struck; say where one failed."""
    for at in itertools.count(1):
        interrupt = Interrupt(at)
        try:
            yield interrupt
        except GeneratorExit:
            print(f"interrupted at {interrupt.where}")  # noqa: T201  # pytest shows it if it fails
            raise
        if interrupt.where is None:
            assert interrupt.raised is None
            assert at > least
            return
        assert interrupt.raised is KeyboardInterrupt


# Who waits for a future.


def give(future: Future[Any]) -> None:
    future.give("first")


def hook(future: Future[Any]) -> None:
    future.set_get_hook(lambda _timeout: "first")


@pytest.mark.parametrize("settle", [give, hook])
def test_who_waits_is_woken_though_an_interrupt_comes(
    settle: Callable[[Future[Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    for interrupt in interrupts(least=8):
        future: Future[Any] = Future()
        results: list[Any] = []
        called: list[object] = []

        def get(future: Future[Any] = future, results: list[Any] = results) -> None:
            results.append(future.get())

        threads = [start_thread(get) for _ in range(2)]
        while len(future._waiters or ()) < 2:
            pass
        future.add_done_callback(called.append)
        interrupt.during(lambda: settle(future))  # noqa: B023  # over by then
        is_settled = bool(called)
        assert future.give("second") is not is_settled
        for thread in threads:
            join(thread)
        assert results in [["first"] * 2, ["second"] * 2]
        assert set(called) == {future}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Turns, which a thread that waits takes itself.


class Noting(AggregateMixin, PooledActor):
    """Notes what it is told, in a list that outlives it."""

    def __init__(self, noted: list[int]) -> None:
        super().__init__()
        self._noted = noted

    def note(self, number: int) -> int:
        self._noted.append(number)
        return number


def send(registry: RegistryRef[Noting], number: int) -> list[pykka.Future[int]]:
    """Tell the key to note a number, and ask it, and its present actor, to note others."""
    address = registry.ref("k")
    address.proxy().note.defer(number)
    return [address.submit(Noting.note, number + 10), registry["k"].proxy().note(number + 20)]


def call(registry: RegistryRef[Noting]) -> None:
    registry.ref("k").call(Noting.note, 9)


def stop(registry: RegistryRef[Noting]) -> None:
    registry.ref("k").stop()


@pytest.mark.parametrize("what", [call, stop])
def test_an_interrupted_turn_loses_nothing_that_comes_before_it_or_behind(
    what: Callable[[RegistryRef[Noting]], None],
) -> None:
    for interrupt in interrupts(least=100):
        noted: list[int] = []
        executor = Aside()
        with AggregateRegistry.start(
            Noting, args=(noted,), backoff=(0, 0), max_failures=1_000_000, executor=executor
        ) as registry:
            registry.get_or_start("k")
            answers = send(registry, 1)
            stopped = registry.ref("k").stop(block=False) if what is stop else None
            answers += send(registry, 2)
            interrupt.during(lambda: what(registry))  # over by then
            executor.open()
            assert stopped is None or stopped.get(timeout=PATIENCE) is True
            answered: list[int] = []
            for answer in answers:
                with contextlib.suppress(pykka.ActorDeadError):
                    answered.append(answer.get(timeout=PATIENCE))
            registry.ref("k").call(Noting.note, 5)  # behind all that was told
            dead = [letter.message.args[0] for letter in registry.dead_letters]
        assert len({*noted}) == len(noted)
        assert {1, 2} <= {*noted, *dead}
        assert {*answered} <= {*noted}
        if interrupt.where is None:
            assert answered == ([11, 21, 12] if what is stop else [11, 21, 12, 22])
