"""What an exception holds by its traceback: the frames that it has passed, and all their variables.

So an exception that is kept keeps the actor alive that has failed of it. The lines of an emptied
traceback can still be read.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType, TracebackType

__all__ = ["empty", "tracebacks"]

_CAN_WAIT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def tracebacks(error: BaseException) -> list[TracebackType]:
    """Return the traceback of an exception, and those of all that have led to it.

    What is raised once more gets a longer traceback, which ends with this one.
    """
    found: list[TracebackType] = []
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        error_or_none = todo.pop()
        if error_or_none is None or id(error_or_none) in seen:
            continue
        seen.add(id(error_or_none))
        if error_or_none.__traceback__ is not None:
            found.append(error_or_none.__traceback__)
        todo += [error_or_none.__cause__, error_or_none.__context__]
        if isinstance(error_or_none, BaseExceptionGroup):
            todo += error_or_none.exceptions  # pyright: ignore[reportUnknownMemberType]
    return found


def empty(found: Iterable[TracebackType], cls: type[object]) -> None:
    """Empty the frames of tracebacks, and those that had called them, but for those that run.

    To empty the frame of a generator or a coroutine is to close it, and the one that has caught an
    exception may go on: such a frame is emptied only if it holds an instance of `cls`.
    """
    for one in found:
        passed: TracebackType | None = one
        while passed is not None:
            with contextlib.suppress(RuntimeError):  # it is running
                _empty(passed.tb_frame, cls)
            passed = passed.tb_next
        frame = one.tb_frame.f_back
        with contextlib.suppress(RuntimeError):  # from here on they are running
            while frame is not None:
                _empty(frame, cls)
                frame = frame.f_back


def _empty(frame: FrameType, cls: type[object]) -> None:
    # Not by `f_locals`, which would keep what it holds.
    can_wait = frame.f_code.co_flags & _CAN_WAIT
    if not can_wait or any(cls in type(value).__mro__ for value in gc.get_referents(frame)):
        frame.clear()
