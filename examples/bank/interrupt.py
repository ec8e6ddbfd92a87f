"""Ctrl-C: it ends the program at once, but while a store is open the first one is only a wish.

At once means like `kill -9`, which the store survives at any moment. An exception instead could
come up anywhere, and let the store be closed under the actors that are at work on it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

PROGRAM = "python -m examples.bank"
STOPPED = 130
HOW_TO_GO_ON = "nothing is half booked: run the same command again to go on"

_SHOW_CURSOR = b"\x1b[?25h"


class Stopped(Exception):  # noqa: N818 - not an error: the user has asked for it
    """The user has pressed Ctrl-C."""


class CtrlC:
    """What Ctrl-C does, and what the program says when it ends by it."""

    def __init__(self) -> None:
        self.how_to_go_on = HOW_TO_GO_ON
        # Plain attributes: a handler that takes a lock may wait for the very code it interrupts.
        self._is_a_wish = False
        self._was_pressed = False

    @contextmanager
    def heard(self) -> Generator[None]:
        """Listen to Ctrl-C. Main thread only, as Python hands signals to no other."""
        previous = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    @contextmanager
    def as_a_wish(self) -> Generator[Callable[[], bool]]:
        """Give a function that tells if Ctrl-C was pressed; pressed again it ends the program."""
        self._is_a_wish = True
        try:
            yield lambda: self._was_pressed
        finally:
            self._is_a_wish = False

    def say_farewell(self) -> None:
        """Say that the program has stopped and how to go on; once, however often it is pressed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(_farewell(self.how_to_go_on), file=sys.stderr)

    def _press(self, _signal: int, _frame: FrameType | None) -> None:
        if self._is_a_wish and not self._was_pressed:
            self._was_pressed = True
        else:
            end_at_once(self.how_to_go_on)


def end_at_once(how_to_go_on: str = HOW_TO_GO_ON) -> NoReturn:
    """End the program without another line of it."""
    # Not by `print`: this is called by signals, and the stream may be in the middle of a write.
    with suppress(OSError):  # whoever reads it may be gone
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR + b"\n")
        os.write(2, f"{_farewell(how_to_go_on)}\n".encode())
    os._exit(STOPPED)


def _farewell(how_to_go_on: str) -> str:
    return f"{PROGRAM}: stopped; {how_to_go_on}"
