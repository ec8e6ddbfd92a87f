"""What an exception holds by its traceback: the frames that it has passed, and all their variables.

So an exception that is kept keeps the actor alive that has failed of it. The lines of an emptied
traceback can still be read.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["empty", "tracebacks"]

_CAN_WAIT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def tracebacks(error: BaseException, others: BaseException | None = None) -> list[TracebackType]:
    """Return the traceback of an exception, and those of all that have led to it.

    But for one of `others`, which it has met by chance, and what has led to that.

    What is raised once more gets a longer traceback, which ends with this one.
    """
    found: list[TracebackType] = []
    seen: set[int] = set() if others is None else {id(others)}
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


def empty(found: Iterable[TracebackType]) -> None:
    """Empty the frames of tracebacks, and those that had called them, but for those that run."""
    for one in found:
        traceback.clear_frames(one)
        frame = one.tb_frame.f_back
        with contextlib.suppress(RuntimeError):  # from here on they are running
            while frame is not None:
                if not frame.f_code.co_flags & _CAN_WAIT:  # to empty a generator's is to close it
                    frame.clear()
                frame = frame.f_back
