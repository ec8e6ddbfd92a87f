"""Wait for an actor's answer, and look now and then if the user wants to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pykka

from examples.bank.interrupt import Stopped
from pykka_registry import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_GLANCE = 0.1  # seconds of waiting after which we look if the user wants to stop


def never() -> bool:
    """Tell that nobody wants to stop."""
    return False


def answer_of(future: pykka.Future[T], wants_to_stop: Callable[[], bool]) -> T:
    """Wait for the answer.

    Raises:
        Stopped: if the user wants to stop; the actor goes on.
    """
    while True:
        if wants_to_stop():
            raise Stopped
        try:
            return future.get(timeout=_GLANCE)
        except Overloaded:  # a timeout, too, but somebody else's: it is the answer
            raise
        except pykka.Timeout:
            continue
