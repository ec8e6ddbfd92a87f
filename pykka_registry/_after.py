"""What is decided under a lock and carried out once it is released."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["After"]


class After:
    """What is left to do, in order. Each thing may be done twice, if an interrupt comes between."""

    def __init__(self) -> None:
        self._todo: deque[Callable[[], object]] = deque()

    def do(self, action: Callable[..., object], *args: object) -> None:
        """Have it done."""
        self._todo.append(partial(action, *args))

    def run(self) -> None:
        """Do what is left."""
        while self._todo:
            self._todo[0]()
            self._todo.popleft()
