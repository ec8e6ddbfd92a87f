"""What is decided under a lock and carried out once it is released."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["After"]

_MANY = 32
"""From so many on a list is slower to take the first from than to make a deque of."""


_Item: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"


class After:
    """What is left to do, in order. Each thing may be done twice, if an interrupt comes between."""

    __slots__ = ("_todo",)

    def __init__(self) -> None:
        self._todo: list[_Item] | deque[_Item] = []

    def do(self, action: Callable[..., object], *args: Any) -> None:
        """Have it done."""
        self._todo.append((action, args))

    def run(self) -> None:
        """Do what is left."""
        todo = self._todo
        if len(todo) > _MANY:
            todo = self._todo = deque(todo)
        while todo:
            action, args = todo[0]
            action(*args)
            del todo[0]
