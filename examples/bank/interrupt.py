"""Ctrl-C as a wish: noticed between two rows, not wherever the program happens to be."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType


@contextmanager
def ctrl_c_as_a_wish() -> Generator[Callable[[], bool]]:
    """Give a function that tells if Ctrl-C was pressed; pressed again it is `KeyboardInterrupt`.

    Main thread only, as Python hands signals to no other.
    """
    pressed = Event()

    def note(_signal: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
