"""What is decided under a lock and carried out once it is released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["After"]


class After:
    """What is left to do, in order. Each thing may be done twice, if an interrupt comes between."""

    __slots__ = ("_todo",)

    def __init__(self) -> None:
        self._todo: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def do(self, action: Callable[..., object], *args: Any) -> None:
        """Have it done."""
        self._todo.append((action, args))

    def run(self) -> None:
        """Do what is left."""
        todo = self._todo
        while todo:
            action, args = todo[0]
            action(*args)
            del todo[0]
